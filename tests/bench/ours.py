"""Our side of a comparison: a running system, driven over its own wire."""

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.harness.home import Daemon, Home

ENDED = {"SUCCEEDED", "FAILED", "STOPPED", "PREEMPTED", "LOST", "REFUSED", "ERRORED"}

SUBMIT = """mutation Submit($input: SubmitLaunchItemInput!) {
  submitLaunchItem(input: $input) { id } }"""
SHOW = "query Show($id: ID!) { launchItem(id: $id) { phase message startedAt facts } }"
COUNTS = "query Counts { launchQueues { name counts { phase count } } }"
PAUSE = """mutation Pause($name: String!, $paused: Boolean!) {
  pauseLaunchQueue(name: $name, paused: $paused) { id } }"""
SAVE = "mutation Save($input: SaveLaunchQueueInput!) { saveLaunchQueue(input: $input) { id } }"


class System:
    """An agent with its embedded control plane."""

    def __init__(
        self, home: Home, daemon: Daemon, session: aiohttp.ClientSession, url: str
    ) -> None:
        self.home = home
        self.daemon = daemon
        self._session = session
        self._url = url

    async def query(self, document: str, **variables: Any) -> Any:
        body = {"query": document, "variables": variables}
        async with self._session.post(f"{self._url}/graphql", json=body) as answer:
            reply = await answer.json()
        assert not reply.get("errors"), reply["errors"]
        return reply["data"]

    async def submit(self, queue: str, spec: dict[str, Any]) -> str:
        given = {"queueName": queue, "runSpec": spec}
        return str((await self.query(SUBMIT, input=given))["submitLaunchItem"]["id"])

    async def queue(self, name: str, resource: str) -> None:
        await self.query(SAVE, input={"name": name, "resource": resource, "mode": "EITHER"})

    async def pause(self, name: str, *, paused: bool) -> None:
        await self.query(PAUSE, name=name, paused=paused)

    async def ended(self, item: str, every: float = 0.02) -> dict[str, Any]:
        while True:
            shown: dict[str, Any] = (await self.query(SHOW, id=item))["launchItem"]
            if shown["phase"] in ENDED:
                return shown
            await asyncio.sleep(every)

    async def log(self, item: str) -> str:
        """What the job wrote."""
        path = f"{self._url}/launch/items/{item}/attempts/1/logs/job"
        async with self._session.get(path) as answer:
            answer.raise_for_status()
            return await answer.text()

    async def all_started(self, queue: str) -> None:
        """Wait until everything on the queue runs."""
        while set(await self._counts(queue)) != {"STARTED"}:
            await asyncio.sleep(0.2)

    async def _counts(self, queue: str) -> dict[str, int]:
        queues = (await self.query(COUNTS))["launchQueues"]
        counts = next(found["counts"] for found in queues if found["name"] == queue)
        return {count["phase"]: count["count"] for count in counts if count["count"]}

    async def all_ended(self, queue: str, shortest: float = 0.05, longest: float = 1.0) -> None:
        """Wait until nothing on the queue is alive.

        Looking costs the system as much as some part of a job, so it waits half of the time
        that the rest will take, by what was seen so far.
        """
        begin, first = time.monotonic(), 0
        while True:
            phases = await self._counts(queue)
            if not phases.keys() - ENDED:
                assert phases.keys() == {"SUCCEEDED"}, phases
                return
            alive = sum(count for phase, count in phases.items() if phase not in ENDED)
            first = first or alive
            each = (time.monotonic() - begin) / max(first - alive, 1)
            await asyncio.sleep(min(max(alive * each / 2, shortest), longest))


@asynccontextmanager
async def system(
    root: Path, queues: Sequence[str], settings: dict[str, Any] | None = None
) -> AsyncIterator[System]:
    """Start `launch-agent` in a folder of its own and connect to its control plane."""
    home = Home(root)
    home.configure({"control": {"port": 0}, **(settings or {})})
    flags = [flag for name in queues for flag in ("--queue", name)]
    daemon = await home.start("launch-agent", *flags)
    try:
        found = json.loads((root / "state" / "embedded.json").read_text())
        basic = base64.b64encode(f"api:{found['api_key']}".encode()).decode()
        headers = {"Authorization": f"Basic {basic}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            yield System(home, daemon, session, found["url"])
        await daemon.terminate()
    finally:
        await home.close()


def resident(pid: int) -> float:
    """Resident memory in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def share_of_core(pid: int, seconds: float) -> float:
    """Share of one core that a process uses while nothing happens."""
    before, begin = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - begin)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
