"""The embedded model on a small world: what it does there, what it can learn from that, and a gate for what it learned.

The model writes every answer, and every answer is judged exactly; only the sandbox is left out, since the world's own
grammar tells what an answer does.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import msgspec
import pytest

from whet.agents.tasksets.world import judge_answer, world_task
from whet.core.models.tiny.model import WEIGHTS
from whet.core.models.tiny.world import World
from whet.core.policy import Policy
from whet.core.prompting import describe_failure
from whet.core.records import Critique, Message, Promotion, Task, Verdict
from whet.learners.gate import Arm, Gate, GateConfig, Score
from whet.learners.weights.experience import Episode, Experience
from whet.learners.weights.method import Method, Rollouts
from whet.learners.weights.practice import Judge, Practice
from whet.learners.weights.rounds import RoundReport
from whet.learners.weights.templates import ChatTemplate, encode_rows, load_template
from whet.learners.weights.trainer import Trainer

VERBS = 8
SAMPLES = 12
STEPS = 60


def criticise(task: Task, answer: str, verdicts: Sequence[Verdict]) -> tuple[Critique, ...]:
    """Names one failing check, as the critic of the agents does."""
    failed = next(check for verdict in verdicts for check in verdict.checks if not check.passed)
    text = describe_failure(failed.call, failed.got, failed.expected)
    return (Critique(run_id="", text=text, source="checks"),)


@dataclass
class Bench:
    """Training and held-out tasks of a small world, and what is done with them."""

    world: World = field(default_factory=lambda: World(7, verbs=VERBS))

    def __post_init__(self) -> None:
        found = self.world.tasks(48, lengths=(1, 2))
        ones = [task for task in found if len(task.verbs) == 1]
        twos = [task for task in found if len(task.verbs) == 2]
        self.train = [world_task(task, self.world) for task in (*ones, *twos[:8])]
        held = [world_task(task, self.world) for task in twos[8:]]
        self.train = [msgspec.structs.replace(task, split="train") for task in self.train]
        self.heldout = [msgspec.structs.replace(task, split="heldout") for task in held]
        self.template: ChatTemplate = load_template(WEIGHTS, spelled="text")

    def practice(
        self,
        trainer: Trainer,
        *,
        retries: int = 0,
        seed: int = 0,
        judge: Judge = judge_answer,
        temperature: float = 1.0,
    ) -> Practice:
        """Returns the trainer's model practising on this world, judged by its tasks unless another judge is given."""
        settings = {"retries": retries, "seed": seed, "max_tokens": 40, "temperature": temperature}
        return Practice(trainer, self.template, judge, criticise, **settings)  # type: ignore[arg-type]

    def trainer(self, method: Method, **settings: object) -> Trainer:
        """Returns a trainer for a method: its own configuration but for the steps, on one thread."""
        chosen = {"steps": STEPS, "threads": 1, **settings}
        return Trainer(WEIGHTS, msgspec.structs.replace(method.training(), **chosen), method.objectives())

    async def fit(
        self, method: Method, experience: Experience, *, judge: Judge = judge_answer, **settings: object
    ) -> Trainer:
        """Returns the trainer after it was trained once on what the method makes of the experience."""
        trainer = self.trainer(method, **settings)
        rows = await method.build(experience, self.practice(trainer, judge=judge))
        encoded = encode_rows(rows, self.template)
        assert encoded.data, encoded.report.lines()
        trainer.fit(encoded.data)
        return trainer

    async def rounds(
        self,
        method: Method,
        rounds: int = 12,
        *,
        retries: int = 0,
        wrap: "Callable[[Experience], Experience] | None" = None,
    ) -> tuple[Trainer, tuple[RoundReport, ...]]:
        """Returns the trainer and the reports after practice in rounds; ``wrap`` changes each round's experience."""
        trainer = self.trainer(method, steps=None, schedule="constant", warmup=0.0)
        practice = self.practice(trainer, retries=retries)
        if wrap is not None:
            rollout, change = practice.rollout, wrap
            practice.rollout = lambda tasks, samples: change(rollout(tasks, samples))  # type: ignore[method-assign]
        plan = Rollouts(rounds=rounds, tasks=len(self.train), samples=8)
        return trainer, await practice.learn(method, self.train, plan)

    def rate(self, trainer: Trainer, *, seed: int = 99, repeats: int = 2) -> float:
        """Returns the share of held-out tasks that the trained model solves, without any help in its context."""
        practice = Practice(trainer, self.template, judge_answer, temperature=0.5, max_tokens=40, seed=seed)
        episodes = practice.rollout(self.heldout, repeats).episodes
        return sum(bool(episode.passed) for episode in episodes) / len(episodes)

    async def decide(
        self, trainer: Trainer, probes: Sequence[Task] = (), *, system: str = "", retries: int = 0
    ) -> Promotion:
        """Returns the gate's decision on the trained model against the same model without what it learned.

        ``system``: the prompt that goes with what was learned. ``retries``: how often both may revise.
        """
        tasks = (*self.heldout, *probes)
        candidate, incumbent = Arm(policy=Policy.of({"prompts/system.md": "with"})), Arm(policy=Policy())
        with trainer.tuned.weights("initial"):
            before = self._answered(trainer, tasks, retries)
        after = self._answered(trainer, [prompted(task, system) for task in tasks], retries)

        async def evaluate(arm: Arm, task: Task, seed: int) -> Score:
            found = (after if arm == candidate else before)[task.id]
            return Score(value=found[seed % len(found)])

        gate = Gate(GateConfig(max_token_ratio=None))
        return await gate.decide(candidate, incumbent, self.heldout, evaluate, probes=probes)

    def _answered(self, trainer: Trainer, tasks: Sequence[Task], retries: int) -> dict[str, list[float]]:
        practice = self.practice(trainer, retries=retries, seed=5, temperature=0.5)
        found: dict[str, list[float]] = {}
        for episode in practice.rollout(tasks, 4).episodes:
            found.setdefault(episode.task.id, []).append(float(bool(episode.passed)))
        return found


