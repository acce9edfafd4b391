"""The history of policies, in git's words: log, show, diff, blame, tag, rollback. It only grows.

    digest = await memory.policies.put(policy)
    await memory.policies.commit(policy, reason="by hand", actor="ada")
    print(await memory.policies.diff("head~1", "head"))
    await memory.policies.rollback("head~1", reason="worse on live tasks", actor="ada")

A policy is a tree of files, each kept once by its content. A promotion is the only way to move the head of a scope, and
moves it only from the incumbent it was decided against: who comes second gets a ``ConflictError``.
References: a digest or the beginning of one, a tag, ``head``, ``head~2`` (two moves of the head ago).

A policy's ``adapter`` names a blob, which has to be here before the policy is put in force. A folder that is exported
has it beside, as ``adapter.safetensors``, so that it can be committed to another store.
"""

import asyncio
import re
from collections.abc import Collection
from pathlib import Path

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from whet.core import Candidate, ConflictError, NotFoundError, Policy, Promotion, UserError, now_ms
from whet.core.adapters import describe
from whet.memory import schema
from whet.memory.blame import MOVES, blame, unified
from whet.memory.blobs import read_blob, write_blobs
from whet.memory.kinds import kind_of
from whet.memory.query import Query, find_rows
from whet.memory.rows import write_rows
from whet.memory.store import Store

__all__ = ["PolicyHistory"]

_REFERENCE = re.compile(r"head(?:~(\d{1,6}))?")
_TAG = re.compile(r"[A-Za-z][\w./-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{4,64}")
EMPTY = Policy().digest
ADAPTER_FILE = "adapter.safetensors"


