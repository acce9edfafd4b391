"""The held-out ledger: how often a held-out set was used, and what error each use may still make.

    use = await ledger.spend(tasks, candidate="9f1c")        # before the first look; 1 for the first use
    level = level_of_use(0.05, use)

Use number k of a set is tested at ``alpha * 6 / (pi^2 k^2)``. These levels sum to ``alpha``, so by the union bound the
chance that a held-out set ever lets a worthless candidate through is at most ``alpha``, however many candidates are
tried against it and however they depend on each other (alpha spending, Foster and Stine 2008, section 2, with the
summable series of Javanmard and Montanari 2018). A set that was used often asks for more evidence, and in the end for
fresh tasks.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from whet.core.ids import digest
from whet.core.records import Job, Json, Task

if TYPE_CHECKING:
    from whet.memory import Memory

__all__ = ["CountingLedger", "Ledger", "StoredLedger", "heldout_digest", "level_of_use"]

KIND = "heldout_use"


def level_of_use(alpha: float, use: int) -> float:
    """Returns the error level of use number ``use`` (from 1) under a life-long budget of ``alpha``."""
    return alpha * 6 / (math.pi * use) ** 2


def heldout_digest(tasks: Iterable[Task]) -> str:
    """Returns a name for a set of tasks: the digest of its sorted ids."""
    return digest("\n".join(sorted(task.id for task in tasks)))


@runtime_checkable
class Ledger(Protocol):
    """Counts the uses of held-out tasks. A use is spent before the first look and never given back."""

    async def uses(self, tasks: Sequence[Task]) -> int:
        """Returns how often the most used of these tasks was used so far."""
        ...

    async def spend(self, tasks: Sequence[Task], candidate: str) -> int:
        """Records a use of these tasks for a candidate (its digest) and returns its number, from 1."""
        ...


class CountingLedger:
    """A ledger in memory, for simulations and tests: it forgets when the process ends."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    async def uses(self, tasks: Sequence[Task]) -> int:
        """Returns how often the most used of these tasks was used so far."""
        return max((self._counts[task.id] for task in tasks), default=0)

    async def spend(self, tasks: Sequence[Task], candidate: str) -> int:
        """Records a use of these tasks and returns its number, from 1."""
        self._counts.update(task.id for task in tasks)
        return await self.uses(tasks)


class StoredLedger:
    """The ledger of a store: each use is a ``Job``, so it outlives the process and shows in the store's log."""

    def __init__(self, memory: "Memory") -> None:
        self._memory = memory

    async def uses(self, tasks: Sequence[Task]) -> int:
        """Returns how often the most used of these tasks was used so far."""
        return _most(await self._memory.find(Job, where={"kind": KIND}), tasks)

    async def spend(self, tasks: Sequence[Task], candidate: str) -> int:
        """Records a use of these tasks and returns its number, from 1. Uses recorded at once get different numbers."""
        ids: list[Json] = [*sorted(task.id for task in tasks)]
        use = Job(
            kind=KIND, status="done", config={"tasks": ids, "heldout": heldout_digest(tasks)}, inputs=(candidate,)
        )
        await self._memory.put(use, actor="gate", reason="held-out set used")
        earlier = [job for job in await self._memory.find(Job, where={"kind": KIND}) if job.id <= use.id]
        return _most(earlier, tasks)


def _most(jobs: Iterable[Job], tasks: Sequence[Task]) -> int:
    counts: Counter[str] = Counter()
    for job in jobs:
        ids = job.config.get("tasks")
        counts.update(str(id) for id in ids) if isinstance(ids, list) else None
    return max((counts[task.id] for task in tasks), default=0)
