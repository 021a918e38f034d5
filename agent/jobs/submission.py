"""Submitting: pack what must be packed, upload what is not there, push the item."""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.jobs.author import Wishes, author
from agent.jobs.pack import Packed, pack
from agent.jobs.variables import typed_variables
from agent.remote.console import Console

Json = dict[str, Any]


async def submit_job(
    console: Console,
    queue: str,
    wishes: Wishes,
    variables: Mapping[str, str],
    options: Mapping[str, Any],
) -> Json:
    """Put one job on a queue and return its item.

    Raises:
        InvalidInputError: the wishes, the folder, or a template variable.
        NotFoundError: the queue.
    """
    authored = author(wishes)
    given = {key: value for key, value in options.items() if value is not None}
    if variables:
        given["templateVariables"] = await typed_variables(console, queue, variables)
    spec = authored.spec
    if authored.folder is not None:
        source = await _upload(console, authored.folder)
        spec = {**spec, "source": source}
    return await console.submit(queue, spec, **given)


async def _upload(console: Console, folder: Path) -> Json:
    """Pack a folder and store it under its digest, once."""
    with tempfile.TemporaryDirectory(prefix="launch-submit-") as scratch:
        archive = Path(scratch) / "code.tar.gz"
        packed = await asyncio.to_thread(_pack, folder, archive)
        await console.put_blob(packed.digest, archive)
    return {
        "type": "code",
        "digest": packed.digest,
        "size": packed.size,
        "name": folder.name or "code",
    }


def _pack(folder: Path, archive: Path) -> Packed:
    with archive.open("wb") as out:
        return pack(folder, out)
