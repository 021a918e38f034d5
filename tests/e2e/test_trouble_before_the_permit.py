"""Before the permit, trouble is the agent's: no job ends for it, and none is lost."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.e2e.harness.jobs import Processes, submit, until
from tests.e2e.harness.proxy import Proxy
from tests.e2e.test_faults import load_image
from tests.e2e.test_kills import pair, phase
from tests.infrastructure.engine import Engine
from tests.infrastructure.process import free_port
from tests.infrastructure.state import DockerFacts


@pytest.mark.docker
async def test_jobs_submitted_to_an_idle_agent_outlive_the_death_of_its_engine(
    home: Home, docker_engine: DockerFacts, short_path: Path
) -> None:
    engine = Engine(
        short_path / "engine", short_path / "run", short_path / "engine.sock", isolated=True
    )
    engine.start()
    try:
        await load_image(home, docker_engine, engine.host)
        runners = {"local-container": {"host": engine.host}}
        home.configure(quick(runners=runners, max_jobs=8))
        agent = await home.start("launch-agent", "--queue", "default")
        spec = ("-d", docker_engine.shell_image, "-E", "true")
        first = await submit(home, *spec)
        await phase(home, first, "SUCCEEDED")
        engine.daemon.stop(signal.SIGKILL)
        submitted = [await submit(home, *spec) for _ in range(12)]

        async def noticed() -> bool:
            return any(one["conditions"] for one in await home.agents())

        await until(noticed, "the agent to say that its engine is unreachable")
        seen = {one["id"]: one["phase"] for one in await home.items()}
        assert not {seen[item] for item in submitted} & {"ERRORED", "LOST", "FAILED"}
        said = (await home.launch("explain", submitted[0])).out
        assert "It is back on its queue: The container engine at" in said
        engine.start()
        for item in submitted:
            shown = await phase(home, item, "SUCCEEDED", "ERRORED", "LOST", "FAILED")
            assert (shown["phase"], shown["attempt"]) == ("SUCCEEDED", 1), shown
        assert await agent.terminate() == 0
    finally:
        engine.stop()


async def far_away(home: Home, proxy: Proxy, agent_says: str) -> None:
    """The control plane is out of reach for longer than one call is repeated."""
    log = home.root / "daemon-1.log"

    async def said() -> bool:
        over = (await home.items())[0]["phase"] in {"ERRORED", "SUCCEEDED"}
        return over or agent_says in log.read_text()

    await until(said, f"the agent to say '{agent_says}'")
    assert proxy.cuts == 1
    proxy.refusing = False


@pytest.mark.parametrize(
    ("call", "agent_says"),
    [
        (b"ArtifactMembershipByName", "stored job: will be retried"),
        (b"FetchArtifactManifest", "will be retried"),
        (b"ArtifactByID", "code of the job: will be retried"),
        (b"GetArtifactMembershipFileUrls", "will be retried"),
        (b"GET /storage/contents", "will be retried"),
        (b"advanceLaunchItem", "progress: will be retried"),
        (b"permitLaunchStart", "start permit: will be retried"),
        (b"finishLaunchItem", "outcome: will be retried"),
    ],
)
async def test_a_control_plane_that_is_away_at_any_call_ends_no_job(
    home: Home, call: bytes, agent_says: str
) -> None:
    processes = Processes.make(home.root)
    home.configure({"control": {"port": free_port()}, **processes.settings})
    await home.start("launch", "server")
    env = await pair(home)
    address = urlsplit(env["LAUNCH_SERVER"])
    assert address.hostname
    assert address.port
    (home.root / "code").mkdir()
    (home.root / "code" / "main.py").write_text("print('whole')\n")
    (home.root / "code" / "data.bin").write_bytes(bytes(range(256)) * 4096)
    async with Proxy((address.hostname, address.port)) as proxy:
        host, port = proxy.address
        proxied = env | {"LAUNCH_SERVER": f"http://{host}:{port}"}
        agent = await home.start("launch-agent", "--queue", "default", **proxied)
        proxy.cut_reply_to, proxy.refuse_after_cut = call, True
        item = await submit(home, "--uri", "code", "-E", "python main.py")
        await far_away(home, proxy, agent_says)
        shown = await phase(home, item, "SUCCEEDED", "ERRORED", "FAILED", "LOST")
        assert (shown["phase"], shown["attempt"]) == ("SUCCEEDED", 1), shown
        logged = await home.launch("item", "logs", item)
        assert logged.out == "whole\n"
        assert await agent.terminate() == 0


async def test_restarts_of_the_control_plane_while_sources_are_fetched_end_no_job(
    home: Home,
) -> None:
    processes = Processes.make(home.root)
    home.configure({"control": {"port": free_port()}, "max_jobs": 4, **processes.settings})
    server = await home.start("launch", "server")
    env = await pair(home)
    agent = await home.start("launch-agent", "--queue", "default", **env)
    submitted = []
    for number in range(8):
        code = home.root / f"code-{number}"
        code.mkdir()
        (code / "main.py").write_text("print('whole')\n")
        for part in range(4):
            (code / f"{part}.bin").write_bytes(bytes([number, part]) * 2**20)
        submitted.append(await submit(home, "--uri", str(code), "-E", "python main.py"))
        if number % 2:
            # The jobs before it are being claimed, fetched, started or reported.
            await server.kill()
            server = await home.start("launch", "server")
    for item in submitted:
        shown = await phase(home, item, "SUCCEEDED", "ERRORED", "FAILED", "LOST", "REFUSED")
        assert (shown["phase"], shown["attempt"]) == ("SUCCEEDED", 1), shown
        assert (await home.launch("item", "logs", item)).out == "whole\n"
    assert await agent.terminate() == 0


@asynccontextmanager
async def silent_index() -> AsyncIterator[tuple[str, asyncio.Queue[None]]]:
    """A package index that accepts connections and never answers; tells of each one."""
    reached: asyncio.Queue[None] = asyncio.Queue()
    closing, closed = asyncio.Event(), asyncio.Semaphore(0)
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        reached.put_nowait(None)
        await closing.wait()
        writer.transport.abort()
        closed.release()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/simple", reached
    finally:
        server.close()
        closing.set()
        for _ in range(count):
            await closed.acquire()


async def test_an_item_under_which_three_agents_died_is_quarantined(home: Home) -> None:
    """Each dies within its lease and is started again at once, so no lease ever expires."""
    processes = Processes.make(home.root)
    async with silent_index() as (index, reached):
        builder = {"type": "virtualenv", "index_url": index}
        control = {"port": free_port()}
        home.configure({**processes.settings, "builder": builder, "control": control})
        await home.start("launch", "server")
        env = await pair(home)
        for name in ("poison", "good"):
            (home.root / name).mkdir()
            (home.root / name / "main.py").write_text("print('whole')\n")
        (home.root / "poison" / "requirements.txt").write_text("launch-agent-unheard-of==1\n")
        poison = await submit(home, "--uri", "poison", "-E", "python main.py")
        for _ in range(3):
            agent = await home.start("launch-agent", "--queue", "default", **env)
            await asyncio.wait_for(reached.get(), 60)
            await agent.kill()
            while not reached.empty():
                reached.get_nowait()
        neighbour = await submit(home, "--uri", "good", "-E", "python main.py")
        agent = await home.start("launch-agent", "--queue", "default", **env)
        shown = await home.item(poison)
        assert (shown["phase"], shown["cause"]) == ("ERRORED", "QUARANTINED"), json.dumps(shown)
        assert "before you retry it" in (await home.launch("explain", poison)).out
        await phase(home, neighbour, "SUCCEEDED")
        assert await agent.terminate() == 0


async def test_graceful_restarts_quarantine_nothing(home: Home) -> None:
    processes = Processes.make(home.root)
    async with silent_index() as (index, reached):
        builder = {"type": "virtualenv", "index_url": index}
        control = {"port": free_port()}
        home.configure({**processes.settings, "builder": builder, "control": control})
        server = await home.start("launch", "server")
        env = await pair(home)
        (home.root / "slow").mkdir()
        (home.root / "slow" / "main.py").write_text("print()\n")
        (home.root / "slow" / "requirements.txt").write_text("launch-agent-unheard-of==1\n")
        slow = await submit(home, "--uri", "slow", "-E", "python main.py")
        for _ in range(4):
            agent = await home.start("launch-agent", "--queue", "default", **env)
            await asyncio.wait_for(reached.get(), 60)
            assert await agent.terminate() == 0
            while not reached.empty():
                reached.get_nowait()
            assert (await home.item(slow))["phase"] == "QUEUED"
        for _ in range(3):
            agent = await home.start("launch-agent", "--queue", "default", **env)
            await asyncio.wait_for(reached.get(), 60)
            # Nothing can be released: both are restarted at once, as by an upgrade.
            await server.kill()
            assert await agent.terminate() == 0
            while not reached.empty():
                reached.get_nowait()
            server = await home.start("launch", "server")
        agent = await home.start("launch-agent", "--queue", "default", **env)
        await asyncio.wait_for(reached.get(), 60)
        assert (await home.item(slow))["phase"] == "PREPARING"
        assert await agent.terminate() == 0
        assert (await home.item(slow))["phase"] == "QUEUED"
        assert "were lost while they prepared" not in (await home.launch("explain", slow)).out
