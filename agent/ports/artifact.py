"""Artifacts as they are stored: versions of named collections, each a list of files.

The agent reads jobs (`wandb-job.json` and the files beside it) and the code that jobs refer
to. A file never changes under its digest, so `read` may resume a transfer, and callers may
cache contents by digest. Digests are MD5: they show that a transfer is complete, and are no
protection against forgery.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.model.job.names import CodeReference, JobReference


@dataclass(frozen=True, slots=True)
class ArtifactEntry:
    """One file of an artifact."""

    #: Relative, `/` between parts; unchecked.
    path: str
    #: Base64 form of the content's MD5; for references whatever their server calls one.
    digest: str
    #: Bytes, as declared.
    size: int
    #: URL of a file that is stored elsewhere.
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """One committed version."""

    id: str
    #: By version number (`v3`), whatever alias was named.
    reference: JobReference
    #: `job`, `code`, …
    type: str
    entries: Mapping[str, ArtifactEntry]
    metadata: Mapping[str, Any] = field(default_factory=dict)


class ArtifactPort(Protocol):
    """Reads artifacts with the agent's own permissions."""

    async def find(self, reference: JobReference) -> Artifact:
        """A version by alias or number.

        Raises:
            NotFoundError: no such collection or version.
        """

    async def find_code(self, reference: CodeReference) -> Artifact:
        """What a job's `artifact` key points to.

        Raises:
            NotFoundError: it does not exist, or not any more.
        """

    def read(self, artifact: Artifact, path: str) -> AsyncGenerator[bytes, None]:
        """Stream one file; close the generator if it is not read to its end.

        Raises:
            JobError: `SOURCE_NOT_FOUND`, `SOURCE_INVALID` for content that is not what the
                digest says.
            UnreachableError, ServerError, AuthenticationError, PermissionDeniedError: the
                server did not serve it.
        """
