"""Access of builders to URLs that a job names."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class UrlPort(Protocol):
    """Access to URLs within the administrator's address policy."""

    async def fetch(self, url: str) -> bytes:
        """The content of a small file.

        Raises:
            PolicyError: `POLICY_SOURCE`: an address is not allowed.
            JobError: `SOURCE_UNREACHABLE`.
        """

    async def check(self, url: str) -> None:
        """Whether a program may fetch a URL (`https`, `http`, `git+https`, `git+ssh`, …).

        Raises:
            PolicyError: `POLICY_SOURCE`: a protocol or an address is not allowed.
        """

    def proxy(self) -> AbstractAsyncContextManager[Mapping[str, str]]:
        """Variables of a proxy that enforces the policy for a program while the context lasts."""
