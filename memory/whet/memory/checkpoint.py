"""``Checkpointer``: LangGraph's interrupted graphs on the same store as everything else.

    graph = builder.compile(checkpointer=memory.checkpointer)
    await graph.ainvoke(inputs, {"configurable": {"thread_id": run.id}})

Checkpoints go through the one writer, in order with the records of the run, so that after a crash both end at the same
step. In LangGraph's default durability ("async") a checkpoint is queued and durable some 10 ms later, together with its
neighbours; with ``durability="sync"`` or ``"exit"`` the graph waits for the disk.
"""

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from sqlalchemy import Connection

from whet.core import UserError
from whet.memory import savepoints
from whet.memory.savepoints import Save, Wanted
from whet.memory.store import Store
from whet.memory.writer import Receipt

__all__ = ["Checkpointer"]

_DURABILITY = "__pregel_durability"
"""Where LangGraph tells a saver which durability the caller of the graph asked for."""

_REMEMBERED = 256


class Checkpointer(BaseCheckpointSaver[str]):
    """Saves and loads the checkpoints of LangGraph graphs. Threads are shared by all scopes of a store.

    Reading waits for what this process queued for the same thread. A checkpoint that could not be written is reported
    at the next call for its thread (and by ``recorder.flush``).
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._queued: dict[str, Receipt] = {}

    # --- saving -----------------------------------------------------------------------------------------------------

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Returns the config of the checkpoint, which is queued, or durable where the graph asked for that."""
        thread, namespace = _place(config)
        receipt = self._queue(thread, self._save(config, checkpoint, metadata, new_versions))
        if _must_wait(config):
            receipt.result()
        return _config(thread, namespace, checkpoint["id"])

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Like ``put``."""
        thread, namespace = _place(config)
        receipt = self._queue(thread, self._save(config, checkpoint, metadata, new_versions))
        if _must_wait(config):
            await receipt
        return _config(thread, namespace, checkpoint["id"])

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Queues what a task wrote on top of a checkpoint, or makes it durable where the graph asked for that."""
        receipt = self._queue(_place(config)[0], self._writes(config, writes, task_id, task_path))
        if _must_wait(config):
            receipt.result()

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Like ``put_writes``."""
        receipt = self._queue(_place(config)[0], self._writes(config, writes, task_id, task_path))
        if _must_wait(config):
            await receipt

    def _queue(self, thread: str, save: Save) -> Receipt:
        last = self._queued.get(thread)
        if last is not None and last.done():
            last.result()
        if len(self._queued) >= _REMEMBERED:
            for name in [name for name, receipt in self._queued.items() if receipt.done()]:
                self._queued.pop(name, None)
        self._queued[thread] = receipt = self._store.writer.queue(savepoints.write_saves, save)
        return receipt

    def _save(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Save:
        thread, namespace = _place(config)
        about = get_serializable_checkpoint_metadata(config, metadata)
        values = checkpoint["channel_values"]
        type, body = self.serde.dumps_typed([{**checkpoint, "channel_values": {}}, about])
        line: dict[str, object] = {
            "thread_id": thread,
            "namespace": namespace,
            "id": checkpoint["id"],
            "parent_id": get_checkpoint_id(config),
            "run_id": str(about.get("run_id", "")),
            "type": type,
            "body": body,
        }
        changed = [
            self._value(thread, namespace, channel, str(version), values[channel])
            for channel, version in new_versions.items()
            if channel in values
        ]
        return Save(checkpoint=line, values=changed)

    def _value(self, thread: str, namespace: str, channel: str, version: str, value: object) -> dict[str, object]:
        type, data = self.serde.dumps_typed(value)
        place = {"thread_id": thread, "namespace": namespace, "channel": channel, "version": version}
        return {**place, "type": type, "data": data}

    def _writes(self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str) -> Save:
        thread, namespace = _place(config)
        id = get_checkpoint_id(config)
        lines: list[dict[str, object]] = []
        for position, (channel, value) in enumerate(writes):
            type, data = self.serde.dumps_typed(value)
            lines.append(
                {
                    "thread_id": thread,
                    "namespace": namespace,
                    "checkpoint_id": id,
                    "task_id": task_id,
                    "idx": WRITES_IDX_MAP.get(channel, position),
                    "task_path": task_path,
                    "channel": channel,
                    "type": type,
                    "data": data,
                }
            )
        special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        return Save(special=lines) if special else Save(writes=lines)

    # --- loading ----------------------------------------------------------------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Returns the checkpoint that the config names, or the newest of its thread; ``None`` where there is none."""
        thread, namespace = _place(config)
        self._settle(thread)
        wanted = Wanted(thread, namespace, get_checkpoint_id(config))
        return self._store.read_now(lambda connection: self._first(connection, wanted), settle=False)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Like ``get_tuple``."""
        thread, namespace = _place(config)
        if (last := self._queued.pop(thread, None)) is not None:
            await last
        wanted = Wanted(thread, namespace, get_checkpoint_id(config))
        return await self._store.read(lambda connection: self._first(connection, wanted), settle=False)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yields the checkpoints of a thread (of all without a config), newest first, whose metadata has ``filter``."""
        wanted = _wanted(config, before)
        yield from self._store.read_now(lambda connection: self._some(connection, wanted, filter or {}, limit))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Like ``list``."""
        wanted = _wanted(config, before)
        for found in await self._store.read(lambda connection: self._some(connection, wanted, filter or {}, limit)):
            yield found

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Returns a version above ``current``; two forks of a thread never make the same one."""
        last = int(current.partition(".")[0]) if current is not None else 0
        return f"{last + 1:016}.{secrets.token_hex(4)}"

    def _settle(self, thread: str) -> None:
        if (last := self._queued.pop(thread, None)) is not None:
            last.result()

    def _first(self, connection: Connection, wanted: Wanted) -> CheckpointTuple | None:
        return next(iter(self._some(connection, wanted, {}, 1)), None)

    def _some(
        self, connection: Connection, wanted: Wanted, filter: dict[str, Any], limit: int | None
    ) -> Sequence[CheckpointTuple]:
        found: list[CheckpointTuple] = []
        for line in savepoints.find_checkpoints(connection, wanted, None if filter else limit).all():
            if limit is not None and len(found) >= limit:
                break
            checkpoint, metadata = self.serde.loads_typed((line.type, line.body))
            if all(metadata.get(name) == value for name, value in filter.items()):
                found.append(
                    self._tuple(connection, line.thread_id, line.namespace, line.parent_id, checkpoint, metadata)
                )
        return found

    def _tuple(
        self,
        connection: Connection,
        thread: str,
        namespace: str,
        parent: str | None,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
    ) -> CheckpointTuple:
        versions = {channel: str(version) for channel, version in checkpoint["channel_versions"].items()}
        values = savepoints.read_values(connection, thread, namespace, versions)
        writes = savepoints.read_writes(connection, thread, namespace, checkpoint["id"])
        loads = self.serde.loads_typed
        return CheckpointTuple(
            config=_config(thread, namespace, checkpoint["id"]),
            checkpoint={**checkpoint, "channel_values": {name: loads(value) for name, value in values.items()}},
            metadata=metadata,
            parent_config=_config(thread, namespace, parent) if parent else None,
            pending_writes=[(task, channel, loads((type, data))) for task, channel, type, data in writes],
        )

    # --- deleting ---------------------------------------------------------------------------------------------------

    def delete_thread(self, thread_id: str) -> None:
        """Deletes every checkpoint of a thread."""
        self._store.write_now(lambda connection: savepoints.delete_thread(connection, thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """Like ``delete_thread``."""
        await self._store.write(lambda connection: savepoints.delete_thread(connection, thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Deletes the checkpoints that were made by these runs (``run_id`` of their metadata)."""
        self._store.write_now(lambda connection: savepoints.delete_runs(connection, run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Like ``delete_for_runs``."""
        await self._store.write(lambda connection: savepoints.delete_runs(connection, run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copies every checkpoint of a thread to another."""
        self._store.write_now(lambda connection: savepoints.copy_thread(connection, source_thread_id, target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Like ``copy_thread``."""
        await self._store.write(
            lambda connection: savepoints.copy_thread(connection, source_thread_id, target_thread_id)
        )

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Deletes what is not needed to go on: all but the newest checkpoint of each namespace of these threads.

        Older ones that the newest is rebuilt from (LangGraph's delta channels) stay. ``strategy="delete"`` deletes all.

        Raises:
            UserError: another strategy.
        """
        _check_strategy(strategy)
        self._store.write_now(lambda connection: self._prune(connection, thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Like ``prune``."""
        _check_strategy(strategy)
        await self._store.write(lambda connection: self._prune(connection, thread_ids, strategy))

    def _prune(self, connection: Connection, thread_ids: Sequence[str], strategy: str) -> None:
        for thread in thread_ids:
            if strategy == "delete":
                savepoints.delete_thread(connection, thread)
                continue
            found = self._some(connection, Wanted(thread), {}, None)
            for namespace in {_place(each.config)[1] for each in found}:
                self._keep_latest(connection, thread, namespace, [e for e in found if _place(e.config)[1] == namespace])

    def _keep_latest(
        self, connection: Connection, thread: str, namespace: str, found: Sequence[CheckpointTuple]
    ) -> None:
        kept = _needed(found)
        ids = {each.checkpoint["id"] for each in kept}
        gone = [(thread, namespace, id) for each in found if (id := each.checkpoint["id"]) not in ids]
        savepoints.delete_checkpoints(connection, gone)
        values = {(name, str(version)) for e in kept for name, version in e.checkpoint["channel_versions"].items()}
        savepoints.keep_values(connection, thread, namespace, values)


def _needed(found: Sequence[CheckpointTuple]) -> list[CheckpointTuple]:
    """Returns the newest checkpoint and those that its delta channels are rebuilt from, up to their last snapshot."""
    by_id = {each.checkpoint["id"]: each for each in found}
    here: CheckpointTuple | None = found[0]
    missing = set(found[0].metadata.get("counters_since_delta_snapshot", {}))
    kept: list[CheckpointTuple] = []
    while here is not None:
        kept.append(here)
        missing -= set(here.checkpoint["channel_values"])
        parent = get_checkpoint_id(here.parent_config) if here.parent_config else None
        here = by_id.get(parent) if missing and parent else None
    return kept


def _check_strategy(strategy: str) -> None:
    if strategy not in ("keep_latest", "delete"):
        raise UserError(f"{strategy!r} is no strategy to prune with; there is 'keep_latest' and 'delete'")


def _place(config: RunnableConfig) -> tuple[str, str]:
    place = config["configurable"]
    return str(place["thread_id"]), place.get("checkpoint_ns", "")


def _config(thread: str, namespace: str, id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": id}}


def _wanted(config: RunnableConfig | None, before: RunnableConfig | None) -> Wanted:
    end = get_checkpoint_id(before) if before else None
    if config is None:
        return Wanted(before=end)
    place = config["configurable"]
    return Wanted(str(place["thread_id"]), place.get("checkpoint_ns"), get_checkpoint_id(config), end)


def _must_wait(config: RunnableConfig) -> bool:
    durability: str = config["configurable"].get(_DURABILITY, "async")
    return durability != "async"
