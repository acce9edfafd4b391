"""What a learner sees of a memory: training tasks, the runs on them, and what was said about those runs. Nothing else.

view = TrainMemory(memory)
for judged in await view.judged():          # runs with their task and the verdicts on their final answer
    ...
await view.task(heldout.id)                 # RefusedError: only the gate may read it

A view with an agent can also practise: run it on training tasks under a policy that is not in force.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from whet.core.budget import Budget
from whet.core.errors import NotFoundError, RefusedError, UserError
from whet.core.policy import Policy
from whet.core.records import Candidate, Critique, Feedback, Lesson, Record, Run, Split, Step, Task, Use, Verdict
from whet.feedback.trust import standing
from whet.memory import Memory

if TYPE_CHECKING:
    from pathlib import Path

    from whet.agents import Agent, Knob, RunResult
    from whet.agents.runtime import Tool
    from whet.core.models import Model
    from whet.learners.weights.heldback import HeldBack

__all__ = ["Judged", "TrainMemory", "chunks", "current_lessons"]

PURPOSES = ("train", "live", "import")
_CHUNK = 400

OfRun: TypeAlias = Step | Verdict | Critique | Feedback | Use
R = TypeVar("R", Step, Verdict, Critique, Feedback, Use)


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
    """A memory as learners see it.

    Args:
        memory: the memory behind it.
        agent: what practises; it has to use the same memory.
        tasks: the training tasks at hand; all that the memory holds unless given.
        held_back: tasks that nobody may learn from and that the memory does not hold yet.
        limit: how many of the newest runs are looked at.

    ``practised`` counts the runs that were made through it.

    Raises:
        RefusedError: one of the tasks is held out or sealed.
    """

    def __init__(
        self,
        memory: Memory,
        agent: "Agent | None" = None,
        tasks: Sequence[Task] = (),
        *,
        held_back: Sequence[Task] = (),
        limit: int = 5000,
    ) -> None:
        for task in tasks:
            _refuse(f"task {task.id!r}", task.split)
        self._agent = agent
        self.limit = limit
        self._memory = memory
        self._given = tuple(tasks)
        self._held_back = tuple(held_back)
        self._index: HeldBack | None = None
        self._admitted: set[str] = set()
        self.practised = 0

    def only(self, tasks: Sequence[Task]) -> "TrainMemory":
        """Returns a view of the same memory and agent with these training tasks, that counts what it practises."""
        return TrainMemory(self._memory, self._agent, tasks, held_back=self._held_back, limit=self.limit)

    @property
    def can_practise(self) -> bool:
        """Whether there is an agent to run."""
        return self._agent is not None

    @property
    def model(self) -> "Model | None":
        """The model of the agent that practises; ``None`` where there is no agent."""
        return None if self._agent is None else self._agent.model

    @property
    def knobs(self) -> tuple[str, ...]:
        """What the policy may set of the agent that practises."""
        return () if self._agent is None else tuple(self._agent.knobs(Policy()))

    @property
    def settings(self) -> "Mapping[str, Knob]":
        """Every knob that the policy may set of the agent that practises, open ones included."""
        return {} if self._agent is None else self._agent.settings

    def graph_code(self) -> str:
        """Returns the source of the nodes of the agent's graph; empty where there is none to be had."""
        return "" if self._agent is None else self._agent.graph.source()

    def check(self, policy: Policy) -> None:
        """Does nothing for a policy that the agent can run under.

        Raises:
            UserError: it sets what the agent does not have, or a skill of it breaks the format.
        """
        if self._agent is not None:
            from whet.skills import catalogue

            self._agent.knobs(policy), self._agent.prompts(policy), catalogue(policy)

    @property
    def tools(self) -> "tuple[Tool, ...]":
        """The tools of the agent that practises; none where there is no agent."""
        return () if self._agent is None else tuple(self._agent.tools.values())

    def prompts(self, policy: Policy) -> dict[str, str]:
        """Returns the text of every prompt that the agent which practises reads under a policy (``system``, …)."""
        return {} if self._agent is None else self._agent.prompts(policy)

    @property
    def folder(self) -> "Path | None":
        """The folder of the store, beside which a learner may keep its work; ``None`` for one on a server."""
        return self._memory.store.folder

    async def keep(self, data: bytes) -> str:
        """Returns the digest of bytes that a proposal needs (an adapter), after they were stored."""
        return await self._memory.put_blob(data)

    async def note(self, candidate: Candidate) -> None:
        """Records a policy on the way to a proposal, so that what it rests on is known."""
        await self._memory.put(candidate, actor=candidate.learner)

    async def blob(self, digest: str) -> bytes:
        """Returns stored bytes.

        Raises:
            NotFoundError: the store has none of this digest.
        """
        return await self._memory.get_blob(digest)

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

    async def runs(self, *, unfinished: bool = False) -> list[Run]:
        """Returns the newest finished runs on training tasks, oldest first; with ``unfinished`` those of any status."""
        where = {"purpose": PURPOSES} if unfinished else {"purpose": PURPOSES, "status": "done"}
        found = await self._memory.find(Run, where=where, newest_first=True, limit=self.limit)
        splits = {task.id: task.split for task in await self._tasks(run.task_id for run in found)}
        runs = [run for run in reversed(found) if splits.get(run.task_id) == "train"]
        self._admitted |= {run.id for run in runs}
        return runs

    async def overlooked(self) -> int:
        """Returns how many runs are older than the newest ``limit``, which are all that is looked at."""
        return max(await self._memory.count(Run, where={"purpose": PURPOSES}) - self.limit, 0)

    async def tasks(self, ids: Iterable[str] | None = None) -> list[Task]:
        """Returns the training tasks at hand, or those of these ids; others are left out."""
        if ids is None and self._given:
            return list(self._given)
        found = await (self._memory.find(Task, where={"split": "train"}) if ids is None else self._tasks(ids))
        return [task for task in found if task.split == "train"]

    async def policy(self, ref: str) -> str:
        """Returns the digest of the policy that a reference (a digest's beginning, a tag, ``head``) names.

        Raises:
            NotFoundError: nothing, or several policies, go by that name.
        """
        return await self._memory.policies.resolve(ref)

    async def held_back(self) -> "HeldBack":
        """Returns what tells whether a text comes from a held-out or sealed task: hashes and vectors, no text."""
        from whet.learners.weights.heldback import HeldBack

        if self._index is None:
            stored = await self._memory.find(Task, where={"split": ["heldout", "sealed"]})
            self._index = HeldBack.of({task.id: task for task in (*stored, *self._held_back)}.values())
        return self._index

    async def judged(self) -> list[Judged]:
        """Returns the runs that were judged, with their tasks and the verdicts on their final answers."""
        runs = await self.runs()
        tasks = {task.id: task for task in await self._tasks(run.task_id for run in runs)}
        verdicts: dict[str, list[Verdict]] = defaultdict(list)
        for chunk in chunks([run.id for run in runs]):
            for verdict in await self._memory.find(Verdict, where={"run_id": chunk}):
                if verdict.judged and verdict.repetition == 0:
                    verdicts[verdict.run_id].append(verdict)
        return [
            Judged(run=run, task=tasks[run.task_id], verdicts=tuple(verdicts[run.id]))
            for run in runs
            if verdicts[run.id]
        ]

    async def feedback(self) -> list[Feedback]:
        """Returns the feedback on training tasks and on runs of them, oldest first; what was taken back is left out.

        Of several opinions of one speaker on one run the latest stands (``whet.feedback.trust.standing``).
        """
        found = await self._memory.find(Feedback, newest_first=True, limit=self.limit)
        runs = {run.id: run for run in await self._runs(item.run_id for item in found if item.run_id)}
        splits = {task.id: task.split for task in await self._tasks(_task_of(item, runs) for item in found)}
        return standing(item for item in found if splits.get(_task_of(item, runs)) == "train")

    async def critiques(self, run_ids: Sequence[str]) -> list[Critique]:
        """Returns the critiques of runs on training tasks; raises like ``about``."""
        return await self.about(Critique, run_ids)

    async def about(self, kind: type[R], run_ids: Sequence[str], *, kinds: Sequence[str] = ()) -> list[R]:
        """Returns the steps, verdicts, critiques, feedback or uses of runs on training tasks, in order of time.

        Steps come in the order of their runs, of all ``kinds`` unless given (``model_call``, ``verdict``, …).

        Raises:
            NotFoundError: there is no such run.
            RefusedError: one of the runs is no run on a training task.
        """
        await self._admit(run_ids)
        extra = {"kind": list(kinds)} if kinds else {}
        where = [{"run_id": chunk, **extra} for chunk in chunks(run_ids)]
        return [record for each in where for record in await self._memory.find(kind, where=each)]

    async def _admit(self, run_ids: Sequence[str]) -> None:
        """Refuses runs that a learner may not see; the check is made for many at once, and once for each."""
        new = [id for id in run_ids if id not in self._admitted]
        runs = {run.id: run for run in await self._runs(new)}
        splits = {task.id: task.split for task in await self._tasks(run.task_id for run in runs.values())}
        for id in new:
            if id not in runs or splits.get(runs[id].task_id) != "train":
                await self.run(id)
                raise NotFoundError(f"no Run {id!r}; give the whole id")
        self._admitted |= set(new)

    async def lessons(self) -> list[Lesson]:
        """Returns the newest version of every lesson, retired ones included."""
        return await current_lessons(self._memory)

    async def practise(
        self,
        tasks: Sequence[Task],
        *,
        policy: Policy | None = None,
        seeds: Sequence[int] = (0,),
        budget: Budget | None = None,
        concurrency: int = 4,
        tags: Sequence[str] = (),
    ) -> "list[RunResult]":
        """Returns a result for each training task and seed, in order, run under a policy that need not be in force.

        The runs are recorded with purpose ``train``. When the budget is spent, the runs left are ``cancelled``.

        Raises:
            UserError: this view has no agent, or the policy does not fit it.
            RefusedError: one of the tasks is held out or sealed; nothing is run.
        """
        if self._agent is None:
            raise UserError(
                "this learner runs the agent: whet improve TASKS --learners NAME, or whet learn NAME --tasks TASKS"
            )
        from whet.agents import run_tasks

        await self._refuse_held_back(tasks)
        self.practised += len(tasks) * len(seeds)
        if policy is not None:
            await self._memory.policies.put(policy)
        return await run_tasks(
            self._agent,
            tasks,
            seeds=seeds,
            concurrency=concurrency,
            budget=budget,
            purpose="train",
            policy=policy,
            tags=tags,
            progress=lambda result: None,
        )

    async def _refuse_held_back(self, tasks: Sequence[Task]) -> None:
        """Refuses tasks by the split they are given with, and by the split that is on record under their id."""
        for task in (*tasks, *await self._tasks(task.id for task in tasks)):
            _refuse(f"task {task.id!r}", task.split)
        splits = {task.id: task.split for task in self._held_back}
        for task in tasks:
            _refuse(f"task {task.id!r}", splits.get(task.id, "train"))

    async def _tasks(self, ids: Iterable[str]) -> list[Task]:
        wanted = sorted({id for id in ids if id})
        return [task for chunk in chunks(wanted) for task in await self._memory.find(Task, where={"id": chunk})]

    async def _runs(self, ids: Iterable[str]) -> list[Run]:
        wanted = sorted(set(ids))
        where = [{"id": chunk, "purpose": PURPOSES} for chunk in chunks(wanted)]
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


def chunks(ids: Sequence[str]) -> list[Sequence[str]]:
    """Returns the ids in parts that one query takes."""
    return [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]
