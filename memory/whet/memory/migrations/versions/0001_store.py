"""The tables of a store."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import SchemaItem

revision = "0001"
down_revision = None

_RECORDS = {
    "actors": "kind name family",
    "tasks": "split task_set",
    "verifiers": "kind",
    "runs": "task_id agent policy model seed:int status purpose parent_id? actor? trust started_at:int ended_at:int?",
    "steps": "run_id seq:int node parent_id? kind tool at:int",
    "verdicts": "run_id task_id verifier outcome score:float kind actor? repetition:int environment at:int",
    "critiques": "run_id source step_id? sign at:int",
    "feedback": "kind source run_id? task_id? step_id? other_run_id? value:float? applies_when person? trust at:int",
    "failure_labels": "run_id label source at:int",
    "uses": "run_id item version kind at:int",
    "candidates": "policy parent learner trust at:int",
    "promotions": "decision policy incumbent candidate_id? actor at:int",
    "jobs": "kind status started_at:int ended_at:int?",
    "budget_events": "budget_id parent_id? reservation_id kind at:int",
}
"""Each has a scope and an id (its key), these columns, a digest and a body. ``?`` may be null; text where not said."""

_LESSONS = (
    "row:counter scope id version:int kind status source trust text applies_when task_text "
    "valid_from:int valid_to:int? digest body?"
)

_OTHERS = {
    "blobs": "*digest size:int data:bytes",
    "policy_trees": "*policy *path blob",
    "policy_tags": "*scope *name policy at:int",
    "policy_heads": "*scope policy promotion_id at:int",
    "lineage": "*scope *source *version:int *relation *target kind",
    "changes": "*id:number at:int op scope kind key digest? before_digest? before? actor reason batch:int hash",
    "quarantine": "*id scope source format line:int reason data:bytes at:int",
    "index_outbox": "seq:counter scope op lesson_id version:int at:int",
    "index_state": "*scope *name value",
    "vectors": "*scope *lesson_id *version:int *part embedder data:bytes",
    "checkpoints": "*thread_id *namespace *id parent_id? run_id type body:bytes",
    "checkpoint_values": "*thread_id *namespace *channel *version type data:bytes",
    "checkpoint_writes": "*thread_id *namespace *checkpoint_id *task_id *idx:small task_path channel type data:bytes",
}
"""``*`` marks the columns of the key."""

_INDEXES = {
    "tasks": ["scope task_set"],
    "runs": ["scope task_id", "scope started_at", "scope parent_id"],
    "steps": ["scope run_id seq"],
    "verdicts": ["scope run_id", "scope task_id", "scope at"],
    "critiques": ["scope run_id"],
    "feedback": ["scope run_id", "scope task_id", "scope person", "scope at"],
    "failure_labels": ["scope run_id"],
    "lessons": ["scope status", "scope valid_from"],
    "uses": ["scope run_id", "scope item"],
    "candidates": ["scope policy", "scope at"],
    "promotions": ["scope at"],
    "jobs": ["scope started_at"],
    "budget_events": ["scope budget_id"],
    "policy_trees": ["blob"],
    "lineage": ["scope target"],
    "changes": ["scope kind key", "batch"],
    "quarantine": ["scope at"],
    "checkpoints": ["run_id"],
}

_FTS = (
    "CREATE VIRTUAL TABLE lessons_fts USING fts5("
    "text, applies_when, task_text, content='lessons', content_rowid='row', tokenize='porter unicode61')",
    "CREATE TRIGGER lessons_fts_insert AFTER INSERT ON lessons BEGIN "
    "INSERT INTO lessons_fts(rowid, text, applies_when, task_text) "
    "VALUES (new.row, new.text, new.applies_when, new.task_text); END",
    "CREATE TRIGGER lessons_fts_delete AFTER DELETE ON lessons BEGIN "
    "INSERT INTO lessons_fts(lessons_fts, rowid, text, applies_when, task_text) "
    "VALUES ('delete', old.row, old.text, old.applies_when, old.task_text); END",
    "CREATE TRIGGER lessons_fts_update AFTER UPDATE OF text, applies_when, task_text ON lessons BEGIN "
    "INSERT INTO lessons_fts(lessons_fts, rowid, text, applies_when, task_text) "
    "VALUES ('delete', old.row, old.text, old.applies_when, old.task_text); "
    "INSERT INTO lessons_fts(rowid, text, applies_when, task_text) "
    "VALUES (new.row, new.text, new.applies_when, new.task_text); END",
)

_GIN = (
    "CREATE INDEX ix_lessons_search ON lessons "
    "USING gin (to_tsvector('english', text || ' ' || applies_when || ' ' || task_text))"
)


def upgrade() -> None:
    for name, columns in _RECORDS.items():
        _create(name, f"*scope *id {columns} digest body?")
    _create("lessons", _LESSONS, sa.UniqueConstraint("scope", "id", "version", name="uq_lessons_scope_id_version"))
    for name, columns in _OTHERS.items():
        _create(name, columns, *_constraints(name))
    for name, indexes in _INDEXES.items():
        for columns in indexes:
            op.create_index(f"ix_{name}_{columns.replace(' ', '_')}", name, columns.split())
    if op.get_context().dialect.name == "sqlite":
        for statement in _FTS:
            op.execute(statement)
    else:
        op.execute(_GIN)


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TABLE lessons_fts")
    for name in reversed([*_RECORDS, "lessons", *_OTHERS]):
        op.drop_table(name)


def _constraints(name: str) -> list[SchemaItem]:
    if name != "policy_trees":
        return []
    return [sa.ForeignKeyConstraint(["blob"], ["blobs.digest"], name="fk_policy_trees_blob")]


def _create(name: str, columns: str, *items: SchemaItem) -> None:
    made = [_column(column) for column in columns.split()]
    key = sa.PrimaryKeyConstraint(*(c.name for c in made if c.primary_key), name=f"pk_{name}")
    op.create_table(name, *made, key, *items, sqlite_autoincrement=name == "index_outbox")


def _column(spec: str) -> sa.Column[object]:
    name, _, kind = spec.strip("*?").partition(":")
    key = spec.startswith("*") or kind == "counter"
    return sa.Column(name, _type(kind), primary_key=key, autoincrement=kind == "counter", nullable=spec.endswith("?"))


def _type(kind: str) -> sa.types.TypeEngine[Any]:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    types: dict[str, sa.types.TypeEngine[Any]] = {
        "": text,
        "int": sa.BigInteger(),
        "counter": number,
        "number": number,
        "small": sa.Integer(),
    }
    return types.get(kind) or {"float": sa.Double(), "bytes": sa.LargeBinary()}[kind]
