"""How many tokens are computed at once: halved, for good, where memory does not suffice.

room = Room(4096)
loss = room.attempt(compute)          # compute(tokens), again with fewer where it runs out of memory
"""

import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from whet.core.errors import ModelError

__all__ = ["Room"]

T = TypeVar("T")
_SMALLEST = 64


class Room:
    """A number of tokens that fits into memory, as far as is known.

    ``retries=False``: it is not halved, because other processes wait for what ran out of memory here.
    """

    def __init__(self, tokens: int, *, retries: bool = True) -> None:
        self.tokens, self.retries = tokens, retries

    def attempt(self, compute: Callable[[int], T]) -> T:
        """Returns what ``compute`` gives for the number of tokens, halving it until memory suffices.

        Raises:
            ModelError: it does not suffice for the smallest number.
        """
        while True:
            try:
                return compute(self.tokens)
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                said = " ".join(str(error).split())[:200]
            # Only here, after the error and the frames it held on to are gone, is their memory free again.
            self._halve(said)

    def _halve(self, said: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.tokens <= _SMALLEST or not self.retries:
            raise ModelError(
                f"memory does not suffice for {self.tokens} tokens at once ({said}); set checkpointing, a smaller "
                "chunk or micro_tokens, or a limit on the length of rows",
                failure="other",
            )
        self.tokens = max(_SMALLEST, self.tokens // 2)
        print(f"whet: out of memory; micro-batches are now {self.tokens} tokens", file=sys.stderr)


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error).lower()
    return any(sign in said for sign in ("allocate memory", "out of memory", "bad_alloc"))
