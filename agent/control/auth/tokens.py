"""Run tokens: credentials of one attempt, made of nothing but a signature.

`launchrun-` and 40 base64url characters: the attempt's row (64 bit), the epoch of its lease
(32 bit) and a MAC (144 bit). A repeated claim and an adoption of a running job return the same
token, because they change neither.
"""

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "launchrun-"
_HEAD: Final = struct.Struct(">QI")
_MAC_BYTES: Final = 18
_TEXT: Final = 40


@dataclass(frozen=True, slots=True)
class RunToken:
    """The content of a token; whether it is still valid depends on the attempt."""

    attempt_id: int
    epoch: int


def mint(key: bytes, token: RunToken) -> str:
    """The text of a token."""
    head = _HEAD.pack(token.attempt_id, token.epoch)
    return PREFIX + base64.urlsafe_b64encode(head + _mac(key, head)).decode()


def read(key: bytes, text: str) -> RunToken | None:
    """The content of a genuine token; `None` for anything else."""
    encoded = text.removeprefix(PREFIX)
    if encoded == text or len(encoded) != _TEXT:
        return None
    try:
        raw = base64.b64decode(encoded, altchars=b"-_", validate=True)
    except ValueError:  # not Base64, or not even ASCII
        return None
    head, mac = raw[: _HEAD.size], raw[_HEAD.size :]
    if not hmac.compare_digest(mac, _mac(key, head)):
        return None
    return RunToken(*_HEAD.unpack(head))


def _mac(key: bytes, head: bytes) -> bytes:
    return hmac.new(key, b"run-token:" + head, hashlib.sha256).digest()[:_MAC_BYTES]
