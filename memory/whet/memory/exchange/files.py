"""The files of a format: reading one (or a folder of them) into a memory, and writing runs out.

report = await import_file(memory.store, "atif", "trajectories/")
count = await export_file(memory.store, "atif", "out/", run_ids=[run.id])
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec
from sqlalchemy import Connection

from whet.core import Json, NotFoundError, Run, Trust, UserError, encode
from whet.memory.exchange.atif import Atif
from whet.memory.exchange.exporting import export_documents, records
from whet.memory.exchange.format import Format
from whet.memory.exchange.ilf import Ilf
from whet.memory.exchange.importing import import_data
from whet.memory.exchange.mini_swe import MiniSwe
from whet.memory.exchange.openai import OpenAI
from whet.memory.exchange.report import ImportReport, combined
from whet.memory.exchange.whole import dump, load
from whet.memory.store import Store

__all__ = ["FORMATS", "export_file", "format_named", "import_file"]

FORMATS: Mapping[str, Callable[[], Format]] = MappingProxyType(
    {"openai": OpenAI, "atif": Atif, "mini-swe": MiniSwe, "ilf": Ilf}
)
"""Every format for runs, by the name it goes by."""
STORE = "store"
"""The name of everything a memory holds, which is no format for runs."""


def format_named(name: str) -> Format:
    """Returns the format of this name.

    Raises:
        UserError: there is none; the message lists them.
    """
    if name not in FORMATS:
        raise UserError(f"no format {name!r}; there is {', '.join(FORMATS)} and {STORE}")
    return FORMATS[name]()


async def import_file(
    store: Store,
    format: str | Format,
    path: str | Path,
    *,
    at: int | None = None,
    trust: Trust = "trusted",
    actor: str = "",
) -> ImportReport:
    """Writes what a file, or every file of the format in a folder, holds, in one transaction a file.

    ``at`` (UTC milliseconds, default now) is the time of records whose document has none; ``trust`` that of people's
    words in it. Runs in which tools spoke are tainted whatever it says. Rows that cannot be read go to the table
    ``quarantine``. The format ``store`` reads what ``export_file`` wrote as ``store``.

    Raises:
        NotFoundError: there is no such file.
        UserError: no such format, or the file cannot be read.
    """
    if format == STORE:
        data = await asyncio.to_thread(_read, Path(path))
        return await store.write(lambda connection: load(connection, store.scope, data, source=str(path), actor=actor))
    chosen = format_named(format) if isinstance(format, str) else format
    reports = []
    for file in await asyncio.to_thread(_files, Path(path), chosen):
        data = await asyncio.to_thread(_read, file)
        reports.append(await store.write(_work(store.scope, chosen, data, str(file), at, trust, actor)))
    return combined(reports, str(path))


def _work(
    scope: str, format: Format, data: bytes, source: str, at: int | None, trust: Trust, actor: str
) -> Callable[[Connection], ImportReport]:
    return lambda connection: import_data(
        connection, scope, format, data, source=source, at=at, trust=trust, actor=actor
    )


def _files(path: Path, format: Format) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.name.endswith(format.suffix))
    if not found:
        raise NotFoundError(f"no file in {str(path)!r} ends in {format.suffix!r}")
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"no file {str(path)!r}") from None
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}") from error


async def export_file(
    store: Store, format: str | Format, path: str | Path, *, run_ids: Sequence[str] | None = None
) -> int:
    """Writes runs to a file and returns how many; without ``run_ids``, every run that the format can hold.

    A format of one run a file (``atif``, ``mini-swe``) needs a folder when there are several, or a name that ends in
    ``.jsonl``: then there is one document a line. ``store`` writes everything of the scope, whatever the ``run_ids``.

    Raises:
        NotFoundError: a run is not stored.
        UserError: several runs do not fit into one file, or it cannot be written.
    """
    if format == STORE:
        lines = await store.read(lambda connection: list(dump(connection, store.scope)))
        await asyncio.to_thread(_write_lines, Path(path), lines)
        return await store.read(lambda connection: len(records(connection, Run, store.scope, {})))
    chosen, target = format_named(format) if isinstance(format, str) else format, Path(path)
    documents = await store.read(lambda connection: list(export_documents(connection, store.scope, chosen, run_ids)))
    await asyncio.to_thread(_write, target, chosen, [(run.id, document) for run, document in documents])
    return len(documents)


def _write_lines(target: Path, lines: Sequence[bytes]) -> None:
    try:
        target.write_bytes(b"".join(line + b"\n" for line in lines))
    except OSError as error:
        raise UserError(f"{str(target)!r} cannot be written: {error.strerror}") from error


def _write(target: Path, format: Format, documents: Sequence[tuple[str, Json]]) -> None:
    try:
        if format.suffix == ".jsonl" or target.suffix == ".jsonl":
            target.write_bytes(b"".join(encode(document) + b"\n" for _, document in documents))
        elif len(documents) == 1 and not target.is_dir():
            target.write_bytes(_pretty(documents[0][1]))
        else:
            _write_folder(target, format, documents)
    except OSError as error:
        raise UserError(f"{str(target)!r} cannot be written: {error.strerror}") from error


def _write_folder(folder: Path, format: Format, documents: Sequence[tuple[str, Json]]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"{len(documents)} runs of format {format.name!r} do not fit into the file {str(folder)!r}; "
            "name a folder, a file that ends in .jsonl, or one run"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for run_id, document in documents:
        (folder / f"{run_id}{format.suffix}").write_bytes(_pretty(document))


def _pretty(document: Json) -> bytes:
    return msgspec.json.format(encode(document), indent=2) + b"\n"
