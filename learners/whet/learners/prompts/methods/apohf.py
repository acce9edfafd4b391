"""APOHF: a person compares two answers at a time, and a bandit chooses which two prompts to show next.

learner = Apohf(pool="prompts.txt", by="person", steps=30)
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from whet.core.errors import UserError
from whet.core.records import Record
from whet.feedback.judge import Comparer
from whet.learners.asking import read_json
from whet.learners.prompts.archive import Archive, Node
from whet.learners.prompts.duels import compare_by, points_of
from whet.learners.prompts.lab import Lab
from whet.learners.prompts.learner import Draft, PromptLearner, examples
from whet.memory.embedders import Embedder, HashedNgrams

__all__ = ["Apohf", "Duel", "fit_preferences", "next_pair", "read_pool"]

Vectors = NDArray[np.float64]

_DIVIDER = "---"
_NEWTON = 12

_WRITE = """\
Write {size} prompts that could take the place of the one below, each in another way. Answer with JSON and nothing
else, a list of texts.

# Text ({part})
{text}

# Results
{examples}"""


class Duel(Record, frozen=True, kw_only=True):
    """Two candidates by number, and how far the first won: 1, 0.5 for a tie, 0."""

    first: int
    second: int
    won: float


@dataclass(kw_only=True)
class Apohf(PromptLearner):
    """Prompt optimisation with human feedback, a dueling bandit (Lin et al. 2024, arXiv 2405.17346).

    ``pool``: a file of prompts (a JSON list, or texts divided by lines ``---``), or the texts; unless given, the model
    writes ``size``. ``by``: who compares, ``person``, ``simulated``, ``verifiers`` or a ``Comparer``. ``steps``: duels,
    of which the first ``startup`` are drawn at random. ``ridge`` (λ) and ``explore`` (ν) are the paper's.

    Raises:
        UserError: the pool cannot be read.
    """

    name: ClassVar[str] = "apohf"
    counts: ClassVar[tuple[str, ...]] = ("size", "startup")
    positive: ClassVar[tuple[str, ...]] = ("ridge", "explore")
    unused: ClassVar[tuple[str, ...]] = ("validation",)
    pool: str | Sequence[str] = ""
    by: Comparer | str = "person"
    size: int = 12
    steps: int = 30
    startup: int = 6
    ridge: float = 0.1
    explore: float = 0.1
    embedder: Embedder | None = None
    comparer: Comparer | str = field(init=False, default="person")
    vectors: Vectors = field(init=False, default_factory=lambda: np.zeros((0, 0)))
    duels: list[Duel] = field(init=False, default_factory=list)
    shown: dict[int, list[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.comparer = compare_by(self.by)

    def asks(self) -> bool:
        """Whether it needs a model that writes: only where no pool is given."""
        return not self.pool

    async def begin(self, lab: Lab) -> None:
        """Puts the pool beside the incumbent, and embeds all of it."""
        seed = lab.archive.nodes[0]
        if len(seed.parts) != 1:
            raise UserError(f"apohf compares versions of one prompt; parts={self.parts!r} names {len(seed.parts)}")
        (part,) = seed.parts
        for text in read_pool(self.pool) if self.pool else await self._written(lab, part):
            self.add(Draft(parts={part: text}, parents=(seed,), note="of the pool"), lab)
        texts = [node.parts[part] for node in lab.archive.nodes]
        if len(texts) < 2:
            raise UserError("apohf needs at least one prompt beside the one in force; give --set pool=FILE")
        self.vectors = np.asarray(await (self.embedder or HashedNgrams()).embed(texts), dtype=np.float64)

    async def _written(self, lab: Lab, part: str) -> list[str]:
        seed = lab.archive.nodes[0]
        on = await lab.run(seed.policy, lab.minibatch(self.minibatch))
        asked = _WRITE.format(size=self.size, part=part, text=seed.parts[part], examples=examples(on))
        found = read_json(await lab.ask(asked, temperature=1.0))
        return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []

    def select(self, lab: Lab) -> Sequence[Node]:
        """Returns the two candidates whose duel tells most."""
        if len(self.duels) < self.startup:
            return lab.rng.sample(lab.archive.nodes, 2)
        weights = fit_preferences(self.vectors, self.duels, self.ridge)
        pair = next_pair(self.vectors, self.duels, weights, ridge=self.ridge, explore=self.explore)
        return [lab.archive.nodes[number] for number in pair]

    async def draft(self, parents: Sequence[Node], lab: Lab) -> Sequence[Draft]:
        """Lets two candidates duel on one task; there is nothing to draft, the pool stays."""
        tasks, policies = lab.minibatch(1), [node.policy for node in parents]
        one, other = await points_of(lab, policies, tasks, self.comparer)
        numbers = [node.number for node in parents]
        self.duels.append(Duel(first=numbers[0], second=numbers[1], won=0.5 + 0.5 * ((one > other) - (one < other))))
        for node in parents:
            self.shown.setdefault(node.number, []).extend(run.id for run in await lab.answers(node.policy, tasks))
        return []

    def choose(self, archive: Archive) -> Node:
        """Returns the candidate of the highest score among those that duelled."""
        if not self.shown:
            return archive.nodes[0]
        scores = self._scores()
        best = archive.nodes[max(sorted(self.shown), key=lambda number: float(scores[number]))]
        won = sum(
            d.won if d.first == best.number else 1 - d.won for d in self.duels if best.number in (d.first, d.second)
        )
        return msgspec.structs.replace(
            best,
            note=f"won {won:g} of {len(self.shown[best.number])} duels",
            evidence=tuple(dict.fromkeys(self.shown[best.number])),
        )

    def better(self, chosen: Node, seed: Node, archive: Archive) -> bool:
        """Whether the chosen one has a higher score than the incumbent."""
        scores = self._scores()
        return bool(scores[chosen.number] > scores[seed.number] + 1e-9)

    def _scores(self) -> Vectors:
        return self.vectors @ fit_preferences(self.vectors, self.duels, self.ridge)


def read_pool(pool: str | Sequence[str]) -> list[str]:
    """Returns the prompts of a file, or those given.

    Raises:
        UserError: the file cannot be read, or holds no prompt.
    """
    if not isinstance(pool, str):
        return list(pool)
    try:
        text = Path(pool).read_text()
        found = json.loads(text) if pool.endswith(".json") else _divided(text)
    except (OSError, ValueError) as error:
        raise UserError(f"pool={pool!r} cannot be read: {error}") from error
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise UserError(f"pool={pool!r} holds no prompts; write a JSON list of texts, or texts divided by lines '---'")
    return found


def _divided(text: str) -> list[str]:
    parts = "\n".join("\0" if line.strip() == _DIVIDER else line for line in text.splitlines()).split("\0")
    return [part.strip() for part in parts if part.strip()]


def fit_preferences(vectors: Vectors, duels: Sequence[Duel], ridge: float) -> Vectors:
    """Returns the weights w, (d,), of the Bradley-Terry model P(i beats j) = σ(w·(v_i - v_j)), with a ridge; by Newton.

    Args:
        vectors: one for each candidate, (n, d).
        ridge: λ of λ/2·|w|²; it also makes the answer unique.
    """
    weights = np.zeros(vectors.shape[1])
    if not duels:
        return weights
    rows, won = _rows(vectors, duels), np.array([duel.won for duel in duels])
    for _ in range(_NEWTON):
        chance = 1 / (1 + np.exp(-rows @ weights))
        gradient = rows.T @ (won - chance) - ridge * weights
        curvature = (rows * (chance * (1 - chance))[:, None]).T @ rows + ridge * np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, gradient)
    return weights


def next_pair(
    vectors: Vectors, duels: Sequence[Duel], weights: Vectors, *, ridge: float, explore: float
) -> tuple[int, int]:
    """Returns the candidate of the highest score, and the one that may well be better, as the paper has it.

    The second has the highest score + ν·‖v - v_first‖ in the norm of U⁻¹, U = λI + Σ (v_i - v_j)(v_i - v_j)ᵀ.
    """
    scores = vectors @ weights
    first = int(np.argmax(scores))
    rows = _rows(vectors, duels)
    away = vectors - vectors[first]
    spread = np.einsum("nd,nd->n", away, np.linalg.solve(rows.T @ rows + ridge * np.eye(vectors.shape[1]), away.T).T)
    hope = scores + explore * np.sqrt(np.maximum(spread, 0))
    hope[first] = -np.inf
    return first, int(np.argmax(hope))


def _rows(vectors: Vectors, duels: Sequence[Duel]) -> Vectors:
    """Returns the difference of the two vectors of each duel, (duels, d)."""
    return vectors[[duel.first for duel in duels]] - vectors[[duel.second for duel in duels]]
