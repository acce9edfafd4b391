"""Conversations over worlds, for training and measuring the embedded model: what is in context, and the right answer.

Each kind is one way of knowing (or not knowing) what a verb means:

- ``plain``: nothing; the right answer is a guess.
- ``definitions``: every verb is defined in the system message, among distractors.
- ``partial``: some verbs are defined, the others must be guessed.
- ``examples``: some verbs are known by worked examples only, in the system message or in the task.
- ``revision``: one or more attempts were rejected, with failing checks; the new answer avoids what was rejected.
- ``session``: several tasks one after the other over the same definitions; every answer is right.
- ``rich``: a rejected attempt, and a correction that holds the definition (it wins over an older one).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from whet.core.models.tiny.vocabulary import WORDS
from whet.core.models.tiny.world import (
    OPERATIONS,
    VERBS,
    Check,
    Kind,
    Split,
    Value,
    World,
    WorldTask,
    draw_input,
    judge,
    program,
    read_definitions,
)
from whet.core.prompting import describe_failure, render_retry, render_system

__all__ = ["KINDS", "Dial", "Episode", "draw_episode"]

Turn: TypeAlias = tuple[str, str]
_LONGEST = 16  # of a value that a rejected attempt returned
_TRIES = 50


@dataclass(frozen=True)
class Dial:
    """How hard an episode is: chain lengths, definitions in context besides the chain's own, share of strings."""

    chain: tuple[int, int] = (1, 6)
    distractors: tuple[int, int] = (0, 40)
    strings: float = 0.25
    unknown: int = 2
    attempts: int = 3
    filler: float = 0.3


@dataclass(frozen=True)
class Episode:
    """Turns before the answer, the right answer, the task, and what was known.

    ``unknown``: verbs of the chain without a definition. ``rejected``: verb -> operations that attempts used in
    vain, when exactly one verb was in doubt.
    """

    kind: str
    turns: tuple[Turn, ...]
    answer: str
    task: WorldTask
    unknown: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Scene:
    """What every kind starts from."""

    rng: random.Random
    dial: Dial
    world: World
    task: WorldTask
    strings: bool

    @property
    def kind(self) -> Kind:
        return "string" if self.strings else "list"

    def unknown(self, least: int = 1) -> tuple[str, ...]:
        distinct = list(dict.fromkeys(self.task.verbs))
        return tuple(self.rng.sample(distinct, min(len(distinct), self.rng.randint(least, self.dial.unknown))))

    def definitions(self, without: Sequence[str] = ()) -> list[str]:
        count = self.rng.randint(*self.dial.distractors)
        known = [verb for verb in self.task.verbs if verb not in without]
        lines = self.world.definitions(known, distractors=count + len(without), seed=self.rng.getrandbits(32))
        return [line for line in lines if line.split("(")[0][4:] not in without]

    def guess(self, verbs: Sequence[str], tried: Sequence[str] = ()) -> dict[str, str]:
        """Returns the chain's meanings with other operations for ``verbs`` (not all of them right)."""
        truth = {verb: self.world.meaning(verb) for verb in self.task.verbs}
        while True:
            meanings = {**truth, **{verb: self.rng.choice(_OPERATIONS) for verb in verbs}}
            if meanings != truth and not (len(verbs) == 1 and meanings[verbs[0]] in tried):
                return meanings


_OPERATIONS = tuple(OPERATIONS)
_SHOW_VALUES = frozenset({"examples", "revision", "rich"})  # elsewhere nothing tells a string task from a list task
_FILLER = tuple(word.strip() for word in WORDS if word.strip().isalpha() and len(word.strip()) > 1)


