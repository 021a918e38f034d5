"""Users, entities, members, keys, and the row that identifies the installation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from sqlalchemy import bindparam, delete, func, or_, select, tuple_, update

from agent.control.store.prepared import Prepared
from agent.control.store.tables import (
    api_keys,
    audit_log,
    entities,
    installation,
    members,
    metadata,
    record_of,
    sign_ins,
    users,
)
from agent.control.store.tx import AnyRow, Tx


class Role(StrEnum):
    """What a member of an entity may do; see `agent.control.auth.policy`."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class EntityRecord:
    """A user's own space or a team's."""

    id: str
    name: str
    is_team: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A person; `entity` is the name of the personal entity."""

    id: str
    name: str
    email: str | None
    admin: bool
    entity: str
    created_at: datetime
    #: None of its keys and sessions is valid since then.
    disabled_at: datetime | None
    #: Whether its runs become jobs.
    makes_jobs: bool


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A user's role in an entity."""

    user: str
    entity: str
    role: Role
    #: False for an invitation, which gives no right.
    accepted: bool


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key without the key: only its hash is stored."""

    id: str
    #: `user`, or `agent`: an agent key, bound to an entity and queues.
    kind: Literal["user", "agent"]
    name: str
    #: The last characters of the secret, by which users recognise the key.
    hint: str
    user: str | None
    entity: str | None
    #: Queue names that an agent key may serve; `None` means all of its entity.
    queues: tuple[str, ...] | None
    created_at: datetime
    revoked_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made: `secret` is shown once and never again."""

    record: KeyRecord
    secret: str = field(repr=False)


_IS_ENTITY: Final = entities.c.name == bindparam("named")
_ENTITY: Final = Prepared(select(entities).where(_IS_ENTITY))
_ENTITY_LOCKED: Final = Prepared(select(entities).where(_IS_ENTITY).with_for_update())
_VALID_KEY: Final = select(api_keys).where(
    api_keys.c.revoked_at.is_(None),
    or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > bindparam("now")),
)
_KEY_BY_HASH: Final = Prepared(_VALID_KEY.where(api_keys.c.hash == bindparam("key_hash")))
_KEY_BY_ID: Final = Prepared(_VALID_KEY.where(api_keys.c.id == bindparam("key")))
_USER_WITH_ROLES: Final = Prepared(
    select(
        users.c.name,
        users.c.admin,
        users.c.entity.label("home"),
        members.c.entity,
        members.c.role,
        entities.c.is_team,
    )
    .outerjoin(members, (members.c.user_id == users.c.id) & members.c.accepted)
    .outerjoin(entities, entities.c.name == members.c.entity)
    .where(users.c.id == bindparam("user"), users.c.disabled_at.is_(None))
)


def installation_row(tx: Tx) -> AnyRow | None:
    """`control_plane_id` and `signing_key_id`; `None` before the first start."""
    return tx.one(select(installation))


def lock_installation(tx: Tx) -> None:
    """Wait for other replicas that prepare the database, and make later ones wait."""
    tx.require(select(installation.c.id).with_for_update())


def ensure_installation(tx: Tx, control_plane_id: str, signing_key_id: str) -> AnyRow:
    """As `installation_row`, inserted if need be; of two replicas that start at once one wins."""
    found = installation_row(tx)
    if found is None:
        values = {"control_plane_id": control_plane_id, "signing_key_id": signing_key_id}
        tx.insert_new(installation, {"id": 1, "created_at": tx.now, **values})
        found = tx.require(select(installation))
    return found


def set_signing_key_id(tx: Tx, key_id: str) -> None:
    """Record which key signs now."""
    tx.run(update(installation).values(signing_key_id=key_id))


def key_by_hash(tx: Tx, digest: bytes) -> AnyRow | None:
    """A key that is neither revoked nor expired."""
    return tx.one(_KEY_BY_HASH, key_hash=digest, now=tx.now)


