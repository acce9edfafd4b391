"""A person at the terminal: a question on stderr, an answer from stdin.

line = await Terminal().ask("better: 1, 2, or Enter for a tie > ")
"""

import asyncio
import sys
from typing import TextIO

from whet.core.errors import UserError

__all__ = ["Terminal"]


class Terminal:
    """Asks a person; the streams are those of the process unless given."""

    def __init__(self, said: TextIO | None = None, shown: TextIO | None = None) -> None:
        self._said, self._shown = said, shown

    async def ask(self, question: str) -> str:
        """Returns the line that a person types, without the spaces around it.

        Raises:
            UserError: the terminal was closed.
        """
        return await asyncio.to_thread(self._ask, question)

    def _ask(self, question: str) -> str:
        print(question, end="", file=self._shown or sys.stderr, flush=True)
        line = (self._said or sys.stdin).readline()
        if not line:
            raise UserError(f"nobody answers {question.splitlines()[-1].strip()!r}; run this in a terminal")
        return line.strip()
