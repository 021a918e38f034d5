"""Users, entities, members and API keys."""

import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

from pydantic import SecretStr

from agent.control.auth.authentication import Authenticator
from agent.control.auth.keys import checked_key, hash_key, new_api_key
from agent.control.auth.policy import Action, CredentialKind, Principal, no_such_entity
from agent.control.services.audit import audited
from agent.control.services.context import read, write
from agent.control.store import accounts, items, projects
from agent.control.store.accounts import (
    EntityRecord,
    KeyRecord,
    MemberRecord,
    NewKey,
    Role,
    UserRecord,
)
from agent.control.store.ids import new_id
from agent.control.store.tx import Tx
from agent.model.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from agent.model.names import DEFAULT_PROJECT

P = ParamSpec("P")
T = TypeVar("T")

#: The project under which W&B's clients look for an entity's queues.
QUEUE_PROJECT: Final = "model-registry"
#: Name of the keys that `bootstrap_local` makes.
_EMBEDDED: Final = "embedded"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_HINT_LENGTH: Final = 4
#: Seconds after a sign-in during which a browser may make keys, users and members.
_FRESH_SECONDS: Final = 600.0
_MAX_VALIDITY_SECONDS: Final = 10 * 366 * 86400.0
#: Rows that one transaction of a deletion removes.
_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class LocalAccount:
    """What the embedded control plane writes into its 0600 file for the same user's CLI."""

    user: str
    entity: str
    api_key: str = field(repr=False)


