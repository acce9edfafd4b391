"""Habits: what several runs did alike with their tools, and what of it led to success.

    for habit in find_habits(await read_traces(view, {"shell"}), min_tasks=3, purity=0.8, longest=6):
        print(habit.general.template, len(habit.tasks))

Calls that generalise to one template are of one kind; runs are then sequences of kinds, and a habit is a sequence that
is found in several of them. Its parameters have to be known before its first call.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from whet.agents.shortcuts import PLACE
from whet.core.records import Json, Record, Step, ToolResult
from whet.core.wire import decode
from whet.learners.experience.generalize import General, generalize
from whet.learners.view import Judged, TrainMemory

__all__ = ["Habit", "Trace", "Window", "arguments", "find_habits", "leaves", "read_traces"]

RUNS = 200
SHOWN = 20
"""Windows that a habit is generalised from, one a task."""
_WORDS = re.compile(r"[^\W\d_]{2,}")


class Trace(Record, frozen=True, kw_only=True):
    """The tool calls of a judged run, up to the first that failed or cannot be done again."""

    item: Judged
    calls: tuple[ToolResult, ...]


class Window(Record, frozen=True, kw_only=True):
    """Some calls of a trace, one after the other."""

    trace: Trace
    start: int
    size: int = 1

    @property
    def calls(self) -> tuple[ToolResult, ...]:
        """The calls with what they returned."""
        return self.trace.calls[self.start : self.start + self.size]

    @property
    def term(self) -> Json:
        """Names and arguments of the calls."""
        return [[result.call.name, arguments(result)] for result in self.calls]

    @property
    def words(self) -> frozenset[str]:
        """The words of the calls."""
        return frozenset(_WORDS.findall(" ".join(result.call.arguments for result in self.calls)))

    def knows(self, value: Json) -> bool:
        """Whether a value was to be seen before the first of the calls, in the task or in what was returned."""
        seen = (self.trace.item.task.prompt, *(result.content for result in self.trace.calls[: self.start]))
        whole = re.compile(rf"(?<!\w){re.escape(str(value).strip())}(?!\w)")
        return any(whole.search(text) for text in seen)


class Habit(Record, frozen=True, kw_only=True):
    """Windows of several tasks that are alike, and what they have in common (a list of [name, arguments])."""

    windows: tuple[Window, ...]
    general: General

    @property
    def steps(self) -> list[dict[str, Json]]:
        """The arguments of each call, with places for the parameters."""
        steps = self.general.template
        assert isinstance(steps, list)
        return [step[1] for step in steps if isinstance(step, list) and isinstance(step[1], dict)]

    def values(self, number: int) -> dict[str, Json]:
        """Returns the parameters' values in one of the windows."""
        return {name: values[number] for name, values in self.general.values.items()}


async def read_traces(view: TrainMemory, again: set[str]) -> list[Trace]:
    """Returns the newest judged runs that called tools; ``again`` are the names of those that can be run again."""
    judged = {item.run.id: item for item in (await view.judged())[-RUNS:]}
    steps: dict[str, list[Step]] = defaultdict(list)
    for step in await view.about(Step, list(judged), kinds=["tool_result"]):
        steps[step.run_id].append(step)
    found = []
    for run_id, taken in steps.items():
        results = [step.body for step in sorted(taken, key=lambda step: step.seq) if isinstance(step.body, ToolResult)]
        odd = (number for number, result in enumerate(results) if not _repeatable(result, again))
        found.append(Trace(item=judged[run_id], calls=tuple(results[: next(odd, len(results))])))
    return found


def _repeatable(result: ToolResult, again: set[str]) -> bool:
    return result.call.name in again and bool(arguments(result)) and result.error is None and not result.pending


def find_habits(traces: Sequence[Trace], *, min_tasks: int, purity: float, longest: int) -> Iterator[Habit]:
    """Yields the habits that led to success in ``min_tasks`` tasks, the longest first, none within another one.

    ``purity``: of the runs with such calls so many have to have passed; ``longest``: calls at most.
    """
    groups: dict[tuple[int, ...], list[Window]] = defaultdict(list)
    kinds = _kinds(sorted(traces, key=lambda trace: not trace.item.passed))
    for trace, line in kinds:
        for size in range(2, min(longest, len(line)) + 1):
            for start in range(len(line) - size + 1):
                groups[line[start : start + size]].append(Window(trace=trace, start=start, size=size))
    covered: set[tuple[str, int]] = set()
    for _, windows in sorted(groups.items(), key=lambda group: (-len(group[0]), -len(group[1]))):
        passed = [window for window in windows if window.trace.item.passed]
        runs = {window.trace.item.run.id for window in windows}
        cells = {(each.trace.item.run.id, each.start + n) for each in passed for n in range(each.size)}
        by_task = {window.trace.item.task.id: window for window in passed}
        share = len({window.trace.item.run.id for window in passed}) / len(runs)
        if len(by_task) < min_tasks or share < purity or cells <= covered:
            continue
        if (habit := _habit(list(by_task.values())[:SHOWN])) is not None:
            covered |= cells
            yield habit


def _kinds(traces: Sequence[Trace]) -> list[tuple[Trace, tuple[int, ...]]]:
    """Returns each trace with the kind of each of its calls."""
    first: list[tuple[Window, frozenset[str]]] = []
    known: dict[tuple[str, str], int] = {}
    found = []
    for trace in traces:
        line = []
        for start, result in enumerate(trace.calls):
            said = result.call.name, result.call.arguments
            if said not in known:
                window = Window(trace=trace, start=start)
                words = window.words
                alike = (n for n, (each, have) in enumerate(first) if words & have and _habit([each, window]))
                known[said] = next(alike, len(first))
                if known[said] == len(first):
                    first.append((window, words))
            line.append(known[said])
        found.append((trace, tuple(line)))
    return found


def _habit(windows: Sequence[Window]) -> Habit | None:
    """Returns what windows have in common; ``None`` where they do something else, or with values nobody knew before."""
    general = generalize([window.term for window in windows])
    if general is None:
        return None
    habit = Habit(windows=tuple(windows), general=general)
    known = all(
        window.knows(value) for values in general.values.values() for window, value in zip(windows, values, strict=True)
    )
    tells = all(_WORDS.search(PLACE.sub("", " ".join(map(str, leaves(step))))) for step in habit.steps)
    return habit if known and tells and len(habit.steps) == windows[0].size else None


def arguments(result: ToolResult) -> dict[str, Json] | None:
    """Returns the arguments of a call; ``None`` where a model wrote none that can be read."""
    try:
        return decode(result.call.arguments.encode(), dict[str, Json])
    except msgspec.DecodeError:
        return None


def leaves(value: Json) -> list[Json]:
    """Returns the texts, numbers and so on in a JSON value."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [leaf for each in inner for leaf in leaves(each)]
    return [value]