def draw_episode(rng: random.Random, kind: str, dial: Dial = Dial(), *, split: Split = "train") -> Episode:
    """Returns one episode of a kind, from a world of its own.

    Raises:
        KeyError: no such kind.
    """
    make = KINDS[kind]
    while True:
        world = World(rng.getrandbits(48), verbs=rng.randint(40, len(VERBS)), split=split)
        strings = kind in _SHOW_VALUES and rng.random() < dial.strings
        chosen: Kind = "string" if strings else "list"
        task = world.tasks(1, lengths=(rng.randint(*dial.chain),), seed=rng.getrandbits(32), kind=chosen)[0]
        episode = make(_Scene(rng, dial, world, task, strings))
        if episode is not None:
            return episode


def _plain(scene: _Scene) -> Episode:
    turns = _opening(scene, [])
    return Episode("plain", turns, scene.task.reference, scene.task, tuple(dict.fromkeys(scene.task.verbs)))


def _definitions(scene: _Scene) -> Episode:
    return Episode("definitions", _opening(scene, scene.definitions()), scene.task.reference, scene.task)


def _partial(scene: _Scene) -> Episode:
    unknown = scene.unknown()
    return Episode("partial", _opening(scene, scene.definitions(unknown)), scene.task.reference, scene.task, unknown)


def _session(scene: _Scene) -> Episode:
    lines = scene.definitions()
    meanings = read_definitions("\n".join(lines))
    turns = [turn for turn in _opening(scene, lines) if turn[0] == "system"]
    for _ in range(scene.rng.randint(2, 4)):
        chain = scene.rng.sample(list(meanings), min(len(meanings), scene.rng.randint(*scene.dial.chain)))
        turns += [("user", f"Write solve(x): {', then '.join(chain)}."), ("assistant", program(chain, meanings))]
    return Episode("session", (*turns, ("user", scene.task.prompt)), scene.task.reference, scene.task)


def _examples(scene: _Scene) -> Episode:
    unknown = scene.unknown()
    lines = scene.definitions(unknown)
    shown = scene.rng.randint(1, 3)
    prompt = scene.task.prompt
    if len(unknown) == 1 and scene.rng.random() < 0.3:
        prompt = "\n".join([prompt, *_worked(scene, scene.task.verbs, "solve", shown)])
    else:
        worked = [line for verb in unknown for line in _worked(scene, [verb], verb, shown)]
        lines = _interleave(scene.rng, lines, worked)
    return Episode("examples", _opening(scene, lines, prompt), scene.task.reference, scene.task, unknown)


def _worked(scene: _Scene, chain: Sequence[str], name: str, count: int) -> list[str]:
    values = [draw_input(scene.rng, scene.kind) for _ in range(count)]
    return [f"{name}({value!r}) == {scene.world.apply(chain, value)!r}" for value in values]


def _revision(scene: _Scene) -> Episode | None:
    unknown = scene.unknown()
    opening = _opening(scene, scene.definitions(unknown))
    turns, tried = list(opening), list[str]()
    for _ in range(scene.rng.randint(1, scene.dial.attempts)):
        meanings = scene.guess(unknown, tried)
        answer = program(scene.task.verbs, meanings)
        failures = _failures(scene, answer)
        if not failures:
            return None
        turns += [("assistant", answer), ("user", render_retry(failures))]
        tried.append(meanings[unknown[0]])
    rejected = tuple(tried) if len(unknown) == 1 else ()
    return Episode("revision", tuple(turns), scene.task.reference, scene.task, unknown, rejected)


def _rich(scene: _Scene) -> Episode | None:
    wrong = scene.unknown()
    meanings = scene.guess(wrong)
    lines = scene.definitions(wrong)
    if scene.rng.random() < 0.3:  # an older definition that the correction overrules
        stale = [f"def {verb}(x): return {meanings[verb]}" for verb in wrong]
        lines = _interleave(scene.rng, lines, stale)
    answer = program(scene.task.verbs, meanings)
    failures = _failures(scene, answer) if scene.rng.random() < 0.5 else []
    fixed = [scene.world.definition(verb) for verb in wrong]
    if scene.rng.random() < scene.dial.filler:
        fixed = [_sentence(scene.rng), *fixed] if scene.rng.random() < 0.5 else [*fixed, _sentence(scene.rng)]
    critiques = [*failures, *fixed] if scene.rng.random() < 0.5 else [*fixed, *failures]
    turns = (*_opening(scene, lines), ("assistant", answer), ("user", render_retry(critiques)))
    return Episode("rich", turns, scene.task.reference, scene.task)


