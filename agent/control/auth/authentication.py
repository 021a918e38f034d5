"""Authentication: the principal of a key, a run token or a signed session."""

import hashlib
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final

from agent.control.auth import tokens
from agent.control.auth.policy import Kind, Principal, RunScope
from agent.control.services.context import Service, ServiceContext, read
from agent.control.store import accounts, history
from agent.control.store.accounts import Role
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import AuthenticationError

#: Seconds that a principal is cached: the delay of a revocation made by another replica.
_CACHE_SECONDS: Final = 1.0
_CACHE_SIZE: Final = 1_000


def hash_key(key: str) -> bytes:
    """SHA-256 of an API key, which is all that is stored of it."""
    # Header values may hold undecodable bytes: such a key is wrong, not an internal error.
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


class Authenticator(Service):
    """Looks credentials up, with a cache of one second, since agents and jobs call often."""

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(context)
        self._cache: dict[bytes | str, tuple[float, Principal]] = {}

    async def authenticate(self, key: str) -> Principal:
        """The principal of a user's key, an agent's key or a run token.

        Raises:
            AuthenticationError: unknown, revoked, or a token whose attempt is over.
        """
        hashed = hash_key(key)
        if key.startswith(tokens.PREFIX):
            return await self._cached(hashed, lambda: self._by_token(key))
        return await self._cached(hashed, lambda: self._by_hash(hashed))

    async def resume(self, key_id: str) -> Principal:
        """The user of a session cookie, by API key id.

        Raises:
            AuthenticationError: unknown, revoked, or not a user's key.
        """
        return await self._cached(key_id, lambda: self._by_id(key_id))

    def clear_cache(self) -> None:
        """Look everything up again: a key or a role has changed."""
        self._cache.clear()

    async def _cached(
        self,
        cache_key: bytes | str,
        look_up: Callable[[], Coroutine[Any, Any, Principal | None]],
    ) -> Principal:
        now = monotonic()
        until, principal = self._cache.get(cache_key, (0.0, None))
        if principal is not None and now < until:
            return principal
        found = await look_up()
        if found is None:
            self._cache.pop(cache_key, None)
            raise AuthenticationError(
                "The server does not know this key, or it was revoked.",
                hint="Sign in again, or use a key that was made on this server.",
            )
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[cache_key] = (now + _CACHE_SECONDS, found)
        return found

    @read
    def _by_hash(self, tx: Tx, hashed: bytes) -> Principal | None:
        row = accounts.key_by_hash(tx, hashed)
        if row is None:
            return None
        if row.kind == "user":
            return _user(tx, row)
        return Principal(
            kind=Kind.AGENT,
            key_id=row.id,
            name=row.name,
            default_entity=row.entity,
            queues=None if row.queues is None else tuple(row.queues),
        )

    @read
    def _by_id(self, tx: Tx, key_id: str) -> Principal | None:
        row = accounts.key_by_id(tx, key_id)
        return None if row is None or row.kind != "user" else _user(tx, row)

    @read
    def _by_token(self, tx: Tx, text: str) -> Principal | None:
        token = tokens.parse_token(self._context.signing_key, text)
        row = None if token is None else history.attempt_by_token(tx, token.attempt_id)
        if token is None or row is None or row.token_epoch != token.epoch:
            return None
        if row.finished_at and row.finished_at + self._context.config.token_grace < tx.now:
            return None
        return Principal(
            kind=Kind.RUN,
            key_id=row.item_id,
            name=f"run {row.run_name}",
            default_entity=row.run_entity,
            run=RunScope(row.item_id, row.number, row.project, row.run_name),
        )


def _user(tx: Tx, row: AnyRow) -> Principal:
    memberships = accounts.roles_of(tx, row.user_id)
    return Principal(
        kind=Kind.USER,
        key_id=row.id,
        name=row.user,
        default_entity=row.home,
        user_id=row.user_id,
        admin=row.admin,
        roles={each.entity: Role(each.role) for each in memberships},
        teams=frozenset(each.entity for each in memberships if each.is_team),
    )
