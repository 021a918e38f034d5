"""Keys, users, entities and members."""

from dataclasses import dataclass, field
from typing import Final

from agent.control.services.authenticating import Authenticator, digest
from agent.control.services.context import Context
from agent.control.services.founding import check_name, found_entity, found_user, make_key
from agent.control.services.policy import Action, Kind, Principal, no_such_entity
from agent.control.store import people
from agent.control.store.records import (
    EntityRecord,
    KeyRecord,
    MemberRecord,
    NewKey,
    Role,
    UserRecord,
)
from agent.control.store.tx import Tx
from agent.model.errors import ConflictError, NotFoundError, PermissionDeniedError

_EMBEDDED: Final = "embedded"


@dataclass(frozen=True, slots=True)
class LocalAccount:
    """What the embedded plane writes into its 0600 file for the CLI of the same user."""

    user: str
    entity: str
    api_key: str = field(repr=False)


class Accounts:
    """Who is who. Every method but the bootstrap takes the caller first."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._authenticator = Authenticator(context)

    async def authenticate(self, key: str) -> Principal:
        """Find out who shows this key: a user's, an agent's, or a run token.

        Answers are remembered for at most a second, so that a revocation counts soon.

        Raises:
            AuthenticationError: unknown, revoked, or a token whose attempt is over.
        """
        return await self._authenticator.authenticate(key)

    async def resume(self, key_id: str) -> Principal:
        """The user whose key, by its id, signed in a browser earlier (a signed cookie says so).

        Remembered as `authenticate` does, for at most a second.

        Raises:
            AuthenticationError: unknown, revoked, or not a user's key.
        """
        return await self._authenticator.resume(key_id)

    async def bootstrap_local(self, name: str, api_key: str | None = None) -> LocalAccount:
        """Make sure that a user of this name, its entity and `default` project exist.

        A valid `api_key` of an earlier start is kept; otherwise a new one replaces those
        that earlier bootstraps made. The user administers this server.
        """

        def work(tx: Tx) -> LocalAccount:
            user = people.user(tx, name)
            if user is None:
                user = found_user(tx, name, email=None, admin=True)
            people.make_admin(tx, user.id)
            if api_key is not None and _is_key_of(tx, api_key, user.id):
                return LocalAccount(user.name, user.entity, api_key)
            for old in people.key_list(tx, user_id=user.id):
                if old.name == _EMBEDDED:
                    people.revoke_key(tx, old.id)
            made = make_key(tx, "user", _EMBEDDED, user_id=user.id)
            return LocalAccount(user.name, user.entity, made.secret)

        account = await self._context.database.write(work)
        self._authenticator.forget()
        return account

    async def viewer(self, principal: Principal) -> UserRecord | None:
        """The user behind a key; `None` for agent keys and run tokens of no user."""
        if principal.kind is not Kind.USER:
            return None
        return await self._context.database.read(lambda tx: people.user(tx, principal.name))

    async def entity(self, principal: Principal, name: str | None = None) -> EntityRecord:
        """An entity the caller may read; the default one for `None`.

        Raises:
            NotFoundError: absent or hidden.
        """
        place = self._context.entity_of(principal, name, Action.READ)
        found = await self._context.database.read(lambda tx: people.entity(tx, place))
        if found is None:
            raise no_such_entity(place)
        return found

    async def entities(self, principal: Principal) -> tuple[EntityRecord, ...]:
        """All entities the caller may read, by name."""
        mine = None if principal.admin else [*principal.roles, principal.default_entity]
        return await self._context.database.read(lambda tx: people.entity_list(tx, mine))

    async def create_user(
        self, principal: Principal, name: str, *, email: str | None = None, admin: bool = False
    ) -> UserRecord:
        """Make a user and the personal entity of the same name; server administrators only.

        Raises:
            AlreadyExistsError, InvalidInputError, PermissionDeniedError
        """
        _administrators_only(principal, "make users")
        return await self._context.database.write(
            lambda tx: found_user(tx, name, email=email, admin=admin)
        )

    async def create_team(self, principal: Principal, name: str) -> EntityRecord:
        """Make a team; the caller becomes its administrator.

        Raises:
            AlreadyExistsError, InvalidInputError, PermissionDeniedError
        """
        if principal.kind is not Kind.USER:
            raise PermissionDeniedError(f"{principal.name} may not make teams: use a user's key.")

        def work(tx: Tx) -> EntityRecord:
            made = found_entity(tx, check_name(name, "team"), is_team=True)
            people.set_role(tx, name, str(principal.user_id), Role.ADMIN)
            return made

        made = await self._context.database.write(work)
        self._authenticator.forget()
        return made

    async def members(self, principal: Principal, entity: str) -> tuple[MemberRecord, ...]:
        """Members of an entity, by name."""

        def work(tx: Tx) -> tuple[MemberRecord, ...]:
            place = self._context.existing(tx, principal, entity, Action.READ)
            return people.member_list(tx, place)

        return await self._context.database.read(work)

    async def set_member(
        self, principal: Principal, entity: str, user: str, role: Role | None
    ) -> None:
        """Give a role, or with `None` take membership away.

        Raises:
            NotFoundError, PermissionDeniedError
            ConflictError: the personal entity's own user, or a team's last administrator.
        """

        def work(tx: Tx) -> None:
            place = self._context.existing(tx, principal, entity, Action.MANAGE_MEMBERS)
            people.entity(tx, place, lock=True)
            member = people.user(tx, user)
            if member is None:
                raise NotFoundError(f"There is no user '{user}'.", hint="Check the spelling.")
            _keep_an_administrator(tx, place, member, role)
            people.set_role(tx, place, member.id, role)

        await self._context.database.write(work)
        self._authenticator.forget()

    async def create_key(
        self, principal: Principal, name: str, *, user: str | None = None
    ) -> NewKey:
        """Make a key for the caller; a server administrator may make one for another user."""
        if principal.kind is not Kind.USER or user not in {None, principal.name}:
            _administrators_only(principal, "make keys for others")

        def work(tx: Tx) -> NewKey:
            owner = people.user(tx, user or principal.name)
            if owner is None:
                raise NotFoundError(f"There is no user '{user}'.", hint="Check the spelling.")
            return make_key(tx, "user", name, user_id=owner.id)

        return await self._context.database.write(work)

    async def create_agent_key(
        self, principal: Principal, entity: str, name: str, queues: tuple[str, ...] | None
    ) -> NewKey:
        """Make a service key for agents; `queues=None` allows every queue of the entity."""

        def work(tx: Tx) -> NewKey:
            place = self._context.existing(tx, principal, entity, Action.MANAGE_MEMBERS)
            for queue in queues or ():
                self._context.queue(tx, place, queue)
            return make_key(tx, "agent", name, entity=place, queues=queues)

        return await self._context.database.write(work)

    async def keys(self, principal: Principal, entity: str | None = None) -> tuple[KeyRecord, ...]:
        """The caller's own keys, or with `entity` the agent keys of that entity."""

        def work(tx: Tx) -> tuple[KeyRecord, ...]:
            if entity is None:
                return people.key_list(tx, user_id=principal.user_id or "")
            place = self._context.existing(tx, principal, entity, Action.MANAGE_MEMBERS)
            return people.key_list(tx, entity_name=place)

        return await self._context.database.read(work)

    async def revoke_key(self, principal: Principal, key_id: str) -> None:
        """End a key's validity, within a second everywhere.

        Raises:
            NotFoundError: no such key, or not the caller's to revoke.
        """

        def work(tx: Tx) -> None:
            found = people.key(tx, key_id)
            if found is None or not self._may_revoke(principal, found):
                raise NotFoundError(f"There is no key '{key_id}', or it is not yours to revoke.")
            people.revoke_key(tx, key_id)

        await self._context.database.write(work)
        self._authenticator.forget()

    def _may_revoke(self, principal: Principal, key: KeyRecord) -> bool:
        if principal.kind is not Kind.USER:
            return False
        if key.entity is not None:
            return self._context.policy.allows(principal, key.entity, Action.MANAGE_MEMBERS)
        return principal.admin or key.user == principal.name


def _administrators_only(principal: Principal, what: str) -> None:
    if not principal.admin:
        raise PermissionDeniedError(
            f"{principal.name} may not {what}.", hint="Only administrators of this server may."
        )


def _is_key_of(tx: Tx, api_key: str, user_id: str) -> bool:
    row = people.key_by_hash(tx, digest(api_key))
    return row is not None and row.user_id == user_id


def _keep_an_administrator(tx: Tx, entity: str, member: UserRecord, role: Role | None) -> None:
    """A personal entity stays its user's, and no entity is left without an administrator."""
    if role is Role.ADMIN:
        return
    if member.entity == entity:
        raise ConflictError(f"'{entity}' is the personal entity of '{member.name}'.")
    others = [
        one
        for one in people.member_list(tx, entity)
        if one.role is Role.ADMIN and one.user != member.name
    ]
    if not others:
        raise ConflictError(
            f"'{member.name}' is the last administrator of '{entity}'.",
            hint="Make somebody else an administrator first.",
        )
