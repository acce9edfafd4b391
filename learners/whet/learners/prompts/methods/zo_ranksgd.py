"""ZO-RankSGD: settings by rankings only. Nobody has to say how good a candidate is, only which are better.

learner = ZoRankSgd(ranges="temperature=0:1.2", by="person", candidates=4)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from whet.core.policy import Policy
from whet.feedback.judge import Comparer
from whet.learners.prompts.archive import Archive, Node
from whet.learners.prompts.dials import Dial, read_dials, settings_of
from whet.learners.prompts.duels import VERIFIERS, compare_by, points_of
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner

__all__ = ["ZoRankSgd", "rank_gradient"]

Vector = NDArray[np.float64]


@dataclass(kw_only=True)
class ZoRankSgd(PromptLearner):
    """Zeroth-order descent with a ranking oracle (Tang et al. 2023, arXiv 2303.03751, alg. 1 and 2).

    All settings are scaled to [0, 1]. ``by``: who ranks, ``verifiers``, ``person``, ``simulated`` or a ``Comparer``.
    ``candidates``: perturbations of a step (m). ``spread``: their standard deviation (μ). ``rate``: the longest step
    along the gradient (η); each of ``tries`` further ones is half as long, and the best of them by rank is the next
    centre.
    """

    name: ClassVar[str] = "zo-ranksgd"
    unused: ClassVar[tuple[str, ...]] = ("model", "parts")
    counts: ClassVar[tuple[str, ...]] = ("candidates", "tries")
    positive: ClassVar[tuple[str, ...]] = ("spread", "rate")
    ranges: str = ""
    by: Comparer | str = "verifiers"
    candidates: int = 6
    spread: float = 0.15
    rate: float = 0.4
    tries: int = 3
    dials: list[Dial] = field(init=False, default_factory=list)
    comparer: Comparer | str = field(init=False, default=VERIFIERS)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.comparer = compare_by(self.by)

    @property
    def scored(self) -> bool:
        """Whether verifiers rank, which also score."""
        return self.comparer == VERIFIERS

    async def begin(self, lab: Lab) -> None:
        """Reads the ranges, and scores the settings as they are where verifiers can."""
        self.dials = read_dials(lab.view, self.ranges)
        await self.assess(lab.archive.nodes[0], lab)

    def select(self, lab: Lab) -> Sequence[Node]:
        """Returns the centre of the next step: the winner of the last."""
        return (lab.archive.nodes[-1],) if not self.scored or super().select(lab) else ()

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Returns the winner of a line search along the gradient that a ranking gives."""
        centre, tasks = parents[0], lab.minibatch(self.minibatch)
        start = self._place(centre.policy, lab)
        noise = np.random.default_rng(lab.rng.getrandbits(31)).standard_normal((self.candidates, len(self.dials)))
        ranked = [self._policy(centre.policy, start + self.spread * each) for each in noise]
        gradient = rank_gradient(noise, await points_of(lab, ranked, tasks, self.comparer))
        ways = [start + self.rate * 0.5**k * gradient for k in range(1 + self.tries)]
        line = [centre.policy, *(self._policy(centre.policy, way) for way in ways)]
        won = await points_of(lab, line, tasks, self.comparer)
        best = line[won.index(max(won))]
        said = ", ".join(f"{name}={value:.4g}" for name, value in self._settings(best, lab).items())
        return [Draft(parts={}, policy=best, parents=(centre,), note=said)]

    async def assess(self, node: Node, lab: Lab) -> None:
        """Scores a centre where verifiers rank; where somebody else does, their ranking is all there is."""
        if self.scored:
            await super().assess(node, lab)

    def choose(self, archive: Archive) -> Node:
        """Returns the best centre by the verifiers, or the last one that somebody preferred."""
        return archive.best() if self.scored else archive.nodes[-1]

    def better(self, chosen: Node, seed: Node, archive: Archive) -> bool:
        """Whether it scores higher; whoever ranked instead has said so already."""
        return not self.scored or super().better(chosen, seed, archive)

    def _settings(self, policy: Policy, lab: Lab) -> dict[str, int | float]:
        return settings_of(lab.view, policy, self.dials)

    def _place(self, policy: Policy, lab: Lab) -> Vector:
        known = self._settings(policy, lab)
        return np.array([dial.unit(known[dial.name]) if dial.name in known else 0.5 for dial in self.dials])

    def _policy(self, policy: Policy, place: Vector) -> Policy:
        values = {dial.name: dial.value(float(unit)) for dial, unit in zip(self.dials, place, strict=True)}
        return policy.with_settings(**values)


def rank_gradient(noise: Vector, points: Sequence[float]) -> Vector:
    """Returns the ascent direction that a ranking gives, (d,), from perturbations (m, d) and the points of each.

    It is the mean of ξ_i - ξ_j over the pairs of which i ranks above j (the rank-based estimator, for maximising); zero
    where nothing ranks above anything.
    """
    edges = [noise[i] - noise[j] for i, j in permutations(range(len(points)), 2) if points[i] > points[j]]
    return np.mean(edges, axis=0) if edges else np.zeros(noise.shape[1])
