"""How results reach the terminal, a pipe or a program: tables, wide tables, JSON, JSON lines, CSV or ids.

@app.command("list")
@listing
def list_runs(view: View) -> None:
    view.show(rows, columns=("id", "status", "score"))
"""

import csv
import functools
import inspect
import io
import operator
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from whet.core.errors import UserError
from whet.core.ids import parse_since
from whet.core.wire import decode, encode

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["AsJson", "Row", "View", "console", "emit_json", "is_time", "listing", "note"]

SCHEMA = 1
Row = Mapping[str, object]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Format = Literal["table", "wide", "json", "jsonl", "csv", "id"]
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "~": lambda value, pattern: re.search(str(pattern), str(value)) is not None,
    "=": operator.eq,
}
PROSE = ("text", "reason", "detail", "description", "prompt", "applies_when", "error", "summary", "needs")
EXPENDABLE = (
    *("value", "version", "source", "incumbent", "actor", "model", "policy", "started_at"),
    *("at", "agent", "score", "recency", "task_id", "verifier", "description"),
)
IDS = ("id", "key", "policy", "incumbent")
MIN_PROSE = 14
MAX_PROSE = 60


def console(*, stderr: bool = False) -> "Console":
    """Returns a console on stdout or stderr; where that is no terminal: plain, ``COLUMNS`` or 200 columns wide."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        width=None if stream.isatty() or "COLUMNS" in os.environ else 200,
        highlight=False,
        soft_wrap=False,
    )


def note(message: str) -> None:
    """Prints progress or a hint on stderr."""
    print(message, file=sys.stderr)


def emit_json(value: object) -> None:
    """Prints one JSON object on stdout; a mapping gains the schema version."""
    plain = decode(encode(value), object)
    if isinstance(plain, dict):
        plain = {"schema": SCHEMA, **plain}
    print(encode(plain).decode())


@dataclass(frozen=True)
class View:
    """The options that every list shares, and the one way to print a list."""

    output: _Format = "table"
    fields: tuple[str, ...] = ()
    jq: str = ""
    where: tuple[str, ...] = ()
    since: int | None = None
    limit: int | None = 50
    sort: str = ""

    def show(self, rows: Sequence[Row], columns: Sequence[str], wide: Sequence[str] = (), empty: str = "") -> None:
        """Prints the rows, filtered, sorted and cut, as asked for; ``empty`` says what to do when none is left."""
        chosen = self._chosen(rows)
        if not chosen and empty and self.output in ("table", "wide"):
            note(empty)
        if self.jq:
            self._print_jq(chosen)
        elif self.output in ("json", "jsonl", "csv", "id"):
            self._print_plain(chosen, self.fields or (tuple(chosen[0]) if chosen else tuple(columns)))
        elif chosen:
            shown = self.fields or (*columns, *(wide if self.output == "wide" else ()))
            _print_table(chosen, shown, whole=self.output == "wide")

    def _chosen(self, rows: Sequence[Row]) -> list[Row]:
        chosen = [row for row in rows if all(_matches(row, condition) for condition in self.where)]
        if self.sort:
            name = self.sort.lstrip("-")
            _require(rows, name, "--sort")
            chosen.sort(key=lambda row: (row[name] is not None, row[name]), reverse=self.sort.startswith("-"))
        for name in self.fields:
            _require(rows, name, "--fields")
        return chosen[: self.limit]

    def _print_jq(self, rows: Sequence[Row]) -> None:
        import jq

        try:
            for value in jq.compile(self.jq).input_text(encode({"schema": SCHEMA, "items": rows}).decode()):
                print(value if isinstance(value, str) else encode(value).decode())
        except ValueError as error:
            raise UserError(f"--jq {self.jq!r}: {' '.join(str(error).split())}") from None

    def _print_plain(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        picked = [{name: row.get(name) for name in names} for row in rows]
        if self.output == "json":
            emit_json({"items": picked})
        elif self.output == "jsonl":
            sys.stdout.writelines(encode(row).decode() + "\n" for row in picked)
        elif self.output == "id":
            sys.stdout.writelines(f"{row.get('id')}\n" for row in rows)
        else:
            text = io.StringIO()
            writer = csv.DictWriter(text, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(picked)
            sys.stdout.write(text.getvalue())


def _require(rows: Sequence[Row], name: str, option: str) -> None:
    if rows and name not in rows[0]:
        raise UserError(f"{option} {name!r} is no field here; there are {', '.join(rows[0])}")


def _matches(row: Row, condition: str) -> bool:
    match = re.fullmatch(r"\s*(\w+)\s*(>=|<=|!=|>|<|~|=)\s*(.*)", condition, re.DOTALL)
    if not match:
        raise UserError(f"--where {condition!r} is no condition such as score>=0.9, status=done or text~sort")
    name, symbol, literal = match.groups()
    _require([row], name, "--where")
    value = row[name]
    try:
        return _OPERATORS[symbol](value, _like(value, literal)) if value is not None else False
    except (TypeError, ValueError, re.error):
        raise UserError(f"--where {condition!r}: {literal!r} cannot be compared with {name}={value!r}") from None


def _like(value: object, literal: str) -> object:
    if isinstance(value, bool):
        return literal.lower() in ("1", "true", "yes")
    return type(value)(literal) if isinstance(value, int | float) else literal


def is_time(name: str) -> bool:
    """Returns whether a field of this name holds UTC milliseconds."""
    return name == "at" or name.endswith(("_at", "_from", "_to"))


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and is_time(name):
        return datetime.fromtimestamp(value / 1000, UTC).strftime("%m-%d %H:%M")
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | dict):
        return encode(value).decode() if value else ""
    text = " ".join(str(value).split())
    return text[:16] if name in IDS or name.endswith("_id") else text


def _print_table(rows: Sequence[Row], names: Sequence[str], *, whole: bool) -> None:
    """Prints a table that fits the terminal; or ``whole``, however wide that is."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    terminal = console()
    cells = [[_cell(name, row.get(name)) for name in names] for row in rows]
    if not whole:
        names, cells = _affordable(names, cells, terminal.width)
    titles = [name.removesuffix("_at").replace("_", " ") for name in names]
    widths = [max(map(cell_len, column)) for column in zip(titles, *cells, strict=True)]
    if whole:
        widths = [min(width, MAX_PROSE) if name in PROSE else width for name, width in zip(names, widths, strict=True)]
        terminal.width = max(terminal.width, sum(widths) + 2 * len(widths))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title, width in zip(titles, _fitted(names, widths, terminal.width), strict=True):
        table.add_column(title, no_wrap=True, overflow="ellipsis", width=width)
    for line in cells:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in line))
    if sys.stdout.isatty() and len(rows) + 2 > terminal.height:
        with terminal.pager(styles=True):
            terminal.print(table, crop=False)
    else:
        terminal.print(table, crop=False)


