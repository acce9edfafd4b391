"""What ``whet learn`` does: a learner made from options, its view of the memory, and what it says while it works."""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from whet.apps.cli.output import Row, console, emit_json, note
from whet.apps.cli.workshop import make_agent
from whet.core.errors import UserError
from whet.core.records import Record

if TYPE_CHECKING:
    from whet.core import Budget
    from whet.learners import Learner, Proposal, TrainMemory
    from whet.learners.weights.dataset import Dataset
    from whet.learners.weights.learner import Trained
    from whet.learners.weights.method import Rollouts
    from whet.learners.weights.recipe import Credentials
    from whet.learners.weights.reports import StepReport
    from whet.learners.weights.rounds import RoundReport
    from whet.memory import Memory

__all__ = [
    "Wish",
    "curve",
    "describe_learners",
    "is_method",
    "is_scorer",
    "load_learners",
    "look",
    "needs_of",
    "propose",
    "read_settings",
    "show_dataset",
    "train",
    "train_scorer",
]

_SETTING = re.compile(r"(?:(train|rollouts)\.)?(\w+)=(.*)", re.DOTALL)
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


class Wish(Record, frozen=True, kw_only=True):
    """What a person asks for: a learner with its settings, from which runs, on which model, practising on what."""

    learner: str
    where: str = ""
    settings: tuple[str, ...] = ()
    tasks: str = ""
    model: str = ""
    graph: str = "refine"


def is_method(name: str) -> bool:
    """Returns whether a learner's name is that of a method that trains weights."""
    from whet.learners.weights.method import METHODS

    return name in METHODS


def describe_learners(*, options: bool) -> list[Row]:
    """Returns a row for each learner and method: what it learns, from which paper, what it needs, its options if asked.

    The options of learners take a while: their classes are imported.
    """
    from whet.learners.learner import LEARNERS, describe, options_of
    from whet.learners.weights.method import METHODS, load_method

    rows: list[Row] = [
        {**describe(name), "family": "", "options": options_of(name) if options else []}
        for name in sorted(LEARNERS, key=lambda name: (LEARNERS[name].learns, name))
    ]
    for name in METHODS:
        method = load_method(name)
        info = method.info
        rows.append(
            {
                "name": name,
                "learns": "scorer" if info.family == "reward" else "weights",
                "family": info.family,
                "description": info.title,
                "paper": info.paper,
                "needs": ", ".join(info.needs),
                "costs": _training(method.rollouts),
                "practises": method.rollouts is not None,
                "extra": "whet[weights]",
                "options": list(method.__struct_fields__),
            }
        )
    return rows


def needs_of(name: str) -> str:
    """Returns what a learner or method needs, in words; the empty text for one that is not registered."""
    return next((str(row["needs"]) for row in describe_learners(options=False) if row["name"] == name), "")


def _training(practice: "Rollouts | None") -> str:
    """Returns what training costs, with the runs of practice that there are unless other numbers are set."""
    if practice is None:
        return "training"
    return f"training; {practice.rounds * practice.tasks * practice.samples} runs in {practice.rounds} rounds"


async def propose(memory: "Memory", wish: Wish, budget: "Budget", *, keep: bool) -> "list[Proposal]":
    """Returns what the learner proposes; with ``keep`` it is stored and waits for the gate."""
    from whet.learners import incumbent_arm, take_in

    learner = _learner(wish)
    incumbent = await incumbent_arm(memory)
    agent = make_agent(memory, model=wish.model, graph=wish.graph) if is_method(wish.learner) or wish.tasks else None
    async with agent or nullcontext():
        found = [p async for p in learner.propose(_view(memory, wish, agent), incumbent, budget)]
    return [await take_in(memory, proposal) for proposal in found] if keep else found


async def look(memory: "Memory", wish: Wish, budget: "Budget") -> "Dataset":
    """Returns the data that a method would train on."""
    from whet.learners import WeightLearner, incumbent_arm

    learner = _learner(wish)
    assert isinstance(learner, WeightLearner), "asked for methods only"
    async with make_agent(memory, model=wish.model, graph=wish.graph) as agent:
        return await learner.dataset(_view(memory, wish, agent), await incumbent_arm(memory), budget)


def is_scorer(name: str) -> bool:
    """Returns whether a method trains a scorer, which is no policy."""
    from whet.learners.weights.method import load_method

    return is_method(name) and load_method(name).info.family == "reward"


async def train_scorer(memory: "Memory", wish: Wish, budget: "Budget", folder: Path) -> "Credentials":
    """Returns what a scorer was found to be worth, after it was trained into a folder."""
    from whet.learners import WeightLearner, incumbent_arm

    learner = _learner(wish)
    assert isinstance(learner, WeightLearner), "asked for methods only"
    async with make_agent(memory, model=wish.model, graph=wish.graph) as agent:
        view, arm = _view(memory, wish, agent), await incumbent_arm(memory)
        _, credentials = await learner.train_scorer(view, arm, budget, folder)
    return credentials


async def train(memory: "Memory", wish: Wish, budget: "Budget", folder: Path) -> "Trained":
    """Returns what a method trained, kept in a folder.

    Raises:
        UserError: the learner trains no weights.
    """
    from whet.learners import WeightLearner, incumbent_arm

    learner = _learner(wish)
    if not isinstance(learner, WeightLearner):
        raise UserError(f"{wish.learner} trains no weights; leave --out out")
    async with make_agent(memory, model=wish.model, graph=wish.graph) as agent:
        return await learner.train(_view(memory, wish, agent), await incumbent_arm(memory), budget, folder)


