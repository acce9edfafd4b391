"""What the embedded model can do on worlds it has never seen: one row per way of knowing, each with an interval.

    for score in measure(TinyModel(), n=200):
        print(score)

``python -m whet.core.models.tiny.measure`` prints the table of the model card.
"""

import argparse
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from whet.core.models.tiny.episodes import Dial, Episode, draw_episode
from whet.core.models.tiny.model import TinyModel
from whet.core.models.tiny.world import judge, read_definitions
from whet.core.records import Message, Sampling

__all__ = ["PROBES", "TEMPERATURES", "Probe", "Score", "measure", "table", "wilson"]

TEMPERATURES = (0.0, 0.5, 1.0)  # of the model card

_EASY = Dial(chain=(1, 1), distractors=(8, 8), strings=0.25, unknown=1, attempts=1, filler=0.3)


@dataclass(frozen=True)
class Probe:
    """A row: its name, the kind of episode and its dial. ``rejects`` counts rejected operations used again."""

    name: str
    kind: str
    dial: Dial
    rejects: bool = False


@dataclass(frozen=True)
class Score:
    """A share of ``n`` with its 95 % Wilson interval."""

    name: str
    hits: int
    n: int

    @property
    def rate(self) -> float:
        """The share of hits, in [0, 1]."""
        return self.hits / self.n

    def __str__(self) -> str:
        low, high = wilson(self.hits, self.n)
        return f"{self.name:52s} {self.rate:6.3f}  [{low:.3f}, {high:.3f}]  n={self.n}"


def _probes() -> tuple[Probe, ...]:
    def chain(n: int, distractors: int = 8) -> Dial:
        return replace(_EASY, chain=(n, n), distractors=(distractors, distractors))

    defined = [Probe(f"definitions, chain {n}, 8 distractors", "definitions", chain(n)) for n in (1, 2, 3, 4, 6)]
    tries = replace(_EASY, attempts=3)
    return (
        Probe("no context, chain 1", "plain", _EASY),
        Probe("no context, chain 2", "plain", chain(2)),
        *defined,
        Probe("definitions, chain 3, 40 distractors", "definitions", chain(3, 40)),
        Probe("one of three verbs undefined", "partial", chain(3)),
        Probe("examples, chain 1", "examples", _EASY),
        Probe("examples of one verb, chain 3", "examples", chain(3)),
        Probe("revision, chain 1: right", "revision", _EASY),
        Probe("revision, chain 1: a rejected operation again", "revision", _EASY, rejects=True),
        Probe("revision, 1 to 3 attempts: right", "revision", tries),
        Probe("revision, 1 to 3 attempts: a rejected one again", "revision", tries, rejects=True),
        Probe("revision, one verb in doubt, chain 2: right", "revision", chain(2)),
        Probe("rich critique, chain 1", "rich", _EASY),
        Probe("rich critique, chain 3", "rich", chain(3)),
    )


PROBES = _probes()


def measure(
    model: TinyModel, *, n: int = 200, seed: int = 0, temperature: float = 0.5, probes: Iterable[Probe] = PROBES
) -> list[Score]:
    """Returns a score per probe over ``n`` episodes from as many evaluation worlds."""
    scores = []
    for probe in probes:
        rng = random.Random(f"measure/{seed}/{probe.name}")
        episodes = [draw_episode(rng, probe.kind, probe.dial, split="eval") for _ in range(n)]
        hits = sum(_hit(model, probe, episode, temperature, index) for index, episode in enumerate(episodes))
        scores.append(Score(probe.name, hits, n))
    return scores


def _hit(model: TinyModel, probe: Probe, episode: Episode, temperature: float, seed: int) -> bool:
    turns: Sequence[tuple[str, str]] = episode.turns
    messages = [_message(role, content) for role, content in turns]
    answer = model.answer(messages, Sampling(temperature=temperature, seed=seed, max_tokens=96)).text
    if probe.rejects:
        return read_definitions(answer).get(episode.unknown[0]) in episode.rejected
    return not judge(answer, episode.task.checks)


def _message(role: str, content: str) -> Message:
    if role == "system":
        return Message(role="system", content=content)
    return Message(role="user" if role == "user" else "assistant", content=content)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a share (Wilson 1927)."""
    z = 1.959964
    centre, spread = hits / n + z * z / (2 * n), z * math.sqrt(hits / n * (1 - hits / n) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


def table(columns: Mapping[float, Sequence[Score]]) -> str:
    """Returns a Markdown table: a row per probe, a column with 95 % intervals per temperature."""
    heads = "".join(f" temperature {temperature:g} |" for temperature in columns)
    lines = [f"| what is known |{heads} n |", "|---|" + "---|" * len(columns) + "--:|"]
    for row in zip(*columns.values(), strict=True):
        cells = "".join(f" {score.rate:.3f} ({_interval(score)}) |" for score in row)
        lines.append(f"| {row[0].name} |{cells} {row[0].n} |")
    return "\n".join(lines)


def _interval(score: Score) -> str:
    low, high = wilson(score.hits, score.n)
    return f"{low:.2f} to {high:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the embedded model on evaluation worlds.")
    parser.add_argument("--n", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--adapter")
    options = parser.parse_args()
    model = TinyModel(options.adapter)
    print(table({t: measure(model, n=options.n, seed=options.seed, temperature=t) for t in TEMPERATURES}))


if __name__ == "__main__":
    main()
