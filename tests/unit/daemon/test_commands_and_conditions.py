"""Commands of the server, and conditions of the agent that keep it from claiming."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.config.agent import HealthConfig
from agent.daemon import service
from agent.daemon.health_endpoints import AgentStatus
from agent.model.cause import Cause
from agent.model.errors import JobError, UnreachableError
from agent.model.phase import Phase, Stopped, Succeeded
from agent.model.protocol import ConditionKind
from agent.pipeline.dependencies import Backend
from agent.testing.runner_suite import Scenario
from tests.unit.daemon.harness import IMAGE_JOB, Harness

#: Seconds; even a thousand times faster it is days.
NEVER = 1e9


@pytest.fixture
def no_heartbeat(harness: Harness) -> Harness:
    """Periodic heartbeats are too rare to carry anything during the test."""
    harness.plane.heartbeat_seconds = NEVER
    harness.engine.default = Scenario(waits=True)
    return harness


async def test_a_stop_reaches_a_running_job_before_a_heartbeat(
    no_heartbeat: Harness,
) -> None:
    item = no_heartbeat.plane.submit(IMAGE_JOB)
    async with no_heartbeat.running():
        await no_heartbeat.until_running(item)
        no_heartbeat.plane.request_stop(item)
        await no_heartbeat.until_over(item)
    assert isinstance(item.outcome, Stopped)
    assert item.outcome.cause is Cause.STOPPED_BY_USER


async def test_stops_one_after_the_other_all_arrive(no_heartbeat: Harness) -> None:
    items = [no_heartbeat.plane.submit(IMAGE_JOB) for _ in range(3)]
    async with no_heartbeat.running():
        for item in items:
            await no_heartbeat.until_running(item)
        for item in items:
            no_heartbeat.plane.request_stop(item)
            await no_heartbeat.plane.until_phase(item)
    assert all(isinstance(item.outcome, Stopped) for item in items)


async def test_a_stop_during_a_renewal_comes_with_the_next(
    no_heartbeat: Harness,
) -> None:
    first, second = no_heartbeat.plane.submit(IMAGE_JOB), no_heartbeat.plane.submit(IMAGE_JOB)
    async with no_heartbeat.running():
        await no_heartbeat.until_running(first)
        await no_heartbeat.until_running(second)
        with no_heartbeat.plane.hold("renew") as gate:
            no_heartbeat.plane.request_stop(first)
            await gate.reached.wait()
            polls = no_heartbeat.plane.calls.count(("commands", ""))
            no_heartbeat.plane.request_stop(second)
            await no_heartbeat.plane.until_called("commands", polls + 1)
        await no_heartbeat.until_over(first)
        await no_heartbeat.until_over(second)


@pytest.mark.parametrize(("mode", "kind"), [("DRAIN", Succeeded), ("STOP", Stopped)])
async def test_an_operator_s_command_arrives_before_the_next_heartbeat(
    no_heartbeat: Harness, mode: Any, kind: type
) -> None:
    item = no_heartbeat.plane.submit(IMAGE_JOB)
    async with no_heartbeat.running() as process:
        await no_heartbeat.until_running(item)
        no_heartbeat.plane.ask_to_leave(mode)
        await no_heartbeat.last._shutdown.wait_graceful()
        if mode == "DRAIN":
            no_heartbeat.engine.release(no_heartbeat.name(item))
        assert await process == 0
    assert isinstance(item.outcome, kind)


async def test_a_superseded_idle_agent_exits_before_the_next_heartbeat(
    no_heartbeat: Harness,
) -> None:
    async with no_heartbeat.running() as process:
        await no_heartbeat.plane.until_called("commands", 2)
        no_heartbeat.plane.sessions[no_heartbeat.identity] = "a newer one"
        no_heartbeat.plane.ring()
        assert await process == 1


async def test_a_failed_poll_for_commands_is_repeated(no_heartbeat: Harness) -> None:
    no_heartbeat.plane.fail_next("commands", UnreachableError("away"))
    no_heartbeat.plane.cut_next("commands", 2)
    item = no_heartbeat.plane.submit(IMAGE_JOB)
    async with no_heartbeat.running():
        await no_heartbeat.until_running(item)
        no_heartbeat.plane.request_stop(item)
        await no_heartbeat.until_over(item)
    assert isinstance(item.outcome, Stopped)


async def test_while_no_poll_returns_a_stop_comes_with_the_heartbeat(harness: Harness) -> None:
    harness.plane.mark = lambda identity, session: "unchanged"
    harness.engine.default = Scenario(waits=True)
    item = harness.plane.submit(IMAGE_JOB)
    async with harness.running():
        await harness.until_running(item)
        harness.plane.request_stop(item)
        await harness.until_over(item)
    assert isinstance(item.outcome, Stopped)


async def test_conditions_are_reported_when_they_begin_and_end(no_heartbeat: Harness) -> None:
    async with no_heartbeat.running():
        no_heartbeat.engine.go_away()
        await no_heartbeat.plane_until(lambda: bool(no_heartbeat.plane.conditions))
        (condition,) = no_heartbeat.plane.conditions
        assert condition.kind is ConditionKind.ENGINE_UNREACHABLE
        assert condition.resource == "local-container"
        assert condition.message.startswith("the engine behind local-container does not answer")
        no_heartbeat.engine.come_back()
        await no_heartbeat.plane_until(lambda: not no_heartbeat.plane.conditions)


async def test_a_full_disk_is_a_condition_until_there_is_space(
    no_heartbeat: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1 << 30

    async def seen(_: object) -> int:
        return free

    monkeypatch.setattr("agent.daemon.conditions.FreeDiskCheck.free", seen)
    no_heartbeat.settings = {"min_free_disk": 1 << 31}
    async with no_heartbeat.running():
        await no_heartbeat.plane_until(lambda: bool(no_heartbeat.plane.conditions))
        (condition,) = no_heartbeat.plane.conditions
        assert condition.kind is ConditionKind.DISK_LOW
        assert "1.0 GiB are free" in condition.message
        assert "2.0 GiB must stay free" in condition.message
        assert not no_heartbeat.plane.requests
        free = 1 << 32
        await no_heartbeat.plane_until(lambda: not no_heartbeat.plane.conditions)
        await no_heartbeat.plane.until_called("claim")


class FailingRunner:
    """A runner whose engine can stop answering."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.down = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def find(self, name: str) -> Any:
        if self.down:
            raise JobError(Cause.LOST_ENGINE, "nothing listens on the socket.")
        return await self._inner.find(name)


