"""The manifest of a version: which files it has, with what in them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Final

from agent.model.errors import LaunchError
from agent.model.job.digest import encoded
from agent.remote.artifacts.reading import Content

NAME: Final = "wandb_manifest.json"
_HEAD: Final = {
    "version": 1,
    "storagePolicy": "wandb-storage-policy-v1",
    "storagePolicyConfig": {"storageLayout": "V2"},
}


def write(
    file: IO[bytes],
    contents: Iterable[Content],
    artifact_id: str,
    births: Mapping[str, str],
) -> Content:
    """Write the manifest of a version into a file; gives it as a content to be sent. Blocks.

    `births` tells which artifact brought a file, where it is another one. A version may have
    very many files, so its manifest is never whole in memory.

    Raises:
        LaunchError: there is no space for it.
    """
    md5, size = hashlib.md5(usedforsecurity=False), 0
    try:
        for piece in _pieces(contents, artifact_id, births):
            md5.update(piece)
            size += file.write(piece)
        file.flush()
    except OSError as error:
        message = f"The manifest cannot be written to {file.name}: {error.strerror}."
        raise LaunchError(message, hint="Set TMPDIR to a folder with more space.") from None
    return Content(NAME, encoded(md5.digest()), size, file.name)


def _pieces(
    contents: Iterable[Content], artifact_id: str, births: Mapping[str, str]
) -> Iterator[bytes]:
    yield f'{json.dumps(_HEAD)[:-1]}, "contents": {{'.encode()
    between = ""
    for each in contents:
        born = births.get(each.path, artifact_id)
        entry = {"digest": each.digest, "size": each.size, "birthArtifactID": born}
        yield f"{between}{json.dumps(each.path)}: {json.dumps(entry)}".encode()
        between = ", "
    yield b"}}"
