"""``Recipe``: how data become a scorer; ``Credentials``: what it is, and how well its values were found to hold.

    recipe = Recipe(reading="probability", layout="end")
    credentials = train_scorer(base, data, objectives, config, recipe, folder)        # whet.learners.weights.scorer
    credentials.refused                          # "" where it may judge, else why not

Records only, so that they are read without torch. ``scorer.json`` beside the adapter holds the credentials.
"""

from pathlib import Path
from typing import Literal, TypeAlias

from whet.core.calibration import Calibration
from whet.core.errors import UserError
from whet.core.records import Record
from whet.core.wire import decode
from whet.learners.weights.calibration import Bar, Fit, Platt

__all__ = ["CREDENTIALS", "Credentials", "Layout", "Reading", "Recipe", "read_credentials"]

Reading: TypeAlias = Literal["comparison", "probability", "number", "words"]
"""What a value is: better than a lower one to the same task and nothing else; a logit; an estimate of the label itself;
or a logit that the model gives as the word yes or no."""

Layout: TypeAlias = Literal["end", "answer", "question", "turn ends", "turns", "span"]
"""Where a value is read: where the answer ends; at all of its tokens, summed; in reply to a question about it; where
each turn ends; at all tokens of each turn; where a stretch of it ends."""

CREDENTIALS = "scorer.json"


class Recipe(Record, frozen=True, kw_only=True):
    """How a scorer is made.

    ``held``: the share of groups (tasks) that is kept from training, to measure the scorer on. ``voters``: so many
    models vote on pairs whose label is not certain (0: none do); ``flip``, ``soft`` and ``margin`` are those of
    ``whet.learners.weights.voting.clean``. ``bar``: what it has to reach to judge.
    """

    reading: Reading
    layout: Layout
    held: float = 0.25
    voters: int = 0
    flip: float | None = None
    soft: float = 0.3
    margin: float = 1.0
    bar: Bar = Bar()

    def __post_init__(self) -> None:
        """Refuses impossible values."""
        if not 0 < self.held < 1:
            raise UserError(f"held is {self.held!r}; it is a share of the tasks, between 0 and 1")
        if self.voters < 0 or self.voters % 2:
            raise UserError(f"voters is {self.voters!r}; they come in pairs, each trained on what the other judges")
        if not 0 <= (self.flip or 0.0) < 0.5 or not 0 <= self.soft <= 1 or self.margin < 0:
            raise UserError(
                f"flip is {self.flip!r}, soft {self.soft!r}, margin {self.margin!r}; shares lie in [0, 0.5) and [0, 1] "
                "and the margin is not negative"
            )


class Credentials(Record, frozen=True, kw_only=True):
    """What a scorer is, and what it was found to be worth on answers it was not trained on.

    ``platt`` turns values into probabilities. ``yes`` and ``no``: the tokens of a scorer that answers in words.
    ``refused``: why it may not judge. ``best_of``: how often the best of 1, 2, … held-back answers was right.
    ``epsilon``: the share of swapped preferences that voters found, with ``flipped`` of the pairs turned round.
    """

    reading: Reading
    layout: Layout
    report: Calibration | Fit
    platt: Platt = Platt()
    yes: int | None = None
    no: int | None = None
    refused: str = ""
    best_of: tuple[float, ...] = ()
    epsilon: float | None = None
    flipped: int = 0
    trained_on: int = 0

    def lines(self) -> list[str]:
        """Returns the credentials for people."""
        found = self.report.lines()
        if self.best_of:
            shown = ", ".join(f"{share:.2f}" for share in self.best_of[:8])
            found.append(f"the best of 1, 2, … answers is right: {shown}")
        if self.epsilon is not None:
            found.append(f"swapped preferences: {self.epsilon:.2f} by vote; {self.flipped} pairs turned round")
        return [*found, f"it may not judge: {self.refused}" if self.refused else "it may judge"]


def read_credentials(folder: Path) -> Credentials:
    """Returns the credentials of a scorer.

    Raises:
        UserError: the folder holds none, or they cannot be read.
    """
    path = folder / CREDENTIALS
    try:
        return decode(path.read_bytes(), Credentials)
    except OSError as error:
        raise UserError(
            f"{str(folder)!r} holds no scorer ({CREDENTIALS} is missing); train one with a method of the reward family"
        ) from error
