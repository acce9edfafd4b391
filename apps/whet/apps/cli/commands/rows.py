"""Records as rows for tables and JSON, and the lookups that several commands share."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from whet.apps.cli.output import Row
from whet.core.records import Json, Record, Run, Verdict
from whet.core.wire import decode, encode

if TYPE_CHECKING:
    from whet.memory import Memory

__all__ = ["as_row", "first_line", "latest", "run_rows"]

R = TypeVar("R", bound=Record)


def as_row(record: Record) -> dict[str, Json]:
    """Returns a record as a plain mapping, field names as they are."""
    row: dict[str, Json] = decode(encode(record), dict)
    return row


def first_line(text: str, width: int = 100) -> str:
    """Returns the first line of a text, cut to ``width`` characters."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= width else line[: width - 1] + "…"


def latest(verdicts: Iterable[Verdict]) -> dict[str, Verdict]:
    """Returns the newest verdict of each run, by run id."""
    return {verdict.run_id: verdict for verdict in sorted(verdicts, key=lambda verdict: verdict.at)}


async def run_rows(memory: "Memory", runs: Sequence[Run]) -> list[Row]:
    """Returns a row for each run, with the outcome, score and detail of its newest verdict."""
    verdicts = latest(await memory.find(Verdict, where={"run_id": [run.id for run in runs]})) if runs else {}
    rows: list[Row] = []
    for run in runs:
        verdict = verdicts.get(run.id)
        row = as_row(run)
        row["outcome"] = verdict.outcome if verdict else None
        row["score"] = verdict.score if verdict else None
        row["detail"] = verdict.detail if verdict else None
        row["micro_dollars"] = run.usage.micro_dollars
        row["tokens"] = run.usage.input_tokens + run.usage.output_tokens
        rows.append(row)
    return rows
