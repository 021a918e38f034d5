"""API keys: their format, and the hash that is stored of them and of session and link tokens."""

import hashlib
import secrets
from typing import Final

_PREFIX: Final = "launch-"
_BYTES: Final = 30


def new_api_key() -> str:
    """`launch-` and 40 characters: 240 bits."""
    return _PREFIX + secrets.token_urlsafe(_BYTES)


def hash_key(key: str) -> bytes:
    """SHA-256 of an API key, or of another secret, which is all that is stored of it."""
    # Header values may hold undecodable bytes: such a key is wrong, not an internal error.
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
