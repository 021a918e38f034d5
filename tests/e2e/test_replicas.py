"""Two `launch server` over one PostgreSQL and one object store; one is killed under load."""

import asyncio
import base64
import json
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.balancer import Balancer
from tests.e2e.harness.home import Daemon, Home
from tests.e2e.harness.jobs import Processes, expected_lines, until
from tests.e2e.test_kills import assert_ended_well, phase
from tests.faults.campaign.database import empty_database
from tests.infrastructure.process import free_port
from tests.infrastructure.state import S3Facts

pytestmark = [pytest.mark.postgres, pytest.mark.s3, pytest.mark.timeout(600)]

_SUBMIT = """mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }"""
_RUN = """mutation ($p: String, $n: String) {
  upsertBucket(input: {entityName: null, modelName: $p, name: $n}) { bucket { id } } }"""
_HISTORY = """query ($p: String!, $n: String!) {
  project(name: $p) { run(name: $n) { historyLineCount } } }"""


@dataclass
class Replicas:
    """Two servers of one control plane, and what their clients know."""

    home: Home
    balancer: Balancer
    key: str
    servers: list[Daemon]
    urls: list[str]
    http: aiohttp.ClientSession
    entity: str = ""
    #: Ids of items by idempotency key, and lines of the run, that were acknowledged.
    items: dict[str, str] = field(default_factory=dict)
    lines: int = 0

    @property
    def headers(self) -> dict[str, str]:
        text = base64.b64encode(f"api:{self.key}".encode()).decode()
        return {"Authorization": f"Basic {text}"}

    async def ask(self, query: str, url: str | None = None, **variables: Any) -> dict[str, Any]:
        body = {"query": query, "variables": variables}
        where = f"{url or self.balancer.url}/graphql"
        async with self.http.post(where, json=body, headers=self.headers) as answer:
            answer.raise_for_status()
            found = await answer.json()
        assert "errors" not in found, found
        return dict(found["data"])

    async def submit(self, key: str) -> None:
        """Until it is acknowledged, as a client does."""
        spec = {"docker": {"docker_image": "x"}, "project": "load"}
        wanted = {"queueName": "load", "runSpec": spec, "idempotencyKey": key}
        answer = await self._repeat(lambda: self.ask(_SUBMIT, i=wanted))
        self.items[key] = answer["submitLaunchItem"]["id"]

    async def log_line(self, number: int) -> None:
        lines = [json.dumps({"_step": number, "value": number})]
        body = {"files": {"wandb-history.jsonl": {"offset": number, "content": lines}}}

        async def send() -> None:
            url = f"{self.balancer.url}/files/{self.entity}/load/r/file_stream"
            async with self.http.post(url, json=body, headers=self.headers) as answer:
                answer.raise_for_status()

        await self._repeat(send)
        self.lines = number + 1

    async def _repeat(self, call: Any) -> Any:
        async with asyncio.timeout(120):
            while True:
                try:
                    return await call()
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)


@pytest.fixture
async def replicas(tmp_path: Path, s3_server: S3Facts) -> AsyncIterator[Replicas]:
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    home = Home(tmp_path)
    processes = Processes.make(tmp_path)
    home.configure(quick(**processes.settings))
    key = f"launch-{secrets.token_urlsafe(30)}"
    targets = [("127.0.0.1", port) for port in ports]
    async with (
        empty_database("postgres") as database,
        Balancer(targets) as balancer,
        aiohttp.ClientSession() as http,
    ):
        shared = {
            "LAUNCH_DATABASE_URL": database or "",
            "LAUNCH_OBJECT_STORE_URL": f"{s3_server.url}/{secrets.token_hex(6)}",
            "LAUNCH_OBJECT_STORE_ENDPOINT": s3_server.endpoint,
            "LAUNCH_OBJECT_STORE_REGION": "us-east-1",
            "LAUNCH_OBJECT_STORE_KEY": s3_server.key,
            "LAUNCH_ADMINISTRATOR_KEY": key,
            "LAUNCH_SIGNING_KEYS": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "LAUNCH_EXTERNAL_URL": balancer.url,
        }
        try:
            servers = await asyncio.gather(
                *(home.start("launch", "server", **shared, **own(tmp_path, port)) for port in ports)
            )
            home.env |= {"LAUNCH_SERVER": balancer.url, "LAUNCH_API_KEY": key}
            made = Replicas(home, balancer, key, list(servers), urls, http)
            made.entity = (await made.ask("{ viewer { entity } }"))["viewer"]["entity"]
            yield made
        finally:
            await home.close()


