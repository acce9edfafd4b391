"""A database: runs work in transactions, and names what goes wrong by the errors of Whet.

    database = open_database(parse_url(".whet"))
    count = database.transact(lambda connection: connection.scalar(text("SELECT 1")), write=False)

Work is a plain function of a SQLAlchemy connection; ``transact`` blocks and may be called from any thread. SQLite has
no asynchronous reads, so its work runs in the calling thread; PostgreSQL's runs on an event loop of its own (asyncpg).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from whet.core import ConflictError, RefusedError, StoreError, UserError, WhetError

__all__ = ["Address", "Database", "Work", "classify", "open_database", "parse_url"]

T = TypeVar("T")
Work = Callable[[Connection], T]

FILE = "whet.db"
_TIMEOUT = 10.0


class Database(Protocol):
    """Where the tables are. At most one transaction writes at a time, over all processes."""

    address: "Address"

    def transact(self, work: Work[T], *, write: bool) -> T:
        """Returns what ``work`` returns, after its transaction was committed durably (or, if it raised, rolled back).

        Raises:
            ConflictError: the database stayed locked.
            StoreError: it cannot be read or written.
        """
        ...

    def close(self) -> None:
        """Closes every connection; may be called again."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is: its URL, its folder (``None`` for a server), and how many seconds to wait for a lock."""

    url: URL
    folder: Path | None
    timeout: float = _TIMEOUT

    @property
    def name(self) -> str:
        """The store as shown to people: the file, or the URL without the password."""
        return str(self.url.database) if self.folder else self.url.render_as_string(hide_password=True)


def parse_url(url: str | Path) -> Address:
    """Returns the address of a folder or a SQLAlchemy URL (``sqlite:///FILE``, ``postgresql+asyncpg://…``).

    ``?timeout=SECONDS`` says how long to wait for a lock.

    Raises:
        UserError: no such kind of database, or no such kind of URL.
    """
    if "://" not in str(url):
        if Path(url).is_file():
            raise UserError(f"{str(url)!r} is a file; give the folder of a store, or sqlite:///FILE for a file")
        return Address(URL.create("sqlite", database=str(Path(url) / FILE)), Path(url))
    try:
        parsed = make_url(str(url))
    except (ArgumentError, ValueError) as error:
        raise UserError(f"{str(url)!r} is no database URL; write sqlite:///FILE or {_EXAMPLE}") from error
    timeout = _seconds(parsed)
    parsed = parsed.difference_update_query(["timeout"])
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return Address(parsed.set(drivername="postgresql+asyncpg"), None, timeout)
    if backend != "sqlite":
        raise UserError(f"no store for {backend!r}; there is sqlite:///FILE and {_EXAMPLE}")
    if not parsed.database or parsed.database == ":memory:":
        raise UserError("a store needs a file: several connections share it; use a temporary folder instead")
    return Address(parsed.set(drivername="sqlite"), Path(parsed.database).parent, timeout)


_EXAMPLE = "postgresql+asyncpg://user@host/database"


def _seconds(url: URL) -> float:
    text = url.query.get("timeout", str(_TIMEOUT))
    try:
        return float(str(text))
    except ValueError as error:
        raise UserError(f"timeout={text!r} in the URL is no number of seconds") from error


def open_database(address: Address, *, read_only: bool = False) -> Database:
    """Returns the database at the address, without looking at what is in it.

    Raises:
        StoreError: it cannot be reached or is no database.
        UserError: the driver is not installed.
    """
    if address.folder is not None:
        from whet.memory.databases.sqlite import SqliteDatabase

        return SqliteDatabase(address, read_only=read_only)
    from whet.memory.databases.postgresql import PostgresDatabase

    return PostgresDatabase(address, read_only=read_only)


_SQLITE: dict[int, tuple[type[WhetError], str]] = {
    5: (ConflictError, "is locked by another process; try again when that is done"),
    6: (ConflictError, "is locked by another connection; try again when that is done"),
    8: (RefusedError, "cannot be written: the file or its folder is read-only; check its permissions"),
    10: (StoreError, "could not be read or written (disk error); check the disk and its free space"),
    11: (StoreError, "is damaged; restore a backup"),
    13: (StoreError, "could not be written: the disk is full; nothing was changed, free some space and try again"),
    14: (StoreError, "cannot be opened; check that the folder exists and may be written"),
    26: (StoreError, "is no SQLite database; move the file away or name another folder"),
}

_POSTGRES: dict[str, tuple[type[WhetError], str]] = {
    "55P03": (ConflictError, "is locked by another writer; try again when that is done"),
    "40": (ConflictError, "had another transaction in the way; try again"),
    "53": (StoreError, "has no room left (disk, memory or connections); nothing was changed"),
    "25006": (RefusedError, "is open for reading only"),
    "3D000": (StoreError, "does not exist; make it with: createdb NAME"),
    "28": (StoreError, "does not accept this user or password"),
    "42501": (RefusedError, "does not permit that to this user"),
    "57": (StoreError, "is shutting down or was restarted; try again"),
    "08": (StoreError, "cannot be reached; check the host, the port and that the server runs"),
}


def classify(error: SQLAlchemyError | OSError, address: Address) -> WhetError:
    """Returns the error of the database as one of Whet, in one line."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    kind, what = _find(cause)
    return kind(f"the store {address.name!r} {what} ({first})")


def _find(cause: BaseException | None) -> tuple[type[WhetError], str]:
    if isinstance(cause, OSError):
        return _POSTGRES["08"]
    code = getattr(cause, "sqlite_errorcode", None)
    if isinstance(code, int):
        return _SQLITE.get(code & 0xFF, (StoreError, "could not do that"))
    state = str(getattr(cause, "sqlstate", None) or "")
    return _POSTGRES.get(state) or _POSTGRES.get(state[:2]) or (StoreError, "could not do that")
