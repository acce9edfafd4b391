"""What a learner sees of a memory: training tasks, the runs on them, and what was said about those runs. Nothing else.

view = TrainMemory(memory)
for judged in await view.judged():          # runs with their task and the verdicts on their final answer
    ...
await view.task(heldout.id)                 # RefusedError: only the gate may read it
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from whet.core.errors import RefusedError
from whet.core.records import Critique, Feedback, Lesson, Record, Run, Split, Task, Verdict
from whet.memory import Memory

__all__ = ["Judged", "TrainMemory", "current_lessons"]

PURPOSES = ("train", "live", "import")
_CHUNK = 400


class Judged(Record, frozen=True, kw_only=True):
    """A run on a training task, and the verdicts that judged its final answer.

    ``evidence`` are the ids of stored records that show it: the run and its verdicts unless given.
    """

    run: Run
    task: Task
    verdicts: tuple[Verdict, ...]
    evidence: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything that judged it passed, and not only models did."""
        weighty = [verdict for verdict in self.verdicts if verdict.kind != "model"]
        return bool(weighty) and all(verdict.outcome == "pass" for verdict in self.verdicts)


class TrainMemory:
    """A memory as learners see it. ``limit`` bounds how many of the newest runs are looked at."""

    def __init__(self, memory: Memory, *, limit: int = 5000) -> None:
        self._memory = memory
        self._limit = limit

    async def task(self, task_id: str) -> Task:
        """Returns a training task.

        Raises:
            NotFoundError: there is no such task.
            RefusedError: it is held out or sealed.
        """
        task = await self._memory.get(Task, task_id)
        _refuse(f"task {task.id!r}", task.split)
        return task

    async def run(self, run_id: str) -> Run:
        """Returns a run on a training task.

        Raises:
            NotFoundError: there is no such run.
            RefusedError: it is a run of the gate, or on a task that is held out or sealed.
        """
        run = await self._memory.get(Run, run_id)
        if run.purpose not in PURPOSES:
            raise RefusedError(f"run {run.id!r} was made for the gate; learn from runs on training tasks")
        await self.task(run.task_id)
        return run

    async def runs(self) -> list[Run]:
        """Returns the newest finished runs on training tasks, oldest first."""
        where = {"purpose": PURPOSES, "status": "done"}
        found = await self._memory.find(Run, where=where, newest_first=True, limit=self._limit)
        splits = {task.id: task.split for task in await self._tasks(run.task_id for run in found)}
        return [run for run in reversed(found) if splits.get(run.task_id) == "train"]

    async def judged(self) -> list[Judged]:
        """Returns the runs that were judged, with their tasks and the verdicts on their final answers."""
        runs = await self.runs()
        tasks = {task.id: task for task in await self._tasks(run.task_id for run in runs)}
        verdicts: dict[str, list[Verdict]] = defaultdict(list)
        for chunk in _chunks([run.id for run in runs]):
            for verdict in await self._memory.find(Verdict, where={"run_id": chunk}):
                if verdict.judged and verdict.repetition == 0:
                    verdicts[verdict.run_id].append(verdict)
        return [
            Judged(run=run, task=tasks[run.task_id], verdicts=tuple(verdicts[run.id]))
            for run in runs
            if verdicts[run.id]
        ]

    async def feedback(self) -> list[Feedback]:
        """Returns the feedback on training tasks and on runs of them, oldest first."""
        found = await self._memory.find(Feedback, newest_first=True, limit=self._limit)
        runs = {run.id: run for run in await self._runs(item.run_id for item in found if item.run_id)}
        splits = {task.id: task.split for task in await self._tasks(_task_of(item, runs) for item in found)}
        return [item for item in reversed(found) if splits.get(_task_of(item, runs)) == "train"]

    async def critiques(self, run_ids: Sequence[str]) -> list[Critique]:
        """Returns the critiques of runs on training tasks.

        Raises:
            RefusedError: one of the runs is no run on a training task.
        """
        for run_id in run_ids:
            await self.run(run_id)
        return [c for chunk in _chunks(run_ids) for c in await self._memory.find(Critique, where={"run_id": chunk})]

    async def lessons(self) -> list[Lesson]:
        """Returns the newest version of every lesson, retired ones included."""
        return await current_lessons(self._memory)

    async def _tasks(self, ids: Iterable[str]) -> list[Task]:
        wanted = sorted({id for id in ids if id})
        return [task for chunk in _chunks(wanted) for task in await self._memory.find(Task, where={"id": chunk})]

    async def _runs(self, ids: Iterable[str]) -> list[Run]:
        wanted = sorted(set(ids))
        where = [{"id": chunk, "purpose": PURPOSES} for chunk in _chunks(wanted)]
        return [run for each in where for run in await self._memory.find(Run, where=each)]


async def current_lessons(memory: Memory) -> list[Lesson]:
    """Returns the newest version of every lesson of a memory, in order of their ids."""
    newest: dict[str, Lesson] = {}
    for lesson in await memory.find(Lesson):
        if lesson.id not in newest or lesson.version > newest[lesson.id].version:
            newest[lesson.id] = lesson
    return [newest[id] for id in sorted(newest)]


def _task_of(item: Feedback, runs: dict[str, Run]) -> str:
    if item.run_id:
        return runs[item.run_id].task_id if item.run_id in runs else ""
    return item.task_id or ""


def _refuse(what: str, split: Split) -> None:
    if split != "train":
        reader = "the gate" if split == "heldout" else "the final report"
        raise RefusedError(f"{what} is {split}: only {reader} may read it; learn from the train split")


def _chunks(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]