def knows_key(tx: Tx, digest: bytes) -> bool:
    """Whether there is, or was, a key with this hash."""
    return tx.one(select(api_keys.c.id).where(api_keys.c.hash == digest)) is not None


def key_by_id(tx: Tx, key_id: str) -> AnyRow | None:
    """As `key_by_hash`, by the key's id."""
    return tx.one(_KEY_BY_ID, key=key_id, now=tx.now)


def user_with_roles(tx: Tx, user_id: str) -> Sequence[AnyRow]:
    """A user who is not disabled: a row per membership (`entity`, `role`, `is_team`), at least one.

    `name`, `admin` and `home`, the personal entity, are the same in all.
    """
    return tx.all(_USER_WITH_ROLES, user=user_id)


def entity(tx: Tx, name: str, *, lock: bool = False) -> EntityRecord | None:
    """An entity by name; `lock` serialises changes of its members or agents."""
    row = tx.one(_ENTITY_LOCKED if lock else _ENTITY, named=name)
    return record_of(EntityRecord, row) if row else None


def entity_list(tx: Tx, names: Sequence[str] | None) -> tuple[EntityRecord, ...]:
    """Entities of these names, or all, by name."""
    query = select(entities).order_by(entities.c.name)
    if names is not None:
        query = query.where(entities.c.name.in_(names))
    return tuple(record_of(EntityRecord, row) for row in tx.all(query))


def insert_entity(tx: Tx, name: str, ident: str, *, is_team: bool) -> EntityRecord | None:
    """A new entity; `None` when the name is taken."""
    values = {"name": name, "id": ident, "is_team": is_team, "created_at": tx.now}
    return entity(tx, name) if tx.insert_new(entities, values) else None


def insert_user(
    tx: Tx, ident: str, name: str, *, email: str | None, admin: bool
) -> UserRecord | None:
    """A user whose personal entity has the same name; `None` when the name is taken."""
    values = {"id": ident, "name": name, "email": email, "admin": admin, "entity": name}
    fresh = {"created_at": tx.now, "makes_jobs": True}
    return user(tx, name) if tx.insert_new(users, {**values, **fresh}) else None


def user(tx: Tx, name: str) -> UserRecord | None:
    """A user by name."""
    row = tx.one(select(users).where(users.c.name == name))
    return record_of(UserRecord, row) if row else None


def user_list(tx: Tx) -> tuple[UserRecord, ...]:
    """All users, by name."""
    return tuple(record_of(UserRecord, row) for row in tx.all(select(users).order_by(users.c.name)))


def set_disabled(tx: Tx, user_id: str, *, disabled: bool) -> UserRecord:
    """Disable a user, or enable one again."""
    stamp = tx.now if disabled else None
    tx.run(update(users).where(users.c.id == user_id).values(disabled_at=stamp))
    return record_of(UserRecord, tx.require(select(users).where(users.c.id == user_id)))


def set_makes_jobs(tx: Tx, user_id: str, value: bool) -> None:  # noqa: FBT001 -- the value set
    """Let runs of a user become jobs, or not."""
    tx.run(update(users).where(users.c.id == user_id).values(makes_jobs=value))


def make_admin(tx: Tx, user_id: str) -> None:
    """Let a user administer the server."""
    tx.run(update(users).where(users.c.id == user_id).values(admin=True))


def member_list(tx: Tx, entity_name: str) -> tuple[MemberRecord, ...]:
    """Members and invited users, by name."""
    query = (
        select(users.c.name, members.c.entity, members.c.role, members.c.accepted)
        .join(users, users.c.id == members.c.user_id)
        .where(members.c.entity == entity_name)
        .order_by(users.c.name)
    )
    return tuple(
        MemberRecord(row.name, row.entity, Role(row.role), row.accepted) for row in tx.all(query)
    )