class PolicyHistory:
    """The policies of a store, and the head, tags and promotions of one scope."""

    def __init__(self, store: Store, scope: str) -> None:
        self._store, self._scope = store, scope

    async def put(self, policy: Policy) -> str:
        """Returns the policy's digest after its files were stored; the head stays."""
        await self._store.write(lambda connection: write_tree(connection, policy))
        return policy.digest

    async def resolve(self, ref: str) -> str:
        """Returns the digest that a reference names.

        Raises:
            NotFoundError: nothing, or several policies, go by that name.
        """
        return await self._store.read(lambda connection: resolve(connection, self._scope, ref))

    async def get(self, ref: str) -> Policy:
        """Returns the policy that a reference names; raises like ``resolve``."""
        return await self._store.read(lambda connection: read_tree(connection, resolve(connection, self._scope, ref)))

    async def head(self) -> Policy:
        """Returns the policy in force; the empty one before the first promotion."""
        return await self.get("head")

    async def head_digest(self) -> str:
        """Returns the digest of the policy in force."""
        return await self.resolve("head")

    async def promote(self, promotion: Promotion) -> None:
        """Appends a decision to the log and, where it says so, moves the head from its incumbent to its policy.

        Raises:
            NotFoundError: the policy, or the adapter it names, is not stored.
            ConflictError: the head moved since the decision was made; nothing is written.
        """
        await self._store.write(lambda connection: append(connection, self._scope, promotion))

    async def log(self, limit: int | None = None) -> list[Promotion]:
        """Returns the decisions, newest first."""
        return await self._store.read(lambda connection: history(connection, self._scope, limit)[::-1])

    async def diff(self, a: str, b: str) -> str:
        """Returns what turns policy ``a`` into ``b`` as a unified diff, empty where they are equal."""
        return unified(await self.get(a), await self.get(b), "a", "b")

    async def blame(self, path: str, ref: str = "head") -> list[tuple[Promotion | None, str]]:
        """Returns for each line of a file the promotion that brought it in; ``None``: it was there before any.

        Raises:
            NotFoundError: the policy has no such file.
        """
        return await self._store.read(lambda connection: _blame(connection, self._scope, path, ref))

    async def tag(self, name: str, ref: str = "head") -> str:
        """Names a policy and returns its digest; a tag that exists moves.

        Raises:
            UserError: the name could be mistaken for a digest or for ``head``.
        """
        if not _TAG.fullmatch(name) or _REFERENCE.fullmatch(name) or _DIGEST.fullmatch(name):
            raise UserError(f"{name!r} cannot name a policy; begin with a letter, and not like a digest or 'head'")
        return await self._store.write(lambda connection: _tag(connection, self._scope, name, ref))

    async def tags(self) -> dict[str, str]:
        """Returns the tags and the digests they name."""
        table = schema.policy_tags
        query = select(table.c.name, table.c.policy).where(table.c.scope == self._scope).order_by(table.c.name)
        return await self._store.read(lambda connection: {line.name: line.policy for line in connection.execute(query)})

    async def rollback(self, ref: str, reason: str, actor: str) -> Promotion:
        """Puts an earlier policy in force again and returns the promotion that says so.

        Raises:
            UserError: no reason is given, or the policy is in force already.
            NotFoundError: the adapter it names is not stored.
        """
        return await self._move("rolled_back", await self.get(ref), reason, actor)

    async def commit(self, policy: Policy, reason: str, actor: str) -> Promotion:
        """Puts a policy that a person edited in force and returns the promotion; raises like ``rollback``."""
        return await self._move("committed", policy, reason, actor)

    async def export(self, ref: str, folder: str | Path) -> Path:
        """Writes the files of a policy, and its adapter, into a new or empty folder and returns it.

        Raises:
            UserError: the folder has something in it.
            NotFoundError: the policy or its adapter is not stored.
        """
        policy = await self.get(ref)
        weights = await self._store.read(lambda connection: _weights(connection, policy)) if policy.adapter else None
        return await asyncio.to_thread(write_folder, policy, Path(folder), weights)

    async def import_folder(self, folder: str | Path) -> Policy:
        """Returns the policy whose files lie in a folder, after storing it and its adapter; the head stays.

        Raises:
            UserError: there is no such folder, or a file in it is no part of a policy, or another adapter than it says.
        """
        policy, weights = await asyncio.to_thread(read_folder, Path(folder))
        await self._store.write(lambda connection: write_tree(connection, policy, *weights))
        return policy

    async def brought(self, adapter: str) -> Candidate | None:
        """Returns the candidate that first brought an adapter into a policy; ``None`` where a person did."""
        return await self._store.read(lambda connection: _brought(connection, self._scope, adapter))

    async def _move(self, decision: str, policy: Policy, reason: str, actor: str) -> Promotion:
        if not reason.strip():
            raise UserError("a change of the policy by hand needs a reason")
        return await self._store.write(
            lambda connection: _move_head(connection, self._scope, decision, policy, reason, actor)
        )


