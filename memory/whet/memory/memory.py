"""``Memory``: every run, verdict, critique, lesson and policy, in SQL; what is recalled comes from a derived index.

async with await Memory.open(".whet") as memory:
    await memory.put(task, run, verdict)
    runs = await memory.find(Run, where={"task_id": task.id})
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar, cast

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from whet.core import LessonKind, LessonStatus, Record, UserError
from whet.memory.blobs import read_blob, write_blobs
from whet.memory.changes import Change
from whet.memory.kinds import kind_of
from whet.memory.query import Query, Where, count_rows, find_rows, get_row
from whet.memory.recorder import Recorder
from whet.memory.rows import write_rows
from whet.memory.store import Store
from whet.memory.undo import audit, parse_change_id, read_changes, undo

if TYPE_CHECKING:
    from whet.memory.checkpoint import Checkpointer
    from whet.memory.embedders import Embedder
    from whet.memory.forget import ForgetPlan
    from whet.memory.index import Backend, Index
    from whet.memory.lessons import Lessons
    from whet.memory.lineage import UsedBy, Why
    from whet.memory.policies import PolicyHistory
    from whet.memory.purge import ForgetReport
    from whet.memory.recall import Recall, Recalled
    from whet.memory.worth import Worth

__all__ = ["Memory"]

R = TypeVar("R", bound=Record)


class Memory:
    """What an agent has lived through, in one scope of one store. Made by ``Memory.open``.

    Reading sees everything that was put or recorded before it in this process. Nothing is overwritten unseen: every
    change is a line of the change log, in the same transaction.
    """

    def __init__(self, store: Store, *, embedder: "Embedder | None" = None, index: "Backend" = "auto") -> None:
        self.store = store
        self.scope = store.scope
        self.recorder = Recorder(store.writer, store.scope)
        self._embedder = embedder
        self._backend = index

    @classmethod
    async def open(
        cls,
        url: str | Path = ".whet",
        *,
        embedder: "Embedder | None" = None,
        scope: str = "default",
        read_only: bool = False,
        index: "Backend" = "auto",
    ) -> Self:
        """Returns the memory in a folder (SQLite) or at a SQLAlchemy URL (``postgresql+asyncpg://…``).

        It is created where there is none, and migrated. ``?timeout=SECONDS`` in a URL limits the wait for a lock.
        ``embedder`` and ``index`` are for ``recall``: see ``whet.memory.embedders`` and ``whet.memory.index``.

        Raises:
            UserError: no such kind of URL.
            NotFoundError: there is no store, and ``read_only`` makes none.
            StoreError: it cannot be opened.
            RefusedError: it was written by a later version of Whet.
        """
        return cls(await Store.open(url, scope=scope, read_only=read_only), embedder=embedder, index=index)

    async def close(self) -> None:
        """Writes what was recorded and closes the store; may be called again."""
        if "index" in self.__dict__:
            self.index.close()
        await self.store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    # --- records ----------------------------------------------------------------------------------------------------

    async def put(self, *records: Record, actor: str = "", reason: str = "") -> None:
        """Writes the records in one transaction and returns when they are durable; what is stored stays as it is.

        A ``Run``, ``Job`` or ``Actor`` with a stored id replaces the stored one; of a ``Lesson`` a new version is
        added, and an old one can only be closed (``valid_to``). Other records never change.

        Raises:
            ConflictError: a record that never changes is stored under this id with other content; nothing was written.
            UserError: a record is of a kind that is not kept, belongs to another scope, or cannot be kept as JSON.
        """
        rows = [kind_of(type(record)).row(record, self.scope) for record in records]
        await self.store.write(lambda connection: write_rows(connection, rows, actor=actor, reason=reason))

    async def get(self, kind: type[R], id: str) -> R:
        """Returns the record with this id, or the only one whose id begins so; of a lesson, the newest version.

        Raises:
            NotFoundError: there is none, or the beginning fits several.
        """
        place = kind_of(kind)
        body = await self.store.read(lambda connection: get_row(connection, place, self.scope, id))
        return cast(R, place.decode(body))

    async def find(
        self,
        kind: type[R],
        where: Where | None = None,
        *,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[R]:
        """Returns the records of a kind for which all of ``where`` holds, in order of time; a list means any of it.

        ``since`` (inclusive) and ``until`` (exclusive) are UTC milliseconds. Steps come in the order of their runs.

        Raises:
            UserError: a name in ``where`` cannot be filtered, or a value has the wrong type.
        """
        place = kind_of(kind)
        query = Query(where or {}, since, until, limit, newest_first)
        bodies = await self.store.read(lambda connection: find_rows(connection, place, self.scope, query))
        return [cast(R, place.decode(body)) for body in bodies]

    async def count(
        self, kind: type[Record], where: Where | None = None, *, since: int | None = None, until: int | None = None
    ) -> int:
        """Returns how many records ``find`` would return."""
        place, query = kind_of(kind), Query(where or {}, since, until)
        return await self.store.read(lambda connection: count_rows(connection, place, self.scope, query))

    async def put_blob(self, data: bytes) -> str:
        """Returns the SHA-256 of the bytes, after they were stored."""
        return (await self.store.write(lambda connection: write_blobs(connection, [data])))[0]

    async def get_blob(self, digest: str) -> bytes:
        """Returns the bytes of a digest.

        Raises:
            NotFoundError: the store has none.
        """
        return await self.store.read(lambda connection: read_blob(connection, digest))

    async def adapter(self, digest: str) -> Path:
        """Returns the peft folder of the adapter that a policy names, unpacked beside the store; a cache, made once.

        Raises:
            NotFoundError: the store has no such blob.
            UserError: the blob is no adapter.
        """
        from whet.memory.adapters import unpacked

        return await unpacked(self.store, digest)

    # --- changes ----------------------------------------------------------------------------------------------------

    async def changes(self, *, limit: int | None = None, since: int | None = None) -> list[Change]:
        """Returns the changes to the records of this scope, newest first; ``since`` in UTC milliseconds."""
        return await self.store.read(lambda connection: read_changes(connection, self.scope, limit=limit, since=since))

    async def undo(self, change: int | str, *, actor: str = "", reason: str = "") -> None:
        """Takes back a change, and those made by the same ``put``; the log keeps both.

        Raises:
            NotFoundError: no such change.
            ConflictError: one of the records was changed again since.
            RefusedError: it made a promotion, or what was there before is forgotten.
        """
        id = parse_change_id(change)
        await self.store.write(lambda connection: undo(connection, self.scope, id, actor=actor, reason=reason))

    async def audit(self) -> list[str]:
        """Returns what is wrong with the store (altered log, lost or altered rows), one line each; reads all of it."""
        return await self.store.read(audit)

    async def query(self, sql: str) -> list[dict[str, object]]:
        """Returns the rows of a SQL query; it runs in a transaction that cannot write.

        Raises:
            UserError: the database does not understand it, it tries to write, or it returns no rows.
        """
        return await self.store.read(lambda connection: _query(connection, sql))

    # --- what is learned --------------------------------------------------------------------------------------------

    async def recall(
        self,
        query: str,
        *,
        k: int = 8,
        kinds: Sequence[LessonKind] | None = None,
        statuses: Sequence[LessonStatus] = ("active",),
        explain: bool = False,
        person: str | None = None,
    ) -> "list[Recalled]":
        """Returns up to ``k`` lessons for a task's text, best first; none where nothing has to do with it.

        By meaning and by words, proven ones first, no two alike; how is in ``whet.memory.recall``. Left out are lessons
        with an exception (``not_when``) that holds for the text, and those about another person than ``person``. Where
        the embedder cannot be reached, words alone decide.

        Raises:
            RefusedError: the index was made by another embedder.
        """
        return await self._recall.find(query, k=k, kinds=kinds, statuses=statuses, explain=explain, person=person)

    async def worth(self, item: str) -> "Worth":
        """Returns what showing a lesson (its id) or a skill (``skill:NAME``) is worth against withholding it."""
        from whet.memory.worth import worths

        return (await self.store.read(lambda connection: worths(connection, self.scope, [item])))[item]

    async def why(self, id: str) -> "Why":
        """Returns what a lesson rests on, with the verdicts of those runs, and what it is worth.

        Raises:
            NotFoundError: there is no such lesson.
        """
        from whet.memory.lineage import why

        return await self.store.read(lambda connection: why(connection, self.scope, id))

    async def used_by(self, item: str) -> "UsedBy":
        """Returns the uses of a lesson (or ``skill:NAME``) and the lessons, candidates and promotions resting on it.

        Raises:
            NotFoundError: there is no such lesson.
        """
        from whet.memory.lineage import used_by

        return await self.store.read(lambda connection: used_by(connection, self.scope, item))

    @cached_property
    def lessons(self) -> "Lessons":
        """How lessons come in, become active and change: add, admit, approve, revise, merge, retire, quarantine."""
        from whet.memory.lessons import Lessons

        return Lessons(self.store, self.scope)

    @cached_property
    def policies(self) -> "PolicyHistory":
        """The history of policies: log, show, diff, blame, tag, rollback."""
        from whet.memory.policies import PolicyHistory

        return PolicyHistory(self.store, self.scope)

    @cached_property
    def index(self) -> "Index":
        """The derived index behind ``recall``: status, verify, rebuild."""
        from whet.memory.embedders import HashedNgrams
        from whet.memory.index import Index

        return Index(self.store, self._embedder or HashedNgrams(), self._backend)

    @cached_property
    def _recall(self) -> "Recall":
        from whet.memory.recall import Recall

        return Recall(self.store, self.index)

    async def forget_plan(
        self, *, person: str | None = None, run_ids: Sequence[str] = (), feedback_ids: Sequence[str] = ()
    ) -> "ForgetPlan":
        """Returns everything that holds or rests on the data of a person, runs or feedback; nothing is done yet.

        Raises:
            UserError: nothing is asked for.
            NotFoundError: a run or feedback is not stored, or nothing is of that person.
        """
        from whet.memory.forget import make_plan

        return await self.store.read(
            lambda connection: make_plan(
                connection, self.scope, person=person, run_ids=run_ids, feedback_ids=feedback_ids
            )
        )

    async def forget(self, plan: "ForgetPlan", reason: str, *, actor: str = "") -> "ForgetReport":
        """Carries out a plan and returns what was done, with the search of the store's files that proves it.

        Raises:
            UserError: no reason is given.
            ConflictError: the store changed since the plan was made.
        """
        from whet.memory.purge import forget

        self.index.close()
        return await forget(self.store, plan, reason=reason, actor=actor, index=self.index.folder)

    # --- the rest ---------------------------------------------------------------------------------------------------

    @cached_property
    def checkpointer(self) -> "Checkpointer":
        """Keeps and resumes LangGraph graphs on the same store: ``graph.compile(checkpointer=memory.checkpointer)``."""
        from whet.memory.checkpoint import Checkpointer

        return Checkpointer(self.store)


def _query(connection: Connection, sql: str) -> list[dict[str, object]]:
    try:
        result = connection.execute(text(sql.replace(":", r"\:")))
    except DBAPIError as error:
        reason = str(error.orig).splitlines()[0]
        raise UserError(f"the database refused the query ({reason}); it takes SELECT statements only") from error
    if not result.returns_rows:
        raise UserError("the statement returns no rows; query only reads: write a SELECT")
    return [dict(line) for line in result.mappings()]
