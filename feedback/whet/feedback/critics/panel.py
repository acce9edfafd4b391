"""The panel of critics with a meta-critic: several critiques, cut into units, checked, and merged into few right ones.

    critic = PanelCritic([ModelCritic(one), ModelCritic(other), CheckCritic()], meta=judge_model)
    critiques = await critic.critique(task, run, verdicts)

MultiCritique (arXiv 2410.15287): each critic's points are units; a meta-critic says of each whether it is right, wrong
or empty, and merges those that say the same. What it holds for wrong or empty is dropped. Whether that helps is
measured by repair: ``whet.feedback.critics.repair``.
"""

from collections.abc import Sequence

import msgspec

from whet.core.errors import UserError
from whet.core.models import Model
from whet.core.records import Critique, Json, Message, Run, Sampling, Task, Verdict
from whet.feedback.answers import json_values
from whet.feedback.critic import Critic
from whet.feedback.judges.asking import DATA, ask, gathered, question

__all__ = ["PanelCritic"]

_SYSTEM = """\
Several reviewers wrote remarks on an answer to a task. {data} So are the remarks.
Check each remark against the task and the answer. Then group the remarks that say the same. For each group say why it
is right, wrong, or empty (true of any answer, or of no use), and if it is right put it into one remark that is clear
and can be acted on. Every number belongs to one group. Reply with JSON only:
{{"groups": [{{"remarks": [1, 3], "why": "…", "class": "right", "text": "…"}}]}}        ("right", "wrong" or "empty")"""


class PanelCritic:
    """Asks every critic, then the meta-critic about all that they said.

    Where the meta-critic's reply cannot be read, twice, nothing is merged and every remark stands: to drop one takes a
    reason. The source of what it merged is the panel.

    Raises:
        UserError: there are no critics.
    """

    def __init__(self, critics: Sequence[Critic], *, meta: Model, limit: int = 3) -> None:
        if not critics:
            raise UserError("PanelCritic needs at least one critic")
        self._critics, self._meta, self._limit = tuple(critics), meta, limit

    @property
    def name(self) -> str:
        """``panel:`` and the name of the meta-critic's model."""
        return f"panel:{self._meta.name}"

    async def critique(self, task: Task, run: Run, verdicts: Sequence[Verdict]) -> list[Critique]:
        """Returns up to ``limit`` critiques, those first that most critics made.

        Raises:
            ModelError: a model could not be reached.
            BudgetError: the budget does not allow a call.
        """
        said = await gathered(lambda critic: critic.critique(task, run, verdicts), [(one,) for one in self._critics])
        units = [unit for critiques in said for unit in critiques]
        if len(units) < 2:
            return units
        listed = "\n".join(f"{number}. {' '.join(unit.text.split())}" for number, unit in enumerate(units, 1))
        asked = [
            Message(role="system", content=_SYSTEM.format(data=DATA)),
            question(task, run.answer or "", remarks=listed),
        ]
        groups = await ask(
            self._meta, asked, lambda reply: _read(reply, len(units)), sampling=Sampling(temperature=0.0)
        )
        if groups is None:
            return units[: self._limit]
        groups.sort(key=lambda group: -len({units[number].source for number in group.remarks}))
        return [self._merged(group, units) for group in groups][: self._limit]

    def _merged(self, group: "_Group", units: Sequence[Critique]) -> Critique:
        """Returns one critique of a group; alone it stays whose it is."""
        parts = [units[number] for number in group.remarks]
        if len(parts) == 1:
            return msgspec.structs.replace(parts[0], text=group.text or parts[0].text)
        grounds = dict.fromkeys(id for part in parts for id in part.verdict_ids)
        span = next((part.span for part in parts if part.span is not None), None)
        return Critique(
            run_id=parts[0].run_id,
            text=group.text or parts[0].text,
            source=self.name,
            span=span,
            verdict_ids=tuple(grounds),
            sign=parts[0].sign,
            scope=parts[0].scope,
        )


class _Group(msgspec.Struct, frozen=True):
    """Remarks that say the same, by their index."""

    remarks: tuple[int, ...]
    text: str


def _read(reply: str, count: int) -> list[_Group] | None:
    """Returns the groups held for right; ``None`` where the reply leaves a remark out or has none of these classes."""
    for value in reversed([*json_values(reply)]):
        groups = value.get("groups") if isinstance(value, dict) else None
        found = [_group(entry, count) for entry in groups] if isinstance(groups, list) else []
        named = sorted(number for one in found if one is not None for number in one[1].remarks)
        if found and None not in found and named == list(range(count)):
            return [one[1] for one in found if one is not None and one[0] == "right"]
    return None


def _group(entry: Json, count: int) -> tuple[str, _Group] | None:
    if not isinstance(entry, dict):
        return None
    numbers, kind, text = entry.get("remarks"), str(entry.get("class")).strip().lower(), entry.get("text")
    if not isinstance(numbers, list) or kind not in ("right", "wrong", "empty"):
        return None
    named = tuple(number - 1 for number in numbers if isinstance(number, int) and 1 <= number <= count)
    return kind, _Group(named, text.strip() if isinstance(text, str) else "")
