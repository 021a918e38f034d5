"""Calls of the control plane whose request or answer is lost, also with the server's death."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Daemon, Home
from tests.e2e.harness.jobs import Processes
from tests.e2e.harness.proxy import Proxy
from tests.e2e.test_kills import assert_ended_well, pair, phase
from tests.e2e.test_trouble_before_the_permit import silent_index

LOST = pytest.mark.parametrize("lost", ["request", "answer"])
SERVER = pytest.mark.parametrize("server_dies", [False, True], ids=["server-lives", "server-dies"])


class Way:
    """A server behind a proxy, which loses requests or answers."""

    def __init__(self, home: Home, server: Daemon, proxy: Proxy, env: dict[str, str]) -> None:
        self._home = home
        self._server = server
        self._proxy = proxy
        self.env = env

    async def as_user(self) -> dict[str, str]:
        """The variables of somebody who administers the server."""
        made = await self._home.launch("key", "create", "--json")
        return self.env | {"LAUNCH_API_KEY": made.json()["key"]}

    async def lose(self, lost: str, markers: set[bytes], *, server_dies: bool) -> None:
        """Lose the first request with each marker, or its answer; returns when all are lost."""
        if lost == "request":
            self._proxy.lost_requests = set(markers)
        else:
            self._proxy.lost_answers = set(markers)
        for _ in markers:
            await self._proxy.losses.get()
            if server_dies:
                await self._server.kill()
                self._server = await self._home.start("launch", "server")


@asynccontextmanager
async def way_to_server(home: Home) -> AsyncIterator[Way]:
    server = await home.start("launch", "server")
    env = await pair(home)
    address = urlsplit(env["LAUNCH_SERVER"])
    assert address.hostname
    assert address.port
    async with Proxy((address.hostname, address.port)) as proxy:
        host, port = proxy.address
        yield Way(home, server, proxy, env | {"LAUNCH_SERVER": f"http://{host}:{port}"})


@LOST
@SERVER
async def test_permit_logs_and_finish_are_repeated_and_nothing_happens_twice(
    home: Home, lost: str, server_dies: bool
) -> None:
    processes = Processes.make(home.root)
    home.configure(quick(**processes.settings))
    async with way_to_server(home) as way:
        agent = await home.start("launch-agent", "--queue", "default", **way.env)
        markers = {b"permitLaunchStart", b"/logs/job", b"finishLaunchItem"}
        losing = asyncio.create_task(way.lose(lost, markers, server_dies=server_dies))
        item = await processes.submit(home)
        await processes.open_gate(item)
        await losing
        await assert_ended_well(home, item, processes)
        assert await agent.terminate() == 0


@LOST
@SERVER
async def test_a_released_item_is_queued_again_under_its_attempt(
    home: Home, lost: str, server_dies: bool
) -> None:
    """If it could not be told, the item is queued again when its lease expires."""
    processes = Processes.make(home.root)
    (home.root / "code").mkdir()
    requirements = home.root / "code" / "requirements.txt"
    requirements.write_text("launch-agent-unheard-of==1\n")
    async with silent_index() as (index, reached):
        builder = {"type": "virtualenv", "index_url": index}
        home.configure(quick(**{**processes.settings, "builder": builder}))
        async with way_to_server(home) as way:
            first = await home.start("launch-agent", "--queue", "default", **way.env)
            item = await processes.submit(home)
            await asyncio.wait_for(reached.get(), 60)
            releasing = way.lose(lost, {b"releaseLaunchItem"}, server_dies=server_dies)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(releasing)
                assert await first.terminate() == 0
            shown = await phase(home, item, "QUEUED")
            assert shown["attempt"] == 1
            await home.launch("item", "stop", item)
            assert (await phase(home, item, "STOPPED"))["cause"] == "STOPPED_BY_USER"
    assert not (home.root / "starts").exists()


@LOST
@SERVER
async def test_uploads_and_commits_are_repeated_and_make_one_version(
    home: Home, lost: str, server_dies: bool
) -> None:
    home.configure(quick())
    (home.root / "code").mkdir()
    (home.root / "code" / "main.py").write_text("print('whole')\n")
    (home.root / "code" / "data.bin").write_bytes(bytes(range(256)) * 4096)
    async with way_to_server(home) as way:
        markers = {b"POST /storage/contents", b"CommitArtifact"}
        losing = asyncio.create_task(way.lose(lost, markers, server_dies=server_dies))
        words = ("job", "create", "-p", "p", "-n", "whole", "code", "code", "-E", "python main.py")
        # Longer than by default: here the machine may be so busy that a start takes a while.
        env = await way.as_user() | {"LAUNCH_RETRY_FOR": "150s"}
        done = await home.launch(*words, **env)
        assert done.code == 0, done.err
        assert "Trying again for up to 150 s." in done.err
        await losing
        shown = await home.launch("job", "versions", "whole", "-p", "p", "--json")
        assert len(shown.json()) == 1
        again = await home.launch(*words, **env)
        assert "No changes detected" in again.out


#: Commands that a server would refuse the second time, each with the call that it makes.
DONE_ONCE = {
    "queue create gpu -r local-process": b"saveLaunchQueue",
    "queue delete gpu": b"deleteLaunchQueue",
    "user create bob": b"createLaunchUser",
    "entity create team": b"createLaunchTeam",
    "entity leave club": b"answerLaunchInvitation",
    "job delete p/image:v0": b"deleteArtifact",
}


async def test_a_command_whose_answer_is_lost_ends_as_if_it_had_come(home: Home) -> None:
    home.configure(quick())
    async with way_to_server(home) as way:
        env = await way.as_user()
        for line in (
            "entity create club",
            "user create ann",
            "entity member club ann admin",
            "job create image busybox -p p -n image",
        ):
            assert (await home.launch(*line.split(), **env)).code == 0
        for line, call in DONE_ONCE.items():
            losing = asyncio.create_task(way.lose("answer", {call}, server_dies=False))
            done = await home.launch(*line.split(), **env)
            assert done.code == 0, done.err
            await losing
            again = await home.launch(*line.split(), **env)
            assert again.code in {1, 2}, again.out
        entries = (await home.launch("audit", "--json", **env)).json()
        made = [each["action"] for each in entries if each["result"] == "done"]
        assert made.count("queue.save") == made.count("queue.delete") == 1
        assert made.count("user.create") == made.count("team.create") == 2


async def test_a_server_that_dies_with_its_answer_knows_the_repeat(home: Home) -> None:
    home.configure(quick())
    async with way_to_server(home) as way:
        env = await way.as_user() | {"LAUNCH_RETRY_FOR": "150s"}
        losing = asyncio.create_task(way.lose("answer", {b"createLaunchTeam"}, server_dies=True))
        done = await home.launch("entity", "create", "team", **env)
        assert done.code == 0, done.err
        await losing
