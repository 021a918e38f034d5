"""From a key or token to a principal."""

import hashlib
from collections.abc import Callable
from time import monotonic
from typing import Final

from agent.control.services import tokens
from agent.control.services.context import Context
from agent.control.services.policy import Kind, Principal, RunScope
from agent.control.store import history, people
from agent.control.store.records import Role
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import AuthenticationError

#: Seconds an answer is remembered: a revocation counts that soon in every replica.
_REMEMBERED: Final = 1.0
_MOST_REMEMBERED: Final = 1_000


def digest(key: str) -> bytes:
    """What is stored of a key."""
    # Headers may hold bytes that are no text: they are a wrong key, and no mistake of ours.
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


class Authenticator:
    """Looks keys up, and remembers the answers for a second, since agents and jobs call often."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[bytes | str, tuple[float, Principal]] = {}

    async def authenticate(self, key: str) -> Principal:
        """See `Accounts.authenticate`."""
        fingerprint = digest(key)

        def look_up(tx: Tx) -> Principal | None:
            if key.startswith(tokens.PREFIX):
                return self._of_token(tx, key)
            row = people.key_by_hash(tx, fingerprint)
            if row is None:
                return None
            return _of_agent_key(row) if row.kind == "agent" else _of_user(tx, row)

        return await self._remembered(fingerprint, look_up)

    async def resume(self, key_id: str) -> Principal:
        """See `Accounts.resume`."""

        def look_up(tx: Tx) -> Principal | None:
            row = people.key_by_id(tx, key_id)
            return None if row is None or row.kind != "user" else _of_user(tx, row)

        return await self._remembered(key_id, look_up)

    def forget(self) -> None:
        """Look everything up again: a key or a role has changed."""
        self._known.clear()

    async def _remembered(
        self, shown: bytes | str, look_up: Callable[[Tx], Principal | None]
    ) -> Principal:
        now = monotonic()
        until, principal = self._known.get(shown, (0.0, None))
        if principal is not None and now < until:
            return principal
        found = await self._context.database.read(look_up)
        if found is None:
            self._known.pop(shown, None)
            raise AuthenticationError(
                "The server does not know this key, or it was revoked.",
                hint="Sign in again, or take a key that was made for this server.",
            )
        if len(self._known) >= _MOST_REMEMBERED:
            self._known.clear()
        self._known[shown] = (now + _REMEMBERED, found)
        return found

    def _of_token(self, tx: Tx, text: str) -> Principal | None:
        token = tokens.read(self._context.signing_key, text)
        row = None if token is None else history.attempt_by_token(tx, token.attempt_id)
        if token is None or row is None or row.token_epoch != token.epoch:
            return None
        grace = self._context.config.token_grace
        if row.finished_at is not None and row.finished_at + grace < tx.now:
            return None
        return Principal(
            kind=Kind.RUN,
            key_id=row.item_id,
            name=f"run {row.run_name}",
            default_entity=row.run_entity,
            run=RunScope(row.item_id, row.number, row.project, row.run_name),
        )


def _of_user(tx: Tx, row: AnyRow) -> Principal:
    memberships = people.roles_of(tx, row.user_id)
    return Principal(
        kind=Kind.USER,
        key_id=row.id,
        name=row.user,
        default_entity=row.home,
        user_id=row.user_id,
        admin=row.admin,
        roles={one.entity: Role(one.role) for one in memberships},
        teams=frozenset(one.entity for one in memberships if one.is_team),
    )


def _of_agent_key(row: AnyRow) -> Principal:
    return Principal(
        kind=Kind.AGENT,
        key_id=row.id,
        name=row.name,
        default_entity=row.entity,
        queues=None if row.queues is None else tuple(row.queues),
    )
