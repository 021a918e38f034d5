"""API keys: their format, and the hash that is stored of them and of session and link tokens."""

import hashlib
import re
import secrets
from typing import Final

from agent.control.auth.run_tokens import PREFIX as RUN_PREFIX
from agent.model.errors import InvalidInputError

_PREFIX: Final = "launch-"
_BYTES: Final = 30
#: What W&B's clients take for a key.
_CHOSEN: Final = re.compile(r"[A-Za-z0-9_-]{40,256}")


def new_api_key() -> str:
    """`launch-` and 40 characters: 240 bits."""
    return _PREFIX + secrets.token_urlsafe(_BYTES)


def checked_key(key: str) -> str:
    """A key that an administrator chose.

    Raises:
        InvalidInputError: clients would not take it for a key, or it reads as a run token.
    """
    if _CHOSEN.fullmatch(key) and not key.startswith(RUN_PREFIX):
        return key
    raise InvalidInputError(
        "The API key cannot be used.",
        hint=f"40 to 256 letters, digits, `_` and `-`, not beginning with `{RUN_PREFIX}`.",
    )


def hash_key(key: str) -> bytes:
    """SHA-256 of an API key, or of another secret, which is all that is stored of it."""
    # Header values may hold undecodable bytes: such a key is wrong, not an internal error.
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
