"""A model that does what a large one would: it reads definitions in its context, and guesses what it does not know."""

import random
import re
from collections.abc import Sequence

from whet.core.models.tiny.world import OPERATIONS, program, read_definitions
from whet.core.records import Completion, Message, Sampling, ToolSpec, Usage

__all__ = ["Reader"]

_CHAIN = re.compile(r"Write solve\(x\): (.+?)\.")


class Reader:
    """Writes the chain the task asks for; ``reads`` turns the use of its context off."""

    name = "reader"

    def __init__(self, reads: bool = True) -> None:
        self.reads = reads
        self.calls = 0

    async def complete(
        self, messages: Sequence[Message], *, tools: Sequence[ToolSpec] = (), sampling: Sampling = Sampling()
    ) -> Completion:
        self.calls += 1
        system = "\n".join(message.content for message in messages if message.role == "system")
        task = next(message.content for message in messages if message.role == "user")
        found = _CHAIN.search(task)
        chain = found[1].split(", then ") if found else []
        rng = random.Random(f"{sampling.seed}/{task}")
        known = read_definitions(system) if self.reads else {}
        meanings = {verb: known.get(verb) or rng.choice(sorted(OPERATIONS)) for verb in chain}
        text = program(chain, meanings)
        usage = Usage(input_tokens=len(system) // 4 + 20, output_tokens=len(text) // 4, calls=1)
        return Completion(text=text, usage=usage, model=self.name)
