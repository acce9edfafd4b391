"""Progress: a head on every turn whose sum is the final reward, and with it what each turn contributed.

    rows = await ProgressEstimator().build(experience, kit)
    contributions(TrainedScorer(base, folder), conversations)        # for each conversation a share per turn

``estimator(base, folder)`` makes of a trained scorer what the method ``spa`` takes as its estimator.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from whet.core.records import Message
from whet.learners.weights.experience import Experience
from whet.learners.weights.method import Info, Kit
from whet.learners.weights.methods.conversations import Conversation, RewardKind, by_task, need
from whet.learners.weights.methods.scorers import ScorerMethod, contrasted, end_of
from whet.learners.weights.methods.spa import Estimator
from whet.learners.weights.objectives import Objective, Regression
from whet.learners.weights.recipe import Layout, Recipe
from whet.learners.weights.rows import Piece, Row
from whet.learners.weights.templates import Dropped, encode_row

if TYPE_CHECKING:
    from whet.learners.weights.scorer import TrainedScorer

__all__ = ["ProgressEstimator", "contributions", "estimator"]

_HOW = "run agents of several turns (refine, react), several times (whet improve TASKS --repeats 8)"


class ProgressEstimator(ScorerMethod, frozen=True, kw_only=True):
    """Learns to share a final reward out over the turns that led to it (SPA-RL, arXiv 2505.20732).

    A head on the token that ends each turn (or, with ``reads="answer"``, on all of its tokens); the squared error of
    its sum against the reward is the loss. ``reward``: 1 for a pass, or the score, which tells more. It is measured by
    how well the sums fit the rewards of other tasks.
    """

    info = Info(
        name="progress",
        family="reward",
        title="Progress estimator",
        paper="arXiv 2505.20732",
        needs=("judged runs of several turns",),
    )
    reward: RewardKind = "score"
    reads: Literal["end", "answer"] = "end"

    async def build(self, experience: Experience, kit: Kit) -> list[Row]:
        """Returns a row for each judged conversation of several turns, labelled with its final reward.

        Raises:
            UserError: there is none.
        """
        rows = []
        for group in by_task(experience.episodes).values():
            for one in group:
                final = self._final(one)
                if len(one.turns) > 1 and final is not None:
                    rows.append(_row(one, self._layout, label=final, group=one.task.id))
        need(rows, "progress", "judged runs of several turns", _HOW)
        return contrasted(rows)

    def objectives(self) -> dict[str, Objective]:
        """Returns the squared error of the sum over turns."""
        return {"": Regression()}

    def recipe(self) -> Recipe:
        """Returns a scorer that estimates numbers, turn by turn."""
        return self.made("number", self._layout)

    @property
    def _layout(self) -> Layout:
        return "turn ends" if self.reads == "end" else "turns"

    def _final(self, one: Conversation) -> float | None:
        rewards = [turn.reward(self.reward) for turn in one.turns]
        return next((reward for reward in reversed(rewards) if reward is not None), None)


def contributions(scorer: "TrainedScorer", conversations: Sequence[Conversation]) -> list[list[float]]:
    """Returns what each turn of each conversation contributed, in the unit of the reward, as the scorer estimates it.

    The estimates of a conversation sum to about its final reward; ``whet.learners.weights.advantages.progress`` makes
    them sum to it exactly. Zeros where the chat template does not allow the turns to be told apart.
    """
    found = [[0.0] * len(one.turns) for one in conversations]
    data, places = [], []
    for place, one in enumerate(conversations):
        try:
            data.append(encode_row(_row(one, scorer.credentials.layout), scorer.template))
            places.append(place)
        except Dropped:
            continue
    for place, shares in zip(places, scorer.steps(data), strict=True):
        found[place] = shares
    return found


def estimator(base: str, folder: str) -> Estimator:
    """Returns the estimator that a trained scorer is, for ``SPA``: a module that says
    ``estimate = estimator("./model", "./progress")`` is named by ``estimator="module:estimate"``.

    Raises:
        UserError: the folder holds no scorer of turns, or one that was refused.
    """
    from whet.core.errors import UserError
    from whet.learners.weights.scorer import TrainedScorer

    scorer = TrainedScorer(base, folder)
    credentials = scorer.credentials
    if credentials.layout not in ("turns", "turn ends") or credentials.refused:
        why = credentials.refused or f"it reads {credentials.layout}, not turns"
        raise UserError(f"the scorer in {folder!r} is no progress estimator: {why}")
    return lambda group: contributions(scorer, group)


def _row(one: Conversation, layout: Layout, **fields: object) -> Row:
    last = one.turns[-1].attempt
    said = Message(role="assistant", content=last.text, tool_calls=last.completion.tool_calls)
    messages = (*last.messages, said)
    places = [len(turn.attempt.messages) for turn in one.turns]
    pieces = tuple(Piece(message=place) if layout == "turns" else end_of(messages, place) for place in places)
    given: dict[str, object] = {"task_id": one.task.id, "sources": one.sources, "trust": one.episode.run.trust}
    return Row(messages=messages, pieces=pieces, tools=last.tools, **(given | fields))  # type: ignore[arg-type]
