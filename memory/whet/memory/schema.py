"""The tables of a store, one schema for SQLite and PostgreSQL.

    rows = connection.execute(select(runs.c.id).where(runs.c.status == "failed"))

A record is one row: ``scope``, its key, the columns that can be filtered, the digest of its JSON, and the JSON itself
in ``body`` (``NULL`` when it is longer than 8 KB: then ``blobs`` has it under ``digest``). The JSON is what counts;
the columns are copies of it. No foreign keys tie records together, because evidence may be forgotten, and records may
arrive in any order, while what points at them stays.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.schema import SchemaItem

__all__ = [
    "INLINE_BYTES",
    "REVISION",
    "actors",
    "blobs",
    "budget_events",
    "candidates",
    "changes",
    "checkpoint_values",
    "checkpoint_writes",
    "checkpoints",
    "critiques",
    "failure_labels",
    "feedback",
    "index_outbox",
    "index_state",
    "jobs",
    "lessons",
    "lineage",
    "metadata",
    "policy_heads",
    "policy_tags",
    "policy_trees",
    "promotions",
    "quarantine",
    "runs",
    "steps",
    "tasks",
    "uses",
    "vectors",
    "verdicts",
    "verifiers",
]

REVISION: Final = "0001"
"""The migration this code is written for; a store of a later one is refused."""

INLINE_BYTES: Final = 8192
"""A record's JSON up to this length stays in its row; longer JSON goes to ``blobs``."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


_TEXT = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that sorts by its bytes in both databases, so that the beginning of an id is a range of the index."""


def _text(name: str, *, null: bool = False, key: bool = False) -> Column[str]:
    return Column(name, _TEXT, nullable=null, primary_key=key)


def _int(name: str, *, null: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=null)


def _counter(name: str) -> Column[int]:
    """A primary key that only grows: SQLite needs the type INTEGER for that, PostgreSQL wants 64 bits."""
    return Column(name, BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


def _records(name: str, *items: SchemaItem) -> Table:
    return Table(
        name,
        metadata,
        _text("scope", key=True),
        _text("id", key=True),
        *items,
        _text("digest"),
        _text("body", null=True),
    )


# --- records --------------------------------------------------------------------------------------------------------

actors = _records("actors", _text("kind"), _text("name"), _text("family"))

tasks = _records("tasks", _text("split"), _text("task_set"), Index(None, "scope", "task_set"))

verifiers = _records("verifiers", _text("kind"))
"""The verifier specifications of stored tasks by their digest, written along with the task."""

runs = _records(
    "runs",
    _text("task_id"),
    _text("agent"),
    _text("policy"),
    _text("model"),
    _int("seed"),
    _text("status"),
    _text("purpose"),
    _text("parent_id", null=True),
    _text("actor", null=True),
    _text("trust"),
    _int("started_at"),
    _int("ended_at", null=True),
    Index(None, "scope", "task_id"),
    Index(None, "scope", "started_at"),
    Index(None, "scope", "parent_id"),
)

steps = _records(
    "steps",
    _text("run_id"),
    _int("seq"),
    _text("node"),
    _text("parent_id", null=True),
    _text("kind"),
    _text("tool"),
    _int("at"),
    Index(None, "scope", "run_id", "seq"),
)
"""``kind`` is the body's; ``tool`` is the name of the tool of a ``tool_result`` (a tool call) and else empty."""

verdicts = _records(
    "verdicts",
    _text("run_id"),
    _text("task_id"),
    _text("verifier"),
    _text("outcome"),
    Column("score", Double, nullable=False),
    _text("kind"),
    _text("actor", null=True),
    _int("repetition"),
    _text("environment"),
    _int("at"),
    Index(None, "scope", "run_id"),
    Index(None, "scope", "task_id"),
    Index(None, "scope", "at"),
)

