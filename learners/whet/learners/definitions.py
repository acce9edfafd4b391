"""What functions mean, found in the record: definitions that reproduce the checks of training tasks.

    found = await find_definitions(cases, sandboxes)
    found.known["zorp"].helper.source      # "def zorp(x): return x[::-1]"
    found.examples["blick"]                # ("blick([2, 1]) == [1, 2]",) where no definition was found

An answer names helper functions and puts them together in an entry point. A passing answer vouches for its helpers; a
failing one still says how they are composed, and its verdict which results were expected. So for a name that tasks
mention, every body that was ever written, under this name or another, is a hypothesis that the recorded checks can
confirm or refute; a name that only an answer made up means nothing outside of it, and keeps what passed. Helpers are
settled one unknown at a time, from answers in which all others are known.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from whet.core.records import Record, Trust
from whet.feedback import FreshSandboxes
from whet.learners.programs import Helper, Parts, rename
from whet.learners.replay import Trial, replay

__all__ = ["Case", "Definition", "Definitions", "find_definitions"]

MAX_BODIES = 64
MAX_CASES = 6
MAX_ROUNDS = 6
MAX_EXAMPLES = 3
AGREED = 0.8
TOLERATED = 0.4


class Case(Record, frozen=True, kw_only=True):
    """A judged answer: its parts and the recorded checks (call, expected). ``evidence``: ids of run and verdicts."""

    task_id: str
    prompt: str
    parts: Parts
    checks: tuple[tuple[str, str], ...]
    passed: bool
    evidence: tuple[str, ...]
    entry_point: str
    trust: Trust = "trusted"

    def mentions(self, name: str) -> bool:
        """Whether the task's text has the name as a word."""
        return re.search(rf"\b{re.escape(name)}\b", self.prompt) is not None


class Definition(Record, frozen=True, kw_only=True):
    """A helper, the case in which its text was written, and those whose checks it reproduces, or fails to.

    The origin is a trusted case where there is one; the definition is as trusted as its origin.
    """

    helper: Helper
    origin: Case
    supports: tuple[Case, ...] = ()
    contradicts: tuple[Case, ...] = ()

    @property
    def trust(self) -> Trust:
        """Tainted when only strangers wrote the text."""
        return self.origin.trust

    @property
    def evidence(self) -> tuple[str, ...]:
        """The ids of the records that it rests on: where its text was written first, then all that support it."""
        return tuple(dict.fromkeys(id for case in (self.origin, *self.supports) for id in case.evidence))

    @property
    def mentioned(self) -> bool:
        """Whether tasks mention the helper by name."""
        return any(case.mentions(self.helper.name) for case in self.supports)

    @property
    def tasks(self) -> int:
        """How many different tasks support it."""
        return len({case.task_id for case in self.supports})

    @property
    def sound(self) -> bool:
        """Whether enough supports it: two tasks, or one that checks it alone; and hardly any contradicts it."""
        alone = any(case.parts.alone == self.helper.name for case in self.supports)
        against = len({case.task_id for case in self.contradicts})
        return (alone or self.tasks >= 2) and against <= TOLERATED * (self.tasks + against)


class Definitions(Record, frozen=True, kw_only=True):
    """What was found: sound definitions, worked examples and refuted bodies of helpers that stay unknown."""

    known: dict[str, Definition] = msgspec.field(default_factory=dict)
    examples: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    refuted: dict[str, tuple[Helper, ...]] = msgspec.field(default_factory=dict)
    cases: dict[str, tuple[Case, ...]] = msgspec.field(default_factory=dict)


async def find_definitions(cases: Sequence[Case], sandboxes: FreshSandboxes) -> Definitions:
    """Returns the definitions that the cases support.

    Raises:
        SandboxError: no sandbox could be had for the replay.
    """
    usable = [case for case in cases if case.checks and case.parts.helpers]
    search = _Search(usable, sandboxes)
    for _ in range(MAX_ROUNDS):
        if not await search.settle():
            break
    known = await search.weigh()
    unknown = sorted({name for case in usable for name in case.parts.helpers} - set(known))
    alone = {name: tuple(c for c in usable if c.parts.alone == name and c.mentions(name)) for name in unknown}
    return Definitions(
        known=known,
        examples={name: _examples(name, found) for name, found in alone.items() if found},
        refuted={name: search.written(name) for name, found in alone.items() if found},
        cases={name: found for name, found in alone.items() if found},
    )


