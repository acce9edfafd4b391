"""Worlds: made-up verbs that mean list and string operations, and exact tasks over chains of them.

A world cannot be guessed: which verb means which operation is drawn from a seed. Whoever knows the definitions solves
every task; whoever does not scores exactly ``chance(chain)``.

    world = World(7)
    task = world.tasks(1, lengths=(2,))[0]
    task.prompt      # "Write solve(x): zorp, then blick."
    task.reference   # "def zorp(x): return x[::-1]\\ndef blick(x): return sorted(x)\\ndef solve(x): ..."
    judge(task.reference, task.checks)  # [] : no failing check
"""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from whet.core.errors import UserError

__all__ = [
    "LIST_ONLY",
    "OPERATIONS",
    "VERBS",
    "Check",
    "Failure",
    "Value",
    "World",
    "WorldTask",
    "chance",
    "draw_input",
    "judge",
    "program",
    "read_definitions",
]

Value: TypeAlias = list[int] | str
Check: TypeAlias = tuple[Value, Value]
Kind = Literal["list", "string", "mixed"]
Split = Literal["train", "eval"]

# Every operation is one short Python expression of x. The right-hand side is the same expression as a function;
# tests evaluate both on random inputs.
OPERATIONS: dict[str, Callable[[Value], Value]] = {
    "x[::-1]": lambda x: x[::-1],
    "x[1:]": lambda x: x[1:],
    "x[:-1]": lambda x: x[:-1],
    "x[1:]+x[:1]": lambda x: x[1:] + x[:1],  # type: ignore[operator]
    "x[-1:]+x[:-1]": lambda x: x[-1:] + x[:-1],  # type: ignore[operator]
    "x+x": lambda x: x + x,  # type: ignore[operator]
    "x[::2]": lambda x: x[::2],
    "x[1::2]": lambda x: x[1::2],
    "x[:1]+x": lambda x: x[:1] + x,  # type: ignore[operator]
    "x+x[-1:]": lambda x: x + x[-1:],  # type: ignore[operator]
    "x+x[::-1]": lambda x: x + x[::-1],  # type: ignore[operator]
    "sorted(x)": lambda x: sorted(x),  # type: ignore[arg-type]
    "[v+1 for v in x]": lambda x: [v + 1 for v in x],  # type: ignore[operator]
    "[-v for v in x]": lambda x: [-v for v in x],  # type: ignore[operator]
}
LIST_ONLY = frozenset({"sorted(x)", "[v+1 for v in x]", "[-v for v in x]"})

_VERBS = """
zorp blick mip drun flom gax hulb jint kreb lusk mofe nerp olb plim quon rast sneb trok ulf vank weft yarb zull brim
clov dask elph fisk gorm hesk ilb jolp kurn lemb munk naft osk pindle quib ropt skaf tunb urd voz wimp yeld zeb bront
crimb dollop epp frund glisk hab ixen jarg kolm lirk mazz nolt prax slorn vimp trask
"""
VERBS: tuple[str, ...] = tuple(_VERBS.split())

_LETTERS = "bcdfghjklmnpqrstvwxz"  # no vowel: a random string never looks like a word
_DEFINITION = re.compile(r"^[ \t]*def (\w+)\(x\): return (.+?)[ \t]*$", re.MULTILINE)
_CALLS = re.compile(r"((?:\w+\()*)x(\)*)")
_MAX_LENGTH = 12  # longest value shown in a check: prompts stay short
_TRIES = 20_000
_PATIENCE = 200  # draws without a new chain before another length takes the turn


@dataclass(frozen=True)
class Failure:
    """One failing check: the call, the repr it returned (or ``raised ...``) and the expected repr."""

    call: str
    got: str
    expected: str


@dataclass(frozen=True)
class WorldTask:
    """A task: apply ``verbs`` from left to right. ``checks`` are hidden (input, expected) pairs."""

    prompt: str
    reference: str
    checks: tuple[Check, ...]
    verbs: tuple[str, ...]


