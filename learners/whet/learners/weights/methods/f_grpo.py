"""F-GRPO: an answer of several phases is compared phase by phase, each on a reward of its own."""

import re
from collections.abc import Mapping

import msgspec

from whet.core.errors import UserError
from whet.learners.weights.advantages import per_segment
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit, Rollouts
from whet.learners.weights.methods.conversations import Conversation, Turn, need
from whet.learners.weights.methods.groups import Clipped, attempts
from whet.learners.weights.rows import Piece, Row

__all__ = ["FGRPO"]


class FGRPO(Clipped, frozen=True, kw_only=True):
    """Factored GRPO: per-phase rewards on per-phase tokens.

    ``markers``, separated by spaces: texts that begin a phase of the answer, which lasts until the next one. A phase's
    name is its marker's letters in lower case. It earns the share of passed checks whose names begin with its name, or
    the mean score of the verifiers whose names do; where neither exists, the answer's score.
    """

    info = Info(
        name="f-grpo",
        family="policy-gradient",
        title="grpo for answers in phases, each on its own reward",
        paper="arXiv 2605.12995",
        needs=("several judged runs of each task", "answers with phase markers, checks named after the phases"),
    )
    rollouts = Rollouts()
    markers: str = "<SLATE> <RANK>"

    def __post_init__(self) -> None:
        """Refuses markers that name no phases, or two phases alike."""
        names = [phase_name(marker) for marker in self.markers.split()]
        if not names or "" in names or len(set(names)) < len(names):
            raise UserError(f"markers is {self.markers!r}; give texts with letters that differ, such as <SLATE> <RANK>")

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each answer with phases that differ in what they earned from the other answers'.

        Raises:
            UserError: no run was judged, or no answer has a marker.
        """
        rows, phased = list[Row](), False
        for task_id, group in attempts(experience, self.info.name, lambda turn: turn.score).items():
            spans = [phases(one.turns[-1].attempt.text, self.markers.split()) for one in group]
            earned = [
                {name: _earned(one.turns[-1], name) for name in own} for one, own in zip(group, spans, strict=True)
            ]
            phased = phased or any(spans)
            for one, own, advantages in zip(group, spans, per_segment(earned, self.advantage), strict=True):
                rows += _row(one, own, advantages, task_id)
        need(
            phased,
            self.info.name,
            f"answers with one of {self.markers}",
            "have the prompt ask for them, or set markers",
        )
        return rows


def phase_name(marker: str) -> str:
    """Returns the name of the phase a marker begins: its letters, digits and underscores, in lower case."""
    return "".join(re.findall(r"\w", marker)).lower()


def phases(text: str, markers: list[str]) -> dict[str, tuple[int, int | None]]:
    """Returns where each phase of an answer begins and ends (``None``: at its end), marker included.

    Of a marker that occurs several times the first counts.
    """
    starts = sorted((text.find(marker), marker) for marker in markers if marker in text)
    ends = [*(start for start, _ in starts[1:]), None]
    return {phase_name(marker): (start, end) for (start, marker), end in zip(starts, ends, strict=False)}


def _earned(turn: Turn, name: str) -> float:
    checks = [check.passed for verdict in turn.verdicts for check in verdict.checks if check.name.startswith(name)]
    if checks:
        return sum(checks) / len(checks)
    scores = [verdict.score for verdict in turn.verdicts if verdict.judged and verdict.verifier.startswith(name)]
    return sum(scores) / len(scores) if scores else turn.score or 0.0


def _row(
    one: Conversation, spans: Mapping[str, tuple[int, int | None]], advantages: Mapping[str, float], task_id: str
) -> list[Row]:
    if not advantages:
        return []
    row = one.row([*([None] * (len(one.turns) - 1)), 1.0], group=task_id, reward=one.final)
    at = row.pieces[0].message
    pieces = [
        Piece(message=at, start=start, end=end, weight=advantages[name])
        for name, (start, end) in spans.items()
        if name in advantages
    ]
    return [msgspec.structs.replace(row, pieces=tuple(pieces))]
