"""Brings a store's tables to what this code is written for.

    migrate(database)

A store that is up to date costs one query; Alembic is imported only when there is something to do.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, select
from sqlalchemy.sql import column, table

from whet.core import NotFoundError, RefusedError
from whet.memory.database import Database
from whet.memory.schema import REVISION

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["downgrade", "migrate", "revision", "upgrade"]

_VERSION = table("alembic_version", column("version_num"))


def revision(connection: Connection) -> str | None:
    """Returns the revision of the store's tables, or ``None`` for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(select(_VERSION.c.version_num))
    return found


def migrate(database: Database, *, read_only: bool = False) -> None:
    """Creates the tables or brings them up to date, in one transaction.

    Raises:
        NotFoundError: there is no store, and read-only makes none.
        RefusedError: the store was written by a later version of Whet, or would have to be migrated but is read-only.
    """
    try:
        found = database.transact(revision, write=False)
    except NotFoundError:
        if read_only:
            raise
        found = None
    if found == REVISION:
        return
    if read_only:
        database.transact(_refuse_later, write=False)
        raise RefusedError(
            f"the store {database.address.name!r} is at revision {found!r}, this version of whet reads {REVISION!r}; "
            "open it once for writing to bring it up to date, e.g. with: whet init"
        )
    database.transact(upgrade, write=True)


def upgrade(connection: Connection, to: str = REVISION) -> None:
    """Brings the tables up to the revision ``to``.

    Raises:
        RefusedError: the tables are of a revision that this version of Whet does not know.
    """
    from alembic import command

    _refuse_later(connection)
    command.upgrade(_config(connection), to)


def _refuse_later(connection: Connection) -> None:
    from alembic.script import ScriptDirectory

    found = revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(_config(connection)).walk_revisions()}
    if found is not None and found not in known:
        raise RefusedError(
            f"the store is at revision {found!r}, written by a later version of whet than this one ({REVISION!r}); "
            "upgrade with: pip install --upgrade whet"
        )


def downgrade(connection: Connection, to: str) -> None:
    """Takes the tables back down to the revision ``to``; ``base`` removes all, with everything in them."""
    from alembic import command

    command.downgrade(_config(connection), to)


def _config(connection: Connection) -> "Config":
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