def _changes_access(
    method: Callable[Concatenate["Accounts", P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Accounts", P], Coroutine[Any, Any, T]]:
    """Clear the cache of principals once the method's transaction is committed."""

    @wraps(method)
    async def run(self: "Accounts", /, *args: P.args, **kwargs: P.kwargs) -> T:
        result = await method(self, *args, **kwargs)
        self.clear_cache()
        return result

    return run


class Accounts(Authenticator):
    """Users, entities, members and keys; `authenticate` and `resume` tell who is calling."""

    @_changes_access
    @write
    def bootstrap_local(
        self, tx: Tx, name: str, api_key: str | None = None, configured: SecretStr | None = None
    ) -> LocalAccount:
        """Ensure a user of this name, who administers this server, with entity and projects.

        A valid `api_key` of an earlier start is kept; otherwise the configured one, or a new one,
        replaces those that earlier calls made. Replicas that start at once come one by one.

        Raises:
            InvalidInputError: the configured key is no key.
            AlreadyExistsError: it is that of somebody else, or was revoked.
        """
        accounts.lock_installation(tx)
        if configured is not None:
            api_key = configured.get_secret_value()
        user = accounts.user(tx, name)
        if user is None:
            user = _insert_user(tx, name, email=None, admin=True)
        accounts.make_admin(tx, user.id)
        row = None if api_key is None else accounts.key_by_hash(tx, hash_key(api_key))
        if api_key is not None and row is not None and row.user_id == user.id:
            return LocalAccount(user.name, user.entity, api_key)
        for old in accounts.key_list(tx, user_id=user.id):
            if old.name == _EMBEDDED:
                accounts.revoke_key(tx, old.id)
        made = _insert_key(tx, "user", _EMBEDDED, None, user_id=user.id, secret=configured)
        return LocalAccount(user.name, user.entity, made.secret)

    @read
    def viewer(self, tx: Tx, principal: Principal) -> UserRecord | None:
        """The user behind a key; `None` for agent keys and run tokens."""
        return accounts.user(tx, principal.name) if principal.kind is CredentialKind.USER else None

    @read
    def entity(self, tx: Tx, principal: Principal, name: str | None = None) -> EntityRecord:
        """An entity the caller may read; the default one for `None`."""
        name = name or principal.default_entity
        found = accounts.entity(tx, name)
        if found is None or not self._context.policy.sees_entity_or_project(principal, name):
            raise no_such_entity(name)
        return found

    @read
    def entities(self, tx: Tx, principal: Principal) -> tuple[EntityRecord, ...]:
        """All entities the caller may read, by name."""
        readable = None if principal.admin else [*principal.roles, principal.default_entity]
        return accounts.entity_list(tx, readable)

    @read
    def users(self, tx: Tx, principal: Principal) -> tuple[UserRecord, ...]:
        """All users, by name; server administrators only."""
        _administrators_only(principal, "list users")
        return accounts.user_list(tx)

    @audited("user.create", repeatable=True)
    def create_user(
        self,
        tx: Tx,
        principal: Principal,
        name: str,
        *,
        email: str | None = None,
        admin: bool = False,
    ) -> UserRecord:
        """Make a user and the personal entity of the same name; server administrators only."""
        _administrators_only(principal, "make users")
        _require_fresh_sign_in(tx, principal)
        return _insert_user(tx, name, email=email, admin=admin)

    @_changes_access
    @audited("user.disable")
    def disable_user(self, tx: Tx, principal: Principal, name: str) -> UserRecord:
        """End all keys and browser sessions of a user at once, until the user is enabled again.

        Its waiting items are refused when an agent would get them, and its run tokens end.

        Raises:
            ConflictError: the caller itself.
            NotFoundError, PermissionDeniedError
        """
        _administrators_only(principal, "disable users")
        found = _existing_user(tx, name)
        if found.id == principal.user_id:
            raise ConflictError("You cannot disable yourself.", hint="Another administrator can.")
        return accounts.set_disabled(tx, found.id, disabled=True)

    @_changes_access
    @audited("user.enable")
    def enable_user(self, tx: Tx, principal: Principal, name: str) -> UserRecord:
        """Let a disabled user in again, with the keys that were not revoked."""
        _administrators_only(principal, "enable users")
        _require_fresh_sign_in(tx, principal)
        return accounts.set_disabled(tx, _existing_user(tx, name).id, disabled=False)

    @_changes_access
    @audited("team.create", repeatable=True)
    def create_team(self, tx: Tx, principal: Principal, name: str) -> EntityRecord:
        """Make a team; the caller becomes its administrator.

        Raises:
            ConflictError: the caller administers as many teams as one user may.
        """
        if principal.kind is not CredentialKind.USER:
            raise PermissionDeniedError(f"{principal.name} may not make teams: use a user's key.")
        limit = self._context.config.teams_per_user
        if not principal.admin and len(_administered_teams(tx, principal)) >= limit:
            raise ConflictError(
                f"{principal.name} administers {limit} teams, as many as one user may.",
                hint="Ask an administrator of the server, or hand a team over.",
            )
        made = _insert_entity(tx, _checked_name(name, "team"), is_team=True)
        accounts.set_role(tx, name, str(principal.user_id), Role.ADMIN)
        return made

    @_changes_access
    @audited("user.provision")
    def provision_user(
        self,
        tx: Tx,
        principal: Principal,
        name: str,
        *,
        api_key: SecretStr | None = None,
        email: str | None = None,
        admin: bool = False,
    ) -> tuple[UserRecord, NewKey]:
        """As `create_user`, with a first key, which the caller may choose.

        Raises:
            InvalidInputError: the name, or the key's form.
            AlreadyExistsError: the name, or the key.
        """
        _administrators_only(principal, "make users")
        _require_fresh_sign_in(tx, principal)
        user = _insert_user(tx, name, email=email, admin=admin)
        return user, _insert_key(tx, "user", "provisioned", None, user_id=user.id, secret=api_key)

    @_changes_access
    @audited("team.provision")
    def provision_team(
        self, tx: Tx, principal: Principal, name: str, members: Mapping[str, Role]
    ) -> tuple[EntityRecord, tuple[MemberRecord, ...]]:
        """Make a team of these users, who are members at once; server administrators only.

        Raises:
            NotFoundError: a user.
            InvalidInputError, AlreadyExistsError: the name.
        """
        _administrators_only(principal, "make teams of others")
        _require_fresh_sign_in(tx, principal)
        made = _insert_entity(tx, _checked_name(name, "team"), is_team=True)
        for user, role in members.items():
            accounts.set_role(tx, name, _existing_user(tx, user).id, role)
        return made, accounts.member_list(tx, name)

    async def delete_user(self, principal: Principal, name: str) -> None:
        """Remove a user, its keys and memberships, and its personal entity as `delete_team` does.

        Raises:
            ConflictError: the caller itself, or an item of the personal entity is not over.
            NotFoundError, PermissionDeniedError
        """
        await self._begin_to_delete(principal, name, is_team=False)
        await self._delete_rows(name)

    async def delete_team(self, principal: Principal, name: str) -> None:
        """Remove a team with its projects, runs, artifacts, queues, items and agents.

        Access ends first. Repeating a deletion that was interrupted completes it.

        Raises:
            ConflictError: one of its items is not over.
            NotFoundError, PermissionDeniedError
        """
        await self._begin_to_delete(principal, name, is_team=True)
        await self._delete_rows(name)

    @_changes_access
    @audited("entity.delete")
    def _begin_to_delete(
        self, tx: Tx, principal: Principal, name: str, *, is_team: bool
    ) -> EntityRecord:
        noun = "team" if is_team else "user"
        _administrators_only(principal, f"delete {noun}s")
        _require_fresh_sign_in(tx, principal)
        found = accounts.entity(tx, name, lock=True)
        if found is None or found.is_team is not is_team:
            raise NotFoundError(f"There is no {noun} '{name}'.", hint="Check the spelling.")
        if name == principal.default_entity:
            raise ConflictError("You cannot delete yourself.", hint="Another administrator can.")
        live = items.count_unfinished(tx, name)
        if live:
            message = f"{live} items of '{name}' are not over."
            raise ConflictError(message, hint="Stop them first, or wait for their ends.")
        accounts.end_access(tx, name)
        return found

    async def _delete_rows(self, entity: str) -> None:
        """In batches, so that other writers are not blocked for long."""
        database = self._context.database
        while await database.write(lambda tx: accounts.delete_rows(tx, entity, _BATCH)):
            pass
        await database.write(lambda tx: accounts.delete_entity(tx, entity))

    @read
    def members(self, tx: Tx, principal: Principal, entity: str) -> tuple[MemberRecord, ...]:
        """Members of an entity and invited users, by name."""
        return accounts.member_list(
            tx, self._context.existing_entity(tx, principal, entity, Action.READ)
        )

    @_changes_access
    @audited("member.set")
    def set_member(
        self, tx: Tx, principal: Principal, entity: str, user: str, role: Role | None
    ) -> None:
        """Give a role, or with `None` end the membership.

        Somebody who is no member yet is invited, and gets no right before accepting; an
        administrator of the server makes members at once.

        Raises:
            NotFoundError, PermissionDeniedError
            ConflictError: the personal entity's own user, or a team's last administrator.
        """
        entity = self._context.existing_entity(tx, principal, entity, Action.MANAGE_MEMBERS)
        accounts.entity(tx, entity, lock=True)
        member = _existing_user(tx, user)
        if role is not None:
            _require_fresh_sign_in(tx, principal)
        if role is not Role.ADMIN:
            _check_not_last_administrator(tx, entity, member)
        accepted = principal.admin or user in _accepted(tx, entity)
        accounts.set_role(tx, entity, member.id, role, accepted=accepted)

    @read
    def invitations(self, tx: Tx, principal: Principal) -> tuple[MemberRecord, ...]:
        """What the caller is invited to, by entity."""
        return accounts.invitations(tx, principal.user_id or "")

    @_changes_access
    @audited("member.answer", repeatable=True)
    def answer_invitation(self, tx: Tx, principal: Principal, entity: str, *, accept: bool) -> None:
        """Accept an invitation, or decline it; declining also leaves a team one is a member of.

        Raises:
            NotFoundError: the caller is neither invited nor a member.
            ConflictError: the personal entity, or the team's last administrator.
        """
        member = (
            _existing_user(tx, principal.name) if principal.kind is CredentialKind.USER else None
        )
        found = [one for one in accounts.member_list(tx, entity) if one.user == principal.name]
        if member is None or not found:
            raise no_such_entity(entity)
        if not accept:
            accounts.entity(tx, entity, lock=True)
            _check_not_last_administrator(tx, entity, member)
        accounts.set_role(tx, entity, member.id, found[0].role if accept else None)

    @audited("key.create")
    def create_key(
        self,
        tx: Tx,
        principal: Principal,
        name: str,
        *,
        user: str | None = None,
        expires_seconds: float | None = None,
    ) -> NewKey:
        """Make a key for the caller; a server administrator may make one for another user.

        Raises:
            PermissionDeniedError: also in a browser session that is not fresh.
            InvalidInputError: the time until it expires.
        """
        if principal.kind is not CredentialKind.USER or user not in {None, principal.name}:
            _administrators_only(principal, "make keys for others")
        _require_fresh_sign_in(tx, principal)
        owner = _existing_user(tx, user or principal.name)
        return _insert_key(tx, "user", name, expires_seconds, user_id=owner.id)

    @audited("key.create-agent")
    def create_agent_key(
        self,
        tx: Tx,
        principal: Principal,
        entity: str,
        name: str,
        queues: tuple[str, ...] | None,
        *,
        expires_seconds: float | None = None,
    ) -> NewKey:
        """Make an agent key; `queues=None` allows every queue of the entity.

        Raises: as `create_key`.
        """
        entity = self._context.existing_entity(tx, principal, entity, Action.MANAGE_MEMBERS)
        _require_fresh_sign_in(tx, principal)
        for queue in queues or ():
            self._context.queue(tx, entity, queue)
        return _insert_key(tx, "agent", name, expires_seconds, entity=entity, queues=queues)

    @read
    def keys(
        self,
        tx: Tx,
        principal: Principal,
        entity: str | None = None,
        *,
        user: str | None = None,
        everybody: bool = False,
    ) -> tuple[KeyRecord, ...]:
        """The caller's own keys, with `entity` its agent keys; for server administrators others'.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        if everybody or user not in {None, principal.name}:
            _administrators_only(principal, "list keys of others")
        if everybody:
            return accounts.key_list(tx)
        if entity is None:
            owner = principal.user_id if user is None else _existing_user(tx, user).id
            return accounts.key_list(tx, user_id=owner or "")
        entity = self._context.existing_entity(tx, principal, entity, Action.MANAGE_MEMBERS)
        return accounts.key_list(tx, entity_name=entity)

    @_changes_access
    @audited("key.revoke")
    def revoke_key(self, tx: Tx, principal: Principal, key_id: str) -> KeyRecord:
        """End a key's validity: at once in this process, within a second in other replicas.

        Raises:
            NotFoundError: no such key, or not the caller's to revoke.
        """
        found = accounts.key(tx, key_id)
        if found is None or not self._may_revoke(principal, found):
            raise NotFoundError(f"There is no key '{key_id}', or it is not yours to revoke.")
        accounts.revoke_key(tx, key_id)
        return found

    def _may_revoke(self, principal: Principal, key: KeyRecord) -> bool:
        if principal.kind is not CredentialKind.USER:
            return False
        if key.entity is not None:
            return self._context.policy.allows(principal, key.entity, Action.MANAGE_MEMBERS)
        return principal.admin or key.user == principal.name


def _administrators_only(principal: Principal, what: str) -> None:
    if not principal.admin:
        raise PermissionDeniedError(
            f"{principal.name} may not {what}.", hint="Only administrators of this server may."
        )


def _existing_user(tx: Tx, name: str) -> UserRecord:
    found = accounts.user(tx, name)
    if found is None:
        raise NotFoundError(f"There is no user '{name}'.", hint="Check the spelling.")
    return found


def _check_not_last_administrator(tx: Tx, entity: str, member: UserRecord) -> None:
    """Refuse to remove the owner of a personal entity or the last administrator."""
    if member.entity == entity:
        raise ConflictError(f"'{entity}' is the personal entity of '{member.name}'.")
    others = [one for one in accounts.member_list(tx, entity) if one.user != member.name]
    if not any(one.role is Role.ADMIN and one.accepted for one in others):
        raise ConflictError(
            f"'{member.name}' is the last administrator of '{entity}'.",
            hint="Make somebody else an administrator first.",
        )


def _accepted(tx: Tx, entity: str) -> set[str]:
    return {one.user for one in accounts.member_list(tx, entity) if one.accepted}


def _administered_teams(tx: Tx, principal: Principal) -> list[str]:
    rows = accounts.user_with_roles(tx, str(principal.user_id))
    return [row.entity for row in rows if row.is_team and row.role == Role.ADMIN]


def _require_fresh_sign_in(tx: Tx, principal: Principal) -> None:
    """What gives lasting access takes a key, or a browser session that has just begun.

    A stolen cookie alone would otherwise become a key, a user or a member that outlives it.
    """
    began = principal.signed_in_at
    if began is not None and tx.now - began > _FRESH_SECONDS:
        raise PermissionDeniedError(
            "This takes a sign-in of the last 10 minutes.",
            hint="Sign out and in again, or use the command line.",
        )


def _checked_name(name: str, what: str) -> str:
    """A name for a user or an entity: it becomes part of URLs and paths."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"'{name}' cannot be the name of a {what}.",
            hint="1 to 64 lower-case letters, digits, `_`, `-`; first a letter or digit.",
        )
    return name


def _insert_entity(tx: Tx, name: str, *, is_team: bool) -> EntityRecord:
    """Make an entity with the projects that clients expect."""
    made = accounts.insert_entity(tx, name, new_id(), is_team=is_team)
    if made is None:
        raise AlreadyExistsError(
            f"There is an entity '{name}' already.", hint="Choose another name."
        )
    for project in (QUEUE_PROJECT, DEFAULT_PROJECT):
        projects.ensure(tx, name, project)
    return made


def _insert_user(tx: Tx, name: str, *, email: str | None, admin: bool) -> UserRecord:
    """Make a user, the personal entity, and the membership between them."""
    _insert_entity(tx, _checked_name(name, "user"), is_team=False)
    made = accounts.insert_user(tx, new_id(), name, email=email, admin=admin)
    if made is None:
        raise AlreadyExistsError(f"There is a user '{name}' already.", hint="Choose another name.")
    accounts.set_role(tx, made.entity, made.id, Role.ADMIN)
    return made


def _insert_key(
    tx: Tx,
    kind: Literal["user", "agent"],
    name: str,
    expires_seconds: float | None,
    *,
    user_id: str | None = None,
    entity: str | None = None,
    queues: tuple[str, ...] | None = None,
    secret: SecretStr | None = None,
) -> NewKey:
    if expires_seconds is not None and not 0 < expires_seconds <= _MAX_VALIDITY_SECONDS:
        raise InvalidInputError(
            f"A key cannot expire after {expires_seconds:g} s.",
            hint="Give 1 s to 10 years, for example `--expires 90d`.",
        )
    text = new_api_key() if secret is None else checked_key(secret.get_secret_value())
    hashed = hash_key(text)
    if accounts.knows_key(tx, hashed):
        raise AlreadyExistsError("Another key has this text.", hint="Choose a random one.")
    values = {
        "id": new_id(),
        "hash": hashed,
        "kind": kind,
        "name": name,
        "hint": text[-_HINT_LENGTH:],
        "user_id": user_id,
        "entity": entity,
        "queues": None if queues is None else list(queues),
        "expires_at": None if expires_seconds is None else tx.now + expires_seconds,
    }
    return NewKey(accounts.insert_key(tx, values), text)
