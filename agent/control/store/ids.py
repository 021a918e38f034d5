"""Random ids."""

import base64
import secrets
import string
from typing import Final

_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_LOWER: Final = string.ascii_lowercase + string.digits


def new_id() -> str:
    """12 lower-case base32 characters: 60 bits, fit for DNS and folders."""
    return "".join(secrets.choice(_BASE32) for _ in range(12))


def new_run_name() -> str:
    """A run id as W&B's clients make them: 8 characters, the first a letter."""
    first = secrets.choice(string.ascii_lowercase)
    return first + "".join(secrets.choice(_LOWER) for _ in range(7))


def new_artifact_id() -> str:
    """The base64 form of `Artifact:` and 12 characters of base32.

    Clients turn it into hexadecimal and back, and write it into paths: of such a text neither
    `+`, `/` nor `=` can come out.
    """
    return base64.b64encode(f"Artifact:{new_id()}".encode()).decode()
