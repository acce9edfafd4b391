"""From experience to data: a method's rows, cleaned, as tokens of one model, with the card that says where all of it
comes from.

    dataset = await build_dataset(method, experience, kit, template, held_back=await view.held_back())
    print("\\n".join(dataset.lines()))           # counts, lengths, what was dropped and why; needs no torch
"""

from collections.abc import Mapping

from whet.core.records import Json, Record
from whet.core.wire import decode, encode
from whet.learners.weights.card import Card, Stage, make_card
from whet.learners.weights.datum import Datum
from whet.learners.weights.experience import Experience
from whet.learners.weights.heldback import HeldBack
from whet.learners.weights.hygiene import budget, decontaminate, deduplicate
from whet.learners.weights.keeping import Replay
from whet.learners.weights.method import Kit, Method
from whet.learners.weights.rows import Row
from whet.learners.weights.templates import ChatTemplate, Report, encode_rows
from whet.learners.weights.where import EVERYTHING, Where

__all__ = ["Dataset", "build_dataset", "options_of"]


class Dataset(Record, frozen=True, kw_only=True):
    """Rows, the same as data, what became of them, and their card."""

    rows: tuple[Row, ...]
    data: tuple[Datum, ...]
    report: Report
    card: Card

    @property
    def sources(self) -> tuple[str, ...]:
        """The ids of the records that the data rest on, each once."""
        return tuple(dict.fromkeys(source for datum in self.data for source in datum.sources))

    @property
    def tainted(self) -> bool:
        """Whether something in it was written by strangers."""
        return any(row.trust == "tainted" for row in self.rows)

    def lines(self) -> list[str]:
        """Returns what a person wants to know before training, a line each."""
        stages = [f"{s.name}: {s.rows} rows left" + _dropped(s.dropped) for s in self.card.stages]
        left_out = [f"left out {count} ({reason})" for reason, count in self.card.left_out.items()]
        return [f"{self.card.method}: {self.card.runs} runs", *left_out, *stages, *self.report.lines()]


async def build_dataset(
    method: Method,
    experience: Experience,
    kit: Kit,
    template: ChatTemplate,
    *,
    held_back: HeldBack | None = None,
    where: Where = EVERYTHING,
    replay: Replay | None = None,
    tokens: int | None = None,
    longest: int | None = None,
) -> Dataset:
    """Returns the data set of a method: built, deduplicated, decontaminated, within ``tokens``, as tokens.

    ``replay``: what of earlier is learned again beside it. ``longest``: rows of more tokens are dropped, never cut. The
    data set may turn out empty.

    Raises:
        UserError: the experience lacks what the method needs.
    """
    rows: tuple[Row, ...] = tuple(await method.build(experience, kit))
    stages, remarks = [Stage(name="built", rows=len(rows))], list[str]()
    if replay is not None and rows:
        rows = (*rows, *await replay.rows(rows))
        stages.append(Stage(name="with replay", rows=len(rows)))
        experience = replay.beside(experience)
    rows, dropped = deduplicate(rows)
    stages.append(Stage(name="deduplicated", rows=len(rows), dropped=dropped))
    if held_back is not None:
        rows, dropped = decontaminate(rows, held_back)
        stages.append(Stage(name="decontaminated", rows=len(rows), dropped=dropped))
    if tokens is not None:
        rows, dropped = budget(rows, tokens, count=lambda row: _length(row, template), seed=0)
        stages.append(Stage(name="within the budget", rows=len(rows), dropped=dropped))
    if replay is not None:
        remarks.append(replay.remark(rows))
    encoded = encode_rows(rows, template, max_tokens=longest, split=True)
    card = make_card(
        method.info.name,
        rows,
        experience,
        options=options_of(method),
        where=where,
        stages=stages,
        tokens=encoded.report.tokens,
        remarks=remarks,
    )
    return Dataset(rows=rows, data=encoded.data, report=encoded.report, card=card)


def options_of(method: Method) -> dict[str, Json]:
    """Returns a method's options as JSON."""
    return decode(encode({name: getattr(method, name) for name in method.__struct_fields__}), dict[str, Json])


def _length(row: Row, template: ChatTemplate) -> int:
    return len(template.tokens(template.render(row.messages, row.tools, answering=False)).ids)


def _dropped(dropped: Mapping[str, int]) -> str:
    said = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
    return f" (dropped: {said})" if said else ""
