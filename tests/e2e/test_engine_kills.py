"""The engine is killed at a job's first line, again and again: no attempt runs twice."""

import asyncio
import json
import shlex
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.e2e.harness.jobs import submit, until
from tests.e2e.test_faults import load_image
from tests.e2e.test_kills import phase
from tests.infrastructure.engine import Engine
from tests.infrastructure.state import DockerFacts

ENDED = ("LOST", "FAILED", "SUCCEEDED", "ERRORED", "REFUSED", "STOPPED", "PREEMPTED")
#: The job's own record of its start, which no engine can forget.
JOB = "echo >> /trace/$LAUNCH_ITEM_ID.$LAUNCH_ATTEMPT; echo first; sleep 1; exit 3"


@pytest.mark.docker
@pytest.mark.parametrize("live_restore", [False, True])
@pytest.mark.parametrize("trials", [2, pytest.param(50, marks=pytest.mark.long)])
async def test_an_engine_that_is_killed_at_the_first_line_of_a_job(
    home: Home, docker_engine: DockerFacts, short_path: Path, trials: int, *, live_restore: bool
) -> None:
    """With `trials` kills; in every third trial the agent is killed as well."""
    settings = {"live-restore": live_restore}
    socket = short_path / "e.sock"
    engine = Engine(short_path / "e", short_path / "r", socket, isolated=True, settings=settings)
    trace = home.root / "trace"
    trace.mkdir()
    arguments = json.dumps({"local-container": {"volume": [f"{trace}:/trace"]}})
    flags = ("-d", docker_engine.shell_image, "-E", shlex.join(["sh", "-c", JOB]), "-R", arguments)
    engine.start()
    try:
        await load_image(home, docker_engine, engine.host)
        runner = {"host": engine.host, "allow": ["volume"]}
        home.configure(quick(runners={"local-container": runner}))
        agent = await home.start("launch-agent", "--queue", "default")
        items = []
        for trial in range(trials):
            items.append(item := await submit(home, *flags))

            async def began(mark: Path = trace / f"{item}.1") -> bool:
                return mark.exists()

            await until(began, f"the first line of trial {trial}", 120, pause=0.002)
            await asyncio.to_thread(engine.daemon.stop, signal.SIGKILL)
            dies = trial % 3 == 2
            if dies:
                await agent.kill()
            await asyncio.to_thread(engine.start)
            if dies:
                agent = await home.start("launch-agent", "--queue", "default")
        shown = [await phase(home, item, *ENDED) for item in items]
    finally:
        engine.stop()
    outcomes = Counter((one["phase"], one["cause"], one["exitCode"]) for one in shown)
    starts = Counter(len(path.read_text()) for path in trace.iterdir())
    print(f"{trials} kills, live restore {live_restore}: starts {starts}, outcomes {outcomes}")
    assert starts == {1: trials}
    true = {("FAILED", "RUN_EXIT_CODE", 3)} if live_restore else set()
    assert set(outcomes) <= {("LOST", "LOST_ENGINE", None)} | true
