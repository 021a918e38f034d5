"""Image registries: credentials, and which images exist.

A registry is named by what it holds: every call takes a repository or a reference, and the
implementation finds the host and its login. Only connections are kept between calls; a login
is requested each time, since some are valid for minutes only.
"""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login for one registry."""

    #: The registry by its name in Docker's configuration, with its port.
    server: str
    username: str
    password: str = field(repr=False)
    #: A refresh token that stands for user and password; empty where there is none.
    identity_token: str = field(default="", repr=False)


class RegistryPort(Protocol):
    """The registries that an agent uses."""

    async def credentials(self, repository: str) -> Credentials | None:
        """The login for the registry of a repository; `None` where there is none.

        Raises:
            JobError: `IMAGE_AUTH`: the store of the login cannot be read or asked.
        """

    async def exists(self, reference: str) -> str | None:
        """Digest of a tag or digest in its registry, `sha256:…`; `None` when it is not there.

        Raises:
            JobError: `IMAGE_AUTH`: the registry wants another login; `IMAGE_UNAVAILABLE`: it
                does not answer, or not as a registry does.
        """
