"""The main loop, shown: the embedded model meets a world it has never seen, learns from feedback, and is measured.

    report = await demonstrate(memory, DemoConfig(), print)

Practice is on training tasks, where failing checks are told to the agent. The gate decides on held-out tasks and the
pass rates of the report come from sealed tasks, which nothing else reads; there the agent has one attempt and no hint.
"""

import time
from collections.abc import Callable

import msgspec

from whet.agents import Agent, run_tasks
from whet.agents.tasksets import load_tasks
from whet.core import Budget, Lesson, Policy, Promotion, Record, Task, TaskSet
from whet.core.models import load_model
from whet.learners import (
    Arm,
    Event,
    Gate,
    GateConfig,
    ImproveConfig,
    Learner,
    Measured,
    evaluator,
    improve,
    incumbent_arm,
    load_learner,
    measure,
)
from whet.memory import Memory

__all__ = ["DemoConfig", "Report", "Row", "demonstrate"]

SETTINGS = """\
temperature = 1.0
rounds = 4
max_tokens = 160
withhold_rate = 0.05
"""


STAGES = {"lessons": "lessons", "skills": "skills", "rft": "weights"}
"""What the learners of the demo are called in its table."""
STEPS = 300
REPEATS = 2


class DemoConfig(Record, frozen=True, kw_only=True):
    """How much is shown. ``learners`` empty: the control, in which nothing is learned and nothing may be gained."""

    world: int = 7
    tasks: int = 1200
    verbs: int = 24
    lengths: str = "1,2,5,6"
    learners: tuple[str, ...] = tuple(STAGES)
    practice: int = 240
    seed: int = 0
    concurrency: int = 8
    calls: int = 40_000


class Row(Record, frozen=True, kw_only=True):
    """A stage: pass rate on the sealed tasks, the gate's decision that led here, and what practice and gate cost."""

    stage: str
    pass_rate: Measured
    promotion: Promotion | None
    calls: int
    tokens: int
    seconds: float


class Report(Record, frozen=True, kw_only=True):
    """What the demonstration found, stage by stage, and what it left: ids of lessons, names of skills."""

    rows: tuple[Row, ...]
    lessons: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()


async def demonstrate(memory: Memory, config: DemoConfig, tell: Callable[[Event], None]) -> Report:
    """Returns the report; everything that happened is in the memory.

    Raises:
        BudgetError: the budget of model calls was used up.
    """
    task_set = load_tasks(f"world:{config.world}?n={config.tasks}&verbs={config.verbs}&lengths={config.lengths}")
    await memory.policies.commit(Policy.of({"settings.toml": SETTINGS}), reason="settings of the demo", actor="demo")
    async with Agent("refine", load_model("tiny"), memory=memory) as agent:
        stages = _Stages(memory, agent, task_set, config, tell)
        await stages.measure("before")
        for number, learner in enumerate(config.learners):
            await stages.measure(f"after {STAGES.get(learner, learner)}", await stages.learn(learner, number))
        if not config.learners:
            await stages.practise()
            await stages.measure("after practice alone")
        if (adapter := (await memory.policies.head()).text("adapter")) and len(config.learners) > 1:
            alone = Policy.of({"settings.toml": SETTINGS, "adapter": adapter})
            await stages.measure("weights alone", arm=Arm(policy=alone))
    lessons = await memory.find(Lesson, where={"kind": "lesson", "valid_to": None})
    skills = (await memory.policies.head()).skill_names()
    return Report(
        rows=tuple(stages.rows), lessons=tuple(dict.fromkeys(lesson.id for lesson in lessons)), skills=tuple(skills)
    )


class _Stages:
    """The stages of one demonstration, as they come."""

    def __init__(
        self, memory: Memory, agent: Agent, task_set: TaskSet, config: DemoConfig, tell: Callable[[Event], None]
    ) -> None:
        self.memory, self.agent, self.config, self.tell = memory, agent, config, tell
        self.train = [task for task in task_set.tasks if task.split == "train"]
        self.heldout = [task for task in task_set.tasks if task.split == "heldout"]
        self.sealed = [task for task in task_set.tasks if task.split == "sealed"]
        self.task_set = task_set
        self.budget = Budget(calls=config.calls)
        self.rows: list[Row] = []
        self._began = time.monotonic()
        self._before = self.budget.spent

    async def learn(self, learner: str, number: int) -> Promotion | None:
        """Lets one learner take one round on its own share of the training tasks; returns the gate's last decision."""
        practice = self._share(number)
        report = await improve(
            self.agent,
            msgspec.structs.replace(self.task_set, tasks=(*practice, *self.heldout)),
            [_learner(learner, self.config)],
            memory=self.memory,
            gate=Gate(GateConfig(concurrency=self.config.concurrency)),
            budget=self.budget,
            config=ImproveConfig(
                rounds=1,
                repeats=REPEATS if learner == "rft" else 1,
                concurrency=self.config.concurrency,
                seed=self.config.seed,
            ),
            on_event=self.tell,
        )
        return report.promotions[-1] if report.promotions else None

    async def practise(self) -> None:
        """Runs all the training tasks and learns nothing from them."""
        practice = self.train[: 2 * self.config.practice]
        await run_tasks(self.agent, practice, concurrency=self.config.concurrency, budget=self.budget)

    async def measure(self, stage: str, promotion: Promotion | None = None, *, arm: Arm | None = None) -> None:
        """Adds the row of a stage: what is in force now (or another arm), on the sealed tasks."""
        self.tell(Event(kind="round", text=f"{stage}: {len(self.sealed)} sealed tasks"))
        spent, seconds = self.budget.spent - self._before, time.monotonic() - self._began
        evaluate = evaluator(self.agent, self.budget, tags=("sealed",))
        shown = arm or await incumbent_arm(self.memory)
        pass_rate = await measure(evaluate, shown, self.sealed, concurrency=self.config.concurrency)
        self.rows.append(
            Row(
                stage=stage,
                pass_rate=pass_rate,
                promotion=promotion,
                calls=spent.calls,
                tokens=spent.tokens,
                seconds=seconds,
            )
        )
        self._before, self._began = self.budget.spent, time.monotonic()

    def _share(self, number: int) -> list[Task]:
        start = number * self.config.practice
        return self.train[start : start + self.config.practice]


def _learner(name: str, config: DemoConfig) -> Learner:
    """Returns a learner of the demo; the weights also learn to do without what the skill says."""
    if name != "rft":
        return load_learner(name)
    training = {"steps": STEPS, "lr": 1e-3, "batch": 24, "seed": config.seed}
    return load_learner(name, bare=0.3, training=training, concurrency=config.concurrency)