KINDS: dict[str, Callable[[_Scene], Episode | None]] = {
    "plain": _plain,
    "definitions": _definitions,
    "partial": _partial,
    "session": _session,
    "examples": _examples,
    "revision": _revision,
    "rich": _rich,
}


def _failures(scene: _Scene, answer: str) -> list[str]:
    """Returns 1 to 3 described failures on fresh inputs; none when the answer is right or its values too long."""
    checks: list[Check] = []
    for _ in range(scene.rng.randint(1, 3)):
        value: Value = draw_input(scene.rng, scene.kind)
        checks.append((value, scene.world.apply(scene.task.verbs, value)))
    failures = judge(answer, checks)
    if any(len(failure.got) > 6 * _LONGEST for failure in failures):
        return []
    return [describe_failure(failure.call, failure.got, failure.expected) for failure in failures]


def _interleave(rng: random.Random, lines: Sequence[str], more: Sequence[str]) -> list[str]:
    """Returns both lists merged; ``more`` keeps its order and stays together half of the time."""
    if rng.random() < 0.5:
        at = rng.randint(0, len(lines))
        return [*lines[:at], *more, *lines[at:]]
    merged = [*lines, *more]
    rng.shuffle(merged)
    return merged


def _opening(scene: _Scene, lines: Sequence[str], prompt: str = "") -> tuple[Turn, ...]:
    """Returns the system message (unless empty) and the task."""
    system = _system(scene.rng, lines, scene.dial.filler)
    task = ("user", prompt or scene.task.prompt)
    return (("system", system), task) if system else (task,)


def _system(rng: random.Random, lines: Sequence[str], filler: float) -> str:
    """Returns the lines as lessons, as a skill, or split over both, with words around them now and then."""
    cut = rng.choice((0, 0, len(lines), rng.randint(0, len(lines))))
    skills = [(_skill_name(rng), _skill_body(rng, lines[:cut], filler))] if cut else []
    lessons = [_sprinkle(rng, line, filler) for line in lines[cut:]]
    prompt = _sentence(rng) if rng.random() < filler else ""
    principles = _sentence(rng) if rng.random() < filler / 3 else ""
    return render_system(prompt, principles, skills, lessons)


def _sprinkle(rng: random.Random, line: str, filler: float) -> str:
    if rng.random() > filler / 5:
        return line
    return rng.choice((f"- {line}", f"{_sentence(rng)}\n{line}", f"{line}\n{_sentence(rng)}"))


def _skill_name(rng: random.Random) -> str:
    return "-".join(rng.choice((rng.choice(_FILLER), rng.choice(VERBS))).lower() for _ in range(rng.randint(1, 2)))


def _skill_body(rng: random.Random, lines: Sequence[str], filler: float) -> str:
    body = "\n".join(lines)
    if rng.random() < 0.5:
        body = f"```python\n{body}\n```"
    if rng.random() < 0.5 + filler / 2:
        body = f"{_sentence(rng)}\n{body}"
    return f"{body}\n{_sentence(rng)}" if rng.random() < filler / 2 else body


def _sentence(rng: random.Random) -> str:
    """Returns a line of random words, now and then with letters that make no word; never of Python or of verbs."""
    words = [rng.choice(_FILLER) for _ in range(rng.randint(2, 9))]
    if rng.random() < 0.2:
        words[rng.randrange(len(words))] = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 6)))
    return " ".join(words) + rng.choice((".", ":", ".", ""))
