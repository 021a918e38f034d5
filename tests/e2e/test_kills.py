"""Whatever is killed, a job starts exactly once, its log is whole and its exit code right."""

import asyncio
import os
import shlex
import signal
from typing import Any

import pytest

from tests.e2e.harness.home import Home
from tests.e2e.harness.jobs import Backend, expected_lines, until

REPEAT = pytest.mark.parametrize(
    "repetition", [0, *(pytest.param(i, marks=pytest.mark.long) for i in range(1, 10))]
)


async def phase(home: Home, item: str, *wanted: str) -> dict[str, Any]:
    """Wait until the item is in one of these phases."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        nonlocal found
        found = await home.item(item)
        return found["phase"] in wanted

    await until(there, f"item {item} in {wanted}; last seen {found}")
    return found


async def log_of(home: Home, item: str) -> list[str]:
    shown = await home.launch("item", "logs", item)
    assert shown.code == 0, shown.err
    return shown.out.splitlines()


async def assert_ended_well(home: Home, item: str, backend: Backend) -> None:
    """Exit code 7 as the job said, all lines in order, one creation, one start."""
    waited = await home.launch("item", "logs", item, "--follow")
    shown = await phase(home, item, "FAILED")
    assert (shown["exitCode"], shown["cause"]) == (7, "RUN_EXIT_CODE"), shown
    assert shown["attempt"] == 1
    assert await log_of(home, item) == expected_lines(), waited.err
    assert await backend.starts(item) == (1, 1)


@REPEAT
async def test_an_agent_killed_under_a_job_adopts_it_again(
    home: Home, backend: Backend, repetition: int
) -> None:
    first = await home.start("launch-agent", "--queue", "default")
    item = await backend.submit(home)
    await phase(home, item, "STARTED")
    await first.kill()
    assert await backend.running(item)

    await home.start("launch-agent", "--queue", "default")
    await backend.open_gate(item)
    await assert_ended_well(home, item, backend)


@REPEAT
async def test_a_job_that_ends_while_its_agent_is_dead_keeps_its_outcome(
    home: Home, backend: Backend, repetition: int
) -> None:
    first = await home.start("launch-agent", "--queue", "default")
    item = await backend.submit(home)
    await phase(home, item, "STARTED")
    await first.kill()
    await backend.open_gate(item)

    async def over() -> bool:
        return not await backend.running(item)

    await until(over, "the job to end by itself")
    await home.start("launch-agent", "--queue", "default")
    await assert_ended_well(home, item, backend)


@REPEAT
async def test_a_control_plane_killed_under_a_job_finds_it_again(
    home: Home, backend: Backend, repetition: int
) -> None:
    server = await home.start("launch", "server")
    agent = await home.start("launch-agent", "--queue", "default", **await pair(home))
    item = await backend.submit(home)
    await phase(home, item, "STARTED")
    followed = home.root / "followed"

    async def begun() -> bool:
        return followed.exists() and followed.stat().st_size > 0

    follow = f"exec launch item logs {item} --follow > {shlex.quote(str(followed))}"
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(home.run("sh", "-c", follow))
        await until(begun, "a follower of the log to have read something")
        await server.kill()
        await backend.open_gate(item)
        await home.start("launch", "server")
        await assert_ended_well(home, item, backend)
    assert following.result().code == 0, following.result().err
    assert followed.read_text().splitlines() == expected_lines()
    assert agent.process.returncode is None


@REPEAT
async def test_an_agent_that_slept_past_its_lease_harms_nothing(
    home: Home, backend: Backend, repetition: int
) -> None:
    await home.start("launch", "server")
    agent = await home.start("launch-agent", "--queue", "default", **await pair(home))
    item = await backend.submit(home)
    await phase(home, item, "STARTED")
    os.kill(agent.pid, signal.SIGSTOP)
    try:

        async def lost() -> bool:
            return bool((await home.item(item))["lostContact"])

        await until(lost, "the item to be shown as out of contact")
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    await backend.open_gate(item)
    await assert_ended_well(home, item, backend)


async def pair(home: Home) -> dict[str, str]:
    """Address and key of the home's control plane, as a user would export them."""
    shown = await home.launch("key", "create", "--for-agent", "--json")
    assert shown.code == 0, shown.err
    made = shown.json()
    return {"LAUNCH_SERVER": made["url"], "LAUNCH_API_KEY": made["key"]}


@REPEAT
async def test_the_first_sigterm_waits_for_the_job_and_the_second_stops_it(
    home: Home, backend: Backend, repetition: int
) -> None:
    daemon = await home.start("launch-agent", "--queue", "default")
    item = await backend.submit(home)
    await phase(home, item, "STARTED")
    daemon.process.send_signal(signal.SIGTERM)
    await daemon.notify.until("STOPPING=1")
    assert await backend.running(item)
    queued = await backend.submit(home)
    assert (await home.item(queued))["phase"] == "QUEUED"
    assert await asyncio.wait_for(daemon.terminate(), 30) == 0
    assert not await backend.running(item)
