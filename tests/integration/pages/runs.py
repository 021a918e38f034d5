"""Runs in the control plane of a scene, as W&B's client makes them."""

import json
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp

from agent.control.request_data import RUN_FILES
from agent.control.services.runs import RunChange
from agent.control.store.runs import RunRecord
from tests.integration.pages.scene import Scene

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


async def begin(scene: Scene, name: str = "r1", entity: str = "ada", **fields: Any) -> RunRecord:
    """A run of the project `vision`."""
    config = {key: {"value": value} for key, value in fields.pop("config", {}).items()}
    change = RunChange(config=config, **fields)
    made, _ = await scene.plane.runs.upsert(
        scene.ada.principal, change, entity=entity, project="vision", name=name
    )
    return made


async def send(scene: Scene, run: RunRecord, stream: str, first: int, lines: Sequence[str]) -> None:
    """Lines of one file of the file stream."""
    files = {stream: {"offset": first, "content": list(lines)}}
    await _post(scene, run, {"files": files})


async def log(scene: Scene, run: RunRecord, rows: Sequence[dict[str, Any]], first: int = 0) -> None:
    """Rows of the history."""
    numbered = [
        {"_step": first + n, "_runtime": 2.0 * (first + n), **row} for n, row in enumerate(rows)
    ]
    await send(scene, run, "wandb-history.jsonl", first, [json.dumps(row) for row in numbered])


async def finish(scene: Scene, run: RunRecord, exit_code: int = 0) -> None:
    await _post(scene, run, {"complete": True, "exitcode": exit_code})


async def put_file(scene: Scene, run: RunRecord, name: str, content: bytes) -> None:
    async def arriving() -> AsyncIterator[bytes]:
        yield content

    await scene.server.app[RUN_FILES].put(run.entity, run.id, name, arriving())


async def _post(scene: Scene, run: RunRecord, body: dict[str, Any]) -> None:
    path = f"/files/{run.entity}/{run.project}/{run.name}/file_stream"
    headers = {"Authorization": f"Bearer {scene.ada.key}"}
    async with (
        aiohttp.ClientSession(scene.url, headers=headers) as session,
        session.post(path, json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()


def png(width: int = 64, height: int = 32) -> bytes:
    """An image in two colours."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    row = b"\x00" + b"\x30\x80\xf0" * (width // 2) + b"\xf0\x80\x30" * (width - width // 2)
    pixels = zlib.compress(row * height)
    return PNG_HEAD + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
