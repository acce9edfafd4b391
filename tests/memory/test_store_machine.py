"""Any sequence of puts, records, undos and reopenings leaves what a dictionary of the records would hold."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from whet.core import ConflictError, Run, Use
from whet.memory import Memory

IDS = st.sampled_from([f"{letter}{number}" for letter in "ab" for number in range(4)])
SIZES = st.sampled_from([0, 3, 9_000])


class Store(RuleBasedStateMachine):
    """A memory beside a dictionary: ``runs`` may be replaced, ``uses`` may not."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="whet-machine-"))
        self.runner = asyncio.Runner()
        self.memory = self.runner.run(Memory.open(self.folder))
        self.runs: dict[str, Run] = {}
        self.uses: dict[str, Use] = {}
        self.past: list[tuple[int, dict[str, Run], dict[str, Use]]] = []

    @rule(ids=st.lists(IDS, min_size=1, max_size=4), seed=st.integers(0, 3), size=SIZES)
    def put_runs(self, ids: list[str], seed: int, size: int) -> None:
        """Puts runs in one transaction; the last of the same id counts."""
        self._remember()
        made = Run(id="", task_id="t", agent="a", answer="x" * size, started_at=0)
        runs = [msgspec.structs.replace(made, id=id, seed=seed + n) for n, id in enumerate(ids)]
        self.runner.run(self.memory.put(*runs))
        self.runs |= {run.id: run for run in runs}

    @rule(ids=st.lists(IDS, min_size=1, max_size=4), version=st.sampled_from(["1", "2"]))
    def put_uses(self, ids: list[str], version: str) -> None:
        """Puts uses, all or none: those that differ from stored ones are refused."""
        self._remember()
        uses = {id: Use(id=id, run_id="r", item="i", version=version, kind="shown", at=0) for id in ids}
        clash = any(self.uses.get(id, use) != use for id, use in uses.items())
        try:
            self.runner.run(self.memory.put(*uses.values()))
            assert not clash
            self.uses |= uses
        except ConflictError:
            assert clash

    @rule(id=IDS, seed=st.integers(0, 3))
    def record_run(self, id: str, seed: int) -> None:
        """Records a run without waiting."""
        self._remember()
        run = Run(id=id, task_id="t", agent="a", seed=seed, started_at=0)
        self.memory.recorder.record(run)
        self.runs[id] = run

    @rule()
    def undo_last(self) -> None:
        """Takes the last put that changed something back."""
        last = self._last_change()
        while self.past and self.past[-1][0] == last:
            self.past.pop()  # that put changed nothing
        if not self.past:
            return
        before, self.runs, self.uses = self.past.pop()
        self.runner.run(self.memory.undo(last))
        assert self._last_change() > last > before
        self.past.clear()  # what was undone is a change of its own

    @rule()
    def reopen(self) -> None:
        """Closes and opens again."""
        self.runner.run(self.memory.close())
        self.memory = self.runner.run(Memory.open(self.folder))

    @invariant()
    def holds_what_the_dictionary_holds(self) -> None:
        """Everything is found, nothing else, and the log fits."""
        assert self.runner.run(self.memory.find(Run)) == [self.runs[id] for id in sorted(self.runs)]
        assert self.runner.run(self.memory.find(Use)) == [self.uses[id] for id in sorted(self.uses)]
        assert self.runner.run(self.memory.audit()) == []

    def teardown(self) -> None:
        """Removes the store."""
        self.runner.run(self.memory.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    def _remember(self) -> None:
        self.past.append((self._last_change(), dict(self.runs), dict(self.uses)))

    def _last_change(self) -> int:
        return next((change.id for change in self.runner.run(self.memory.changes(limit=1))), 0)


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
