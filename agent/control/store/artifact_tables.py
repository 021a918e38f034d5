"""Tables of artifacts: collections, versions, entries, manifests and contents.

A content is a sequence of bytes that is stored once per entity and MD5. Its row is written
after the bytes and deleted before them, so that every row has its bytes.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    Table,
    UniqueConstraint,
)

from agent.control.store.tables import JsonText, PlainText, Serial, entity_column, metadata

__all__ = [
    "artifact_aliases",
    "artifact_clients",
    "artifact_collections",
    "artifact_entries",
    "artifact_manifests",
    "artifact_uses",
    "artifacts",
    "contents",
    "metadata",
]


def _reference(name: str, table: str, *, primary_key: bool = False) -> Column[str]:
    """Refers to the `id` of a row of `table`, and is deleted with it."""
    key = ForeignKey(f"{table}.id", ondelete="CASCADE")
    return Column(name, PlainText, key, primary_key=primary_key, nullable=False)


artifact_collections: Final = Table(
    "artifact_collections",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("id", PlainText, nullable=False, unique=True),
    entity_column(),
    Column("project", PlainText, nullable=False),
    Column("name", PlainText, nullable=False),
    Column("type", PlainText, nullable=False),
    Column("description", PlainText),
    #: The version number of the next commit; changing it locks the collection.
    Column("next_version", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("entity", "project", "name"),
)

artifacts: Final = Table(
    "artifacts",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("id", PlainText, nullable=False, unique=True),
    _reference("collection_id", "artifact_collections"),
    #: PENDING, COMMITTED or DELETED.
    Column("state", PlainText, nullable=False),
    #: `None` until it is committed.
    Column("version", Integer),
    Column("digest", PlainText, nullable=False),
    Column("digest_algorithm", PlainText, nullable=False),
    Column("description", PlainText),
    Column("metadata", JsonText, nullable=False),
    Column("tags", JsonText, nullable=False),
    #: Aliases that it gets when it is committed.
    Column("wanted_aliases", JsonText, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("file_count", Integer, nullable=False),
    Column("ttl_seconds", BigInteger, nullable=False),
    Column("history_step", BigInteger),
    #: The user who made it, and the run in which.
    Column("user_name", PlainText),
    Column("run_name", PlainText),
    #: Of type `job`: the content of `wandb-job.json`, or why it cannot be read.
    Column("job_file", JsonText),
    Column("job_problem", PlainText),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("collection_id", "version"),
    Index(None, "collection_id", "digest"),
    Index(None, "state", "updated_at"),
)

artifact_clients: Final = Table(
    "artifact_clients",
    metadata,
    _reference("collection_id", "artifact_collections", primary_key=True),
    #: Chosen by the client: creating again under the same id gives the same artifact.
    Column("client_id", PlainText, primary_key=True),
    _reference("artifact_id", "artifacts"),
    Index(None, "client_id"),
    Index(None, "artifact_id"),
)

artifact_aliases: Final = Table(
    "artifact_aliases",
    metadata,
    _reference("collection_id", "artifact_collections", primary_key=True),
    Column("alias", PlainText, primary_key=True),
    _reference("artifact_id", "artifacts"),
    Column("created_at", Double, nullable=False),
    Index(None, "artifact_id"),
)

artifact_manifests: Final = Table(
    "artifact_manifests",
    metadata,
    Column("id", PlainText, primary_key=True),
    _reference("artifact_id", "artifacts"),
    Column("name", PlainText, nullable=False),
    #: Base64 of the file's MD5; empty until the client knows it.
    Column("digest", PlainText, nullable=False),
    Column("type", PlainText, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("artifact_id", "name"),
)

artifact_entries: Final = Table(
    "artifact_entries",
    metadata,
    _reference("artifact_id", "artifacts", primary_key=True),
    Column("path", PlainText, primary_key=True),
    #: As the manifest writes it.
    Column("digest", PlainText, nullable=False),
    #: Hexadecimal; `None` for what is stored elsewhere.
    Column("md5", PlainText),
    Column("size", BigInteger, nullable=False),
    Column("ref", PlainText),
    Index(None, "md5"),
)

artifact_uses: Final = Table(
    "artifact_uses",
    metadata,
    entity_column(primary_key=True),
    Column("project", PlainText, primary_key=True),
    Column("run_name", PlainText, primary_key=True),
    _reference("artifact_id", "artifacts", primary_key=True),
    Column("used_as", PlainText),
    Column("created_at", Double, nullable=False),
    Index(None, "artifact_id"),
)

contents: Final = Table(
    "contents",
    metadata,
    entity_column(primary_key=True),
    #: Hexadecimal.
    Column("md5", PlainText, primary_key=True),
    #: Key in the object store; new for each upload.
    Column("key", PlainText, nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
    #: When it was stored or needed by an upload; protects artifacts that are not committed yet.
    Column("touched_at", Double, nullable=False),
    Index(None, "entity", "touched_at"),
)
