"""An ensemble: several learners share one budget, and the one that gains most for a run gets the next part of it.

learner = Ensemble(engines="textgrad,exemplars,tune", model="openai/gpt-4o-mini", runs=600)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from whet.core.errors import UserError
from whet.core.records import Json, Record
from whet.learners.gate import Arm
from whet.learners.learner import load_learner
from whet.learners.prompts.archive import Node
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner

__all__ = ["Ensemble", "Tally", "next_engine"]


class Tally(Record, frozen=True, kw_only=True):
    """What an engine was given and gained so far: parts of the budget, runs, and points of score."""

    parts: int = 0
    runs: int = 0
    gain: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(parts=self.parts + other.parts, runs=self.runs + other.runs, gain=self.gain + other.gain)


@dataclass(kw_only=True)
class Ensemble(PromptLearner):
    """A bandit over learners of prompts: upper confidence bounds (Auer et al. 2002) on the gain per run.

    ``engines``: names with commas, or learners; ``model`` and ``parts`` are passed on to those that use them.
    ``share``: runs of a part of the budget. ``explore``: weight of what is uncertain. Every engine begins where the
    best of all is.

    Raises:
        UserError: there is no engine, or one that is no learner of prompts under a limit of runs.
    """

    name: ClassVar[str] = "ensemble"
    counts: ClassVar[tuple[str, ...]] = ("share",)
    unused: ClassVar[tuple[str, ...]] = ("minibatch",)
    engines: str | Sequence[PromptLearner] = ""
    share: int = 60
    explore: float = 0.5
    made: dict[str, PromptLearner] = field(init=False, default_factory=dict)
    tallies: dict[str, Tally] = field(init=False, default_factory=dict)
    turn: str = field(init=False, default="")

    def __post_init__(self) -> None:
        super().__post_init__()
        split = [name.strip() for name in self.engines.split(",")] if isinstance(self.engines, str) else self.engines
        named = [each for each in split if each != ""]
        if not named:
            raise UserError("ensemble needs learners of prompts to share the runs: --set engines=gepa,textgrad")
        self.made = {each.name: each for each in map(_engine, named)}
        self.tallies = {name: Tally() for name in self.made}

    def asks(self) -> bool:
        """Whether it needs a model that writes: some engine does, and none was given to it."""
        return any(engine.asks() and engine.model is None for engine in self.made.values())

    def select(self, lab: Lab) -> Sequence[Node]:
        """Returns the best of all; none where it is perfect, or the runs that are left only suffice to score it."""
        return super().select(lab) if lab.left > len(lab.validation) else ()

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns what one engine proposes with its part of the budget, from other tasks than scores are from."""
        parent, view = parents[0], lab.view.only(lab.tasks)
        self.turn = next_engine(self.tallies, share=self.share, explore=self.explore)
        engine = self._with_share(self.made[self.turn], min(self.share, lab.left - len(lab.validation)))
        drafts = []
        async for proposal in engine.propose(view, Arm(policy=parent.policy), lab.budget):
            found = proposal.candidate
            lab.asked += found.usage
            drafts.append(
                Draft(
                    parts={},
                    policy=proposal.policy,
                    parents=(parent,),
                    note=f"{self.turn}: {found.summary}",
                    evidence=found.evidence,
                    tainted=found.trust == "tainted",
                )
            )
        lab.left -= view.practised
        self.tallies[self.turn] += Tally(parts=1, runs=view.practised)
        return drafts

    def _with_share(self, engine: PromptLearner, runs: int) -> PromptLearner:
        """Returns an engine under a limit of runs, with chance of its own for each part of the budget."""
        seed = self.seed + sum(tally.parts for tally in self.tallies.values())
        engine = replace(engine, runs=runs, seed=seed, concurrency=self.concurrency)
        if self.model is not None and "model" not in engine.unused:
            engine = replace(engine, model=self.model)
        if self.parts != PromptLearner.parts and "parts" not in engine.unused:
            engine = replace(engine, parts=self.parts)
        return engine

    async def assess(self, node: Node, lab: Lab) -> None:
        """Scores what an engine proposed, and puts its gain down to it."""
        await super().assess(node, lab)
        if self.turn and node.parents:
            before, after = (lab.archive.mean(each) or 0.0 for each in (lab.archive.nodes[node.parents[0]], node))
            self.tallies[self.turn] += Tally(gain=max(0.0, after - before))

    def options(self) -> Mapping[str, Json]:
        """Returns the options, and what each engine was given and gained."""
        told: dict[str, Json] = {
            name: {"parts": each.parts, "runs": each.runs, "gain": each.gain} for name, each in self.tallies.items()
        }
        return {**super().options(), "engines": told}


def _engine(given: str | PromptLearner) -> PromptLearner:
    engine = load_learner(given) if isinstance(given, str) else given
    if not isinstance(engine, PromptLearner) or isinstance(engine, Ensemble):
        raise UserError(f"engines: {given!r} is no learner of prompts that practises; see whet learn --list")
    return engine


def next_engine(tallies: Mapping[str, Tally], *, share: int, explore: float) -> str:
    """Returns the engine that gets the next part: each once, then by gain per run and what is uncertain about it.

    That is argmax of g/r + c·s·√(2 ln N / n): gain g in r runs over n of N parts, s the best g/r so far, one point for
    a part where nothing was gained yet.
    """
    if new := [name for name, tally in tallies.items() if not tally.parts]:
        return new[0]
    rates = {name: tally.gain / max(1, tally.runs) for name, tally in tallies.items()}
    scale = max(rates.values()) or 1 / share
    total = sum(tally.parts for tally in tallies.values())
    return max(
        tallies, key=lambda name: rates[name] + explore * scale * math.sqrt(2 * math.log(total) / tallies[name].parts)
    )
