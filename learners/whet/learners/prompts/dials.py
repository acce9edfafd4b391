"""The settings that a learner may turn: which, between which values, and as numbers between 0 and 1.

dials = read_dials(view, "temperature=0:1.2, rounds")     # rounds: from 0 to 20, as its graph declares it
dials[0].value(0.5), dials[1].value(0.5)                  # 0.6, 10
"""

import math
import re
from collections.abc import Sequence

from whet.agents import Knob
from whet.agents.agent import KNOBS
from whet.core.errors import UserError
from whet.core.policy import Policy
from whet.core.records import Record
from whet.learners.view import TrainMemory

__all__ = ["Dial", "read_dials", "settings_of"]

_ENTRY = re.compile(r"(\w+)(?:=(-?[\d.]+):(-?[\d.]+))?")
_LIMIT = "max_"


class Dial(Record, frozen=True, kw_only=True):
    """A knob of the agent with the range in which it is tuned."""

    name: str
    low: float
    high: float
    whole: bool

    @property
    def allowed(self) -> str:
        """What it takes, in words."""
        return f"{'a whole number' if self.whole else 'a number'} from {self.low:g} to {self.high:g}"

    def check(self, value: object) -> int | float:
        """Returns the value as a setting.

        Raises:
            UserError: it is no number, not whole where it has to be, or outside the range.
        """
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            raise UserError(f"{self.name} has to be {self.allowed}, not {value!r}")
        return value

    def value(self, unit: float) -> int | float:
        """Returns the setting at a place between 0 and 1; a place outside counts as the nearest end."""
        exact = self.low + min(1.0, max(0.0, unit)) * (self.high - self.low)
        return round(exact) if self.whole else exact

    def unit(self, value: int | float) -> float:
        """Returns the place of a setting between 0 and 1."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def read_dials(view: TrainMemory, wanted: str, *, least: int = 1) -> list[Dial]:
    """Returns the dials of a list with commas, each ``NAME`` or ``NAME=LOW:HIGH``, at least so many.

    An empty list means every knob of a finite range that the agent's graph sets by itself, but limits (``max_…``).

    Raises:
        UserError: an entry cannot be read, the agent has no such knob, the range is empty, open or not allowed, or
            there are too few.
    """
    entries = [entry.strip() for entry in wanted.split(",") if entry.strip()] or _usual(view)
    dials = [_read(view, entry) for entry in entries]
    if len(dials) < least or len({dial.name for dial in dials}) < len(dials):
        said = "a setting is named twice" if dials else "this agent sets nothing of a finite range by itself"
        raise UserError(f"ranges={wanted!r}: {said}; write NAME=LOW:HIGH, of {', '.join(sorted(view.settings))}")
    return dials


def settings_of(view: TrainMemory, policy: Policy, dials: Sequence[Dial]) -> dict[str, int | float]:
    """Returns what the dials stand at under a policy; one that it leaves open is missing."""
    written = policy.settings()
    defaults = {dial.name: view.settings[dial.name].default for dial in dials}
    values = {name: written.get(name, default) for name, default in defaults.items()}
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _usual(view: TrainMemory) -> list[str]:
    return [
        name
        for name, knob in view.settings.items()
        if name in view.knobs and math.isfinite(knob.high) and name not in KNOBS and not name.startswith(_LIMIT)
    ]


def _read(view: TrainMemory, entry: str) -> Dial:
    match = _ENTRY.fullmatch(entry)
    knob = view.settings.get(match[1]) if match else None
    if match is None or knob is None:
        raise UserError(f"ranges: {entry!r} is no NAME or NAME=LOW:HIGH of {', '.join(sorted(view.settings))}")
    low, high = (float(match[2]), float(match[3])) if match[2] else (float(knob.low), float(knob.high))
    if not knob.low <= low < high <= knob.high or not math.isfinite(high):
        raise UserError(f"ranges: {entry!r} needs LOW below HIGH, within {knob.low:g} to {knob.high:g}")
    return Dial(name=match[1], low=low, high=high, whole=_whole(knob))


def _whole(knob: Knob) -> bool:
    return knob.whole or isinstance(knob.default, int)
