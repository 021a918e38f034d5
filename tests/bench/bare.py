"""The bare engine: containers over its API, with nothing of ours in between."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

LABEL = "launch-agent.bench"


class Engine:
    """A few calls of the engine's API over its Unix socket."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connect(cls, host: str) -> AsyncIterator["Engine"]:
        connector = aiohttp.UnixConnector(path=host.removeprefix("unix://"), limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield cls(session)

    async def call(self, method: str, path: str, **kwargs: Any) -> Any:
        async with self._session.request(method, f"http://engine{path}", **kwargs) as answer:
            answer.raise_for_status()
            return await answer.json() if answer.content_type == "application/json" else None

    async def create(self, image: str, command: list[str], network: str) -> str:
        body = {
            "Image": image,
            "Cmd": command,
            "Labels": {LABEL: "1"},
            "HostConfig": {
                "NetworkMode": network,
                "LogConfig": {
                    "Type": "local",
                    "Config": {"max-size": "1g", "max-file": "1", "compress": "false"},
                },
            },
        }
        name = f"bench-{uuid.uuid4().hex[:12]}"
        created = await self.call("POST", f"/containers/create?name={name}", json=body)
        return str(created["Id"])

    async def start(self, container: str) -> None:
        await self.call("POST", f"/containers/{container}/start")

    async def wait(self, container: str) -> int:
        timeout = aiohttp.ClientTimeout(total=None)
        answer = await self.call("POST", f"/containers/{container}/wait", timeout=timeout)
        return int(answer["StatusCode"])

    async def remove(self, container: str) -> None:
        await self.call("DELETE", f"/containers/{container}?force=1")

    async def started_at(self, label: str, since: float) -> float:
        """Wall clock of the engine's start event; the engine's clock is this machine's."""
        filters = json.dumps({"label": [label], "event": ["start"], "type": ["container"]})
        params = {"since": f"{since:.6f}", "until": f"{time.time() + 1:.6f}", "filters": filters}
        async with self._session.get("http://engine/events", params=params) as answer:
            first = (await answer.text()).splitlines()[0]
        return int(json.loads(first)["timeNano"]) / 1e9

    async def run(self, image: str, command: list[str], network: str) -> None:
        container = await self.create(image, command, network)
        await self.start(container)
        await self.wait(container)
        await self.remove(container)


async def delay_to_start(engine: Engine, image: str, network: str) -> float:
    """Seconds from the first call to the engine's own start event."""
    begin = time.time()
    container = await engine.create(image, ["true"], network)
    await engine.start(container)
    await engine.wait(container)
    delay = await engine.started_at(LABEL, begin) - begin
    await engine.remove(container)
    return delay


async def container_rate(engine: Engine, image: str, network: str, jobs: int, width: int) -> float:
    """Containers per second, `width` at a time, from create to removed."""
    slots = asyncio.Semaphore(width)

    async def one() -> None:
        async with slots:
            await engine.run(image, ["true"], network)

    begin = time.monotonic()
    await asyncio.gather(*(one() for _ in range(jobs)))
    return jobs / (time.monotonic() - begin)


async def process_rate(argv: list[str], jobs: int, width: int) -> float:
    """Child processes per second, `width` at a time, output to /dev/null."""
    slots = asyncio.Semaphore(width)

    async def one() -> None:
        async with slots:
            process = await asyncio.create_subprocess_exec(
                *argv, stdout=asyncio.subprocess.DEVNULL, stdin=asyncio.subprocess.DEVNULL
            )
            await process.wait()

    begin = time.monotonic()
    await asyncio.gather(*(one() for _ in range(jobs)))
    return jobs / (time.monotonic() - begin)