def own(root: Path, port: int) -> dict[str, str]:
    """What each replica has for itself, as pods have."""
    folder = root / f"replica-{port}"
    return {
        "LAUNCH_CONTROL__PORT": str(port),
        "LAUNCH_STATE_DIR": str(folder / "state"),
        "LAUNCH_DATA_DIR": str(folder / "data"),
    }


async def test_one_replica_is_killed_under_load(replicas: Replicas) -> None:
    """Nothing acknowledged is lost, followers go on at the other, and jobs run once."""
    home = replicas.home
    processes = Processes.make(home.root)
    await home.start("launch-agent", "--queue", "default")
    item = await processes.submit(home)
    await phase(home, item, "STARTED")
    await home.launch("queue", "create", "load", "--resource", "local-container")
    await replicas.ask(_RUN, p="load", n="r")
    follower = asyncio.create_task(home.launch("item", "logs", item, "--follow"))
    killed = asyncio.Event()

    async def submit_all(name: str) -> None:
        number = 0
        while number < 5 or not killed.is_set() or number < 15:
            await replicas.submit(f"{name}-{number}")
            number += 1

    async def log_all() -> None:
        while not killed.is_set() or replicas.lines < 30:
            await replicas.log_line(replicas.lines)

    load = asyncio.gather(*(submit_all(name) for name in "abc"), log_all())

    async def loaded() -> bool:
        return len(replicas.items) > 15 and replicas.lines > 5

    await until(loaded, "load")
    assert all(replicas.balancer.served.values())
    await replicas.servers[0].kill()
    killed.set()
    await load
    # A job that is submitted now is claimed: the claim that waited at the killed one goes on.
    await processes.open_gate(item)
    late = await processes.submit(home)
    await phase(home, late, "FAILED")
    await assert_ended_well(home, item, processes)
    followed = await follower
    assert (followed.code, followed.out.splitlines()) == (0, expected_lines()), followed.err

    found = await replicas.ask(_HISTORY, replicas.urls[1], p="load", n="r")
    assert found["project"]["run"]["historyLineCount"] == replicas.lines
    listed = await home.launch("item", "list", "--queue", "load", "--limit", "500", "--json")
    ids = [one["id"] for one in listed.json()]
    assert sorted(ids) == sorted(replicas.items.values())
    assert len(set(ids)) == len(ids)


async def test_what_one_replica_hands_out_the_other_takes(replicas: Replicas) -> None:
    """Sign-in links and sessions, signed URLs, followed logs, claims and stops."""
    first, second = replicas.urls
    link = {"Content-Type": "application/json", **replicas.headers}
    async with replicas.http.post(f"{first}/launch/sign-in-links", headers=link) as answer:
        assert answer.status == 200, await answer.text()
        token = (await answer.json())["url"].partition("token=")[2]
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar) as browser:
        async with browser.get(f"{second}/login/link", params={"token": token}) as answer:
            assert (answer.status, answer.url.path) == (200, "/launch")
        async with browser.get(f"{first}/launch", allow_redirects=False) as answer:
            assert answer.status == 200
        async with browser.get(f"{first}/login/link", params={"token": token}) as answer:
            assert answer.status != 200 or answer.url.path != "/launch"
    # People at the one, the agent at the other: claims, permits, logs and stops.
    home = replicas.home
    home.env["LAUNCH_SERVER"] = first
    processes = Processes.make(home.root)
    await home.start("launch-agent", "--queue", "default", LAUNCH_SERVER=second)
    item = await processes.submit(home)
    await phase(home, item, "STARTED")
    follower = asyncio.create_task(home.launch("item", "logs", item, "--follow"))
    await processes.open_gate(item)
    await assert_ended_well(home, item, processes)
    assert (await follower).out.splitlines() == expected_lines()
    (home.root / "gate").unlink()
    stopped = await processes.submit(home)
    await phase(home, stopped, "STARTED")
    assert (await home.launch("item", "stop", stopped)).code == 0
    await phase(home, stopped, "STOPPED")
