"""The engine goes away under a running job and does not come back: an engine of our own."""

import asyncio

import pytest

from agent.docker.client import Engine as Client
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.testing.runner_suite import Scenario, ended, first_piece, launched, raised, read_all
from tests.contract.runner_drivers import DockerDriver
from tests.infrastructure.engine import Engine

pytestmark = pytest.mark.docker


async def test_an_engine_that_stays_away_is_given_up(engine: Engine, own: DockerDriver) -> None:
    runner = own.runner(outage_timeout=0.5)
    workload = await launched(runner, own.request(Scenario(b"up\n", waits=True)))
    await first_piece(runner, workload)
    waiting = asyncio.create_task(ended(runner, workload))
    reading = asyncio.create_task(read_all(runner, workload))
    await asyncio.sleep(0.2)
    await asyncio.to_thread(engine.stop)
    for call in (waiting, reading, runner.find(workload.name), runner.backend_id()):
        error = await raised(JobError, call)
        assert error.cause is Cause.LOST_ENGINE
        assert str(engine.socket) in error.message


async def test_an_engine_that_was_never_there_is_named() -> None:
    client = Client("unix:///run/no-engine-here.sock")
    error = await raised(JobError, client.call("GET", "/_ping"))
    assert error.cause is Cause.LOST_ENGINE
    assert "no-engine-here.sock" in error.message
    await client.close()
