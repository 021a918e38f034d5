"""Agents that speak the real protocol and execute nothing, cheap enough to run beside the server.

Requests are made by hand on plain connections: an HTTP client would cost as much as the server.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from agent.remote import launch_queue as wire
from tests.bench.ours import SUBMIT

#: Seconds of the real agent.
_HEARTBEAT: Final = 10.0
_WAIT: Final = 25
_BUSY: Final = (429, 503)


class Connection:
    """One keep-alive connection; one request at a time."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._place = (address.hostname, address.port)
        basic = base64.b64encode(f"api:{key}".encode()).decode()
        self._head = (
            f"POST /graphql HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Basic {basic}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        #: Answers 429 and 503, after which the request was sent again.
        self.refused = 0

    async def call(self, document: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Send until it is taken, as clients do that heed `Retry-After`."""
        body = json.dumps({"query": document, "variables": variables})
        while True:
            try:
                status, headers, answer = await self._send(body)
            except (asyncio.IncompleteReadError, ConnectionError):
                # It was idle for longer than the server keeps it; every request can be repeated.
                self.close()
                status, headers, answer = await self._send(body)
            if status not in _BUSY:
                break
            self.refused += 1
            await asyncio.sleep(float(headers.get("retry-after", 1)))
        reply: dict[str, Any] = json.loads(answer)
        assert not reply.get("errors"), reply["errors"]
        data: dict[str, Any] = reply["data"]
        return data

    async def _send(self, body: str) -> tuple[int, dict[str, str], bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._place)
        reader, writer = self._streams
        writer.write(f"{self._head}{len(body)}\r\n\r\n{body}".encode())
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in lines[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        answer = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split(" ", 2)[1]), headers, answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@dataclass
class Seen:
    """What the agents of one run have seen; seconds."""

    #: Of claims that got an item, from their request.
    claims: list[float] = field(default_factory=list)
    renewals: list[float] = field(default_factory=list)
    #: Monotonic time at which an agent had an item.
    claimed_at: dict[str, float] = field(default_factory=dict)
    finished: int = 0
    #: Items that two agents had, or one twice.
    doubled: int = 0
    #: Leases that the server would not renew, permit, advance or finish.
    fenced: int = 0
    wanted: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def claimed(self, item: str, began: float) -> None:
        now = time.monotonic()
        self.claims.append(now - began)
        self.doubled += item in self.claimed_at
        self.claimed_at[item] = now

    def ended(self) -> None:
        self.finished += 1
        if self.finished == self.wanted:
            self.done.set()

    def expect(self, items: int) -> None:
        """Let `done` be set after so many further items."""
        self.wanted = self.finished + items
        self.done.clear()


class SimulatedAgent:
    """Claims one item at a time, and permits, starts and finishes it at once."""

    def __init__(self, name: str, open_connection: Callable[[], Connection], seen: Seen) -> None:
        self._name = name
        self._work, self._beat, self._listen = (open_connection() for _ in range(3))
        self._seen = seen
        self._id = ""
        self._lease: dict[str, Any] | None = None

    async def register(self) -> None:
        given = {
            "name": self._name, "hostname": "bench", "queueNames": ["default"],
            "identity": self._name, "session": self._name, "backendId": self._name,
            "resources": ["local-container"], "capacity": {"slots": 1}, "config": {},
        }  # fmt: skip
        answer = await self._work.call(wire._REGISTER, {"input": given})
        self._id = answer["registerLaunchAgent"]["agent"]["id"]

    async def claim_and_finish(self) -> None:
        number = 0
        while True:
            number += 1
            given = {
                "agentId": self._id, "session": self._name, "requestId": f"{number}",
                "queueNames": ["default"], "max": 1, "free": {"slots": 1}, "waitSeconds": _WAIT,
            }  # fmt: skip
            began = time.monotonic()
            answer = await self._work.call(wire._CLAIM, {"input": given})
            for claim in answer["claimLaunchItems"]:
                self._seen.claimed(claim["itemId"], began)
                await self._carry_out(claim)

    async def _carry_out(self, claim: dict[str, Any]) -> None:
        self._lease = {name: claim[name] for name in ("itemId", "attempt", "epoch")}
        started = {"phase": "STARTED", "activity": "running"}
        ended = {"phase": "SUCCEEDED", "cause": "SUCCEEDED", "message": "exit code 0"}
        ended |= {"exitCode": 0, "facts": {"workload": "none"}}
        for document, fields in (
            (wire._PERMIT, {}),
            (wire._ADVANCE, started),
            (wire._FINISH, ended),
        ):
            given = {"agentId": self._id, **self._lease, **fields}
            (reply,) = (await self._work.call(document, {"input": given})).values()
            self._seen.fenced += reply["status"] != "HELD"
        self._lease = None
        self._seen.ended()

    async def renew(self, offset: float) -> None:
        """Heartbeats, the first one after `offset` seconds."""
        await asyncio.sleep(offset)
        while True:
            began = time.monotonic()
            given = {
                "agentId": self._id, "session": self._name, "conditions": [],
                "status": "RUNNING" if self._lease else "POLLING",
                "leases": [self._lease] if self._lease else [],
            }  # fmt: skip
            await self._beat.call(wire._RENEW, {"input": given})
            self._seen.renewals.append(time.monotonic() - began)
            await asyncio.sleep(_HEARTBEAT)

    async def watch_commands(self) -> None:
        seen = None
        while True:
            given = {"agentId": self._id, "session": self._name, "seen": seen, "waitSeconds": _WAIT}
            seen = (await self._listen.call(wire._COMMANDS, given))["launchCommands"]

    @property
    def refused(self) -> int:
        return sum(one.refused for one in (self._work, self._beat, self._listen))

    def close(self) -> None:
        for connection in (self._work, self._beat, self._listen):
            connection.close()


class Fleet:
    """Agents in this process, and a submitter."""

    def __init__(self, url: str, key: str) -> None:
        self._connect = lambda: Connection(url, key)
        self.submitters = [self._connect() for _ in range(8)]
        self.agents: list[SimulatedAgent] = []
        self.seen = Seen()

    async def query(self, document: str, **variables: Any) -> dict[str, Any]:
        return await self.submitters[0].call(document, variables)

    async def submit_many(self, number: int) -> None:
        left = iter(range(number))

        async def submit(by: Connection) -> None:
            for _ in left:
                await self._submit(by)

        await asyncio.gather(*(submit(one) for one in self.submitters))

    async def submit_paced(self, number: int, per_second: float) -> list[float]:
        """Submit at fixed times; seconds from each request until an agent had its item."""
        begin, free = time.monotonic(), list(self.submitters)
        sent: dict[str, float] = {}

        async def submit(due: float) -> None:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            by = free.pop() if free else self._connect()
            began = time.monotonic()
            sent[await self._submit(by)] = began
            free.append(by)

        self.seen.expect(number)
        await asyncio.gather(*(submit(begin + each / per_second) for each in range(number)))
        await self.seen.done.wait()
        for one in free:
            if one not in self.submitters:
                one.close()
        return [self.seen.claimed_at[item] - began for item, began in sent.items()]

    async def _submit(self, by: Connection) -> str:
        spec = {"docker": {"docker_image": "busybox"}, "overrides": {"entry_point": ["true"]}}
        given = {"queueName": "default", "runSpec": spec}
        answer = await by.call(SUBMIT, {"input": given})
        return str(answer["submitLaunchItem"]["id"])

    @asynccontextmanager
    async def working(self, number: int, begin: asyncio.Event) -> AsyncIterator[None]:
        """So many agents, registered; they claim from when `begin` is set."""
        made = [SimulatedAgent(f"a{each}", self._connect, self.seen) for each in range(number)]
        self.agents = made
        for first in range(0, number, 16):
            await asyncio.gather(*(one.register() for one in made[first : first + 16]))

        async def claim(one: SimulatedAgent) -> None:
            await begin.wait()
            await one.claim_and_finish()

        tasks = [asyncio.create_task(claim(one)) for one in made]
        tasks += [asyncio.create_task(one.watch_commands()) for one in made]
        tasks += [
            asyncio.create_task(one.renew(place * _HEARTBEAT / number))
            for place, one in enumerate(made)
        ]
        watch = asyncio.create_task(_first_failure(tasks, self.seen.done))
        try:
            yield
        finally:
            for task in (watch, *tasks):
                task.cancel()
            await asyncio.gather(watch, *tasks, return_exceptions=True)
            for one in (*made, *self.submitters):
                one.close()
            with suppress(asyncio.CancelledError):
                await watch

    @property
    def refused(self) -> int:
        return sum(one.refused for one in (*self.agents, *self.submitters))


async def _first_failure(tasks: list[asyncio.Task[None]], done: asyncio.Event) -> None:
    """Let the run end at the first agent that fails."""
    ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    print("  an agent failed:", repr(ended.pop().exception()))
    done.set()
