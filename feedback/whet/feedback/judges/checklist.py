"""The judge by default: a checklist, each item of which holds or does not; the score is the share that holds.

    spec = VerifierSpec(kind="judge", params={"model": "openai:judge", "items": ["It names the cause."]})
    verdict = await load_verifier(spec).verify(task, run)

Yes and no to small questions agree better, among judges and with people, than one number for everything (TICK, arXiv
2410.03608); the reason comes before each answer (G-Eval, arXiv 2303.16634, section 2).
"""

import re

from whet.core.errors import VerifierError
from whet.core.records import Check, Json, Message, Task
from whet.feedback.answers import list_items
from whet.feedback.judges.asking import DATA, ask, numbered
from whet.feedback.judges.judging import JudgeParams, ModelJudge
from whet.feedback.traits import read_rubric
from whet.feedback.verifiers.configured import Finding

__all__ = ["Checklist", "ChecklistParams", "read_holds"]

_SYSTEM = """\
You judge an answer to a task by a checklist. {data} Judge each item by itself.
For each item say first why, in a sentence, then whether it holds. Reply with JSON only:
{{"items": [{{"item": 1, "why": "…", "holds": true}}, …]}}

# Checklist
{items}"""

_YES, _NO = ("true", "yes", "pass"), ("false", "no", "fail")
_LINE = re.compile(r"^\W*(?:item\s*)?(\d+)\b(.*)$", re.IGNORECASE)
_SAID = re.compile(rf"\b({'|'.join((*_YES, *_NO))})\b", re.IGNORECASE)

Held = tuple[bool, str]


class ChecklistParams(JudgeParams, frozen=True, kw_only=True):
    """``items``: statements that hold or do not. Unless given: the traits of the ``rubric``, or else its list."""

    items: tuple[str, ...] = ()


class Checklist(ModelJudge[ChecklistParams]):
    """Asks for all items in one call; each is a check of the verdict."""

    kind = "judge"
    params_type = ChecklistParams

    def check_params(self) -> None:
        """Raises ``VerifierError`` where there is nothing to check."""
        self.items = self.params.items or tuple(_items(self.params.rubric))
        if not self.items:
            raise VerifierError(f"verifier {self.kind!r} has no items; give items=[…], or a rubric that is a list")

    async def judge(self, task: Task, answer: str) -> Finding:
        """Returns the finding; abstain where an item is left open, twice."""
        listed = "\n".join(f"{number}. {item}" for number, item in enumerate(self.items, 1))
        asked = [Message(role="system", content=_SYSTEM.format(data=DATA, items=listed)), self.shown(task, answer)]
        count = len(self.items)
        held = await ask(self.model, asked, lambda reply: read_holds(reply, count), sampling=self.sampling)
        if held is None:
            return self.unreadable()
        checks = tuple(
            Check(name=item, passed=holds, message=why) for item, (holds, why) in zip(self.items, held, strict=True)
        )
        return self.found(sum(check.passed for check in checks) / count, checks)


def _items(rubric: str) -> list[str]:
    """Returns what a rubric asks for, a trait an item, or the items of its list where it has no traits."""
    items = []
    for trait in read_rubric(rubric):
        shown = [f"shown by: {'; '.join(trait.good)}"] if trait.good else []
        missed = [f"missed by: {'; '.join(trait.bad)}"] if trait.bad else []
        more = f" ({', '.join(shown + missed)})" if shown or missed else ""
        items.append(f"{trait.name}: {' '.join(trait.definition.split())}{more}")
    return items or list_items(rubric)


def read_holds(reply: str, count: int) -> list[Held] | None:
    """Returns for each of ``count`` items whether it holds and why; ``None`` where one is left open.

    What counts is the last JSON that answers them all, or lines that begin with an item's number and end in yes or no.
    """
    for entries in numbered(reply, "items", "item", count):
        held = [found for entry in entries if (found := _held(entry)) is not None]
        if len(held) == count:
            return held
    lines = dict(said for line in reply.splitlines() if (said := _line(line)) is not None)
    return [lines[n] for n in range(1, count + 1)] if all(n in lines for n in range(1, count + 1)) else None


def _held(entry: dict[str, Json]) -> Held | None:
    holds, why = str(entry.get("holds")).strip().lower(), entry.get("why")
    return (holds in _YES, why if isinstance(why, str) else "") if holds in (*_YES, *_NO) else None


def _line(line: str) -> tuple[int, Held] | None:
    match = _LINE.match(line)
    said = _SAID.findall(match[2]) if match else []
    return (int(match[1]), (said[-1].lower() in _YES, match[2].strip(" .:-"))) if match and said else None
