"""Authentication: the principal of a key, a run token or a browser session; sign-in and -out."""

import secrets
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any, Final

from agent.control.auth import principals, run_tokens
from agent.control.auth.keys import hash_key
from agent.control.auth.policy import CredentialKind, Principal
from agent.control.services.audit import entry
from agent.control.services.context import Service, ServiceContext, read, write
from agent.control.store import accounts, audit, sign_ins
from agent.control.store.sign_ins import Purpose
from agent.control.store.tx import Tx
from agent.model.errors import AuthenticationError

#: Seconds that a principal is cached: the delay of a revocation made by another replica.
_CACHE_SECONDS: Final = 1.0
_CACHE_SIZE: Final = 1_000
#: Seconds; a session ends earlier with its key.
LIFETIME: Final[Mapping[Purpose, int]] = {"session": 7 * 86400, "link": 3600}
_TOKEN_BYTES: Final = 32
#: Before the hash in the cache: a key sent as a cookie is no session.
_SESSION: Final = b"session:"
_NOBODY: Final = Principal(kind=CredentialKind.USER, key_id="", name="", default_entity="")


class Authenticator(Service):
    """Looks credentials up, with a cache of one second, since agents and jobs call often."""

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(context)
        self._cache: dict[tuple[bytes, str], tuple[float, Principal]] = {}
        #: API keys that are none, until then: a flood of one costs no look-ups.
        self._refused: dict[bytes, float] = {}

    async def authenticate(self, key: str, address: str = "") -> Principal:
        """The principal of a user's key, an agent's key or a run token, sent from `address`.

        Raises:
            AuthenticationError: unknown, revoked, or a token whose attempt is over.
        """
        hashed = hash_key(key)
        if key.startswith(run_tokens.PREFIX):
            return await self._cached((hashed, address), lambda: self._by_token(key))
        if monotonic() < self._refused.get(hashed, 0.0):
            raise _unknown_key()
        try:
            return await self._cached((hashed, address), lambda: self._by_hash(hashed))
        except AuthenticationError:
            if len(self._refused) >= _CACHE_SIZE:
                self._refused.clear()
            self._refused[hashed] = monotonic() + _CACHE_SECONDS
            raise

    async def resume(self, token: str, address: str = "") -> Principal:
        """The user of a session cookie.

        Raises:
            AuthenticationError: unknown, over, or its key is no longer valid.
        """
        hashed = hash_key(token)
        return await self._cached((_SESSION + hashed, address), lambda: self._by_session(hashed))

    @write
    def create_link(self, tx: Tx, principal: Principal) -> str:
        """The token of a link that signs a browser in once, as the owner of the caller's key."""
        audit.append(tx, entry(principal, "session.link", principal.default_entity, {}))
        return _insert_token(tx, "link", principal.key_id)

    @write
    def sign_in(self, tx: Tx, principal: Principal) -> str:
        """The token of a new session of the caller."""
        return _begin_session(tx, principal, "key")

    @write
    def follow_link(self, tx: Tx, token: str, address: str = "") -> str | None:
        """The token of a new session; `None` when the link was used already, or has expired."""
        key_id = sign_ins.take_link(tx, hash_key(token))
        found = key_id and principals.by_key(tx, accounts.key_by_id(tx, key_id))
        return _begin_session(tx, replace(found, address=address), "link") if found else None

    @write
    def refused_sign_in(self, tx: Tx, address: str) -> None:
        """Record that somebody tried a key that is none."""
        nobody = replace(_NOBODY, address=address)
        audit.append(tx, entry(nobody, "session.begin", None, {}, AuthenticationError.code))

    async def sign_out(self, token: str, principal: Principal | None = None) -> None:
        """End a session for good: here at once, within a second in other replicas."""
        await self._end_session(principal, hash_key(token))
        self.clear_cache()

    @write
    def _end_session(self, tx: Tx, principal: Principal | None, hashed: bytes) -> None:
        sign_ins.end_session(tx, hashed)
        if principal is not None:
            audit.append(tx, entry(principal, "session.end", principal.default_entity, {}))

    def clear_cache(self) -> None:
        """Look everything up again: a key or a role has changed."""
        self._cache.clear()
        self._refused.clear()

    async def _cached(
        self,
        cache_key: tuple[bytes, str],
        look_up: Callable[[], Coroutine[Any, Any, Principal | None]],
    ) -> Principal:
        now = monotonic()
        until, principal = self._cache.get(cache_key, (0.0, None))
        if principal is not None and now < until:
            return principal
        found = await look_up()
        if found is None:
            self._cache.pop(cache_key, None)
            raise _unknown_key()
        found = replace(found, address=cache_key[1])
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[cache_key] = (now + _CACHE_SECONDS, found)
        return found

    @read
    def _by_hash(self, tx: Tx, hashed: bytes) -> Principal | None:
        return principals.by_key(tx, accounts.key_by_hash(tx, hashed))

    @read
    def _by_session(self, tx: Tx, hashed: bytes) -> Principal | None:
        session = sign_ins.session(tx, hashed)
        found = session and principals.by_key(tx, accounts.key_by_id(tx, session.key_id))
        if session is None or found is None or found.kind is not CredentialKind.USER:
            return None
        return replace(found, signed_in_at=session.created_at)

    @read
    def _by_token(self, tx: Tx, text: str) -> Principal | None:
        keys = self._context.keys.keys
        token = next(filter(None, (run_tokens.parse_token(key, text) for key in keys)), None)
        if token is None:
            return None
        policy, grace = self._context.policy, self._context.config.token_grace
        return principals.by_attempt(tx, policy, token.attempt_id, token.epoch, grace)


def _unknown_key() -> AuthenticationError:
    return AuthenticationError(
        "The server does not know this key, or it was revoked.",
        hint="Sign in again, or use a key that was made on this server.",
    )


def _begin_session(tx: Tx, principal: Principal, by: str) -> str:
    audit.append(tx, entry(principal, "session.begin", principal.default_entity, {"by": by}))
    return _insert_token(tx, "session", principal.key_id)


def _insert_token(tx: Tx, purpose: Purpose, key_id: str) -> str:
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    sign_ins.insert(tx, hash_key(token), purpose, key_id, LIFETIME[purpose])
    return token
