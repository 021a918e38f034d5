"""Artifacts in memory, read through `ArtifactPort`."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from agent.model.errors import NotFoundError
from agent.model.job.digest import encoded
from agent.model.job.names import CodeReference, JobReference, no_such_job
from agent.ports.artifact import Artifact, ArtifactEntry


def md5(content: bytes) -> str:
    return encoded(hashlib.md5(content).digest())


@dataclass
class ArtifactShelf:
    """`ArtifactPort` over dictionaries; `read_files` records what was sent."""

    by_name: dict[str, Artifact] = field(default_factory=dict)
    by_id: dict[str, Artifact] = field(default_factory=dict)
    contents: dict[tuple[str, str], bytes] = field(default_factory=dict)
    read_files: list[str] = field(default_factory=list)

    def put(
        self, name: str, files: dict[str, bytes], kind: str = "job", alias: str = "latest"
    ) -> Artifact:
        identifier = f"id{len(self.by_id)}"
        entries = {path: ArtifactEntry(path, md5(data), len(data)) for path, data in files.items()}
        version = JobReference("people", "things", name, f"v{len(self.by_id)}")
        made = Artifact(identifier, version, kind, entries)
        self.by_id[identifier] = made
        for spelled in (str(version), str(replace(version, alias=alias))):
            self.by_name[spelled] = made
        self.contents |= {(identifier, path): data for path, data in files.items()}
        return made

    async def find(self, reference: JobReference) -> Artifact:
        if str(reference) not in self.by_name:
            raise no_such_job(reference, {each.reference.name for each in self.by_id.values()})
        return self.by_name[str(reference)]

    async def find_code(self, reference: CodeReference) -> Artifact:
        if reference.id not in self.by_id:
            raise NotFoundError(f"The code artifact {reference} is not on the server.")
        return self.by_id[reference.id]

    async def read(self, artifact: Artifact, path: str) -> AsyncIterator[bytes]:
        self.read_files.append(path)
        content = self.contents[artifact.id, path]
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]
