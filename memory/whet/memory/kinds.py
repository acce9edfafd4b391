"""How each kind of record lies in its table: its key, its columns, its time, what it rests on, whether it may change.

row = kind_of(Run).row(run, scope="default")
row.key, row.digest, row.values["status"]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Final, Literal

import msgspec
from sqlalchemy import Table

from whet.core import (
    Actor,
    BudgetEvent,
    Candidate,
    Critique,
    FailureLabel,
    Feedback,
    Job,
    Lesson,
    NodeFinished,
    NodeStarted,
    Promotion,
    Record,
    Run,
    Step,
    StoreError,
    Task,
    ToolResult,
    Use,
    UserError,
    Verdict,
    digest,
    encode,
)
from whet.memory import schema

__all__ = ["KINDS", "Kind", "Row", "kind_named", "kind_of"]

Change = Literal["never", "replaced", "closed"]
"""Whether a stored record may change: ``never``; ``replaced`` as a whole; ``closed``: only ``valid_to`` may be set."""

Reader = Callable[[Record], object]

_INT64: Final = 2**63

_PLAIN: Final = (NodeStarted, NodeFinished)
"""Bodies of steps that hold no number of the caller's: they are many, and always read back."""


@dataclass(frozen=True, slots=True)
class Row:
    """A record ready to be written: ``values`` holds every column; ``body`` its JSON, ``digest`` the SHA-256 of it.

    ``slot`` names the row in the whole store: table, scope and key (the id; for a lesson ``id@version``).
    ``edges`` are (relation, target) pairs of what the record rests on.
    """

    kind: "Kind"
    slot: tuple[str, str, str]
    id: str
    version: int
    digest: str
    body: bytes
    values: dict[str, object]
    edges: tuple[tuple[str, str], ...]

    @property
    def scope(self) -> str:
        """The scope of the record."""
        return self.slot[1]

    @property
    def key(self) -> str:
        """The id; for a lesson the id, ``@`` and the version."""
        return self.slot[2]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record. ``name`` is that of its table, ``time`` the field that ``since`` and ``until`` filter,
    ``edges`` are the fields with lineage.
    """

    record: type[Record]
    name: str
    table: Table
    readers: Mapping[str, Reader]
    time: str | None
    change: Change
    edges: tuple[str, ...]

    @property
    def versioned(self) -> bool:
        """Whether one id has several rows."""
        return self.record is Lesson

    @property
    def filters(self) -> tuple[str, ...]:
        """The columns that ``find`` and ``count`` can filter."""
        return (*self.readers, "digest")

    def decode(self, body: str | bytes) -> Record:
        """Returns the record whose JSON this is.

        Raises:
            StoreError: it is none; the store was edited by something else, or by a later version.
        """
        try:
            return msgspec.json.decode(body, type=self.record)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"a row of {self.name!r} is no {self.record.__name__}: {error}") from error

    def row(self, record: Record, scope: str) -> Row:
        """Returns the record as a row of ``scope``; a record that carries the default scope moves there.

        Raises:
            UserError: the record belongs to another scope, or holds what JSON cannot (a NaN, an infinity, bytes).
        """
        record = self._scoped(record, scope)
        body = self._encode(record)
        values = {name: read(record) for name, read in self.readers.items()}
        self._check_columns(values, zeros=b"\\u0000" in body)
        name = digest(body)
        values |= {"scope": scope, "digest": name, "body": body.decode() if len(body) <= schema.INLINE_BYTES else None}
        edges = [(field, target) for field in self.edges for target in dict.fromkeys(attrgetter(field)(record))]
        id, version = str(values["id"]), record.version if isinstance(record, Lesson) else 0
        slot = (self.name, scope, f"{id}@{version}" if self.versioned else id)
        return Row(self, slot, id, version, name, body, values, tuple(edges))

    def _scoped(self, record: Record, scope: str) -> Record:
        if "scope" not in record.__struct_fields__:
            return record
        own = attrgetter("scope")(record)
        if own == scope:
            return record
        if own != "default":
            raise UserError(
                f"{type(record).__name__} belongs to scope {own!r}, this memory to {scope!r}; "
                f"open the other one with Memory.open(…, scope={own!r})"
            )
        return msgspec.structs.replace(record, scope=scope)

    def _check_columns(self, values: Mapping[str, object], *, zeros: bool) -> None:
        """Refuses what JSON can hold and a column cannot."""
        for name, value in values.items():
            if type(value) is int and not -_INT64 <= value < _INT64:
                raise UserError(f"{name}={value} of {self.record.__name__} does not fit 64 bits")
            if zeros and isinstance(value, str) and "\0" in value:
                raise UserError(f"{name!r} of {self.record.__name__} has a zero character, which no database keeps")

    def _encode(self, record: Record) -> bytes:
        try:
            body = encode(record)
            if type(record) is not Step or type(record.body) not in _PLAIN:
                # What is written can be read again: JSON has no NaN and no infinity, and they come back as nothing.
                msgspec.json.decode(body, type=self.record)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{type(record).__name__} cannot be kept as JSON ({error}); "
                "use finite numbers, valid Unicode and plain JSON values"
            ) from error
        return body


def _kind(
    record: type[Record],
    table: Table,
    *,
    time: str | None = "at",
    change: Change = "never",
    edges: tuple[str, ...] = (),
    **derived: Reader,
) -> Kind:
    names = [c.name for c in table.columns if c.name not in ("scope", "row", "digest", "body")]
    readers = {name: derived.get(name) or attrgetter(name) for name in names}
    return Kind(record, str(table.name), table, readers, time, change, edges)


def _step_kind(step: Record) -> object:
    assert isinstance(step, Step)
    return step.body.__struct_config__.tag


def _step_tool(step: Record) -> object:
    assert isinstance(step, Step)
    return step.body.call.name if isinstance(step.body, ToolResult) else ""


def _event_id(event: Record) -> object:
    assert isinstance(event, BudgetEvent)
    return f"{event.reservation_id or event.budget_id}:{event.kind}"


KINDS: Final[Mapping[type[Record], Kind]] = {
    kind.record: kind
    for kind in (
        _kind(Actor, schema.actors, time=None, change="replaced"),
        _kind(Task, schema.tasks, time=None),
        _kind(Run, schema.runs, time="started_at", change="replaced"),
        _kind(Step, schema.steps, kind=_step_kind, tool=_step_tool),
        _kind(Verdict, schema.verdicts),
        _kind(Critique, schema.critiques, edges=("verdict_ids",)),
        _kind(Feedback, schema.feedback),
        _kind(FailureLabel, schema.failure_labels),
        _kind(
            Lesson,
            schema.lessons,
            time="valid_from",
            change="closed",
            edges=("derived_from", "supports", "contradicts"),
        ),
        _kind(Use, schema.uses),
        _kind(Candidate, schema.candidates, edges=("evidence",)),
        _kind(Promotion, schema.promotions, edges=("run_ids",)),
        _kind(Job, schema.jobs, time="started_at", change="replaced", edges=("inputs", "outputs")),
        _kind(BudgetEvent, schema.budget_events, id=_event_id),
    )
}
"""Every kind of record that a store keeps, by its class."""


def kind_of(record: type[Record]) -> Kind:
    """Returns how records of this class lie in the store.

    Raises:
        UserError: they are not kept.
    """
    if record not in KINDS:
        kept = ", ".join(sorted(kind.__name__ for kind in KINDS))
        raise UserError(f"{record.__name__} is no record that a memory keeps; it keeps {kept}")
    return KINDS[record]


def kind_named(table: str) -> Kind:
    """Returns the kind of record in the table of this name.

    Raises:
        UserError: no such table of records.
    """
    for kind in KINDS.values():
        if kind.name == table:
            return kind
    raise UserError(f"{table!r} is no table of records; there is {', '.join(kind.name for kind in KINDS.values())}")
