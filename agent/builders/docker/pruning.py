"""What the engine keeps of images built here; what was pushed stays in its registry."""

import math
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent.builders.docker.ladder import buildx_folder
from agent.builders.docker.reference import NAMESPACE
from agent.docker.images import EngineImages
from agent.model.work import LABEL_BUILD_KEY
from agent.system.cache import Entry, surplus

#: Seconds after which nothing of a build can be in use: far beyond any deadline.
_ABANDONED: Final = 7 * 86400.0


async def prune_images(
    images: EngineImages, repository: str | None, max_age: float, max_bytes: int
) -> int:
    """Remove images of ours by their last use; give the bytes freed.

    `repository` is where they were pushed to: those names go as well, on this engine only.
    Containers protect theirs.

    Raises:
        EngineError: see `EngineImages`.
    """
    now = datetime.now(UTC)
    names: dict[Path, list[str]] = {}
    found: list[Entry] = []
    for listed in await images.labelled(LABEL_BUILD_KEY):
        ours = _names(listed, repository)
        if not ours:
            continue
        idle = now - _time(await images.last_tagged(listed["Id"]), now)
        image = Path(listed["Id"])
        names[image] = ours
        found.append(Entry(image, idle.total_seconds(), listed.get("Size") or 0))
    found.sort(key=lambda entry: -entry.idle)
    freed = 0
    for entry in surplus(found, max_age, max_bytes):
        removed = [await images.remove(name) for name in names[entry.folder]]
        freed += entry.size if removed[-1] else 0
    return freed


def tidy(cache: Path) -> None:
    """Remove what builds left that were killed, and buildx's notes on past builds. Blocks."""
    oldest = time.time() - _ABANDONED
    for folder in cache.glob("build-*"):
        if _changed(folder) < oldest:
            shutil.rmtree(folder, ignore_errors=True)
    for note in (buildx_folder(cache) / "refs").glob("*/*/*"):
        if _changed(note) < oldest:
            note.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    """When it last changed; what is gone by now counts as new."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return math.inf


def _names(listed: Mapping[str, Any], repository: str | None) -> list[str]:
    """All names to take away; ours last, since the last is what a container protects."""
    ours = [tag for tag in listed.get("RepoTags") or () if tag.startswith(NAMESPACE)]
    if not ours or repository is None:
        return ours
    every = [*(listed.get("RepoTags") or ()), *(listed.get("RepoDigests") or ())]
    pushed = [name for name in every if name.startswith((f"{repository}:", f"{repository}@"))]
    return [*pushed, *ours]


def _time(text: str, otherwise: datetime) -> datetime:
    """Docker writes nanoseconds and a zone; what cannot be read counts as used now."""
    try:
        return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
    except ValueError:
        return otherwise
