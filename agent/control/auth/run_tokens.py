"""Run tokens: stateless signed credentials of one attempt.

`launchrun-` and 40 base64url characters: the attempt's row (64 bit), the epoch of its lease
(32 bit) and a MAC (144 bit). A repeated claim and the adoption of a running job return the
same token: neither changes the attempt or the epoch of its token.
"""

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "launchrun-"
#: Attempt and epoch, as they are packed.
_PAYLOAD: Final = struct.Struct(">QI")
_MAC_BYTES: Final = 18
#: Characters after the prefix.
_ENCODED_LENGTH: Final = 40


@dataclass(frozen=True, slots=True)
class RunToken:
    """The content of a token; whether it is still valid: `principals.by_attempt`."""

    attempt_id: int
    epoch: int


def create_token(key: bytes, token: RunToken) -> str:
    """The text of a token."""
    payload = _PAYLOAD.pack(token.attempt_id, token.epoch)
    return PREFIX + base64.urlsafe_b64encode(payload + _mac(key, payload)).decode()


def parse_token(key: bytes, text: str) -> RunToken | None:
    """The content of a genuine token; `None` for anything else."""
    encoded = text.removeprefix(PREFIX)
    if encoded == text or len(encoded) != _ENCODED_LENGTH:
        return None
    try:
        raw = base64.b64decode(encoded, altchars=b"-_", validate=True)
    except ValueError:  # not Base64, or not even ASCII
        return None
    payload, mac = raw[: _PAYLOAD.size], raw[_PAYLOAD.size :]
    if not hmac.compare_digest(mac, _mac(key, payload)):
        return None
    return RunToken(*_PAYLOAD.unpack(payload))


def _mac(key: bytes, payload: bytes) -> bytes:
    return hmac.new(key, b"run-token:" + payload, hashlib.sha256).digest()[:_MAC_BYTES]
