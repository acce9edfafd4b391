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
            for text, line in _failures(verdict):
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


def describe_check(check: Check) -> str:
    """Returns one line on a failing check; names the answer's line where it is known."""
    where = f" (line {check.line} of the answer)" if check.line else ""
    if check.name == "load":
        return f"The answer cannot be loaded{where}: {check.got.removeprefix('raised ')}."
    if check.call and check.expected:
        return _with(describe_failure(check.call, check.got, check.expected), where, check.message)
    said = check.got or check.message or "failed"
    return _with(f"{check.call or check.name}: {said}.", where, check.message if check.got else "")


def _with(sentence: str, where: str, message: str) -> str:
    extra = f"{where} ({message})" if message else where
    return f"{sentence.removesuffix('.')}{extra}." if extra else sentence


def _failures(verdict: Verdict) -> Iterator[tuple[str, int | None]]:
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
        yield describe_check(check), check.line


def line_span(answer: str, line: int | None) -> Span | None:
    """Returns the characters of a line (from 1) of the answer, without its end, or ``None`` where there is none."""
    lines = answer.split("\n")
    if line is None or not 1 <= line <= len(lines):
        return None
    start = sum(len(text) + 1 for text in lines[: line - 1])
    return Span(start=start, end=start + len(lines[line - 1]))
