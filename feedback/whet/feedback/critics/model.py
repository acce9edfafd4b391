"""The critic that asks a model: it is given the task, the answer and the verdicts, and names the failed checks.

critiques = await ModelCritic(model).critique(task, run, verdicts)
"""

import json
from collections.abc import Sequence

from whet.core.models.model import Model
from whet.core.records import Check, Critique, Message, Run, Sampling, Span, Task, Verdict
from whet.feedback.answers import fenced_blocks, list_items
from whet.feedback.critics.check import describe_check

__all__ = ["ModelCritic"]

_SYSTEM = """\
You review an answer to a task. Checks have run; their results are facts. Say what is wrong in the answer, why, and what
to change, so that its author can correct it. Do not write the corrected answer. Be brief: at most {limit} points.
Reply with JSON only:
{{"critiques": [{{"text": "what is wrong and what to change", "checks": ["names of the failed checks it explains"],
"quote": "the shortest part of the answer that it is about, word for word, or an empty text"}}]}}"""

_TEXT_LIMIT = 4000


class ModelCritic:
    """Asks a model for critiques grounded in the failed checks.

    The reply is read tolerantly: JSON, bare or fenced or with talk around it; else a list, one critique per item; else
    the whole text as one critique. Check names that do not exist are dropped; a critique that names none of them gets
    all failed checks of the verdicts as its ground.
    """

    def __init__(self, model: Model, *, limit: int = 3, sampling: Sampling = Sampling()) -> None:
        self._model, self._limit, self._sampling = model, limit, sampling

    @property
    def name(self) -> str:
        """``model:`` and the model's name."""
        return f"model:{self._model.name}"

    async def critique(self, task: Task, run: Run, verdicts: Sequence[Verdict]) -> list[Critique]:
        """Returns up to ``limit`` critiques; the model is not asked when no verdict fails.

        Raises:
            ModelError: the model could not be reached.
            BudgetError: the budget does not allow the call.
        """
        failing = {verdict.id: _failed(verdict) for verdict in verdicts if verdict.outcome not in ("pass", "abstain")}
        failing = {key: checks for key, checks in failing.items() if checks or _by_id(verdicts, key).judged}
        if not failing:
            return []
        asked = [
            Message(role="system", content=_SYSTEM.format(limit=self._limit)),
            Message(role="user", content=_question(task, run, verdicts)),
        ]
        completion = await self._model.complete(asked, sampling=self._sampling)
        points = _read(completion.text)[: self._limit]
        return [self._critique(point, run, failing) for point in points]

    def _critique(self, point: "_Point", run: Run, failing: dict[str, list[Check]]) -> Critique:
        named = [key for key, checks in failing.items() if {check.name for check in checks} & set(point.checks)]
        names = [check.name for checks in failing.values() for check in checks]
        grounds = [name for name in point.checks if name in names] or names[: self._limit]
        unnamed = [name for name in grounds if name not in point.text]
        text = f"{point.text} [{', '.join(unnamed)}]" if unnamed else point.text
        start = (run.answer or "").find(point.quote) if point.quote else -1
        return Critique(
            run_id=run.id,
            text=text,
            source=self.name,
            span=Span(start=start, end=start + len(point.quote)) if start >= 0 else None,
            verdict_ids=tuple(named or failing),
            scope=run.scope,
        )


class _Point:
    """One point of a reply."""

    def __init__(self, text: str, checks: Sequence[str] = (), quote: str = "") -> None:
        self.text, self.checks, self.quote = " ".join(text.split())[:_TEXT_LIMIT], tuple(checks), quote


def _by_id(verdicts: Sequence[Verdict], verdict_id: str) -> Verdict:
    return next(verdict for verdict in verdicts if verdict.id == verdict_id)


def _failed(verdict: Verdict) -> list[Check]:
    return [check for check in verdict.checks if not check.passed]


def _question(task: Task, run: Run, verdicts: Sequence[Verdict]) -> str:
    lines = []
    for verdict in verdicts:
        lines.append(f"{verdict.verifier}: {verdict.outcome}, score {verdict.score:.2f}. {verdict.detail}".rstrip())
        lines += [f"- {check.name}: {describe_check(check, run.answer or '')}" for check in _failed(verdict)]
    results = "\n".join(lines)
    return f"# Task\n{task.prompt}\n\n# Answer\n{run.answer or '(none)'}\n\n# Results\n{results}"


def _read(reply: str) -> list[_Point]:
    """Returns the points of a reply, however it is written; an empty list for an empty reply."""
    blocks = [block.code for block in fenced_blocks(reply, ("", "json"))]
    first, last = reply.find("{"), reply.rfind("}")
    for text in [*reversed(blocks), reply, reply[first : last + 1] if 0 <= first < last else ""]:
        if (points := _from_json(text)) is not None:
            return points
    texts = list_items(reply) or ([reply] if reply.strip() else [])
    return [_Point(text) for text in texts]


def _from_json(text: str) -> list[_Point] | None:
    """Returns the points of JSON text, or ``None`` where it is not of the form asked for."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = value.get("critiques") if isinstance(value, dict) else value
    if not isinstance(found, list):
        return None
    points = [_point(item) for item in found]
    return [point for point in points if point is not None and point.text]


def _point(item: object) -> _Point | None:
    if isinstance(item, str):
        return _Point(item)
    if not isinstance(item, dict) or not isinstance(item.get("text"), str):
        return None
    checks, quote = item.get("checks", []), item.get("quote", "")
    names = [name for name in checks if isinstance(name, str)] if isinstance(checks, list) else []
    return _Point(item["text"], names, quote if isinstance(quote, str) else "")
