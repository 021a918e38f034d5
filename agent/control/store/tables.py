"""The schema, once for both databases.

Entities are referred to by name, since names are unique and never change. Times are seconds
since 1970 by the store's clock (`Tx.now`). JSON is kept as text, because clients send bare
`NaN` and depend on the order of keys, and neither survives PostgreSQL's JSON types.
"""

import json
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, TypeVar, overload

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.types import TypeDecorator

from agent.control.store.tx import READ_BUDGET, AnyRow
from agent.model.errors import InvalidInputError
from agent.model.phase import HELD, Phase

R = TypeVar("R")

#: Characters of one JSON document, and of one other text.
MAX_DOCUMENT: Final = 8 * 1024**2
MAX_TEXT: Final = 1024**2


class ValueTooLargeError(InvalidInputError, DontWrapMixin):
    """A text or document that no column takes."""

    code = "TOO_LARGE"


class PlainText(TypeDecorator[str]):
    """Text that every database accepts: zero bytes and lone surrogates are replaced.

    Clients send such inside JSON. PostgreSQL refuses both, SQLite's driver the latter; and an
    agent would send a refused outcome again without end.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Leave valid text as it is."""
        del dialect
        if value is None:
            return None
        _check_size(len(value), MAX_TEXT)
        if value.isascii() and "\0" not in value:
            return value
        return value.encode(errors="replace").decode().replace("\0", "\ufffd")


class JsonText(TypeDecorator[Any]):
    """A JSON document in a text column."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Write compactly, keys in their order."""
        del dialect
        if value is None:
            return None
        text = json.dumps(value, separators=(",", ":"))
        _check_size(len(text), MAX_DOCUMENT)
        return text

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Read back."""
        del dialect
        if value is None:
            return None
        budget = READ_BUDGET.get()
        if budget is not None:
            budget.spend(len(value))
        return json.loads(value)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        message = f"A value to be stored has {size} characters; {limit} are allowed."
        raise ValueTooLargeError(message, hint="Put large data into a file or an artifact.")


@overload
def to_datetime(seconds: float) -> datetime: ...
@overload
def to_datetime(seconds: float | None) -> datetime | None: ...
def to_datetime(seconds: float | None) -> datetime | None:
    """A stored time as an aware one in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def record_of(kind: Callable[..., R], row: AnyRow, *, prefix: str = "", **given: Any) -> R:
    """A dataclass from the columns named like its fields, with `prefix`, except for `given`.

    Columns named `…_at` become `datetime`s.
    """
    for name in _field_names(kind):
        if name not in given:
            value = getattr(row, prefix + name)
            given[name] = to_datetime(value) if name.endswith("_at") else value
    return kind(**given)


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


#: SQLite only numbers rows by itself when the column is an `INTEGER`.
Serial: Final = BigInteger().with_variant(Integer(), "sqlite")

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def entity_column(*, primary_key: bool = False) -> Column[str]:
    """A reference to an entity by its name."""
    return Column(
        "entity", PlainText, ForeignKey("entities.name"), nullable=False, primary_key=primary_key
    )


installation: Final = Table(
    "installation",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("control_plane_id", PlainText, nullable=False),
    #: Of the key that signs and encrypts, which is not in the database.
    Column("signing_key_id", PlainText, nullable=False),
    Column("created_at", Double, nullable=False),
)

