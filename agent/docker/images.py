"""Images of an engine: inspect, list, name, remove, and its build cache."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agent.docker.client import Engine
from agent.docker.errors import EngineRefusedError

_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image that the engine has."""

    id: str
    tags: tuple[str, ...]
    #: `name@sha256:…`; empty where the engine's store keeps no digests of local images.
    digests: tuple[str, ...]
    os: str
    architecture: str
    size: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Platform:
    """Operating system and architecture: `linux`, `amd64`."""

    os: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"


class EngineImages:
    """Image calls of one engine.

    All raise `EngineUnavailableError`, and `EngineRefusedError` for unexpected refusals.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def platform(self) -> Platform:
        """What the engine's machine is."""
        version = (await self.engine.get("/version")).body
        return Platform(version["Os"], version["Arch"])

    async def uses_containerd(self) -> bool:
        """Whether images are kept in containerd's store, not in the classic one."""
        info = (await self.engine.get("/info")).body
        status = {value for _, value in info.get("DriverStatus") or ()}
        return "io.containerd.snapshotter.v1" in status

    async def inspect(self, reference: str) -> LocalImage | None:
        """A local image by name, digest or id."""
        raw = await self._raw(reference)
        if raw is None:
            return None
        return LocalImage(
            id=raw["Id"],
            tags=tuple(raw.get("RepoTags") or ()),
            digests=tuple(raw.get("RepoDigests") or ()),
            os=raw.get("Os") or "",
            architecture=raw.get("Architecture") or "",
            size=raw.get("Size") or 0,
            labels=(raw.get("Config") or {}).get("Labels") or {},
        )

    async def labelled(self, label: str) -> Sequence[dict[str, Any]]:
        """Local images with a label (`key` or `key=value`), as the engine lists them."""
        filters = json.dumps({"label": [label]})
        return (await self.engine.get("/images/json", {"filters": filters})).rows

    async def last_tagged(self, image_id: str) -> str:
        """When the image last got a tag: an RFC 3339 text; empty when unknown."""
        raw = await self._raw(image_id) or {}
        return str((raw.get("Metadata") or {}).get("LastTagTime") or raw.get("Created") or "")

    async def tag(self, image: str, repository: str, tag: str) -> None:
        """Name an image; naming it again renews the time of its last tag."""
        query = {"repo": repository, "tag": tag}
        await self.engine.expect("POST", f"/images/{image}/tag", query)

    async def remove(self, reference: str) -> bool:
        """Remove a name, and the image with its last name; false while a container uses it."""
        try:
            await self.engine.expect("DELETE", f"/images/{reference}")
        except EngineRefusedError as error:
            if error.status in {_NOT_FOUND, _CONFLICT}:
                return False
            raise
        return True

    async def prune_build_cache(self, max_age: float, keep_bytes: int) -> int:
        """Remove unused build cache; return the bytes freed.

        What was unused for longer than `max_age` seconds, or exceeds `keep_bytes`; 0 disables
        a limit.
        """
        freed = 0
        if max_age > 0:
            until = json.dumps({"until": {f"{int(max_age)}s": True}})
            freed += await self._prune({"filters": until})
        if keep_bytes > 0:
            freed += await self._prune({"keep-storage": str(keep_bytes)})
        return freed

    async def _prune(self, query: Mapping[str, str]) -> int:
        response = await self.engine.expect("POST", "/build/prune", {**query, "all": "true"})
        return int(response.body.get("SpaceReclaimed") or 0)

    async def _raw(self, reference: str) -> dict[str, Any] | None:
        response = await self.engine.call("GET", f"/images/{reference}/json")
        if response.status == _NOT_FOUND:
            return None
        if not response.ok:
            address = self.engine.address.given
            raise EngineRefusedError(address, response.status, response.message)
        return response.body