@pytest.fixture
def runner_of(harness: Harness) -> Callable[[str], FailingRunner]:
    """Two resources; gives the runner of one by name."""
    runners: dict[str, FailingRunner] = {}

    def backends(made: dict[str, Backend]) -> dict[str, Backend]:
        (backend,) = made.values()
        for resource in ("local-container", "local-process"):
            runners[resource] = FailingRunner(backend.runner)
        return {name: replace(backend, runner=runner) for name, runner in runners.items()}

    harness.backends = backends
    return runners.__getitem__


async def test_one_failed_backend_does_not_keep_the_others_from_claiming(
    harness: Harness, runner_of: Callable[[str], FailingRunner]
) -> None:
    async with harness.running():
        for down, up in (
            ("local-container", "local-process"),
            ("local-process", "local-container"),
        ):
            runner_of(down).down = True
            await harness.plane_until(lambda: bool(harness.plane.conditions))
            waiting = harness.plane.submit(IMAGE_JOB, resource=down)
            taken = harness.plane.submit(IMAGE_JOB, resource=up)
            await harness.until_over(taken)
            assert taken.outcome == Succeeded()
            assert waiting.phase is Phase.QUEUED
            assert harness.plane.requests[-1].resources == (up,)
            runner_of(down).down = False
            await harness.until_over(waiting)
            await harness.plane_until(lambda: not harness.plane.conditions)


async def test_nothing_is_claimed_while_all_backends_fail(
    harness: Harness, runner_of: Callable[[str], FailingRunner]
) -> None:
    async with harness.running():
        for resource in ("local-container", "local-process"):
            runner_of(resource).down = True
        await harness.plane_until(lambda: len(harness.plane.conditions) == 2)

        def polls() -> int:
            # What returns the claims of an interrupted poll asks for none.
            return sum(request.free.slots != 0 for request in harness.plane.requests)

        asked = polls()
        harness.plane.submit(IMAGE_JOB)
        await harness.renewals(3)
        assert polls() == asked


async def test_an_item_given_to_an_interrupted_poll_for_a_failed_backend_is_returned(
    harness: Harness, runner_of: Callable[[str], FailingRunner]
) -> None:
    """1. A poll is given a job. 2. Its backend fails, and the poll is interrupted."""
    with harness.plane.hold("claim") as gate:
        async with harness.running():
            await gate.reached.wait()
            item = harness.plane.submit(IMAGE_JOB)
            assert harness.plane.grant(harness.plane.requests[-1], harness.identity) == [item]
            runner_of("local-container").down = True
            await harness.plane_until(lambda: bool(harness.plane.conditions))
            gate.open.set()
            await harness.plane.until_called("release")
            await harness.plane_until(lambda: item.phase is Phase.QUEUED)
            assert not harness.engine.created
            runner_of("local-container").down = False
            await harness.until_over(item)
    assert item.outcome == Succeeded()


async def test_it_is_ready_while_one_backend_answers_and_the_disk_has_space(
    harness: Harness, runner_of: Callable[[str], FailingRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[AgentStatus] = []
    whole = service.serve_health

    def serve_health(config: HealthConfig, status: AgentStatus) -> Any:
        seen.append(status)
        return whole(config, status)

    monkeypatch.setattr(service, "serve_health", serve_health)
    async with harness.running():
        (status,) = seen
        runner_of("local-container").down = True
        await harness.plane_until(lambda: bool(harness.plane.conditions))
        assert status.problems() == []
        runner_of("local-process").down = True
        await harness.plane_until(lambda: len(harness.plane.conditions) == 2)
        assert [text.partition(":")[0] for text in status.problems()] == [
            "local-container",
            "local-process",
        ]
        for resource in ("local-container", "local-process"):
            runner_of(resource).down = False
        await harness.plane_until(lambda: not harness.plane.conditions)
        status.heartbeat.conditions.set(ConditionKind.DISK_LOW, "no room.")
        assert status.problems() == ["no room."]