def write_folder(policy: Policy, target: Path, weights: bytes | None) -> Path:
    """Writes the files of a policy and its adapter into a folder; raises as ``PolicyHistory.export``."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{str(target)!r} is not an empty folder; name a new one")
    target.mkdir(parents=True, exist_ok=True)
    for path, data in policy.files.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(data)
    if weights is not None:
        (target / ADAPTER_FILE).write_bytes(weights)
    return target


def read_folder(folder: Path) -> tuple[Policy, list[bytes]]:
    """Returns the policy whose files lie in a folder, and its adapter; raises as ``PolicyHistory.import_folder``."""
    if not folder.is_dir():
        raise NotFoundError(f"no folder {str(folder)!r}")
    files: dict[str, str | bytes] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise UserError(f"{str(path)!r} is a link; a policy holds plain files only")
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    weights = files.pop(ADAPTER_FILE, None)
    if weights is None:
        return Policy.of(files), []
    assert isinstance(weights, bytes), "read as such"
    name = describe(weights).digest
    policy = Policy.of({"adapter": name, **files})
    if policy.adapter != name:
        raise UserError(
            f"{ADAPTER_FILE} in {str(folder)!r} is adapter {name[:12]!r}, and the file 'adapter' names "
            f"{policy.adapter[:12]!r}; delete the one that is not meant"
        )
    return policy, [weights]


# --- in a transaction -----------------------------------------------------------------------------------------------


def write_tree(connection: Connection, policy: Policy, *blobs: bytes) -> None:
    """Stores the files of a policy and further blobs; those that are stored already are left alone."""
    write_blobs(connection, blobs)
    table = schema.policy_trees
    if connection.scalar(select(table.c.policy).where(table.c.policy == policy.digest).limit(1)) is not None:
        return
    names = write_blobs(connection, policy.files.values())
    rows = [
        {"policy": policy.digest, "path": path, "blob": name} for path, name in zip(policy.files, names, strict=True)
    ]
    if rows:
        connection.execute(insert(table), rows)


def read_tree(connection: Connection, name: str) -> Policy:
    """Returns the policy of a digest; without files where the store has none of it."""
    trees, blobs = schema.policy_trees, schema.blobs
    query = select(trees.c.path, blobs.c.data).join(blobs, blobs.c.digest == trees.c.blob)
    found = connection.execute(query.where(trees.c.policy == name).order_by(trees.c.path))
    return Policy(files={path: bytes(data) for path, data in found})


def head(connection: Connection, scope: str) -> str:
    """Returns the digest of the policy in force."""
    table = schema.policy_heads
    found: str | None = connection.scalar(select(table.c.policy).where(table.c.scope == scope))
    return found or EMPTY


def history(connection: Connection, scope: str, limit: int | None = None) -> list[Promotion]:
    """Returns the promotions in the order they were appended, whatever their clocks said; with ``limit``, the last."""
    changes = schema.changes
    order = (
        select(changes.c.key)
        .where(changes.c.scope == scope, changes.c.kind == schema.promotions.name, changes.c.op == "insert")
        .order_by(changes.c.id.desc())
        .limit(limit)
    )
    ids = list(connection.scalars(order))[::-1]
    bodies = find_rows(connection, kind_of(Promotion), scope, Query(where={"id": ids}))
    found = {promotion.id: promotion for body in bodies if (promotion := msgspec.json.decode(body, type=Promotion))}
    return [found[id] for id in ids if id in found]


def resolve(connection: Connection, scope: str, ref: str) -> str:
    """Returns the digest that a reference names; raises as ``PolicyHistory.resolve``."""
    if match := _REFERENCE.fullmatch(ref):
        return _back(connection, scope, int(match.group(1) or 0))
    tags = schema.policy_tags
    tagged: str | None = connection.scalar(select(tags.c.policy).where(tags.c.scope == scope, tags.c.name == ref))
    if tagged is not None:
        return tagged
    if not _DIGEST.fullmatch(ref):
        raise NotFoundError(f"no policy {ref!r}; name a digest (4 digits or more), a tag, 'head' or 'head~N'")
    trees = schema.policy_trees
    begins = select(trees.c.policy).where(trees.c.policy >= ref, trees.c.policy < ref + "g").distinct().limit(3)
    found: list[str] = list(connection.scalars(begins))
    found += [EMPTY] if EMPTY.startswith(ref) else []
    if len(found) != 1:
        raise NotFoundError(f"{ref!r} begins {'several policies; give more of it' if found else 'no policy'}")
    return found[0]


def _back(connection: Connection, scope: str, steps: int) -> str:
    if not steps:
        return head(connection, scope)
    moves = [promotion for promotion in history(connection, scope) if promotion.decision in MOVES]
    if steps > len(moves):
        raise NotFoundError(f"no policy 'head~{steps}': the head moved {len(moves)} times")
    return moves[-steps].incumbent or EMPTY


def append(connection: Connection, scope: str, promotion: Promotion) -> None:
    """Appends a decision and moves the head; raises as ``PolicyHistory.promote``."""
    if promotion.decision in MOVES:
        trees = schema.policy_trees
        stored = connection.scalar(select(trees.c.policy).where(trees.c.policy == promotion.policy).limit(1))
        if stored is None and promotion.policy != EMPTY:
            raise NotFoundError(f"policy {promotion.policy!r} is not stored; put it before it is promoted")
        _check_adapter(connection, read_tree(connection, promotion.policy))
        current = head(connection, scope)
        if (promotion.incumbent or EMPTY) != current:
            raise ConflictError(
                f"the head is {current[:12]!r}, this decision was made against {promotion.incumbent[:12]!r}; "
                "compare with the head of now and decide again"
            )
        _set_head(connection, scope, promotion)
    write_rows(connection, [kind_of(Promotion).row(promotion, scope)], actor=promotion.actor, reason=promotion.reason)


def _check_adapter(connection: Connection, policy: Policy) -> None:
    table, name = schema.blobs, policy.adapter
    if name and connection.scalar(select(table.c.digest).where(table.c.digest == name)) is None:
        raise NotFoundError(
            f"policy {policy.digest[:12]!r} names adapter {name[:12]!r}, which is not in this store; export the policy "
            "where it is, and commit that folder"
        )


def _weights(connection: Connection, policy: Policy) -> bytes:
    _check_adapter(connection, policy)
    return read_blob(connection, policy.adapter)


def adapters_of(connection: Connection) -> dict[str, set[str]]:
    """Returns every adapter that a stored policy names, and the digests of those policies."""
    trees, blobs = schema.policy_trees, schema.blobs
    query = select(trees.c.policy, blobs.c.data).join(blobs, blobs.c.digest == trees.c.blob)
    found: dict[str, set[str]] = {}
    for policy, data in connection.execute(query.where(trees.c.path == "adapter")):
        found.setdefault(bytes(data).decode(errors="replace").strip(), set()).add(policy)
    return found


def of_others(connection: Connection, scope: str, names: Collection[str]) -> set[str]:
    """Returns those of the policies that another scope has in its history, or has candidates for."""
    found: set[str] = set()
    for table, columns in ((schema.promotions, ("policy", "incumbent")), (schema.candidates, ("policy", "parent"))):
        for column in (table.c[name] for name in columns):
            found |= set(connection.scalars(select(column).where(column.in_(sorted(names)), table.c.scope != scope)))
    return found


def _brought(connection: Connection, scope: str, adapter: str) -> Candidate | None:
    having = sorted(adapters_of(connection).get(adapter, ()))
    bodies = find_rows(connection, kind_of(Candidate), scope, Query(where={"policy": having})) if having else []
    found = [msgspec.json.decode(body, type=Candidate) for body in bodies]
    return next((candidate for candidate in found if candidate.parent not in having), None)


def _set_head(connection: Connection, scope: str, promotion: Promotion) -> None:
    table = schema.policy_heads
    values = {"policy": promotion.policy, "promotion_id": promotion.id, "at": promotion.at}
    changed = connection.execute(update(table).where(table.c.scope == scope).values(values))
    if not changed.rowcount:
        connection.execute(insert(table).values({"scope": scope, **values}))


def _move_head(connection: Connection, scope: str, decision: str, policy: Policy, reason: str, actor: str) -> Promotion:
    current = head(connection, scope)
    if policy.digest == current:
        raise UserError(f"policy {current[:12]!r} is in force already")
    write_tree(connection, policy)
    promotion = Promotion(
        decision="rolled_back" if decision == "rolled_back" else "committed",
        policy=policy.digest,
        incumbent=current,
        reason=reason,
        actor=actor,
        scope=scope,
    )
    append(connection, scope, promotion)
    return promotion


def _blame(connection: Connection, scope: str, path: str, ref: str) -> list[tuple[Promotion | None, str]]:
    policy = read_tree(connection, resolve(connection, scope, ref))
    if path not in policy.files:
        raise NotFoundError(f"policy {ref!r} has no file {path!r}; it has {', '.join(policy.files) or 'none'}")
    log = history(connection, scope)
    return blame(log, policy.digest, path, lambda name: read_tree(connection, name))


def _tag(connection: Connection, scope: str, name: str, ref: str) -> str:
    table, found = schema.policy_tags, resolve(connection, scope, ref)
    connection.execute(delete(table).where(table.c.scope == scope, table.c.name == name))
    connection.execute(insert(table).values(scope=scope, name=name, policy=found, at=now_ms()))
    return found