def invitations(tx: Tx, user_id: str) -> tuple[MemberRecord, ...]:
    """What a user was invited to and has not accepted, by entity."""
    query = select(users.c.name, members.c.entity, members.c.role)
    query = query.join(users, users.c.id == members.c.user_id).order_by(members.c.entity)
    rows = tx.all(query.where(members.c.user_id == user_id, ~members.c.accepted))
    return tuple(MemberRecord(row.name, row.entity, Role(row.role), accepted=False) for row in rows)


def set_role(
    tx: Tx, entity_name: str, user_id: str, role: Role | None, *, accepted: bool = True
) -> None:
    """Set a member's role; `None` removes the member. Not `accepted`, it is an invitation."""
    where = (members.c.entity == entity_name, members.c.user_id == user_id)
    tx.run(delete(members).where(*where))
    if role is not None:
        values = {"entity": entity_name, "user_id": user_id, "role": role.value}
        tx.run(members.insert().values({**values, "accepted": accepted}))


def end_access(tx: Tx, entity_name: str) -> None:
    """End memberships, keys and sessions of an entity, and of the user whose personal one it is."""
    tx.run(delete(members).where(members.c.entity == entity_name))
    owner = select(users.c.id).where(users.c.entity == entity_name)
    keys = or_(api_keys.c.entity == entity_name, api_keys.c.user_id.in_(owner))
    tx.run(delete(sign_ins).where(sign_ins.c.key_id.in_(select(api_keys.c.id).where(keys))))
    tx.run(delete(api_keys).where(keys))
    tx.run(delete(members).where(members.c.user_id.in_(owner)))
    gone = update(users).where(users.c.entity == entity_name)
    tx.run(gone.values(disabled_at=func.coalesce(users.c.disabled_at, tx.now)))


def delete_rows(tx: Tx, entity_name: str, limit: int) -> int:
    """Delete some of what an entity owns, what refers to it first; 0 when nothing is left."""
    for table in reversed(metadata.sorted_tables):
        if "entity" not in table.c or table in {users, members, api_keys, audit_log}:
            continue
        key = tuple(table.primary_key.columns)
        some = select(*key).where(table.c.entity == entity_name).limit(limit)
        deleted = tx.changed(delete(table).where(tuple_(*key).in_(some)))
        if deleted:
            return deleted
    return 0


def delete_entity(tx: Tx, entity_name: str) -> None:
    """Delete an entity that owns nothing any more, and its user."""
    end_access(tx, entity_name)
    tx.run(delete(users).where(users.c.entity == entity_name))
    tx.run(delete(entities).where(entities.c.name == entity_name))


def insert_key(tx: Tx, values: dict[str, Any]) -> KeyRecord:
    """A new key, stored by its hash."""
    tx.run(api_keys.insert().values(created_at=tx.now, **values))
    return _key(tx.require(_KEYS.where(api_keys.c.id == values["id"])))


def key(tx: Tx, key_id: str) -> KeyRecord | None:
    """A key by id, revoked or not."""
    row = tx.one(_KEYS.where(api_keys.c.id == key_id))
    return _key(row) if row else None


def key_list(
    tx: Tx, *, user_id: str | None = None, entity_name: str | None = None
) -> tuple[KeyRecord, ...]:
    """Keys of a user, or agent keys of an entity, or all keys, oldest first."""
    query = _KEYS.order_by(api_keys.c.created_at, api_keys.c.id)
    if user_id is not None:
        query = query.where(api_keys.c.user_id == user_id)
    elif entity_name is not None:
        query = query.where(api_keys.c.entity == entity_name)
    return tuple(_key(row) for row in tx.all(query))


def revoke_key(tx: Tx, key_id: str) -> None:
    """Revoke a key; the time of the first revocation stays."""
    stamp = func.coalesce(api_keys.c.revoked_at, tx.now)
    tx.run(update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=stamp))


_KEYS: Final = select(api_keys, users.c.name.label("user")).outerjoin(
    users, users.c.id == api_keys.c.user_id
)


def _key(row: AnyRow) -> KeyRecord:
    return record_of(KeyRecord, row, queues=None if row.queues is None else tuple(row.queues))