entities: Final = Table(
    "entities",
    metadata,
    Column("name", PlainText, primary_key=True),
    Column("id", PlainText, nullable=False, unique=True),
    Column("is_team", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
)

users: Final = Table(
    "users",
    metadata,
    Column("id", PlainText, primary_key=True),
    Column("name", PlainText, nullable=False, unique=True),
    Column("email", PlainText),
    Column("admin", Boolean, nullable=False),
    entity_column(),
    Column("created_at", Double, nullable=False),
    #: None of its keys and sessions is valid from then on.
    Column("disabled_at", Double),
    #: Whether its runs become jobs.
    Column("makes_jobs", Boolean, nullable=False),
)

members: Final = Table(
    "members",
    metadata,
    entity_column(primary_key=True),
    Column("user_id", PlainText, ForeignKey("users.id"), primary_key=True),
    Column("role", PlainText, nullable=False),
    #: Whether the user has agreed; before, the membership gives no right.
    Column("accepted", Boolean, nullable=False),
    Index(None, "user_id"),
)

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", PlainText, primary_key=True),
    #: SHA-256 of the key; the key itself has 240 random bits, so no salt is needed.
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("kind", PlainText, nullable=False),
    Column("name", PlainText, nullable=False),
    Column("hint", PlainText, nullable=False),
    Column("user_id", PlainText, ForeignKey("users.id")),
    Column("entity", PlainText, ForeignKey("entities.name")),
    Column("queues", JsonText),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
    #: `NULL`: valid until it is revoked.
    Column("expires_at", Double),
    Index(None, "user_id"),
    Index(None, "entity"),
)