def show_dataset(dataset: "Dataset", export: Path | None, *, overwrite: bool, json: bool) -> None:
    """Prints what would be trained on, or writes it for other trainers."""
    from whet.learners.weights.export import export as write

    if export is not None:
        lines = write(dataset.rows, export, dataset.card, overwrite=overwrite)
        note("wrote " + ", ".join(f"{export / name} ({count} lines)" for name, count in lines.items()))
    if json:
        emit_json({"report": dataset.report, "card": dataset.card})
    elif export is None:
        print("\n".join(dataset.lines()))
        note("nothing was trained; leave --dry-run out to train on it")


def _view(memory: "Memory", wish: Wish, agent: object) -> "TrainMemory":
    from whet.agents import Agent
    from whet.agents.tasksets import load_tasks
    from whet.learners import TrainMemory

    assert agent is None or isinstance(agent, Agent), "made by make_agent"
    found = load_tasks(wish.tasks).tasks if wish.tasks else ()
    train = [task for task in found if task.split == "train"]
    return TrainMemory(memory, agent, train, held_back=[task for task in found if task.split != "train"])


def _learner(wish: Wish) -> "Learner":
    """Returns the learner with its settings.

    Raises:
        UserError: a setting cannot be read, or the learner does not have it.
    """
    from whet.learners import WeightLearner, load_learner

    options, groups = read_settings(wish.settings)
    if not is_method(wish.learner):
        if wish.where or groups["train"] or groups["rollouts"]:
            raise UserError(
                f"{wish.learner} trains no weights; --where, train.… and rollouts.… are for methods that do"
            )
        return load_learner(wish.learner, **options)
    told = _Told()
    chosen: dict[str, object] = {
        "where": wish.where,
        "training": groups["train"],
        "rollouts": groups["rollouts"],
        "practise": bool(wish.tasks),
        "on_step": told.step,
        "on_round": told.round,
    }
    if taken := sorted({*chosen, "model", "sandboxes"} & set(options)):
        raise UserError(f"--set cannot set {taken[0]}; there are --where, --model, --tasks, train.… and rollouts.…")
    learner = load_learner(wish.learner, **chosen, **options)
    if wish.tasks and isinstance(learner, WeightLearner) and learner.plan is None:
        raise UserError(f"{wish.learner} does not practise; leave --tasks out, and run them first: whet run TASKS")
    return learner


def read_settings(settings: Sequence[str]) -> tuple[dict[str, object], dict[str, dict[str, object]]]:
    """Returns the options that ``name=value`` texts set, and those of the groups ``train`` and ``rollouts``.

    Raises:
        UserError: a text cannot be read.
    """
    options: dict[str, object] = {}
    groups: dict[str, dict[str, object]] = {"train": {}, "rollouts": {}}
    for text in settings:
        match = _SETTING.fullmatch(text)
        if match is None:
            raise UserError(f"--set {text!r} cannot be read; write name=value, train.name=value or rollouts.name=value")
        (groups[match[1]] if match[1] else options)[match[2]] = match[3]
    return options, groups


def load_learners(names: str, settings: Sequence[str]) -> "list[Learner]":
    """Returns the learners named in a list with commas, each with the settings that begin with its name.

    Raises:
        UserError: there is no such learner, or a setting is for none of them.
    """
    from whet.learners import load_learner

    wanted: dict[str, list[str]] = {name.strip(): [] for name in names.split(",") if name.strip()}
    for text in settings:
        name, dot, setting = text.partition(".")
        if not dot or name not in wanted:
            raise UserError(f"--set {text!r} is for none of {', '.join(wanted)}; write LEARNER.name=value")
        wanted[name].append(setting)
    found = []
    for name, texts in wanted.items():
        options, groups = read_settings(texts)
        training = {"training": groups["train"], "rollouts": groups["rollouts"]} if is_method(name) else {}
        if not is_method(name) and any(groups.values()):
            raise UserError(f"{name} trains no weights; train.… and rollouts.… are for methods that do")
        found.append(load_learner(name, **{key: value for key, value in training.items() if value}, **options))
    return found


class _Told:
    """Says on stderr how training goes: one line that is overwritten, on a terminal, and the loss curve at the end."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._terminal = console(stderr=True)

    def step(self, report: "StepReport") -> None:
        """Tells of an optimiser step."""
        self._losses.append(report.loss)
        if self._terminal.is_terminal:
            rate = report.tokens / max(report.seconds, 1e-9)
            line = f"  step {report.step}/{report.total}  loss {report.loss:.4f}  {rate:,.0f} tokens/s   "
            self._terminal.print(line, end="\r", markup=False)
        if report.step == report.total:
            first, last = self._losses[0], self._losses[-1]
            self._terminal.print(f"  loss {first:.4f} {curve(self._losses)} {last:.4f}", markup=False)

    def round(self, report: "RoundReport") -> None:
        """Tells of a round of practice."""
        probe = "" if report.probe is None else f", not practised {report.probe.mean:.2f}"
        line = f"  round {report.round + 1}: passed {report.passed:.2f}{probe}, {report.data} data"
        self._terminal.print(line + (f"; stopped: {report.alarm}" if report.alarm else ""), markup=False)


def curve(values: Sequence[float]) -> str:
    """Returns numbers as a line of bars, at most 40 of them, each the mean of a stretch."""
    count = min(_WIDTH, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)
