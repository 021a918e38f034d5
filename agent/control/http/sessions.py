"""Sign-in of people: signed texts that name a key and a time, for cookies and for links.

The control plane keeps no table of sessions. A session lives as long as its key is valid,
at most a week; a sign-out is remembered by this process. A link works once, for an hour.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

Purpose = Literal["session", "link"]

_LIFETIME: Final[dict[Purpose, int]] = {"session": 7 * 86400, "link": 3600}
_REMEMBERED: Final = 8192


class Sessions:
    """Makes and checks the signed texts of one control plane."""

    def __init__(
        self, signing_key: bytes, control_plane_id: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._key = signing_key
        self._clock = clock
        self._used: OrderedDict[str, None] = OrderedDict()
        #: Browsers share cookies among ports: planes on one machine differ by name.
        self.cookie_name = f"launch_session_{control_plane_id[:8]}"

    def issue(self, purpose: Purpose, key_id: str) -> str:
        """A text that signs the holder in as the owner of a key."""
        until = int(self._clock()) + _LIFETIME[purpose]
        payload = f"{key_id}|{until}|{secrets.token_hex(8)}"
        encoded = base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")
        return f"{encoded}.{self._signature(purpose, encoded)}"

    def check(self, purpose: Purpose, text: str) -> str | None:
        """The id of the key it names; `None` when it is forged, too old, or used up."""
        encoded, _, signature = text.partition(".")
        expected = self._signature(purpose, encoded)
        if not hmac.compare_digest(signature.encode(errors="surrogatepass"), expected.encode()):
            return None
        payload = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        key_id, until, _ = payload.split("|")
        return key_id if self._clock() < int(until) and encoded not in self._used else None

    def spend(self, text: str) -> None:
        """It does not work any more: a link that was followed, a session that was left."""
        self._used[text.partition(".")[0]] = None
        if len(self._used) > _REMEMBERED:
            self._used.popitem(last=False)

    def _signature(self, purpose: Purpose, encoded: str) -> str:
        message = f"{purpose}:{encoded}".encode(errors="surrogatepass")
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()
