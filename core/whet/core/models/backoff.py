"""How long to wait before a request is made again.

completion = await Backoff(attempts=4).run(lambda: ask(request), again=lambda error: error.transient)
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from whet.core.errors import ModelError, UserError
from whet.core.records import Record

__all__ = ["Backoff"]

T = TypeVar("T")


class Backoff(Record, frozen=True, kw_only=True):
    """Waits ``first_delay`` seconds, twice that, and so on up to ``max_delay``.

    Each delay is shortened at random by up to a half, so that many callers do not return at once. Where the provider
    says how long to wait, that is obeyed, unless it is longer than ``max_delay``: then there is no further attempt.
    """

    attempts: int = 4
    first_delay: float = 0.5
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise UserError(f"{self.attempts!r} attempts is no attempt; give 1 or more")

    async def run(self, call: Callable[[], Awaitable[T]], *, again: Callable[[ModelError], bool]) -> T:
        """Returns what the first successful call returns.

        Raises:
            ModelError: a failure for which ``again`` is false, or the last attempt's.
        """
        for attempt in range(1, self.attempts):
            try:
                return await call()
            except ModelError as error:
                delay = self._delay(attempt, error)
                if delay > self.max_delay or not again(error):
                    raise
            await asyncio.sleep(delay)
        return await call()

    def _delay(self, attempt: int, error: ModelError) -> float:
        if error.retry_after is not None:
            return error.retry_after
        return min(self.max_delay, self.first_delay * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)