critiques = _records(
    "critiques",
    _text("run_id"),
    _text("source"),
    _text("step_id", null=True),
    _text("sign"),
    _int("at"),
    Index(None, "scope", "run_id"),
)

feedback = _records(
    "feedback",
    _text("kind"),
    _text("source"),
    _text("run_id", null=True),
    _text("task_id", null=True),
    _text("step_id", null=True),
    _text("other_run_id", null=True),
    Column("value", Double, nullable=True),
    _text("applies_when"),
    _text("person", null=True),
    _text("trust"),
    _int("at"),
    Index(None, "scope", "run_id"),
    Index(None, "scope", "task_id"),
    Index(None, "scope", "person"),
    Index(None, "scope", "at"),
)

failure_labels = _records(
    "failure_labels", _text("run_id"), _text("label"), _text("source"), _int("at"), Index(None, "scope", "run_id")
)

lessons = Table(
    "lessons",
    metadata,
    _counter("row"),
    _text("scope"),
    _text("id"),
    _int("version"),
    _text("kind"),
    _text("status"),
    _text("source"),
    _text("trust"),
    _text("text"),
    _text("applies_when"),
    _text("task_text"),
    _int("valid_from"),
    _int("valid_to", null=True),
    _text("digest"),
    _text("body", null=True),
    UniqueConstraint("scope", "id", "version"),
    Index(None, "scope", "status"),
    Index(None, "scope", "valid_from"),
)
"""One row a version. The three texts are columns for the full-text index, which the migrations make: in SQLite the FTS5
table ``lessons_fts(text, applies_when, task_text)`` whose rowid is ``row``, kept by triggers; in PostgreSQL a GIN index
``ix_lessons_search`` on ``to_tsvector('english', text || ' ' || applies_when || ' ' || task_text)``."""

uses = _records(
    "uses",
    _text("run_id"),
    _text("item"),
    _text("version"),
    _text("kind"),
    _int("at"),
    Index(None, "scope", "run_id"),
    Index(None, "scope", "item"),
)

candidates = _records(
    "candidates",
    _text("policy"),
    _text("parent"),
    _text("learner"),
    _text("trust"),
    _int("at"),
    Index(None, "scope", "policy"),
    Index(None, "scope", "at"),
)

promotions = _records(
    "promotions",
    _text("decision"),
    _text("policy"),
    _text("incumbent"),
    _text("candidate_id", null=True),
    _text("actor"),
    _int("at"),
    Index(None, "scope", "at"),
)

jobs = _records(
    "jobs",
    _text("kind"),
    _text("status"),
    _int("started_at"),
    _int("ended_at", null=True),
    Index(None, "scope", "started_at"),
)

budget_events = _records(
    "budget_events",
    _text("budget_id"),
    _text("parent_id", null=True),
    _text("reservation_id"),
    _text("kind"),
    _int("at"),
    Index(None, "scope", "budget_id"),
)
"""The ledger of budgets: grant, reserve, settle, release. ``id`` is the reservation (or budget) and the kind."""

# --- policies -------------------------------------------------------------------------------------------------------

blobs = Table(
    "blobs",
    metadata,
    _text("digest", key=True),
    _int("size"),
    Column("data", LargeBinary, nullable=False),
)
"""Bytes by their SHA-256. Never compressed: forgetting is proved by a search of the files."""

policy_trees = Table(
    "policy_trees",
    metadata,
    _text("policy", key=True),
    _text("path", key=True),
    Column("blob", _TEXT, ForeignKey("blobs.digest"), nullable=False),
    Index(None, "blob"),
)
"""The files of each policy; the digest of a policy names exactly its tree. The empty policy has no row."""

policy_tags = Table(
    "policy_tags",
    metadata,
    _text("scope", key=True),
    _text("name", key=True),
    _text("policy"),
    _int("at"),
)

policy_heads = Table(
    "policy_heads",
    metadata,
    _text("scope", key=True),
    _text("policy"),
    _text("promotion_id"),
    _int("at"),
)
"""The policy in force in each scope and the promotion that made it so."""

