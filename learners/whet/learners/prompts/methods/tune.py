"""Tuning of settings by scores: temperature, rounds, n, … by Optuna's tree-structured Parzen estimator.

learner = Tune(ranges="temperature=0:1.2, rounds=0:6", runs=300)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from whet.learners.prompts.archive import Node
from whet.learners.prompts.dials import Dial, read_dials, settings_of
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner
from whet.learners.prompts.searching import import_optuna

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = ["Tune"]


@dataclass(kw_only=True)
class Tune(PromptLearner):
    """Bayesian optimisation by density ratios (Bergstra et al. 2011), with the library Optuna.

    ``ranges``: settings with commas, each ``NAME`` (its declared range) or ``NAME=LOW:HIGH``; every setting of a finite
    range unless given. ``startup``: so many are drawn at random before the estimator takes over.

    Raises:
        UserError: Optuna is not installed.
    """

    name: ClassVar[str] = "tune"
    unused: ClassVar[tuple[str, ...]] = ("model", "parts", "minibatch")
    counts: ClassVar[tuple[str, ...]] = ("startup",)
    ranges: str = ""
    startup: int = 5
    dials: list[Dial] = field(init=False, default_factory=list)

    async def begin(self, lab: Lab) -> None:
        """Reads the ranges, and scores the settings as they are."""
        self.dials = read_dials(lab.view, self.ranges)
        await super().begin(lab)

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns the settings that the estimator would try next, given every score so far."""
        optuna = import_optuna(self.name)
        sampler = optuna.samplers.TPESampler(
            seed=lab.rng.getrandbits(31), n_startup_trials=self.startup, multivariate=len(self.dials) > 1
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        space = {dial.name: _distribution(dial) for dial in self.dials}
        for node in lab.archive.assessed():
            places = settings_of(lab.view, node.policy, self.dials)
            if len(places) == len(space) and all(dial.low <= places[dial.name] <= dial.high for dial in self.dials):
                known = optuna.trial.create_trial(params=places, distributions=space, value=lab.archive.mean(node))
                study.add_trial(known)
        chosen = study.ask(space).params
        said = ", ".join(f"{name}={value:.4g}" for name, value in chosen.items())
        return [Draft(parts={}, settings=chosen, parents=(lab.archive.nodes[0],), note=said)]


def _distribution(dial: Dial) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    return IntDistribution(int(dial.low), int(dial.high)) if dial.whole else FloatDistribution(dial.low, dial.high)
