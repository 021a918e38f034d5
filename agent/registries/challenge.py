"""How a registry says which login it wants."""

import base64
import re
from dataclasses import dataclass
from typing import Final, Literal

from multidict import CIMultiDictProxy

_PARAMETER: Final = re.compile(r'([a-zA-Z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One `WWW-Authenticate`."""

    scheme: Literal["basic", "bearer"]
    #: Address of the server that gives tokens; `bearer` only.
    realm: str = ""
    service: str = ""
    scope: str = ""


def read_challenge(headers: CIMultiDictProxy[str]) -> Challenge | None:
    """The best that is offered: a token before a password."""
    offered = [_one(value) for value in headers.getall("WWW-Authenticate", [])]
    known = [challenge for challenge in offered if challenge is not None]
    return next((c for c in known if c.scheme == "bearer"), known[0] if known else None)


def basic(username: str, password: str) -> str:
    """The value of an `Authorization` header."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def _one(value: str) -> Challenge | None:
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() == "basic":
        return Challenge("basic")
    found = dict(_PARAMETER.findall(rest))
    if scheme.lower() != "bearer" or not found.get("realm"):
        return None
    return Challenge("bearer", found["realm"], found.get("service", ""), found.get("scope", ""))
