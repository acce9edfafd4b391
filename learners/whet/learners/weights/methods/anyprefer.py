"""Anyprefer: pairs made by a judge with tools; where a tool contradicts the judge, its prompt is improved.

rows = await Anyprefer(samples=4, tasks=32).build(experience, kit)
"""

import re
from collections.abc import AsyncIterator, Sequence
from itertools import combinations

from whet.core.records import Message, Sampling
from whet.learners.weights.config import TrainConfig
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Method
from whet.learners.weights.methods.conversations import need
from whet.learners.weights.methods.pairs import Pair, pair_rows
from whet.learners.weights.methods.selection import assess, distinct, grouped, until_spent
from whet.learners.weights.methods.solutions import Solution, solutions
from whet.learners.weights.objectives import Objective, Preference
from whet.learners.weights.rows import Row

__all__ = ["Anyprefer", "read_ranking"]

_RULES = 5
_SHOWN = 3
_FOUND = {True: "passed its checks", False: "failed its checks", None: "could not be checked"}
_ASK = "Rank the answers to this task from best to worst. Reply with their numbers only, the best first."


class Anyprefer(Method, frozen=True, kw_only=True):
    """Has answers sampled, ranked by a judge that sees what tools found, and learns from best over worst.

    Zhou et al. 2025, arXiv 2504.19276. The tool is the task's own verifiers. A ranking that puts a failed answer above
    a passed one becomes a rule of the judge's prompt, and the judge is asked again, ``retries`` times; then, and where
    its reply cannot be read, the tool alone decides. ``samples``: new answers to each of ``tasks`` tasks. ``beta``,
    ``nll`` as in DPO.
    """

    info = Info(
        name="anyprefer",
        family="preference",
        title="Anyprefer: pairs from a judge with tools",
        paper="arXiv 2504.19276",
        needs=("training tasks, best with verifiers", "a policy that can rank answers, or verifiers"),
    )
    tasks: int = 32
    samples: int = 4
    temperature: float = 1.0
    retries: int = 1
    beta: float = 0.1
    nll: float = 0.2

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns the two rows of each pair.

        Raises:
            UserError: there is no task to sample answers for, or no two answers could be told apart.
            BudgetError: the budget does not allow to sample answers to one task.
        """
        groups = list(grouped(solutions(experience)).values())
        need(groups, "anyprefer", "runs", "run training tasks: whet run TASKS")
        drawn = kit.rng.sample(groups, min(self.tasks, len(groups)))
        pairs = await until_spent(self._pairs(drawn, kit))
        how = "set samples higher, or use tasks with verifiers"
        need(pairs, "anyprefer", "answers to one task that the judge or its tools can tell apart", how)
        return pair_rows(pairs)

    def objectives(self) -> dict[str, Objective]:
        """Returns the logistic loss of the pairs' margin."""
        return {"": Preference(beta=self.beta, nll=self.nll)}

    def training(self) -> TrainConfig:
        """Returns a tenth of the usual learning rate."""
        return TrainConfig(lr_scale=0.1)

    async def _pairs(self, groups: Sequence[list[Solution]], kit: Kit) -> AsyncIterator[Pair]:
        rules: list[str] = []
        for group in groups:
            newest = group[-1]
            sampling = Sampling(temperature=self.temperature)
            answers = await kit.ask(newest.prompt, n=self.samples, sampling=sampling)
            made = [await assess(kit, newest.task, newest.prompt, answer.text) for answer in answers]
            found = distinct([*group[-self.samples :], *made])
            kit.rng.shuffle(found)
            ranked = await self._rank(found, rules, kit) if len(found) > 1 else []
            if ranked:
                best, worst = ranked[0], ranked[-1]
                yield Pair(chosen=best.under(newest.prompt), rejected=worst.under(newest.prompt), origin="judge")

    async def _rank(self, found: list[Solution], rules: list[str], kit: Kit) -> list[Solution]:
        """Returns the answers, best first; none where neither judge nor tool tells them apart. ``rules`` may grow."""
        for _ in range(self.retries + 1):
            (reply,) = await kit.ask(_question(found, rules), sampling=Sampling(temperature=0.0))
            ranked = [found[number] for number in read_ranking(reply.text, len(found))]
            wrong = next((one for one, other in combinations(ranked, 2) if other.passed and one.passed is False), None)
            if ranked and wrong is None:
                return ranked
            if wrong is not None:
                rules.append(f"You preferred an answer that failed: {' '.join(wrong.said)}")
                del rules[:-_RULES]
        by_tool = sorted(found, key=lambda one: (one.passed is True, one.score or 0.0), reverse=True)
        return by_tool if by_tool[0].passed and by_tool[-1].passed is False else []


def read_ranking(text: str, count: int) -> list[int]:
    """Returns the answers' indices in the order that a reply names them; none unless it names each number once."""
    numbers = [int(number) - 1 for number in re.findall(r"\d+", text)[:count]]
    return numbers if sorted(numbers) == list(range(count)) else []


def _question(found: Sequence[Solution], rules: Sequence[str]) -> list[Message]:
    shown = [
        f"Answer {number}:\n{one.text}\nTool: it {_FOUND[one.passed]}. {' '.join(one.failing[:_SHOWN])}".strip()
        for number, one in enumerate(found, 1)
    ]
    learned = ["Mind what you got wrong before:", *rules] if rules else []
    text = "\n\n".join([_ASK, *learned, f"Task:\n{found[0].task.prompt}", *shown])
    return [Message(role="user", content=text)]
