"""Carrying out a plan to forget: what one transaction can do, then what the files need, then the proof."""

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, delete, select, update

from whet.core import ConflictError, Promotion, Record, UserError
from whet.memory import chroma, policies, schema
from whet.memory.adapters import sweep
from whet.memory.database import Address
from whet.memory.evidence import chunks
from whet.memory.forget import ForgetPlan, clean_head, make_plan
from whet.memory.kinds import KINDS
from whet.memory.lessons import newest, revise
from whet.memory.lineage import read
from whet.memory.proof import holding, search_files, store_files
from whet.memory.rows import delete_rows
from whet.memory.store import Store

__all__ = ["ForgetReport", "apply_plan", "clean_files", "forget", "prove"]


class ForgetReport(Record, frozen=True, kw_only=True):
    """What was forgotten, and the proof. ``purged`` counts records by kind; ``rederived`` are ids of lessons.

    ``searched``: the files whose bytes were searched for ``marks`` pieces of the text, with their size; ``left``: where
    one was found, as (file or table, piece), empty when it is proved. ``note`` says what could not be searched.
    """

    purged: dict[str, int]
    rederived: tuple[str, ...]
    vectors: int
    head: str
    head_moved: bool
    policies: tuple[str, ...]
    marks: int
    searched: tuple[tuple[str, int], ...]
    left: tuple[tuple[str, str], ...]
    note: str = ""

    @property
    def proved(self) -> bool:
        """Whether all the places where the text could be were searched, and had nothing."""
        return not self.left and not self.note


def apply_plan(connection: Connection, scope: str, plan: ForgetPlan, reason: str, actor: str) -> str:
    """Does in a transaction what the plan says; returns the id of the promotion that moved the head, or nothing.

    Where nothing of what should go is there any more, the plan was carried out before, and nothing is done.

    Raises:
        ConflictError: the store changed since the plan was made; nothing was done.
    """
    if not any(read(connection, k.record, scope, "id", plan.ids("purge", k.name)) for k in KINDS.values()):
        return ""
    fresh = make_plan(connection, scope, person=plan.person, run_ids=plan.run_ids, feedback_ids=plan.feedback_ids)
    if (set(fresh.items), fresh.policy) != (set(plan.items), plan.policy):
        raise ConflictError("the store changed since this plan was made; make a new plan and look at it")
    gone = {item.id for item in plan.items if item.action == "purge"}
    head = _move_head(connection, scope, plan, reason, actor)
    for id in plan.ids("rederive", "lessons"):
        _drop_evidence(connection, scope, id, gone, reason, actor)
    digests = _delete_records(connection, scope, plan, reason, actor)
    digests |= _delete_trees(connection, scope, plan)
    digests |= set(plan.ids("purge", "adapters"))
    _delete_checkpoints(connection, plan.ids("purge", "runs"))
    _delete_rest(connection, scope, plan)
    _delete_blobs(connection, digests)
    return head


def _move_head(connection: Connection, scope: str, plan: ForgetPlan, reason: str, actor: str) -> str:
    change = plan.policy
    if change.head == change.head_after:
        return ""
    clean = clean_head(connection, scope, change)
    policies.write_tree(connection, clean)
    promotion = Promotion(
        decision="committed",
        policy=clean.digest,
        incumbent=change.head,
        reason=f"without what rested on forgotten data: {reason}",
        actor=actor,
        scope=scope,
    )
    policies.append(connection, scope, promotion)
    return promotion.id


def _drop_evidence(connection: Connection, scope: str, id: str, gone: set[str], reason: str, actor: str) -> None:
    """Writes a version that rests on the rest; an active one has to be admitted again."""
    old = newest(connection, scope, id)
    new = msgspec.structs.replace(
        old,
        derived_from=tuple(each for each in old.derived_from if each not in gone),
        supports=tuple(each for each in old.supports if each not in gone),
        contradicts=tuple(each for each in old.contradicts if each not in gone),
        status="proposed" if old.status == "active" else old.status,
    )
    if new != old:
        revise(connection, scope, old, new, f"evidence forgotten: {reason}", actor)


def _delete_records(connection: Connection, scope: str, plan: ForgetPlan, reason: str, actor: str) -> set[str]:
    """Deletes the records and what the change log kept of them; returns digests whose blobs may be needless now."""
    digests: set[str] = set()
    for kind in KINDS.values():
        ids = plan.ids("purge", kind.name)
        rows = [kind.row(record, scope) for record in read(connection, kind.record, scope, "id", ids)]
        delete_rows(connection, rows, actor=actor, reason=reason, keep=False)
        digests |= {row.digest for row in rows}
        for part in chunks(row.key for row in rows):
            log = schema.changes
            where = (log.c.scope == scope, log.c.kind == kind.name, log.c.key.in_(part))
            digests |= set(
                connection.scalars(select(log.c.before_digest).where(*where, log.c.before_digest.is_not(None)))
            )
            connection.execute(update(log).where(*where).values(before=None))
    return digests