class _Search:
    """Settles one helper after the other."""

    def __init__(self, cases: Sequence[Case], sandboxes: FreshSandboxes) -> None:
        self.cases, self.sandboxes = cases, sandboxes
        self.known: dict[str, Helper] = {}
        self._vouched: dict[str, Counter[str]] = defaultdict(Counter)
        self._written: dict[str, dict[str, Helper]] = defaultdict(dict)
        bodies: Counter[str] = Counter()
        plain: dict[str, Helper] = {}
        self._origin: dict[str, Case] = {}
        for case in cases:
            for name, helper in case.parts.helpers.items():
                self._written[name][helper.source] = helper
                self._vouched[name][helper.source] += case.passed
                if helper.body not in self._origin or self._origin[helper.body].trust == "tainted":
                    self._origin[helper.body] = case
                if not helper.needs:
                    bodies[helper.body] += 1
                    plain[helper.body] = helper
        self._bodies = [plain[body] for body, _ in bodies.most_common(MAX_BODIES)]

    def written(self, name: str) -> tuple[Helper, ...]:
        """Returns the definitions that answers gave this helper."""
        return tuple(self._written[name].values())

    async def settle(self) -> bool:
        """Settles the helpers that are the only unknown of some case; returns whether there was one."""
        open_cases = self._open_cases()
        questions = [(name, helper) for name, cases in open_cases.items() for helper in self._hypotheses(name, cases)]
        trials = [
            Trial(sources=_sources(case, {**self.known, name: helper}), checks=case.checks)
            for name, helper in questions
            for case in open_cases[name]
        ]
        shares = iter(await replay(self.sandboxes, trials))
        scores: dict[str, list[tuple[int, Helper]]] = defaultdict(list)
        for name, helper in questions:
            held = sum(next(shares) == 1.0 for _ in open_cases[name])
            scores[name].append((held, helper))
        chosen = {name: self._choose(name, open_cases[name], found) for name, found in scores.items()}
        settled = {name: helper for name, helper in chosen.items() if helper is not None}
        self.known.update(settled)
        return bool(settled)

    def _open_cases(self) -> dict[str, list[Case]]:
        """Returns, per unknown helper, a few cases of different tasks in which all others are known, short first."""
        found: dict[str, dict[str, Case]] = defaultdict(dict)
        for case in sorted(self.cases, key=lambda case: (len(case.parts.helpers), case.task_id)):
            unknown = [name for name in case.parts.helpers if name not in self.known]
            if len(unknown) == 1 and len(found[unknown[0]]) < MAX_CASES:
                found[unknown[0]].setdefault(case.task_id, case)
        return {name: list(cases.values()) for name, cases in found.items()}

    def _hypotheses(self, name: str, cases: Sequence[Case]) -> Iterable[Helper]:
        """Returns definitions of this helper, those it was given first, then bodies of others under its name."""
        vouched = self._vouched[name]
        own = sorted(self._written[name].values(), key=lambda helper: (-vouched[helper.source], helper.source))
        if not any(case.mentions(name) for case in cases):
            return [helper for helper in own if vouched[helper.source]]
        renamed = [rename(helper, name) for helper in self._bodies]
        return {helper.source: helper for helper in (*own, *renamed)}.values()

    def _choose(self, name: str, cases: Sequence[Case], scores: Sequence[tuple[int, Helper]]) -> Helper | None:
        """Returns the hypothesis that reproduces most cases; none where chance could have chosen.

        Some cases may fail it, for an answer may have put its helpers together wrongly; then it has to reproduce two
        at least, and twice as many as any other.
        Hypotheses that reproduce the same checks are told apart by the answers that passed with them. Where that does
        not tell either, any of them will do if the checks were on the helper alone; else the matter stays open.
        """
        ranked = sorted((held for held, _ in scores), reverse=True)
        most, next_most = (*ranked, 0, 0)[:2]
        if not most or most < (1 - TOLERATED) * len(cases):
            return None
        if most < AGREED * len(cases) and (most < 2 or next_most > most / 2):
            return None
        best = [helper for held, helper in scores if held == most]
        vouched = [helper for helper in best if self._vouched[name][helper.source]]
        alone = any(case.parts.alone == name for case in cases)
        return best[0] if alone or len(best) == 1 or len(vouched) == 1 else None

    async def weigh(self) -> dict[str, Definition]:
        """Returns the settled definitions that stay sound when all cases are replayed with them."""
        whole = [case for case in self.cases if set(case.parts.helpers) <= set(self.known)]
        shares = await replay(
            self.sandboxes, [Trial(sources=_sources(case, self.known), checks=case.checks) for case in whole]
        )
        held = [case for case, share in zip(whole, shares, strict=True) if share == 1.0]
        # Where one answer to a task reproduces its checks, another that does not is put together wrongly.
        explained = {case.task_id for case in held}
        failed = [case for case in whole if case.task_id not in explained]
        weighed = {
            name: Definition(
                helper=helper,
                origin=self._origin[helper.body],
                supports=tuple(case for case in held if name in case.parts.helpers),
                contradicts=tuple(case for case in failed if name in case.parts.helpers),
            )
            for name, helper in self.known.items()
        }
        return {name: definition for name, definition in sorted(weighed.items()) if definition.sound}


def _sources(case: Case, helpers: Mapping[str, Helper]) -> tuple[str, ...]:
    used = [helpers[name].source for name in case.parts.helpers]
    return (*case.parts.imports, *used, case.parts.entry.source)


def _examples(name: str, cases: Sequence[Case]) -> tuple[str, ...]:
    """Returns worked examples of a helper that was checked alone: ``zorp([3, 1, 2]) == [2, 1, 3]``."""
    lines = [
        f"{name}{call.removeprefix(case.entry_point)} == {expected}" for case in cases for call, expected in case.checks
    ]
    return tuple(dict.fromkeys(lines))[:MAX_EXAMPLES]
