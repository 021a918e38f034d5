"""Brings a database to the schema of this program.

Importing Alembic costs half a second and eleven megabytes, so it is imported only when there is
an old schema to change. An empty database gets the tables at once and the number of the newest
migration; a test proves that both ways end at the same schema.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from agent.control.store.run_tables import metadata
from agent.model.errors import ConflictError

#: The newest migration; a test compares it with the folder.
HEAD: Final = "0001"


def migrate(connection: Connection) -> None:
    """Create or change tables inside the transaction under way.

    Raises:
        ConflictError: the schema is newer than this program.
    """
    found = version(connection)
    if found == HEAD:
        return
    if found is None and not inspect(connection).get_table_names():
        metadata.create_all(connection)
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": HEAD})
        return
    upgrade(connection)


def version(connection: Connection) -> str | None:
    """The migration a database is at; `None` before the first."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(
        text("SELECT version_num FROM alembic_version")
    ).scalar_one_or_none()
    return found


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run the migrations that are missing."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, to)
    except CommandError as error:
        raise ConflictError(
            f"The database's schema is not one this version knows ({error}).",
            hint="Use the version of launch-agent that wrote it, or a newer one.",
        ) from None
