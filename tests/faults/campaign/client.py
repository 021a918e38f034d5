"""The campaign's user: submits, stops and reads, whatever happens to the server meanwhile."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.faults.campaign.verdict import ENDED

SUBMIT = """mutation Submit($input: SubmitLaunchItemInput!) {
  submitLaunchItem(input: $input) { id } }"""
STOP = "mutation Stop($id: ID!) { stopLaunchItem(id: $id) { id } }"
SAVE = "mutation Save($input: SaveLaunchQueueInput!) { saveLaunchQueue(input: $input) { id } }"
COUNTS = "query Counts { launchQueues { name counts { phase count } } }"
SPEC = "query Spec($id: ID!) { launchItem(id: $id) { phase runSpec message } }"
ITEMS = """query Items($after: String) {
  launchItems(queueName: "storm", first: 100, after: $after) {
    edges { cursor node {
      id phase cause message attempt warnings
      attempts { number phase cause message exitCode } } }
    pageInfo { hasNextPage endCursor } } }"""
#: Seconds for one call, and for the server to come back.
_CALL, _OUTAGE = 15.0, 240.0


class Client:
    """One key's calls; each is repeated until it is answered."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def query(self, document: str, **variables: Any) -> Any:
        body = {"query": document, "variables": variables}
        raw = await self._until_answered("POST", "/graphql", json=body)
        assert not raw.get("errors"), raw["errors"]
        return raw["data"]

    async def log(self, item: str, attempt: int) -> str:
        path = f"/launch/items/{item}/attempts/{attempt}/logs/job"
        return str(await self._until_answered("GET", path))

    async def submit(self, queue: str, spec: dict[str, Any], key: str) -> str:
        given = {"queueName": queue, "runSpec": spec, "idempotencyKey": key}
        return str((await self.query(SUBMIT, input=given))["submitLaunchItem"]["id"])

    async def alive(self, queue: str) -> int:
        """How many items have not ended."""
        queues = (await self.query(COUNTS))["launchQueues"]
        counts = next(found["counts"] for found in queues if found["name"] == queue)
        return sum(count["count"] for count in counts if count["phase"] not in ENDED)

    async def items(self) -> list[dict[str, Any]]:
        """Everything on the queue, ended or not."""
        found: list[dict[str, Any]] = []
        after = None
        while True:
            page = (await self.query(ITEMS, after=after))["launchItems"]
            found += [edge["node"] for edge in page["edges"]]
            if not page["pageInfo"]["hasNextPage"]:
                return found
            after = page["pageInfo"]["endCursor"]

    async def until_up(self) -> None:
        """Wait until the server answers."""
        await self._until_answered("GET", "/healthz")

    async def _until_answered(self, method: str, path: str, **given: Any) -> Any:
        deadline = time.monotonic() + _OUTAGE
        while True:
            try:
                async with (
                    asyncio.timeout(_CALL),
                    self._session.request(method, f"{self._url}{path}", **given) as answer,
                ):
                    if answer.status < 500:
                        is_json = answer.content_type == "application/json"
                        return await answer.json() if is_json else await answer.text()
                    trouble = f"{answer.status} {await answer.text()}"
            except (aiohttp.ClientError, TimeoutError) as error:
                trouble = repr(error)
            assert time.monotonic() < deadline, f"{method} {path}: {trouble}"
            await asyncio.sleep(0.2)


@asynccontextmanager
async def connect(url: str, key: str) -> AsyncIterator[Client]:
    """A client with one key."""
    basic = base64.b64encode(f"api:{key}".encode()).decode()
    async with aiohttp.ClientSession(headers={"Authorization": f"Basic {basic}"}) as session:
        yield Client(session, url)
