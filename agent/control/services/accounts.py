"""Keys, users, entities and members."""

from dataclasses import dataclass, field

from agent.control.services.policy import Principal
from agent.control.store.records import (
    EntityRecord,
    KeyRecord,
    MemberRecord,
    NewKey,
    Role,
    UserRecord,
)


@dataclass(frozen=True, slots=True)
class LocalAccount:
    """What the embedded plane writes into its 0600 file for the CLI of the same user."""

    user: str
    entity: str
    api_key: str = field(repr=False)


class Accounts:
    """Who is who. Every method but the bootstrap takes the caller first."""

    async def authenticate(self, key: str) -> Principal:
        """Find out who shows this key: a user's, an agent's, or a run token.

        Answers are remembered for at most a second, so that a revocation counts soon.

        Raises:
            AuthenticationError: unknown, revoked, or a token whose attempt is over.
        """
        raise NotImplementedError

    async def resume(self, key_id: str) -> Principal:
        """The user whose key, by its id, signed in a browser earlier (a signed cookie says so).

        Remembered as `authenticate` does, for at most a second.

        Raises:
            AuthenticationError: unknown, revoked, or not a user's key.
        """
        raise NotImplementedError

    async def bootstrap_local(self, name: str, api_key: str | None = None) -> LocalAccount:
        """Make sure that a user of this name, its entity and `default` project exist.

        A valid `api_key` of an earlier start is kept; otherwise a new one replaces those
        that earlier bootstraps made. The user administers this server.
        """
        raise NotImplementedError

    async def viewer(self, principal: Principal) -> UserRecord | None:
        """The user behind a key; `None` for agent keys and run tokens of no user."""
        raise NotImplementedError

    async def entity(self, principal: Principal, name: str | None = None) -> EntityRecord:
        """An entity the caller may read; the default one for `None`.

        Raises:
            NotFoundError: absent or hidden.
        """
        raise NotImplementedError

    async def entities(self, principal: Principal) -> tuple[EntityRecord, ...]:
        """All entities the caller may read, by name."""
        raise NotImplementedError

    async def create_user(
        self, principal: Principal, name: str, *, email: str | None = None, admin: bool = False
    ) -> UserRecord:
        """Make a user and the personal entity of the same name; server administrators only.

        Raises:
            AlreadyExistsError, InvalidInputError, PermissionDeniedError
        """
        raise NotImplementedError

    async def create_team(self, principal: Principal, name: str) -> EntityRecord:
        """Make a team; the caller becomes its administrator.

        Raises:
            AlreadyExistsError, InvalidInputError, PermissionDeniedError
        """
        raise NotImplementedError

    async def members(self, principal: Principal, entity: str) -> tuple[MemberRecord, ...]:
        """Members of an entity, by name."""
        raise NotImplementedError

    async def set_member(
        self, principal: Principal, entity: str, user: str, role: Role | None
    ) -> None:
        """Give a role, or with `None` take membership away.

        Raises:
            NotFoundError, PermissionDeniedError
            ConflictError: the personal entity's own user, or a team's last administrator.
        """
        raise NotImplementedError

    async def create_key(
        self, principal: Principal, name: str, *, user: str | None = None
    ) -> NewKey:
        """Make a key for the caller; a server administrator may make one for another user."""
        raise NotImplementedError

    async def create_agent_key(
        self, principal: Principal, entity: str, name: str, queues: tuple[str, ...] | None
    ) -> NewKey:
        """Make a service key for agents; `queues=None` allows every queue of the entity."""
        raise NotImplementedError

    async def keys(self, principal: Principal, entity: str | None = None) -> tuple[KeyRecord, ...]:
        """The caller's own keys, or with `entity` the agent keys of that entity."""
        raise NotImplementedError

    async def revoke_key(self, principal: Principal, key_id: str) -> None:
        """End a key's validity, within a second everywhere.

        Raises:
            NotFoundError: no such key, or not the caller's to revoke.
        """
        raise NotImplementedError
