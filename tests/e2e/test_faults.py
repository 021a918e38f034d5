"""Faults between the agent and its surroundings: cut replies, a full disk, a stopped engine."""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.e2e.harness.jobs import Backend, Processes, submit, until
from tests.e2e.harness.proxy import Proxy
from tests.e2e.test_kills import assert_ended_well, pair, phase
from tests.infrastructure import mounts
from tests.infrastructure.engine import Engine
from tests.infrastructure.state import DockerFacts


@pytest.mark.parametrize("call", [b"claimLaunchItems", b"permitLaunchStart", b"finishLaunchItem"])
async def test_a_call_whose_reply_is_cut_is_repeated_without_a_second_start(
    home: Home, backend: Backend, call: bytes
) -> None:
    await home.start("launch", "server")
    env = await pair(home)
    address = urlsplit(env["LAUNCH_SERVER"])
    assert address.hostname
    assert address.port
    async with Proxy((address.hostname, address.port)) as proxy:
        host, port = proxy.address
        env["LAUNCH_SERVER"] = f"http://{host}:{port}"
        agent = await home.start("launch-agent", "--queue", "default", **env)
        proxy.cut_reply_to = call
        item = await backend.submit(home)
        await phase(home, item, "STARTED")
        await backend.open_gate(item)
        await assert_ended_well(home, item, backend)
        assert proxy.cuts == 1
        assert await agent.terminate() == 0


async def test_below_the_floor_of_free_disk_nothing_is_claimed_and_the_agent_says_so(
    home: Home,
) -> None:
    home.configure(quick(min_free_disk="1000TiB"))
    daemon = await home.start("launch-agent", "--queue", "default")
    (home.root / "code").mkdir()
    (home.root / "code" / "main.py").write_text("print()\n")
    item = await submit(home, "--uri", "code", "-E", "python main.py")

    async def said() -> bool:
        return "disk" in daemon.output()

    await until(said, "the agent to speak of its disk")
    assert (await home.item(item))["phase"] == "QUEUED"
    assert "min_free_disk" in daemon.output()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The state folder of the home, on a disk of 16 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a disk")
    with mounts.small_disk(tmp_path / "state", "16m") as folder:
        yield folder


async def test_a_disk_that_is_full_is_told_and_the_agent_goes_on_once_there_is_room(
    small_disk: Path, home: Home
) -> None:
    processes = Processes.make(home.root)
    home.configure(quick(min_free_disk="0B", **processes.settings))
    daemon = await home.start("launch-agent", "--queue", "default")
    code = home.root / "writer"
    code.mkdir()
    (code / "main.py").write_text("for _ in range(64): print('x' * 2**20)\n")
    flags = ("--uri", str(code), "-E", "python main.py")
    done = await home.launch("submit", "--queue", "default", "--wait", *flags)
    assert done.code in {1, 120}, done.err  # as Python ends whose output cannot be written
    assert "launch: failed: DISK_FULL" in done.err
    assert f"no space was left on the disk of {small_disk}" in done.err
    (item,) = (await home.launch("item", "list", "--json")).json()
    assert "Free space" in (await home.launch("explain", item["id"])).out

    async def forgotten() -> bool:
        return not any((small_disk / "processes").glob("launch-*"))

    await until(forgotten, "the job's folder to be removed")
    (code / "main.py").write_text("print('room')\n")
    assert (await home.launch("submit", "--queue", "default", "--wait", *flags)).code == 0
    assert await daemon.terminate() == 0


@pytest.mark.docker
async def test_an_engine_that_is_stopped_under_a_job_is_a_cause_of_its_own(
    home: Home, docker_engine: DockerFacts, short_path: Path
) -> None:
    engine = Engine(
        short_path / "engine", short_path / "run", short_path / "engine.sock", isolated=True
    )
    engine.start()
    try:
        await load_image(home, docker_engine, f"unix://{short_path / 'engine.sock'}")
        host = {"local-container": {"host": f"unix://{short_path / 'engine.sock'}"}}
        home.configure(quick(runners=host))
        await home.start("launch-agent", "--queue", "default")
        sleeper = shlex.join(["sh", "-c", "echo up; sleep 600"])
        item = await submit(home, "-d", docker_engine.shell_image, "-E", sleeper)
        await phase(home, item, "STARTED")
        engine.stop()
        engine.start()
        shown = await phase(home, item, "LOST")
        assert shown["cause"] == "LOST_ENGINE"
        assert "the container engine was restarted" in shown["message"]
        explained = await home.launch("explain", item)
        assert "engine" in explained.out
    finally:
        engine.stop()


async def load_image(home: Home, docker: DockerFacts, host: str) -> None:
    """Copy the shell image from the shared engine to another one."""
    copied = await home.run(
        "sh", "-c", f"docker -H {docker.host} save {docker.shell_image} | docker -H {host} load"
    )
    assert copied.code == 0, copied.err
    images = await home.run("docker", "-H", host, "images", "--format", "{{json .}}")
    assert json.loads(images.out.splitlines()[0])["Repository"]