class World:
    """A seeded assignment of made-up verbs to operations.

    Worlds of the two splits are disjoint by construction: the SHA-256 of the canonical assignment is even for
    ``train`` (what the embedded model was trained on) and odd for ``eval`` (demo, tests, benchmarks).

    Raises:
        UserError: ``verbs`` is not between 1 and ``len(VERBS)``.
    """

    def __init__(self, seed: int, *, verbs: int = 48, split: Split = "eval") -> None:
        if not 1 <= verbs <= len(VERBS):
            raise UserError(f"a world has 1 to {len(VERBS)} verbs, not {verbs!r}")
        self.seed, self.split = seed, split
        rng = random.Random(f"world/{split}/{seed}/{verbs}")
        expressions = list(OPERATIONS)
        while True:
            names = rng.sample(VERBS, verbs)
            self._meanings = {name: rng.choice(expressions) for name in names}
            if split_of(self._meanings) == split:
                break

    @property
    def verbs(self) -> tuple[str, ...]:
        """The verbs of this world, in the order drawn."""
        return tuple(self._meanings)

    def meaning(self, verb: str) -> str:
        """Returns the Python expression of ``x`` that the verb means. Raises UserError for a foreign verb."""
        if verb not in self._meanings:
            raise UserError(f"no verb {verb!r} in this world; it has {', '.join(self._meanings)}")
        return self._meanings[verb]

    def definition(self, verb: str) -> str:
        """Returns the verb's definition, e.g. ``def zorp(x): return x[::-1]``."""
        return f"def {verb}(x): return {self.meaning(verb)}"

    def definitions(self, verbs: Iterable[str], *, distractors: int = 0, seed: int = 0) -> list[str]:
        """Returns definition lines of ``verbs`` and of ``distractors`` other verbs of this world, shuffled."""
        wanted = list(dict.fromkeys(verbs))
        rng = random.Random(f"definitions/{seed}")
        others = [verb for verb in self._meanings if verb not in wanted]
        lines = [self.definition(verb) for verb in wanted + rng.sample(others, min(distractors, len(others)))]
        rng.shuffle(lines)
        return lines

    def example(self, verb: str, seed: int = 0, *, kind: Kind = "list") -> str:
        """Returns one worked example of a verb, e.g. ``zorp([3, 1, 2]) == [2, 1, 3]``."""
        value = draw_input(random.Random(f"example/{seed}"), kind)
        return f"{verb}({value!r}) == {self.apply([verb], value)!r}"

    def apply(self, verbs: Iterable[str], value: Value) -> Value:
        """Returns the chain's exact result on ``value``. Raises TypeError where an operation does not apply."""
        for verb in verbs:
            value = OPERATIONS[self._meanings[verb]](value)
        return value

    def tasks(
        self,
        n: int,
        *,
        lengths: Sequence[int] = (1, 2, 3),
        seed: int = 0,
        kind: Kind = "list",
        examples: int = 0,
        checks: int = 4,
    ) -> list[WorldTask]:
        """Returns ``n`` tasks with distinct chains; the lengths take turns.

        Args:
            n: how many.
            lengths: chain lengths (1 to 6): the main dial of difficulty.
            seed: of the chains and inputs; the world's own seed is mixed in.
            kind: what ``x`` is: a list of digits, a string, or either.
            examples: worked examples of the whole chain shown in the prompt.
            checks: hidden checks per task.

        Raises:
            UserError: the world has fewer than ``n`` such chains.
        """
        rng = random.Random(f"tasks/{self.seed}/{seed}/{kind}")
        found: dict[tuple[str, ...], WorldTask] = {}
        stalled = 0
        while len(found) < n and stalled < _TRIES:
            # A length whose chains are used up (there are few of length 1) passes its turn on.
            length = lengths[(len(found) + stalled // _PATIENCE) % len(lengths)]
            chosen: Kind = rng.choice(("list", "string")) if kind == "mixed" else kind
            chain = tuple(rng.choices(self._usable(chosen), k=length))
            stalled += 1
            if chain not in found and (task := self._task(chain, rng, chosen, examples, checks)):
                found[chain] = task
                stalled = 0
        if len(found) == n:
            return list(found.values())
        raise UserError(f"only {len(found)} of {n} distinct tasks with lengths {tuple(lengths)!r}; ask for fewer")

    def task(self, verbs: Sequence[str], *, seed: int = 0, kind: Kind = "list", examples: int = 0) -> WorldTask:
        """Returns the task of exactly this chain. Raises UserError when its results are too long or trivial."""
        task = self._task(tuple(verbs), random.Random(f"task/{seed}"), kind, examples, 4)
        if task is None:
            raise UserError(f"the chain {', '.join(verbs)} gives values that are too long or empty; choose another")
        return task

    def _usable(self, kind: Kind) -> list[str]:
        verbs = [v for v, meaning in self._meanings.items() if kind == "list" or meaning not in LIST_ONLY]
        if not verbs:
            raise UserError("this world has no verb for strings; give it more verbs")
        return verbs

    def _task(
        self, chain: tuple[str, ...], rng: random.Random, kind: Kind, examples: int, checks: int
    ) -> WorldTask | None:
        pairs: list[Check] = []
        for _ in range(examples + checks):
            value = draw_input(rng, kind)
            result = self.apply(chain, value)
            if not 1 <= len(result) <= _MAX_LENGTH:
                return None
            pairs.append((value, result))
        lines = [f"Write solve(x): {', then '.join(chain)}."]
        lines += [f"solve({value!r}) == {result!r}" for value, result in pairs[:examples]]
        return WorldTask("\n".join(lines), program(chain, self._meanings), tuple(pairs[examples:]), chain)


def split_of(meanings: dict[str, str]) -> Split:
    """Returns the split that an assignment belongs to, whatever seed produced it."""
    canonical = "\n".join(f"{verb}={meanings[verb]}" for verb in sorted(meanings))
    return "eval" if hashlib.sha256(canonical.encode()).digest()[0] % 2 else "train"


def draw_input(rng: random.Random, kind: Kind = "list") -> Value:
    """Returns an input of 4 to 6 distinct symbols: digits 1 to 9 in a list, or consonants in a string.

    Sorting a drawn list is never the same as leaving, reversing or rotating it: one example tells operations apart.
    """
    size = rng.randint(4, 6)
    if kind == "string" or (kind == "mixed" and rng.random() < 0.5):
        return "".join(rng.sample(_LETTERS, size))
    while True:
        value = rng.sample(range(1, 10), size)
        if sorted(value) not in (value, value[::-1], value[1:] + value[:1], value[-1:] + value[:-1]):
            return value


def program(chain: Sequence[str], meanings: dict[str, str]) -> str:
    """Returns the answer in the form the model is trained on: each verb restated once, then ``solve``."""
    lines = [f"def {verb}(x): return {meanings[verb]}" for verb in dict.fromkeys(chain)]
    calls = "(".join([*reversed(chain), "x"]) + ")" * len(chain)
    return "\n".join([*lines, f"def solve(x): return {calls}"])


def read_definitions(text: str) -> dict[str, str]:
    """Returns verb -> expression for every one-line definition in a text; of several for one verb the last."""
    return {match[1]: match[2] for match in _DEFINITION.finditer(text) if match[1] != "solve"}


def judge(answer: str, checks: Iterable[Check]) -> list[Failure]:
    """Returns the failing checks of an answer in the world's form, without executing anything.

    Only what the world's grammar allows is understood (the verifier of the ``agents`` room runs real Python in a
    sandbox); whatever else an answer holds fails every check as ``raised SyntaxError: ...``.
    """
    failures = []
    for value, expected in checks:
        got = _run(answer, value)
        if got != repr(expected):
            failures.append(Failure(f"solve({value!r})", got, repr(expected)))
    return failures


def _run(answer: str, value: Value) -> str:
    lines = _DEFINITION.findall(answer)
    solve = [body for name, body in lines if name == "solve"]
    match = _CALLS.fullmatch(solve[-1]) if solve else None
    if len(lines) != len(answer.strip().splitlines()) or match is None or match[1].count("(") != len(match[2]):
        return "raised SyntaxError: invalid syntax"
    meanings = read_definitions(answer)
    for name in reversed(match[1].split("(")[:-1]):
        if name not in meanings:
            return f"raised NameError: name {name!r} is not defined"
        if meanings[name] not in OPERATIONS:
            return "raised SyntaxError: invalid syntax"
        try:
            value = OPERATIONS[meanings[name]](value)
        except TypeError as error:
            return f"raised TypeError: {error}"
    return repr(value)


def chance(chain: Sequence[str], world: World, *, kind: Kind = "list") -> float:
    """Returns the exact probability that guessing each distinct verb uniformly gives the right function.

    Counts every assignment of operations to the chain's distinct verbs whose composition equals the true one on a
    probe of distinct symbols, so that right answers by another way count as the verifier counts them. Exponential
    in the number of distinct verbs in the worst case; equal intermediate values are merged (a second for six).
    """
    probes: tuple[Value, ...] = ("bcdfghj",) if kind == "string" else ([3, 1, 6, 2, 7, 5, 4],)
    states: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter({(repr(probes[0]), ()): 1})
    values = {repr(probes[0]): probes[0]}
    for index, verb in enumerate(chain):
        later = set(chain[index + 1 :])
        following: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        for (key, bound), count in states.items():
            known = dict(bound)
            for expression in (known[verb],) if verb in known else OPERATIONS:
                if (result := _try(expression, values[key])) is None:
                    continue
                values[repr(result)] = result
                kept = {**known, verb: expression}
                following[(repr(result), tuple(sorted((v, e) for v, e in kept.items() if v in later)))] += count
        states = following
    truth = repr(world.apply(chain, probes[0]))
    right = sum(count for (key, _), count in states.items() if key == truth)
    return right / float(len(OPERATIONS) ** len(set(chain)))


def _try(expression: str, value: Value) -> Value | None:
    try:
        return OPERATIONS[expression](value)
    except TypeError:
        return None