sign_ins: Final = Table(
    "sign_ins",
    metadata,
    #: SHA-256 of the token, which has 256 random bits.
    Column("hash", LargeBinary, primary_key=True),
    #: `session`: a browser's cookie; `link`: signs a browser in, once.
    Column("purpose", PlainText, nullable=False),
    Column("key_id", PlainText, ForeignKey("api_keys.id"), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index(None, "expires_at"),
)

audit_log: Final = Table(
    "audit_log",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("at", Double, nullable=False),
    #: Name of the user, agent key or run; empty before sign-in.
    Column("actor", PlainText, nullable=False),
    Column("key_id", PlainText),
    Column("action", PlainText, nullable=False),
    #: `NULL` for what concerns the whole server.
    Column("entity", PlainText),
    Column("details", JsonText, nullable=False),
    #: Of the client; empty for the control plane itself.
    Column("address", PlainText, nullable=False),
    #: `done`, or the code of the refusal.
    Column("result", PlainText, nullable=False),
    #: SHA-256 over this row and the digest of the row before: shows changes and gaps.
    Column("digest", PlainText, nullable=False),
    Index(None, "entity", "seq"),
)

projects: Final = Table(
    "projects",
    metadata,
    Column("number", Serial, primary_key=True),
    entity_column(),
    Column("name", PlainText, nullable=False),
    Column("created_at", Double, nullable=False),
    #: Whether runs in it become jobs.
    Column("makes_jobs", Boolean, nullable=False),
    UniqueConstraint("entity", "name"),
)

resource_configs: Final = Table(
    "resource_configs",
    metadata,
    Column("id", PlainText, primary_key=True),
    entity_column(),
    Column("resource", PlainText, nullable=False),
    Column("config", JsonText, nullable=False),
    Column("template_variables", JsonText, nullable=False),
    Column("created_at", Double, nullable=False),
)

queues: Final = Table(
    "queues",
    metadata,
    Column("id", PlainText, primary_key=True),
    entity_column(),
    Column("name", PlainText, nullable=False),
    Column("access", PlainText, nullable=False),
    Column("created_by", PlainText, nullable=False),
    Column("resource", PlainText),
    Column("config", JsonText, nullable=False),
    Column("template_variables", JsonText, nullable=False),
    Column("prioritization", PlainText, nullable=False),
    Column("external_links", JsonText),
    Column("resource_config_id", PlainText),
    Column("paused", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("entity", "name"),
)

agents: Final = Table(
    "agents",
    metadata,
    Column("id", PlainText, primary_key=True),
    entity_column(),
    Column("name", PlainText, nullable=False),
    Column("hostname", PlainText, nullable=False),
    Column("version", PlainText),
    Column("protocol", PlainText, nullable=False),
    #: Of the installation; `NULL` for W&B's agents.
    Column("identity", PlainText),
    #: Of the process.
    Column("session", PlainText),
    Column("backend_id", PlainText),
    #: The key it registered with: an agent key may only act for its own agents.
    Column("key_id", PlainText, nullable=False),
    Column("resources", JsonText, nullable=False),
    Column("capacity", JsonText),
    Column("config", JsonText, nullable=False),
    Column("status", PlainText, nullable=False),
    Column("stop", PlainText),
    Column("heartbeat_at", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    #: What keeps it from claiming, as last reported; `NULL` where nothing does.
    Column("conditions", JsonText),
    Index(None, "entity", "name"),
    Index(None, "entity", "identity"),
    Index(None, "backend_id"),
)

agent_queues: Final = Table(
    "agent_queues",
    metadata,
    Column("agent_id", PlainText, ForeignKey("agents.id", ondelete="CASCADE"), primary_key=True),
    Column("queue_id", PlainText, ForeignKey("queues.id", ondelete="CASCADE"), primary_key=True),
    Index(None, "queue_id"),
)

items: Final = Table(
    "items",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("id", PlainText, nullable=False, unique=True),
    entity_column(),
    #: Where the run is written; the submitter may choose another entity of its own.
    Column("run_entity", PlainText, nullable=False),
    Column("project", PlainText, nullable=False),
    Column("queue_id", PlainText, ForeignKey("queues.id", ondelete="SET NULL")),
    Column("queue", PlainText, nullable=False),
    Column("name", PlainText),
    #: Its name, else that of its job, its image or its source; at most 128 characters.
    Column("display_name", PlainText, nullable=False),
    #: `entity/project/name` of the job it was submitted with.
    Column("job", PlainText),
    Column("run_name", PlainText),
    Column("author", PlainText),
    Column("author_id", PlainText),
    Column("priority", Integer, nullable=False),
    Column("resource", PlainText),
    #: Zero where none is demanded.
    Column("demand_cpus", Double, nullable=False),
    Column("demand_memory", BigInteger, nullable=False),
    Column("demand_gpus", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    #: Attempts opened by policy since a user opened one.
    Column("retried", Integer, nullable=False),
    Column("on_lost", PlainText, nullable=False),
    Column("run_spec", JsonText, nullable=False),
    Column("layers", JsonText, nullable=False),
    Column("template_values", JsonText, nullable=False),
    #: Keys that the submitter gave to the run, encrypted; specs and layers have them masked.
    Column("secrets", LargeBinary),
    Column("phase", PlainText, nullable=False),
    Column("attempt", Integer, nullable=False),
    #: Grows with each grant, over all attempts.
    Column("epoch", Integer, nullable=False),
    Column("agent_id", PlainText),
    Column("agent_name", PlainText),
    Column("protocol", PlainText),
    #: Of the claim that leased it: a repeated claim finds it by this.
    Column("request_id", PlainText),
    Column("lease_expires_at", Double),
    Column("allocation", JsonText),
    Column("lease_losses", Integer, nullable=False),
    Column("stop_requested", Boolean, nullable=False),
    #: When the agent of a permitted attempt was found to send no heartbeats.
    Column("lost_contact_at", Double),
    Column("activity", PlainText),
    Column("facts", JsonText, nullable=False),
    Column("warnings", JsonText, nullable=False),
    Column("cause", PlainText),
    Column("message", PlainText),
    Column("exit_code", Integer),
    #: Order within a priority; a moved item or a new attempt goes to the end.
    Column("enqueued_at", Double, nullable=False),
    #: Not claimable before then; `NULL`: at once.
    Column("not_before", Double),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Index("ix_items_job", "job", "seq", "entity"),
    # Has all columns that a list is filtered by, so that no item is read to leave it out.
    Index(
        "ix_items_list",
        *("entity", "seq", "phase", "queue_id", "job", "author", "display_name", "id"),
    ),
    Index("ix_items_queue_phase", "queue_id", "phase", "seq"),
    Index("ix_items_run", "run_entity", "project", "run_name"),
    Index("ix_items_finished_at", "finished_at"),
)

#: SQLite uses a partial index only where the query repeats its condition literally.
QUEUED_ONLY: Final = f"phase = '{Phase.QUEUED}'"
DEFERRED_ONLY: Final = "not_before IS NOT NULL"
HELD_ONLY: Final = "phase IN ({})".format(", ".join(f"'{phase}'" for phase in sorted(HELD)))

Index(
    "ix_items_claim",
    items.c.queue_id,
    items.c.priority,
    items.c.enqueued_at,
    items.c.seq,
    sqlite_where=text(QUEUED_ONLY),
    postgresql_where=text(QUEUED_ONLY),
)
Index(
    "ix_items_deferred",
    items.c.not_before,
    sqlite_where=text(DEFERRED_ONLY),
    postgresql_where=text(DEFERRED_ONLY),
)
Index(
    "ix_items_held_by",
    items.c.agent_id,
    sqlite_where=text(HELD_ONLY),
    postgresql_where=text(HELD_ONLY),
)
Index(
    "ix_items_expiry",
    items.c.lease_expires_at,
    sqlite_where=text(HELD_ONLY),
    postgresql_where=text(HELD_ONLY),
)

attempts: Final = Table(
    "attempts",
    metadata,
    #: Names the attempt in run tokens.
    Column("id", Serial, primary_key=True),
    Column("item_id", PlainText, ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("phase", PlainText, nullable=False),
    Column("agent_id", PlainText),
    Column("agent_name", PlainText),
    #: Of the last grant or adoption.
    Column("epoch", Integer, nullable=False),
    #: Of the last grant: an adoption keeps the run token of the job that runs already.
    Column("token_epoch", Integer, nullable=False),
    Column("cause", PlainText),
    Column("message", PlainText),
    Column("exit_code", Integer),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("setup_log_bytes", BigInteger, nullable=False),
    Column("job_log_bytes", BigInteger, nullable=False),
    UniqueConstraint("item_id", "number"),
    # An id is never used again: a run token would be valid for another attempt.
    sqlite_autoincrement=True,
)

#: Bytes of an attempt's logs, without gaps or overlaps.
log_chunks: Final = Table(
    "log_chunks",
    metadata,
    Column("attempt_id", Serial, ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True),
    #: `setup` or `job`.
    Column("channel", PlainText, primary_key=True),
    #: Bytes `first` (inclusive) to `stop` (exclusive).
    Column("first", BigInteger, primary_key=True),
    Column("stop", BigInteger, nullable=False),
    #: The bytes, or the object that has them from `position` on.
    Column("data", LargeBinary),
    Column("object", PlainText),
    Column("position", BigInteger, nullable=False),
)

events: Final = Table(
    "events",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("item_id", PlainText, ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("at", Double, nullable=False),
    Column("phase", PlainText, nullable=False),
    Column("actor", PlainText),
    Column("text", PlainText),
    Index(None, "item_id", "id"),
)

idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    entity_column(primary_key=True),
    Column("key", PlainText, primary_key=True),
    #: Of what was asked: the same key for something else is a mistake.
    Column("fingerprint", LargeBinary, nullable=False),
    Column("reply", JsonText),
    Column("created_at", Double, nullable=False),
    Index(None, "created_at"),
)

#: Which process does what only one may do at a time.
work_leases: Final = Table(
    "work_leases",
    metadata,
    Column("work", PlainText, primary_key=True),
    #: A random name of a process.
    Column("holder", PlainText, nullable=False),
    Column("expires_at", Double, nullable=False),
)

#: Sums of what each entity has in the object store.
stored_bytes: Final = Table(
    "stored_bytes",
    metadata,
    entity_column(primary_key=True),
    #: `contents`, `logs`, `run_files` or `run_streams`.
    Column("kind", PlainText, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
)