def prompted(task: Task, system: str) -> Task:
    """Returns the task under a system prompt, where there is one."""
    if not system:
        return task
    return msgspec.structs.replace(task, messages=(Message(role="system", content=system), *task.messages))


def judge_by_chance(task: Task, answer: str) -> tuple[Verdict, ...]:
    """Says of an answer what is true of it on another task, or that it passed, which says nothing at all."""
    rng = random.Random(f"{task.id}/{answer}")
    if rng.random() < 0.12:
        return (Verdict(run_id="", task_id=task.id, verifier="chance", outcome="pass", score=1.0),)
    other = rng.choice([each for each in _bench().train if each.id != task.id])
    return tuple(msgspec.structs.replace(verdict, task_id=task.id) for verdict in judge_answer(other, answer))


@cache
def _bench() -> Bench:
    return Bench()


@cache
def _experience(retries: int) -> Experience:
    from whet.learners.weights.methods.rft import RFT

    bench = _bench()
    return bench.practice(bench.trainer(RFT()), retries=retries).rollout(bench.train, SAMPLES)


@cache
def _unfounded() -> Experience:
    from whet.learners.weights.methods.rft import RFT

    bench = _bench()
    practice = bench.practice(bench.trainer(RFT()), retries=3, judge=judge_by_chance)
    return practice.rollout(bench.train, SAMPLES)


@pytest.fixture
def bench() -> Bench:
    """The small world and what is done with it."""
    return _bench()


@pytest.fixture
def refined() -> Experience:
    """Real runs of the embedded model on the training tasks: up to four attempts, with critiques of the failed ones."""
    return _experience(3)


@pytest.fixture
def sampled() -> Experience:
    """Real runs of the embedded model on the training tasks, one attempt each, several per task."""
    return _experience(0)


@pytest.fixture
def unfounded() -> Experience:
    """Runs like the refined ones, judged and criticised by chance: which attempt ends a run says nothing either."""
    return _unfounded()


@pytest.fixture
def chance() -> Judge:
    """A judge whose verdicts have nothing to do with the answer."""
    return judge_by_chance


@pytest.fixture
def shuffled() -> Callable[[Experience], Experience]:
    """Gives every episode what was said of another one, of another task: verdicts, critiques and feedback."""
    return shuffle


def shuffle(experience: Experience, seed: int = 0) -> Experience:
    """Returns the experience with what was said of attempts and answers dealt out anew, over all tasks."""
    rng = random.Random(seed)
    episodes = list(experience.episodes)
    places = [(i, k) for i, episode in enumerate(episodes) for k in range(len(episode.attempts))]
    judged = [(episodes[i].attempts[k].verdicts, episodes[i].attempts[k].critiques) for i, k in places]
    rng.shuffle(judged)
    said = dict(zip(places, judged, strict=True))
    return msgspec.structs.replace(
        experience, episodes=tuple(_redealt(episode, i, said) for i, episode in enumerate(episodes))
    )


def _redealt(
    episode: Episode, number: int, said: dict[tuple[int, int], tuple[tuple[Verdict, ...], tuple[Critique, ...]]]
) -> Episode:
    attempts = tuple(
        msgspec.structs.replace(attempt, verdicts=said[number, k][0], critiques=said[number, k][1])
        for k, attempt in enumerate(episode.attempts)
    )
    last = attempts[-1]
    return msgspec.structs.replace(episode, attempts=attempts, verdicts=last.verdicts, critiques=last.critiques)
