"""A server, agents and, for containers, an engine: real processes in one folder."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.model.work import LABEL_ITEM
from tests.e2e.harness.home import BIN, Home
from tests.faults.campaign.client import SAVE, SPEC, Client, connect
from tests.faults.campaign.jobs import SCRIPT, Job
from tests.faults.campaign.members import Command, EngineMember, Place, relay
from tests.infrastructure import shell_image
from tests.infrastructure.engine import Engine, docker
from tests.infrastructure.process import free_port

QUEUE = "storm"
#: Everything as in production, in a fraction of the time.
_TIMES = {"heartbeat": "1s", "lease": "8s", "agent_timeout": "8s", "lost_contact": "16s"}
_MOUNTED = "/ledger"


@dataclass(frozen=True)
class Plan:
    """What a campaign runs on."""

    runner: str = "process"
    #: `postgresql://…` of an empty database; SQLite without.
    database_url: str | None = None
    agents: int = 3
    width: int = 4


class Installation:
    """All members; faults happen to `places`."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root = root
        self.plan = plan
        self.ledger = root / "ledger" / "ledger"
        self.places: list[Place] = []
        self.agents: list[Command] = []
        self.engine: EngineMember | None = None
        self.client: Client
        self._commands: list[Command] = []
        self._job = ""
        #: The item that stored the job.
        self.first = ""

    @property
    def agent_folders(self) -> list[Path]:
        return [self.root / agent.name / "state" for agent in self.agents]

    async def open(self, stack: AsyncExitStack) -> None:
        """Start everything."""
        self.ledger.parent.mkdir()
        self.ledger.touch()
        self.ledger.chmod(0o666)
        stack.push_async_callback(self._close)
        if self.plan.runner == "docker":
            await self._start_engine(stack)
        url, key = await self._start_server()
        self.client = await stack.enter_async_context(connect(url, key))
        resource = "local-container" if self.engine else "local-process"
        template = {"resource_args": {resource: {"mounts": ["ledger"]}}} if self.engine else {}
        saved = {"name": QUEUE, "resource": resource, "mode": "EITHER", "config": template}
        await self.client.query(SAVE, input=saved)
        for number in range(self.plan.agents):
            await self._start_agent(f"agent-{number}", url, key)
        if not self.engine:
            self._job = await self._store_job()

    def spec(self, job: Job) -> dict[str, Any]:
        """What is submitted for one job."""
        common = {"retries": 2, "on_lost": job.on_lost}
        if self.engine:
            words = ["sh", "-c", SCRIPT, "job", *job.arguments(f"{_MOUNTED}/ledger")]
            overrides = {"entry_point": words}
            return {"docker": {"docker_image": self._job}, "overrides": overrides, **common}
        words = ["sh", "job.sh", *job.arguments(str(self.ledger))]
        return {"job": self._job, "overrides": {"entry_point": words}, **common}

    async def _start_engine(self, stack: AsyncExitStack) -> None:
        engine = Engine(self.root / "e", self.root / "r", self.root / "d.sock", isolated=True)
        self.engine = EngineMember(engine)
        await self.engine.start()
        stack.callback(engine.stop)
        await asyncio.to_thread(shell_image.ensure, engine.host)
        self._job = shell_image.NAME
        self.places.append(Place(self.engine, 1, 2, 5))

    async def _start_server(self) -> tuple[str, str]:
        home = Home(self.root / "server")
        home.root.mkdir()
        database = {"database_url": self.plan.database_url} if self.plan.database_url else {}
        port = free_port()
        home.configure({"control": {**_TIMES, "port": port, **database}})
        argv = [str(BIN / "launch"), "server", "--config", str(home.config)]
        server = Command("server", argv, home.env, home.root)
        await self._add(server)
        self.places.append(Place(server, 2, 2, 6, self._server_answers))
        made = await _made_key(home)
        return made["url"], made["key"]

    async def _server_answers(self) -> None:
        await self.client.until_up()

    async def _start_agent(self, name: str, url: str, key: str) -> None:
        home = Home(self.root / name)
        home.root.mkdir()
        port = free_port()
        way = relay(
            f"way-{name}", f"tcp:127.0.0.1:{port}", f"tcp:{url.removeprefix('http://')}", home.root
        )
        home.configure(self._agent_settings())
        env = home.env | {"LAUNCH_SERVER": f"http://127.0.0.1:{port}", "LAUNCH_API_KEY": key}
        flags = ("--queue", QUEUE, "--name", name, "--config", str(home.config))
        agent = Command(name, [str(BIN / "launch-agent"), *flags], env, home.root)
        await self._add(way)
        await self._add(agent)
        self.agents.append(agent)
        # Some silences are longer than a lease.
        self.places += [Place(agent, 2, 4, 12), Place(way, 2, 4, 12)]

    def _agent_settings(self) -> dict[str, Any]:
        common = {
            "max_jobs": self.plan.width,
            "stopped_run_timeout": "2s",
            "min_free_disk": "0B",
            "prune": {"interval": "2s"},
        }
        if self.engine is None:
            container = {"local-container": {"enabled": False}}
            return {**common, "builder": {"type": "virtualenv"}, "runners": container}
        host = {"local-container": {"host": self.engine.engine.host}}
        mount = {
            "source": str(self.ledger.parent),
            "target": _MOUNTED,
            "read_only": False,
            "queues": ["*"],
        }
        return {
            **common,
            "builder": {"type": "noop"},
            "runners": {**host, "local-process": {"enabled": False}},
            "mounts": {"ledger": mount},
        }

    async def _store_job(self) -> str:
        """The script as a stored job: its name and version."""
        code = self.root / "code"
        code.mkdir()
        (code / "job.sh").write_text(SCRIPT)
        home = Home(self.root / "server")
        words = ("--uri", str(code), "-E", "sh job.sh 2 0 0 /dev/null", "--queue", QUEUE, "--json")
        done = await home.launch("submit", *words)
        assert done.code == 0, done.err
        item = done.json()["id"]
        while True:
            shown = (await self.client.query(SPEC, id=item))["launchItem"]
            if shown["phase"] == "SUCCEEDED":
                self.first = item
                return str(shown["runSpec"]["job"])
            assert shown["phase"] != "FAILED", shown
            await asyncio.sleep(0.1)

    async def _add(self, command: Command) -> None:
        self._commands.append(command)
        await command.start()

    async def left(self) -> list[str]:
        """What is left of jobs once all have ended."""
        found = [
            str(folder)
            for state in self.agent_folders
            for pattern in ("processes/launch-*", "attempts/*")
            for folder in state.glob(pattern)
        ]
        for environ in Path("/proc").glob("[0-9]*/environ"):
            try:
                if b"LAUNCH_ITEM_ID=" in (raw := environ.read_bytes()) and self._is_ours(raw):
                    found.append(f"process {environ.parent.name}")
            except OSError:
                continue
        if self.engine is not None:
            host = self.engine.engine.host
            jobs = ("ps", "--all", "--quiet", "--filter", f"label={LABEL_ITEM}")
            listed = await asyncio.to_thread(docker, host, *jobs)
            found += [f"container {name}" for name in listed.split()]
        return found

    def _is_ours(self, environ: bytes) -> bool:
        return os.fsencode(self.root) in environ

    async def _close(self) -> None:
        for command in reversed(self._commands):
            await command.kill()


async def _made_key(home: Home) -> dict[str, str]:
    """A key of the server's administrator, once it is up."""
    for _ in range(600):
        made = await home.launch("key", "create", "--json")
        if made.code == 0:
            return dict(json.loads(made.out))
        await asyncio.sleep(0.1)
    raise AssertionError(made.err)


@asynccontextmanager
async def installed(root: Path, plan: Plan) -> AsyncIterator[Installation]:
    """Everything started; ended with all that it started."""
    installation = Installation(root, plan)
    async with AsyncExitStack() as stack:
        await installation.open(stack)
        yield installation