def _delete_trees(connection: Connection, scope: str, plan: ForgetPlan) -> set[str]:
    """Deletes the trees of policies, but those that another scope has or may have; returns their blobs."""
    trees, tags = schema.policy_trees, schema.policy_tags
    blobs: set[str] = set()
    names = set(plan.policy.policies)
    for name in sorted(names - policies.of_others(connection, scope, names)):
        files = policies.read_tree(connection, name)
        blobs |= set(connection.scalars(select(trees.c.blob).where(trees.c.policy == name)))
        blobs |= {files.adapter} - {""}
        connection.execute(delete(trees).where(trees.c.policy == name))
        connection.execute(delete(tags).where(tags.c.policy == name))
    return blobs


def _delete_checkpoints(connection: Connection, run_ids: Sequence[str]) -> None:
    table = schema.checkpoints
    for part in chunks(run_ids):
        threads = list(connection.scalars(select(table.c.thread_id).where(table.c.run_id.in_(part)).distinct()))
        for each in (schema.checkpoint_writes, schema.checkpoint_values, table):
            connection.execute(delete(each).where(each.c.thread_id.in_(threads)))


def _delete_rest(connection: Connection, scope: str, plan: ForgetPlan) -> None:
    """Deletes vectors of lessons that went, and quarantined rows that hold the text."""
    vectors, quarantine = schema.vectors, schema.quarantine
    for part in chunks(plan.ids("purge", "lessons")):
        connection.execute(delete(vectors).where(vectors.c.scope == scope, vectors.c.lesson_id.in_(part)))
    pieces = [mark.encode() for mark in plan.marks]
    for id, data in connection.execute(select(quarantine.c.id, quarantine.c.data)).all():
        if any(piece in bytes(data) for piece in pieces):
            connection.execute(delete(quarantine).where(quarantine.c.id == id))


def _delete_blobs(connection: Connection, digests: set[str]) -> None:
    """Deletes the blobs among these that nothing needs any more."""
    needing: list[tuple[Table, ColumnElement[str]]] = [(kind.table, kind.table.c.digest) for kind in KINDS.values()]
    needing += [(schema.verifiers, schema.verifiers.c.digest), (schema.policy_trees, schema.policy_trees.c.blob)]
    adapters = set(policies.adapters_of(connection))
    for part in chunks(sorted(digests - adapters)):
        needed: set[str] = set()
        for table, column in needing:
            query = select(column).where(column.in_(part))
            needed |= set(connection.scalars(query.where(table.c.body.is_(None)) if "body" in table.c else query))
        connection.execute(delete(schema.blobs).where(schema.blobs.c.digest.in_(sorted(set(part) - needed))))


# --- after the transaction ------------------------------------------------------------------------------------------


def clean_files(address: Address) -> str:
    """Makes a SQLite file forget what its free pages, its full-text index and its log still hold.

    Returns what could not be done, or nothing.
    """
    if address.folder is None:
        return "the files of a PostgreSQL server cannot be searched from here; run VACUUM FULL and let old WAL expire"
    connection = sqlite3.connect(address.name, isolation_level=None, timeout=address.timeout)
    try:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("INSERT INTO lessons_fts(lessons_fts) VALUES ('rebuild')")
        connection.execute("VACUUM")
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError as error:
        return f"the file could not be cleaned ({error}); {_AGAIN}"
    finally:
        connection.close()
    return f"the store is being read, its log could not be emptied; {_AGAIN}" if busy else ""


def _drop_index(folder: Path | None, plan: ForgetPlan) -> str:
    """Deletes what Chroma keeps where vectors went: it is made again from SQL. Returns what could not be done."""
    if folder is None or not plan.vectors:
        return ""
    try:
        chroma.delete(folder)
    except ConflictError as error:
        return f"{error}; vectors of forgotten lessons may be in it, no text is"
    return ""


_AGAIN = "the records are gone, their bytes may not be: close other readers and carry the plan out again"


def prove(
    connection: Connection, address: Address, plan: ForgetPlan
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, str], ...]]:
    """Returns the files that were searched with their sizes, and what was found where: (file or table, piece)."""
    left = [(kind, mark) for mark, places in holding(connection, plan.marks).items() for kind, *_ in places]
    files = store_files(address)
    left += [(str(path), mark) for path, mark in search_files(files, plan.marks)]
    left += [(str(path), "weights of a forgotten adapter") for path, _ in search_files(files, plan.weights)]
    return tuple((str(path), path.stat().st_size) for path in files), tuple(left)


async def forget(store: Store, plan: ForgetPlan, *, reason: str, actor: str, index: Path | None) -> ForgetReport:
    """Carries out a plan and proves it; ``index`` is the folder of Chroma's. Raises as ``Memory.forget``."""
    if not reason.strip():
        raise UserError("forgetting needs a reason; it is all that the change log will say")
    moved = await store.write(lambda connection: apply_plan(connection, store.scope, plan, reason, actor))
    await asyncio.to_thread(sweep, store)
    notes = [await asyncio.to_thread(clean_files, store.address), await asyncio.to_thread(_drop_index, index, plan)]
    if plan.texts and not plan.marks:
        notes.append("every piece of the text is short or said elsewhere too, so there was nothing to search for")
    searched, left = await store.read(lambda connection: prove(connection, store.address, plan))
    return ForgetReport(
        purged=plan.counts(),
        rederived=tuple(plan.ids("rederive", "lessons")),
        vectors=plan.vectors,
        head=plan.policy.head_after,
        head_moved=bool(moved),
        policies=plan.policy.policies,
        marks=len(plan.marks),
        searched=searched,
        left=left,
        note="; ".join(filter(None, notes)),
    )
