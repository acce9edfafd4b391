"""What ``whet policy show`` says of an adapter: method, base, size, training data, cost, and who brought it."""

from typing import TYPE_CHECKING, Self

from whet.apps.cli.commands.rows import as_row
from whet.core.adapters import AdapterInfo, describe
from whet.core.errors import NotFoundError
from whet.core.records import Candidate, Critique, Feedback, Json, Lesson, Record, Run, Step, Task, Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from whet.memory import Memory

__all__ = ["Brought", "show_adapter"]

_KINDS: dict[str, type[Record]] = {
    "runs": Run,
    "verdicts": Verdict,
    "critiques": Critique,
    "feedback": Feedback,
    "steps": Step,
    "lessons": Lesson,
    "tasks": Task,
}
_CHUNK = 500


class Brought(Record, frozen=True, kw_only=True):
    """An adapter, the candidate that brought it, and how many records of each kind it was trained on.

    ``info`` is ``None`` where the store lacks it. ``sources`` counts records by kind, those that are not here as
    ``gone``.
    """

    digest: str
    info: AdapterInfo | None
    candidate: Candidate | None
    sources: dict[str, int]

    @classmethod
    async def find(cls, memory: "Memory", digest: str) -> Self:
        """Returns what the memory knows of an adapter."""
        candidate = await memory.policies.brought(digest)
        try:
            info = describe(await memory.get_blob(digest))
        except NotFoundError:
            return cls(digest=digest, info=None, candidate=candidate, sources={})
        sources = await _count(memory, info.card.sources)
        return cls(digest=digest, info=info, candidate=candidate, sources=sources)

    def as_json(self) -> dict[str, Json]:
        """Returns it as a plain mapping; the ids of the sources as their counts."""
        found = as_row(self)
        if self.info is not None:
            card: dict[str, Json] = {**as_row(self.info.card), "sources": dict[str, Json](self.sources)}
            found |= {**as_row(self.info), "card": card}
        return {key: value for key, value in found.items() if key not in ("info", "sources")}


async def _count(memory: "Memory", ids: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, kind in _KINDS.items():
        parts = [list(ids[start : start + _CHUNK]) for start in range(0, len(ids), _CHUNK)]
        if count := sum([await memory.count(kind, where={"id": part}) for part in parts]):
            found[name] = count
    gone = len(ids) - sum(found.values())
    return {**found, "gone": gone} if gone > 0 else found


def show_adapter(terminal: "Console", brought: Brought) -> None:
    """Prints the adapter, a line for each thing there is to know."""
    for name, text in _lines(brought):
        terminal.print(f"  {name:<11}{text}", markup=False, soft_wrap=True)


def _lines(brought: Brought) -> list[tuple[str, str]]:
    if brought.info is None:
        return [("", "not in this store: nothing can run under this policy")]
    info, card = brought.info, brought.info.card
    counts = ", ".join(f"{count:,} {kind}" for kind, count in brought.sources.items()) or "nothing that is recorded"
    data = f"{card.rows:,} rows, {card.tokens:,} tokens, {card.steps:,} steps" + _short(", data ", card.data_digest)
    cost = f"{card.usage.calls:,} calls, ${card.usage.micro_dollars / 1e6:.4f}, {card.seconds:,.1f} s of training"
    lines = [
        ("method", card.method or "not said"),
        ("base", (card.base or "not said") + _short("  ", card.base_digest)),
        ("size", f"rank {info.rank}, {info.parameters:,} parameters, {info.bytes:,} bytes"),
        ("trained on", f"{counts}: {data}"),
        ("cost", cost),
    ]
    if card.parent:
        lines.append(("from", f"adapter {card.parent[:12]}"))
    return [*lines, ("brought by", _who(brought.candidate))]


def _short(before: str, digest: str) -> str:
    return f"{before}{digest[:12]}" if digest else ""


def _who(candidate: Candidate | None) -> str:
    return "a person" if candidate is None else f"candidate {candidate.id[:16]} of {candidate.learner}"
