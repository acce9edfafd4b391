"""The ledger in a store: uses outlive the process, count per task, and never get the same number twice."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from whet.core.records import Job, Task
from whet.learners.ledger import CountingLedger, Ledger, StoredLedger, heldout_digest
from whet.memory import Memory

Tasks = Callable[[int], list[Task]]


@pytest.mark.asyncio
async def test_uses_outlive_the_process_and_name_their_tasks(tmp_path: Path, heldout: Tasks) -> None:
    async with await Memory.open(tmp_path) as memory:
        assert await StoredLedger(memory).spend(heldout(5), "candidate") == 1
    async with await Memory.open(tmp_path) as memory:
        ledger = StoredLedger(memory)
        assert await ledger.uses(heldout(5)) == 1
        assert await ledger.spend(heldout(5), "another") == 2
        first, _ = await memory.find(Job, where={"kind": "heldout_use"})
    assert first.inputs == ("candidate",)
    assert first.config["heldout"] == heldout_digest(heldout(5))


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["stored", "counting"])
async def test_sets_that_share_tasks_share_their_uses(memory: Memory, heldout: Tasks, kind: str) -> None:
    ledger: Ledger = StoredLedger(memory) if kind == "stored" else CountingLedger()
    tasks = heldout(10)
    assert [await ledger.spend(tasks[:6], "a"), await ledger.spend(tasks[4:], "b")] == [1, 2]
    assert [await ledger.uses(each) for each in (tasks[:4], tasks[4:6], tasks[6:], heldout(11)[10:])] == [1, 2, 1, 0]
    assert await ledger.spend(tasks[:4], "c") == 2


@pytest.mark.asyncio
async def test_uses_recorded_at_once_get_different_numbers(memory: Memory, heldout: Tasks) -> None:
    ledger = StoredLedger(memory)
    numbers = await asyncio.gather(*(ledger.spend(heldout(3), str(i)) for i in range(8)))
    assert sorted(numbers) == list(range(1, 9))


def test_the_name_of_a_set_does_not_depend_on_order(heldout: Tasks) -> None:
    assert heldout_digest(heldout(4)) == heldout_digest(reversed(heldout(4)))
    assert heldout_digest(heldout(4)) != heldout_digest(heldout(5))
