"""Style and scripts, kept in memory: they are few and small, and no request waits for a disk."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from aiohttp import web

_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file as it is sent."""

    body: bytes
    content_type: str
    etag: str


def load() -> Mapping[str, StaticFile]:
    """Every static file by its name."""
    folder = files("agent.control.web") / "static"
    return {
        entry.name: _file(entry.name, entry.read_bytes())
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.is_file()
    }


def _file(name: str, body: bytes) -> StaticFile:
    content_type = _TYPES[name.rpartition(".")[2]]
    return StaticFile(body, content_type, hashlib.sha256(body).hexdigest()[:16])


class StaticFiles:
    """Answers `/launch/static/{name}`."""

    def __init__(self) -> None:
        self._files = load()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The file, or 304 when the browser has it already."""
        file = self._files.get(request.match_info["name"])
        if file is None:
            raise web.HTTPNotFound
        headers = {"Cache-Control": "no-cache", "ETag": f'"{file.etag}"'}
        known = request.if_none_match or ()
        if any(tag.value == file.etag for tag in known):
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=file.body, content_type=file.content_type, charset="utf-8", headers=headers
        )
