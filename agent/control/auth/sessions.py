"""Browser sessions: signed cookies and sign-in links, and the limit on failed attempts.

The control plane keeps no table of sessions. A session lives as long as its API key is
valid, at most a week; a sign-out is remembered by this process. A link works once, for an hour.
"""

import base64
import hashlib
import hmac
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

Purpose = Literal["session", "link"]

_LIFETIME: Final[dict[Purpose, int]] = {"session": 7 * 86400, "link": 3600}
_MAX_REVOKED: Final = 8192

_BURST: Final = 50
_PER_SECOND: Final = 0.5
_MAX_ADDRESSES: Final = 4096


class Sessions:
    """Issues and checks the signed tokens of one control plane."""

    def __init__(
        self, signing_key: bytes, control_plane_id: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._key = signing_key
        self._clock = clock
        self._revoked: OrderedDict[str, None] = OrderedDict()
        #: Browsers send a cookie to every port of a host: the name tells control planes apart.
        self.cookie_name = f"launch_session_{control_plane_id[:8]}"

    def issue(self, purpose: Purpose, key_id: str) -> str:
        """A token that logs the holder in as the owner of an API key."""
        until = int(self._clock()) + _LIFETIME[purpose]
        payload = f"{key_id}|{until}|{secrets.token_hex(8)}"
        encoded = base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")
        return f"{encoded}.{self._signature(purpose, encoded)}"

    def check(self, purpose: Purpose, token: str) -> str | None:
        """The id of the token's API key; `None` when it is forged, expired or revoked."""
        encoded, _, signature = token.partition(".")
        expected = self._signature(purpose, encoded)
        if not hmac.compare_digest(signature.encode(errors="surrogatepass"), expected.encode()):
            return None
        payload = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        key_id, until, _ = payload.split("|")
        return key_id if self._clock() < int(until) and encoded not in self._revoked else None

    def revoke(self, token: str) -> None:
        """Make a token invalid: a link that was followed, a session that was signed out."""
        self._revoked[token.partition(".")[0]] = None
        if len(self._revoked) > _MAX_REVOKED:
            self._revoked.popitem(last=False)

    def _signature(self, purpose: Purpose, encoded: str) -> str:
        message = f"{purpose}:{encoded}".encode(errors="surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


class Throttle:
    """A token bucket of failed authentications for each address, in bounded memory.

    A valid key is always accepted, whatever failed before from the same address: many
    clients share one (every job of a machine). Keys have 240 random bits: the limit
    protects against load, not guessing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def failed(self, address: str) -> int | None:
        """Count a failed attempt; returns the seconds to wait when there were too many."""
        now = self._clock()
        tokens, since = self._buckets.pop(address, (float(_BURST), now))
        tokens = min(_BURST, tokens + (now - since) * _PER_SECOND)
        self._buckets[address] = (max(0.0, tokens - 1), now)
        if len(self._buckets) > _MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        return None if tokens >= 1 else math.ceil((1 - tokens) / _PER_SECOND)
