"""What people ask of agents reaches them at once, and what agents suffer from is explained.

Heartbeats that come by themselves are switched off where promptness is the question: with
an hour between two of them, only a notice can be in time.
"""

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Daemon, Home
from tests.e2e.harness.jobs import Backend, submit, until
from tests.e2e.test_faults import load_image
from tests.e2e.test_kills import pair, phase
from tests.infrastructure.engine import Engine
from tests.infrastructure.state import DockerFacts

RARELY = {"heartbeat": "1h", "lease": "3h", "agent_timeout": "3h"}


async def _agent_without_heartbeat(home: Home, backend: Backend) -> Daemon:
    settings = quick(**backend.settings)
    home.configure(settings | {"control": settings["control"] | RARELY})
    return await home.start("launch-agent", "--queue", "default")


async def test_a_stop_of_a_running_job_does_not_wait_for_the_heartbeat(
    home: Home, backend: Backend
) -> None:
    await _agent_without_heartbeat(home, backend)
    asking = acting = 0.0
    for _ in range(3):
        item = await backend.submit(home)
        await phase(home, item, "STARTED")
        began = time.monotonic()
        stopped = await home.launch("item", "stop", item)
        asking += time.monotonic() - began
        assert stopped.code == 0, stopped.err
        shown = await phase(home, item, "STOPPED")
        assert shown["cause"] == "STOPPED_BY_USER"
        acting += _seconds_from_request_to_end(shown)
    # A poll that nobody wakes ends by itself after 25 s. However slow this machine is, to
    # act on a stop takes about as long as to ask for it.
    assert acting < 3 * asking


def _seconds_from_request_to_end(shown: dict[str, Any]) -> float:
    at = {event["text"]: datetime.fromisoformat(event["at"]) for event in shown["events"]}
    return (datetime.fromisoformat(shown["finishedAt"]) - at["stop requested"]).total_seconds()


@pytest.mark.parametrize(("order", "end"), [("stop", "STOPPED"), ("drain", "FAILED")])
async def test_an_order_to_leave_does_not_wait_for_the_heartbeat(
    home: Home, backend: Backend, order: str, end: str
) -> None:
    home_of_agent = await _agent_without_heartbeat(home, backend)
    item = await backend.submit(home)
    await phase(home, item, "STARTED")
    (agent,) = (await home.launch("agent", "list", "--json")).json()
    asked = await home.launch("agent", order, agent["id"])
    assert asked.code == 0, asked.err

    async def heard() -> bool:
        return "an operator asked this agent" in home_of_agent.output()

    await until(heard, "the agent to say that it was asked to leave")
    if order == "drain":
        await backend.open_gate(item)
    # The plane is in the agent's process: what became of the item is asked of the next one.
    assert await home_of_agent.process.wait() == 0
    await _agent_without_heartbeat(home, backend)
    assert (await home.item(item))["phase"] == end


async def _explained(home: Home, item: str, cause: str) -> str:
    """Wait until an item has that cause; all that `launch explain` says about it."""

    async def told() -> bool:
        return bool((await home.item(item))["explanation"]["cause"] == cause)

    await until(told, f"item {item} to be explained by {cause}")
    return (await home.launch("explain", item)).out


async def test_a_disk_below_the_floor_is_explained_and_shown(home: Home) -> None:
    settings = quick(min_free_disk="1000TiB")
    home.configure(settings | {"control": settings["control"] | RARELY})
    await home.start("launch-agent", "--queue", "default")
    (home.root / "code").mkdir()
    (home.root / "code" / "main.py").write_text("print()\n")
    item = await submit(home, "--uri", "code", "-E", "python main.py")
    said = await _explained(home, item, "SCHEDULE_DISK")
    assert "must stay free (`min_free_disk`)" in said
    assert "disk low" in (await home.launch("agent", "list")).out
    (agent,) = (await home.launch("agent", "list", "--json")).json()
    assert [one["kind"] for one in agent["conditions"]] == ["DISK_LOW"]


@pytest.mark.docker
async def test_processes_are_run_while_the_engine_of_containers_is_silent(
    home: Home, docker_engine: DockerFacts, short_path: Path
) -> None:
    engine = Engine(
        short_path / "engine", short_path / "run", short_path / "engine.sock", isolated=True
    )
    engine.start()
    try:
        host = f"unix://{short_path / 'engine.sock'}"
        await load_image(home, docker_engine, host)
        runners: dict[str, Any] = {
            "local-container": {"host": host},
            "local-process": {"enabled": True},
        }
        home.configure(quick(runners=runners))
        await home.start("launch", "server")
        env = await pair(home)
        made = await home.launch("queue", "create", "processes", "--resource", "local-process")
        assert made.code == 0, made.err
        queues = ("--queue", "default", "--queue", "processes")
        await home.start("launch-agent", *queues, **env)
        engine.stop()

        async def noticed() -> bool:
            return any(one["conditions"] for one in await home.agents())

        await until(noticed, "the agent to say that its engine is unreachable")
        assert "engine unreachable" in (await home.launch("agent", "list")).out
        image = ("-d", docker_engine.shell_image, "-E", "true")
        waiting = await submit(home, *image)
        said = await _explained(home, waiting, "SCHEDULE_ENGINE")
        assert "the engine behind local-container does not answer" in said
        (home.root / "code").mkdir()
        (home.root / "code" / "job.sh").write_text("echo up\n")
        code = ("--uri", str(home.root / "code"), "-E", "sh job.sh")
        taken = await home.launch("submit", "--queue", "processes", "--json", *code)
        await phase(home, taken.json()["id"], "SUCCEEDED")
        assert (await home.item(waiting))["phase"] == "QUEUED"
        engine.start()
        await phase(home, waiting, "SUCCEEDED")
    finally:
        engine.stop()
