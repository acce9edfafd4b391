"""The critic that needs no model: what failed, for which input, what was expected, what came, and where.

critiques = await CheckCritic(limit=1).critique(task, run, verdicts)
"""

from collections.abc import Iterator, Sequence

from whet.core.errors import UserError
from whet.core.prompting import describe_failure
from whet.core.records import Check, Critique, Run, Span, Task, Verdict

__all__ = ["CheckCritic", "describe_check"]

_WHY = {
    "timeout": "The answer did not end in time",
    "tampered": "The answer interfered with its tests",
}


class CheckCritic:
    """Turns failing checks into one critique each, worded by ``whet.core.prompting.describe_failure``.

    Args:
        limit: how many failing checks are told, over all verdicts; the first ones, in the order of the tests.
    """

    def __init__(self, limit: int = 3) -> None:
        if limit < 1:
            raise UserError(f"CheckCritic(limit={limit!r}): at least one failing check must be told")
        self._limit = limit

    @property
    def name(self) -> str:
        """``check``."""
        return "check"

    async def critique(self, task: Task, run: Run, verdicts: Sequence[Verdict]) -> list[Critique]:
        """Returns up to ``limit`` critiques; none for a run that passes or that could not be judged."""
        critiques: list[Critique] = []
        for verdict in verdicts:
            for text, line in _failures(verdict, run.answer or ""):
                critiques.append(
                    Critique(
                        run_id=run.id,
                        text=text,
                        source=self.name,
                        span=line_span(run.answer or "", line),
                        verdict_ids=(verdict.id,),
                        scope=run.scope,
                    )
                )
        return critiques[: self._limit]


def describe_check(check: Check, answer: str = "") -> str:
    """Returns the failing check in ``describe_failure``'s wording; a second line says where, as far as it is known."""
    said = check.got or check.message or "failed"
    if check.name == "load":
        first = f"The answer cannot be loaded: {check.got.removeprefix('raised ')}."
    elif check.call and check.expected:
        first = describe_failure(check.call, check.got, check.expected)
    else:
        first = f"{check.call or check.name}: {said}."
    more = [_where(answer, check.line)] if check.line else []
    more += [f"({check.message})"] if check.message and check.message != said else []
    return "\n".join([first, " ".join(more)]) if more else first


def _where(answer: str, line: int) -> str:
    span = line_span(answer, line)
    source = answer[span.start : span.end].strip() if span else ""
    return f"That is line {line} of the answer: {source}" if source else f"That is line {line} of the answer."


def _failures(verdict: Verdict, answer: str) -> Iterator[tuple[str, int | None]]:
    """Yields (text, line) for each failing check worth telling, the verdict's own reason first."""
    if verdict.outcome in _WHY:
        yield f"{_WHY[verdict.outcome]}: {verdict.detail or 'no detail'}.", None
    elif verdict.outcome != "fail":
        return
    failing = [check for check in verdict.checks if not check.passed]
    told = [check for check in failing if check.message != "not reached"]
    if verdict.outcome == "fail" and not told:
        yield f"{verdict.detail or 'The answer failed'}.".replace("..", "."), None
    for check in told:
        yield describe_check(check, answer), check.line


def line_span(answer: str, line: int | None) -> Span | None:
    """Returns the characters of a line (from 1) of the answer, without its end, or ``None`` where there is none."""
    lines = answer.split("\n")
    if line is None or not 1 <= line <= len(lines):
        return None
    start = sum(len(text) + 1 for text in lines[: line - 1])
    return Span(start=start, end=start + len(lines[line - 1]))
