"""Stores jobs in the control plane of a scene, as an upload does."""

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

from agent.control.request_data import CONTENTS
from agent.control.services.artifact_uploads import NewArtifact
from agent.control.store.artifact_files import EntryRecord
from agent.control.store.artifacts import ArtifactRecord
from agent.model.job.digest import encoded, manifest_digest
from tests.integration.pages.scene import Scene

GIT: dict[str, Any] = {
    "_version": "0.17.0",
    "source_type": "repo",
    "source": {
        "git": {"remote": "https://git.example/org/repo.git", "commit": "c0ffee" * 6 + "cafe"},
        "entrypoint": ["python", "train.py"],
        "notebook": False,
        "build_context": "jobs/train",
        "dockerfile": "Dockerfile.wandb",
    },
    "input_types": {"wb_type": "typedDict", "params": {"type_map": {}}},
    "output_types": {"wb_type": "typedDict", "params": {"type_map": {}}},
    "runtime": "3.11",
}
IMAGE: dict[str, Any] = GIT | {
    "_version": "v0",
    "source_type": "image",
    "source": {"image": "example/image:1"},
    "runtime": "",
}


async def stored_job(
    scene: Scene,
    name: str,
    content: dict[str, Any] = GIT,
    *,
    entity: str = "ada",
    project: str = "default",
    aliases: tuple[str, ...] = (),
    metadata: dict[str, Any] | None = None,
    problem: str | None = None,
) -> ArtifactRecord:
    """A new version of a job."""
    entry = await _stored(scene, entity, "wandb-job.json", json.dumps(content).encode())
    ada, uploads = scene.ada.principal, scene.plane.uploads
    made = await uploads.create(
        ada,
        NewArtifact(
            entity=entity,
            project=project,
            type="job",
            name=name,
            digest=manifest_digest({entry.path: entry.digest}),
            aliases=aliases,
            metadata=metadata,
        ),
    )
    job = (None, problem) if problem else (content, None)
    return await uploads.commit(ada, made.id, [entry], job)


async def stored_code(
    scene: Scene, name: str, text: str = "print(1)\n", *, entity: str = "ada"
) -> ArtifactRecord:
    """A new version of a code artifact with one file, `main.py`."""
    entry = await _stored(scene, entity, "main.py", text.encode())
    ada, uploads = scene.ada.principal, scene.plane.uploads
    made = await uploads.create(
        ada,
        NewArtifact(
            entity=entity,
            project="default",
            type="code",
            name=name,
            digest=manifest_digest({entry.path: entry.digest}),
        ),
    )
    return await uploads.commit(ada, made.id, [entry])


async def _stored(scene: Scene, entity: str, path: str, content: bytes) -> EntryRecord:
    async def arriving() -> AsyncIterator[bytes]:
        yield content

    md5 = hashlib.md5(content, usedforsecurity=False)
    await scene.server.app[CONTENTS].put(entity, md5.hexdigest(), arriving(), len(content))
    return EntryRecord(path, encoded(md5.digest()), md5.hexdigest(), len(content))


def of_code(artifact: ArtifactRecord) -> dict[str, Any]:
    """The job file of a job of that code."""
    source = {
        "artifact": f"wandb-artifact://_id/{artifact.id}",
        "entrypoint": ["python", "main.py"],
        "notebook": False,
    }
    return GIT | {"_version": "v0", "source_type": "artifact", "source": source}
