"""Jobs that tests can hold at a gate and let go, in containers and as processes."""

import asyncio
import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp

from agent.model.work import LABEL_ITEM
from tests.e2e.harness.home import Home

LINES = 3000
#: Prints, says that it is at the gate, waits for it to open, prints again, exits 7.
SCRIPT = """i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo before $i; done
while [ ! -e {gate} ]; do sleep 0.05; done
i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo after $i >&2; done
exit 7
"""


def expected_lines() -> list[str]:
    """What a gated job prints, in order."""
    return [f"{word} {i}" for word in ("before", "after") for i in range(1, LINES + 1)]


async def submit(home: Home, *flags: str) -> str:
    """`launch submit --queue default …`; returns the item's id."""
    done = await home.launch("submit", "--queue", "default", "--json", *flags)
    assert done.code == 0, done.err
    return str(done.json()["id"])


class Backend(Protocol):
    """A kind of job that can be held and counted."""

    settings: dict[str, Any]

    async def submit(self, home: Home, *flags: str) -> str:
        """Queue one gated job; returns the item's id."""

    async def open_gate(self, item: str) -> None:
        """Let the job go on."""

    async def starts(self, item: str) -> tuple[int, int]:
        """How often it was created and started."""

    async def running(self, item: str) -> bool:
        """Whether the job itself is alive, whoever looks after it."""


class Containers:
    """Gated jobs in containers; the engine's events, listened to all along, count their starts.

    The engine remembers a few hundred events only, so asking afterwards would miss some.
    """

    def __init__(self, host: str, image: str, events: Path) -> None:
        self.host = host
        self.image = image
        self.settings: dict[str, Any] = {}
        self._events = events
        self._listener: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        with self._events.open("wb") as output:
            self._listener = await asyncio.create_subprocess_exec(
                *("docker", "-H", self.host, "events", "--format", "{{json .}}"),
                *("--since", str(time.time() - 1), "--filter", f"label={LABEL_ITEM}"),
                stdout=output,
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.terminate()
        await self._listener.wait()

    async def submit(self, home: Home, *flags: str) -> str:
        script = SCRIPT.format(lines=LINES, gate="/tmp/gate")
        command = shlex.join(["sh", "-c", script])
        return await submit(home, "--docker-image", self.image, "-E", command, *flags)

    async def open_gate(self, item: str) -> None:
        (container,) = await self._containers(item)
        exec_body = {"Cmd": ["touch", "/tmp/gate"]}
        made = await self._call("POST", f"/containers/{container['Id']}/exec", json=exec_body)
        await self._call("POST", f"/exec/{made['Id']}/start", json={"Detach": True})

    async def starts(self, item: str) -> tuple[int, int]:
        told = [json.loads(line) for line in self._events.read_text().splitlines()]
        mine = [e["Action"] for e in told if e["Actor"]["Attributes"].get(LABEL_ITEM) == item]
        return mine.count("create"), mine.count("start")

    async def running(self, item: str) -> bool:
        return any(found["State"] == "running" for found in await self._containers(item))

    async def _containers(self, item: str) -> list[dict[str, Any]]:
        params = {"all": "1", "filters": json.dumps({"label": [f"{LABEL_ITEM}={item}"]})}
        return list(await self._call("GET", "/containers/json", params=params))

    async def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        connector = aiohttp.UnixConnector(path=self.host.removeprefix("unix://"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://engine{path}", **kwargs) as answer,
        ):
            answer.raise_for_status()
            return await answer.json() if answer.content_type == "application/json" else None


@dataclass
class Processes:
    """Gated jobs as processes; each start leaves a line in a file."""

    root: Path
    settings: dict[str, Any]

    @classmethod
    def make(cls, root: Path) -> "Processes":
        return cls(
            root,
            {
                "builder": {"type": "virtualenv"},
                "runners": {"local-container": {"enabled": False}},
            },
        )

    async def submit(self, home: Home, *flags: str) -> str:
        code = self.root / "code"
        code.mkdir(exist_ok=True)
        gate, starts = self.root / "gate", self.root / "starts"
        script = f"echo $$ $LAUNCH_ITEM_ID >> '{starts}'\n"
        script += SCRIPT.format(lines=LINES, gate=f"'{gate}'")
        (code / "job.sh").write_text(script)
        return await submit(home, "--uri", str(code), "-E", "sh job.sh", *flags)

    async def open_gate(self, item: str) -> None:
        (self.root / "gate").touch()

    async def starts(self, item: str) -> tuple[int, int]:
        lines = (self.root / "starts").read_text().splitlines()
        mine = sum(line.split()[1] == item for line in lines)
        return mine, mine

    async def running(self, item: str) -> bool:
        lines = (self.root / "starts").read_text().splitlines()
        pids = [line.split()[0] for line in lines if line.split()[1] == item]
        return any(Path("/proc", pid).exists() for pid in pids)


async def until(condition: Any, what: str, seconds: float = 60.0, pause: float = 0.05) -> None:
    """Wait for an outside fact that sends no signal; give up loudly."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        await asyncio.sleep(pause)