# --- where things come from, and what changed -----------------------------------------------------------------------

lineage = Table(
    "lineage",
    metadata,
    _text("scope", key=True),
    _text("source", key=True),
    Column("version", BigInteger, primary_key=True),
    _text("relation", key=True),
    _text("target", key=True),
    _text("kind"),
    Index(None, "scope", "target"),
)
"""What a record (``source``, of the table ``kind``) rests on: one edge for each id in a field that holds several.
``relation`` is that field (``derived_from``, ``supports``, ``verdict_ids``, …). Derived from the records in the same
transaction; ``version`` is a lesson's version, else 0."""

changes = Table(
    "changes",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    _int("at"),
    _text("op"),
    _text("scope"),
    _text("kind"),
    _text("key"),
    _text("digest", null=True),
    _text("before_digest", null=True),
    _text("before", null=True),
    _text("actor"),
    _text("reason"),
    _int("batch"),
    _text("hash"),
    Index(None, "scope", "kind", "key"),
    Index(None, "batch"),
)
"""Every change to a record, in the transaction that made it, numbered without gaps from 1. ``hash`` covers the line and
the hash before it. ``before`` is the JSON that was replaced or deleted; the hash covers only its digest, so that it can
be forgotten. ``batch`` is the first change of the same ``put``: they are undone together."""

quarantine = Table(
    "quarantine",
    metadata,
    _text("id", key=True),
    _text("scope"),
    _text("source"),
    _text("format"),
    _int("line"),
    _text("reason"),
    Column("data", LargeBinary, nullable=False),
    _int("at"),
    Index(None, "scope", "at"),
)
"""Rows of imported files that could not be read, exactly as they were, with the reason."""

# --- the derived index ----------------------------------------------------------------------------------------------

index_outbox = Table(
    "index_outbox",
    metadata,
    _counter("seq"),
    _text("scope"),
    _text("op"),
    _text("lesson_id"),
    _int("version"),
    _int("at"),
    sqlite_autoincrement=True,
)
"""What the vector index has yet to hear: ``upsert`` or ``delete`` of a version of a lesson, in order."""

index_state = Table(
    "index_state",
    metadata,
    _text("scope", key=True),
    _text("name", key=True),
    _text("value"),
)

vectors = Table(
    "vectors",
    metadata,
    _text("scope", key=True),
    _text("lesson_id", key=True),
    Column("version", BigInteger, primary_key=True),
    _text("part", key=True),
    _text("embedder"),
    Column("data", LargeBinary, nullable=False),
)
"""The vectors of a lesson's version as little-endian float32: ``part`` is ``text`` or ``task``."""

# --- interrupted graphs ---------------------------------------------------------------------------------------------

checkpoints = Table(
    "checkpoints",
    metadata,
    _text("thread_id", key=True),
    _text("namespace", key=True),
    _text("id", key=True),
    _text("parent_id", null=True),
    _text("run_id"),
    _text("type"),
    Column("body", LargeBinary, nullable=False),
    Index(None, "run_id"),
)
"""``body`` is the checkpoint without its channels' values, and its metadata, as LangGraph's serializer writes them."""

checkpoint_values = Table(
    "checkpoint_values",
    metadata,
    _text("thread_id", key=True),
    _text("namespace", key=True),
    _text("channel", key=True),
    _text("version", key=True),
    _text("type"),
    Column("data", LargeBinary, nullable=False),
)
"""The value of a channel at a version: a channel that did not change is not written again."""

checkpoint_writes = Table(
    "checkpoint_writes",
    metadata,
    _text("thread_id", key=True),
    _text("namespace", key=True),
    _text("checkpoint_id", key=True),
    _text("task_id", key=True),
    Column("idx", Integer, primary_key=True),
    _text("task_path"),
    _text("channel"),
    _text("type"),
    Column("data", LargeBinary, nullable=False),
)
