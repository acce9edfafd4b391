"""C3PO: one piece of feedback into the weights, without it leaking to tasks that it is not about.

rows = await C3PO(feedback="01f3").build(experience, kit)
scopes(tasks, "the task mentions zorp")               # {"world/7/…": 1.0, "world/7/…": 0.0}
"""

import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from whet.core.errors import UserError
from whet.core.prompting import render_system
from whet.core.records import Feedback, Message, Sampling, Task
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.pairs import Pair, pair_rows
from whet.learners.weights.methods.selection import assess, grouped, until_spent
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import Distillation, Objective, Preference
from whet.learners.weights.rows import Row

__all__ = ["C3PO", "advised", "scopes"]

Place: TypeAlias = Literal["in", "near", "out"]

_KINDS = ("comment", "correction", "followup", "reject")
_WORD = re.compile(r"\w+")


class C3PO(Method, frozen=True, kw_only=True):
    """Learns one piece of verbal feedback in its scope, and to stay as it was elsewhere (arXiv 2402.10893).

    ``feedback``: id, or its beginning; empty: the newest that says something. In scope the answer given with the
    feedback in view is preferred to the one without it; ``near`` and ``out`` of scope the initial policy's answers are
    kept, with weights ``keep_near`` and ``keep_out``. ``scope``: ``words`` compares tasks with ``applies_when`` (or,
    where that is empty, the feedback's own task): at least ``inside`` is in scope, at least ``edge`` near it; ``ask``
    has the policy say. ``per_scope``: tasks of each kind. ``beta``, ``nll`` as in DPO.
    """

    info = Info(
        name="c3po",
        family="preference",
        title="C3PO: one piece of feedback, contained",
        paper="arXiv 2402.10893",
        needs=("a comment or correction", "runs on tasks it is about, and on others"),
    )
    feedback: str = ""
    scope: Literal["words", "ask"] = "words"
    inside: float = 0.6
    edge: float = 0.2
    per_scope: int = 16
    samples: int = 2
    temperature: float = 0.7
    keep_near: float = 0.3
    keep_out: float = 0.3
    beta: float = 0.1
    nll: float = 0.2

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns pairs in scope, and rows of answers to be kept near it (term ``near``) and out of it (``out``).

        Raises:
            UserError: there is no such feedback, no task in its scope, or nothing that it changes.
            BudgetError: the budget does not allow to ask for one answer.
        """
        item, about = _chosen(experience, self.feedback)
        groups = grouped(solutions(experience))
        placed = await self._place([group[-1].task for group in groups.values()], item, about, kit)
        drawn = {place: self._draw(placed, place, groups, kit) for place in ("in", "near", "out")}
        how = "run training tasks like the one it is about, or give it applies_when"
        need(drawn["in"], "c3po", f"runs on tasks in the scope of feedback {item.id[:16]!r}", how)
        pairs = await until_spent(self._pairs(drawn["in"], item, about, kit))
        need(
            pairs,
            "c3po",
            "answers that the feedback makes better",
            "have it say what to do, in words the model follows",
        )
        kept = [one.row(term=place, teacher=one.prompt) for place in ("near", "out") for one in drawn[place]]
        return [*pair_rows(pairs), *kept]

    def objectives(self) -> dict[str, Objective]:
        """Returns DPO in scope and forward KL from the initial policy elsewhere."""
        near, out = (Distillation(coefficient=c, alpha=0, teacher="initial", cap=None) for c in self._kept)
        return {"": Preference(beta=self.beta, nll=self.nll), "near": near, "out": out}

    def training(self) -> TrainConfig:
        """Returns a fifth of the usual learning rate, for several epochs over few data."""
        return TrainConfig(lr_scale=0.2, epochs=4)

    @property
    def _kept(self) -> tuple[float, float]:
        return self.keep_near, self.keep_out

    async def _place(self, tasks: Sequence[Task], item: Feedback, about: Task | None, kit: Kit) -> dict[str, Place]:
        if self.scope == "ask":
            placed = {task.id: await _ask_scope(task, item, kit) for task in tasks}
        else:
            alike = scopes(tasks, item.applies_when or (about.prompt if about else item.text))
            placed = {id: self._by_likeness(value) for id, value in alike.items()}
        return placed | ({about.id: "in"} if about and about.id in placed else {})

    def _by_likeness(self, value: float) -> Place:
        return "in" if value >= self.inside else "near" if value >= self.edge else "out"

    def _draw(
        self, placed: Mapping[str, Place], place: Place, groups: Mapping[str, list[Solution]], kit: Kit
    ) -> list[Solution]:
        """Returns the newest answer to each of the tasks drawn from a place; in scope one that is not right already."""
        ids = [id for id, where in placed.items() if where == place]
        chosen = kit.rng.sample(ids, min(self.per_scope, len(ids)))
        found = [[one for one in groups[id] if place != "in" or not one.passed] for id in chosen]
        return [group[-1] for group in found if group]

    async def _pairs(
        self, bases: Sequence[Solution], item: Feedback, about: Task | None, kit: Kit
    ) -> AsyncIterator[Pair]:
        """Yields the answer with the feedback in view over the one without, unless a verifier says the opposite."""
        for base in bases:
            if item.kind == "correction" and about and about.id == base.task.id:
                texts = [item.text]
            else:
                sampling = Sampling(temperature=self.temperature)
                answers = await kit.ask(advised(base.prompt, item.text), n=self.samples, sampling=sampling)
                texts = [answer.text for answer in answers]
            judged = [await assess(kit, base.task, base.prompt, text) for text in texts]
            better = [one for one in judged if one.key != base.key and one.passed is not False]
            if better:
                best = max(better, key=lambda one: one.score or 0.0)
                best = msgspec.structs.replace(best, sources=base.sources)
                yield Pair(chosen=best, rejected=base, origin="edit", said=(item,))


def advised(prompt: tuple[Message, ...], text: str) -> tuple[Message, ...]:
    """Returns the prompt with the feedback in it as a lesson, in the words in which agents recall lessons."""
    system = prompt[0].content if prompt and prompt[0].role == "system" else ""
    rest = prompt[1:] if system else prompt
    return (Message(role="system", content=render_system(system, lessons=[text])), *rest)


def scopes(tasks: Iterable[Task], text: str) -> dict[str, float]:
    """Returns, per task, the share of the text's words that it has, in [0, 1]; rare words weigh more.

    A word weighs log(N/n), n the number of tasks of N that have it, so that one all tasks have does not count.
    """
    words = {task.id: set(_WORD.findall(task.prompt.lower())) for task in tasks}
    counts = Counter(word for found in words.values() for word in found)
    weights = {word: math.log(len(words) / counts[word]) for word in set(_WORD.findall(text.lower())) if counts[word]}
    total = sum(weights.values())
    return {id: sum(weights[w] for w in weights if w in found) / total if total else 0.0 for id, found in words.items()}


async def _ask_scope(task: Task, item: Feedback, kit: Kit) -> Place:
    text = (
        f"Advice: {item.text}\n\nTask:\n{task.prompt}\n\nDoes the advice apply to this task? Reply YES, NEARLY or NO."
    )
    (reply,) = await kit.ask([Message(role="user", content=text)], sampling=Sampling(temperature=0.0))
    said = reply.text.upper()
    return "in" if "YES" in said else "near" if "NEARLY" in said else "out"


def _chosen(experience: Experience, wanted: str) -> tuple[Feedback, Task | None]:
    """Returns the feedback and the task it is about.

    Raises:
        UserError: there is none, or none of that id.
    """
    tasks = {task.id: task for task in experience.tasks}
    said = [(item, episode.task) for episode in experience.episodes for item in episode.feedback]
    found: list[tuple[Feedback, Task | None]] = [*said, *((i, tasks.get(i.task_id or "")) for i in experience.feedback)]
    usable = [(item, task) for item, task in found if item.kind in _KINDS and item.text.strip()]
    need(usable, "c3po", "feedback in words", "say something about a run: whet feedback add RUN comment TEXT")
    named = [each for each in usable if each[0].id.startswith(wanted)]
    if not named:
        known = ", ".join(item.id[:16] for item, _ in usable[-5:])
        raise UserError(f"c3po: no feedback {wanted!r} in words on training tasks; the newest are {known}")
    return max(named, key=lambda each: each[0].at)