def _affordable(names: Sequence[str], cells: list[list[str]], total: int) -> tuple[list[str], list[list[str]]]:
    """Returns names and cells without the columns that a narrow terminal has no room for, empty ones first."""

    from rich.cells import cell_len

    def fits(kept: Sequence[int]) -> bool:
        taken = 0
        for n in kept:
            widest = max(cell_len(names[n]), *(cell_len(line[n]) for line in cells))
            taken += 2 + (min(widest, MIN_PROSE) if names[n] in PROSE else widest)
        return taken <= total

    kept = list(range(len(names)))
    if not fits(kept):
        kept = [n for n in kept if names[n] == "id" or any(line[n] for line in cells)]
    for expendable in EXPENDABLE:
        if fits(kept):
            break
        kept = [n for n in kept if names[n] != expendable]
    return [names[n] for n in kept], [[line[n] for n in kept] for line in cells]


def _fitted(names: Sequence[str], widths: Sequence[int], total: int) -> list[int]:
    """Returns the columns' widths: prose gives way where space is short; ids, numbers and words are kept whole.

    Where the words alone are too wide, the widest column gives way like prose.
    """
    prose = [number for number, name in enumerate(names) if name in PROSE]
    whole = sorted((n for n in range(len(names)) if n not in prose), key=lambda n: widths[n])
    while whole and sum(widths[n] for n in whole) + MIN_PROSE * len(prose) + 2 * len(names) > total:
        prose.append(whole.pop())
    left = total - 2 * len(names) - sum(widths[n] for n in whole)
    fitted = list(widths)
    for rank, number in enumerate(sorted(prose, key=lambda n: widths[n])):
        share = max(left // (len(prose) - rank), 1)
        fitted[number] = min(widths[number], share)
        left -= fitted[number]
    return fitted


def _style(cell: str) -> str:
    good, bad = ("pass", "promoted", "active", "done"), ("fail", "failed", "rejected", "rolled_back", "retired")
    return "green" if cell in good else "red" if cell in bad else ""


def listing(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that every list shares to a command; it receives them as one ``view``."""

    @functools.wraps(command)
    def wrapped(*args: object, **options: object) -> None:
        command(*args, view=_view(options), **options)

    own = [p for name, p in inspect.signature(command).parameters.items() if name != "view"]
    shared = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in inspect.signature(_shared_options).parameters.values()
    ]
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    wrapped.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in (*own, *shared)}
    return wrapped


def _shared_options(
    output: Annotated[str, typer.Option("-o", "--output", help="table, wide, json, jsonl, csv or id.")] = "table",
    json: AsJson = False,
    fields: Annotated[str, typer.Option(help="Only these fields, comma-separated.")] = "",
    jq: Annotated[str, typer.Option(help="Filter the JSON with a jq program.")] = "",
    where: Annotated[list[str] | None, typer.Option(help="Condition such as score>=0.9; repeatable.")] = None,
    since: Annotated[str, typer.Option(help="Only newer ones: 7d, 12h, 2026-05-02.")] = "",
    limit: Annotated[int, typer.Option(min=0, help="At most so many; 0 for all.")] = 50,
    sort: Annotated[str, typer.Option(help="Field to sort by; -field for descending.")] = "",
) -> None:
    """Only its signature is used."""


def _view(options: dict[str, object]) -> View:
    taken = {name: options.pop(name) for name in inspect.signature(_shared_options).parameters}
    formats = ("table", "wide", "json", "jsonl", "csv", "id")
    output = "json" if taken["json"] else taken["output"]
    if output not in formats:
        raise UserError(f"-o {output!r} is no output format; there are {', '.join(formats)}")
    return View(
        output=output,  # type: ignore[arg-type]
        fields=tuple(filter(None, str(taken["fields"]).split(","))),
        jq=str(taken["jq"]),
        where=tuple(taken["where"] or ()),  # type: ignore[arg-type]
        since=parse_since(str(taken["since"])) if taken["since"] else None,
        limit=int(str(taken["limit"])) or None,
        sort=str(taken["sort"]),
    )
