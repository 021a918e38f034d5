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


@dataclass(frozen=True, slots=True)
class RegistryImage:
    """An image in a registry, for one platform."""

    #: Of the tag: a manifest's, or the index's that has it.
    digest: str
    os: str
    architecture: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""


@dataclass(frozen=True, slots=True)
class ImageSignature:
    """A signature that was stored beside an image; nobody has verified it."""

    #: The document that was signed.
    payload: bytes
    signature: bytes


class RegistryPort(Protocol):
    """The registries that an agent uses."""

    async def credentials(self, repository: str) -> Credentials | None:
        """The login for the registry of a repository; `None` where there is none.

        Raises:
            JobError: `IMAGE_AUTH`: the store of the login cannot be read or asked.
        """

    async def inspect(self, reference: str, platform: str) -> RegistryImage | None:
        """The image of a tag or digest for a platform (`linux/amd64`); `None` when absent.

        Raises:
            JobError: as `exists`; `IMAGE_PLATFORM`: it exists for other platforms only.
        """

    async def exists(self, reference: str) -> str | None:
        """Digest of a tag or digest in its registry, `sha256:…`; `None` when it is not there.

        Raises:
            JobError: `IMAGE_AUTH`: the registry wants another login; `IMAGE_UNAVAILABLE`: it
                does not answer, or not as a registry does.
        """

    async def signatures(self, repository: str, digest: str) -> tuple[ImageSignature, ...]:
        """What `cosign` stored beside an image of this digest; at most ten.

        Raises:
            JobError: as `exists`.
        """
