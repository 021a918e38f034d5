"""Artifacts as they are stored: versions of named collections, each a list of files.

What the agent reads of them: jobs (`wandb-job.json` and what lies beside it) and the code
that jobs refer to. Files never change under a digest, so `read` may take a cut transfer up
again, and callers may keep contents by digest. Digests are MD5: they tell that a transfer
is complete, and prove nothing about who made it.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.model.job.reference import CodeReference, JobReference


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an artifact."""

    #: Relative, `/` between parts; nobody has checked it.
    path: str
    #: Base64 form of the content's MD5; for references whatever their far end calls one.
    digest: str
    #: Bytes, as declared.
    size: int
    #: Set for what is stored elsewhere and only pointed to.
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """One committed version."""

    id: str
    #: The version itself (`v3`), whatever alias led to it.
    reference: JobReference
    #: `job`, `code`, …
    type: str
    entries: Mapping[str, Entry]
    metadata: Mapping[str, Any] = field(default_factory=dict)


class ArtifactPort(Protocol):
    """Reads artifacts with the agent's own right."""

    async def find(self, reference: JobReference) -> Artifact:
        """A version by alias or number.

        Raises:
            NotFoundError: no such collection or version.
        """

    async def find_code(self, reference: CodeReference) -> Artifact:
        """What a job's `artifact` key points to.

        Raises:
            NotFoundError: deleted, or never there.
        """

    def read(self, artifact: Artifact, path: str) -> AsyncGenerator[bytes, None]:
        """Stream one file; whoever leaves early closes the generator.

        Raises:
            JobError: `SOURCE_NOT_FOUND`, `SOURCE_UNREACHABLE`, `SOURCE_INVALID` for content
                that is not what the digest says.
        """
