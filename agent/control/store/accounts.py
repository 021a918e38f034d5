"""Users, entities, members, keys, and the row that identifies the installation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal

from sqlalchemy import bindparam, delete, func, select, update

from agent.control.store.tables import api_keys, entities, installation, members, record_of, users
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


@dataclass(frozen=True, slots=True)
class MemberRecord:
    """A user's role in an entity."""

    user: str
    entity: str
    role: Role


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key without the key: only its hash is stored."""

    id: str
    #: `user`, or `agent`: a service key bound to an entity and queues.
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


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made: `secret` is shown once and never again."""

    record: KeyRecord
    secret: str = field(repr=False)


_VALID_KEY: Final = (
    select(api_keys, users.c.name.label("user"), users.c.admin, users.c.entity.label("home"))
    .outerjoin(users, users.c.id == api_keys.c.user_id)
    .where(api_keys.c.revoked_at.is_(None))
)
_KEY_BY_HASH: Final = _VALID_KEY.where(api_keys.c.hash == bindparam("key_hash"))
_KEY_BY_ID: Final = _VALID_KEY.where(api_keys.c.id == bindparam("key"))
_ROLES: Final = (
    select(members.c.entity, members.c.role, entities.c.is_team)
    .join(entities, entities.c.name == members.c.entity)
    .where(members.c.user_id == bindparam("user"))
)


def installation_row(tx: Tx) -> AnyRow | None:
    """`control_plane_id` and `signing_key` of this installation; `None` before the first start."""
    return tx.one(select(installation))


def ensure_installation(tx: Tx, control_plane_id: str, signing_key: bytes) -> AnyRow:
    """As `installation_row`, inserted if need be; of two replicas that start at once one wins."""
    found = installation_row(tx)
    if found is None:
        values = {"control_plane_id": control_plane_id, "signing_key": signing_key}
        tx.insert_new(installation, {"id": 1, "created_at": tx.now, **values})
        found = tx.require(select(installation))
    return found


def key_by_hash(tx: Tx, digest: bytes) -> AnyRow | None:
    """A valid key with its user, if it has one: `user`, `admin`, `home` (entity)."""
    return tx.one(_KEY_BY_HASH, key_hash=digest)


def key_by_id(tx: Tx, key_id: str) -> AnyRow | None:
    """As `key_by_hash`, by the key's id."""
    return tx.one(_KEY_BY_ID, key=key_id)


def roles_of(tx: Tx, user_id: str) -> Sequence[AnyRow]:
    """`entity`, `role`, `is_team` of all memberships."""
    return tx.all(_ROLES, user=user_id)


def entity(tx: Tx, name: str, *, lock: bool = False) -> EntityRecord | None:
    """An entity by name; `lock` serialises changes of its members or agents."""
    query = select(entities).where(entities.c.name == name)
    row = tx.one(query.with_for_update() if lock else query)
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
    return user(tx, name) if tx.insert_new(users, {**values, "created_at": tx.now}) else None


def user(tx: Tx, name: str) -> UserRecord | None:
    """A user by name."""
    row = tx.one(select(users).where(users.c.name == name))
    return record_of(UserRecord, row) if row else None


def make_admin(tx: Tx, user_id: str) -> None:
    """Let a user administer the server."""
    tx.run(update(users).where(users.c.id == user_id).values(admin=True))


def member_list(tx: Tx, entity_name: str) -> tuple[MemberRecord, ...]:
    """Members by name."""
    query = (
        select(users.c.name, members.c.entity, members.c.role)
        .join(users, users.c.id == members.c.user_id)
        .where(members.c.entity == entity_name)
        .order_by(users.c.name)
    )
    return tuple(MemberRecord(row.name, row.entity, Role(row.role)) for row in tx.all(query))


def set_role(tx: Tx, entity_name: str, user_id: str, role: Role | None) -> None:
    """Set a member's role; `None` removes the member."""
    where = (members.c.entity == entity_name, members.c.user_id == user_id)
    tx.run(delete(members).where(*where))
    if role is not None:
        values = {"entity": entity_name, "user_id": user_id, "role": role.value}
        tx.run(members.insert().values(values))


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
    """Keys of a user, or agent keys of an entity, oldest first."""
    query = _KEYS.order_by(api_keys.c.created_at, api_keys.c.id)
    if user_id is not None:
        query = query.where(api_keys.c.user_id == user_id)
    else:
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
