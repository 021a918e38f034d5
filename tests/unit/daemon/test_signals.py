"""What is heard and told at once, with a heartbeat that would never come by itself in time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.config.agent import HealthConfig
from agent.daemon import service
from agent.daemon.health import Vitals
from agent.model.cause import Cause
from agent.model.errors import JobError, UnreachableError
from agent.model.outcome import Stopped, Succeeded
from agent.model.phase import Phase
from agent.model.protocol import ConditionKind
from agent.pipeline.equipment import Backend
from agent.testing.scripted_runner import Play
from tests.unit.daemon.bench import IMAGE_JOB, Bench

#: Seconds; even a thousand times faster it is days.
NEVER = 1e9


@pytest.fixture
def rare(bench: Bench) -> Bench:
    """Nothing comes with the next heartbeat."""
    bench.plane.heartbeat_seconds = NEVER
    bench.engine.default = Play(waits=True)
    return bench


async def test_a_stop_reaches_a_running_job_before_the_next_heartbeat(rare: Bench) -> None:
    item = rare.plane.submit(IMAGE_JOB)
    async with rare.running():
        await rare.until_running(item)
        rare.plane.request_stop(item)
        await rare.until_over(item)
    assert isinstance(item.outcome, Stopped)
    assert item.outcome.cause is Cause.STOPPED_BY_USER


async def test_stops_one_after_the_other_are_all_heard(rare: Bench) -> None:
    items = [rare.plane.submit(IMAGE_JOB) for _ in range(3)]
    async with rare.running():
        for item in items:
            await rare.until_running(item)
        for item in items:
            rare.plane.request_stop(item)
            await rare.plane.until_phase(item)
    assert all(isinstance(item.outcome, Stopped) for item in items)


async def test_a_stop_while_a_renewal_is_under_way_is_heard_by_the_next(rare: Bench) -> None:
    first, second = rare.plane.submit(IMAGE_JOB), rare.plane.submit(IMAGE_JOB)
    async with rare.running():
        await rare.until_running(first)
        await rare.until_running(second)
        with rare.plane.hold("renew") as gate:
            rare.plane.request_stop(first)
            await gate.reached.wait()
            polls = rare.plane.calls.count(("commands", ""))
            rare.plane.request_stop(second)
            await rare.plane.until_called("commands", polls + 1)
        await rare.until_over(first)
        await rare.until_over(second)


@pytest.mark.parametrize(("mode", "kind"), [("DRAIN", Succeeded), ("STOP", Stopped)])
async def test_an_operator_is_heard_before_the_next_heartbeat(
    rare: Bench, mode: Any, kind: type
) -> None:
    item = rare.plane.submit(IMAGE_JOB)
    async with rare.running() as process:
        await rare.until_running(item)
        rare.plane.ask_to_leave(mode)
        await rare.last._leaving.wanted()
        if mode == "DRAIN":
            rare.engine.release(rare.name(item))
        assert await process == 0
    assert isinstance(item.outcome, kind)


async def test_an_idle_agent_that_is_superseded_leaves_before_the_next_heartbeat(
    rare: Bench,
) -> None:
    async with rare.running() as process:
        await rare.plane.until_called("commands", 2)
        rare.plane.sessions[rare.identity] = "a newer one"
        rare.plane.ring()
        assert await process == 1


async def test_orders_that_fail_or_are_cut_are_asked_for_again(rare: Bench) -> None:
    rare.plane.fail_next("commands", UnreachableError("away"))
    rare.plane.cut_next("commands", 2)
    item = rare.plane.submit(IMAGE_JOB)
    async with rare.running():
        await rare.until_running(item)
        rare.plane.request_stop(item)
        await rare.until_over(item)
    assert isinstance(item.outcome, Stopped)


async def test_without_orders_a_stop_comes_with_the_heartbeat(bench: Bench) -> None:
    bench.plane.has_commands = False
    bench.engine.default = Play(waits=True)
    item = bench.plane.submit(IMAGE_JOB)
    async with bench.running():
        await bench.until_running(item)
        bench.plane.request_stop(item)
        await bench.until_over(item)
    assert isinstance(item.outcome, Stopped)
    assert not [call for call, _ in bench.plane.calls if call == "commands"]


async def test_what_is_wrong_and_what_is_right_again_is_told_at_once(rare: Bench) -> None:
    async with rare.running():
        rare.engine.go_away()
        await told(rare, lambda: bool(rare.plane.conditions))
        (condition,) = rare.plane.conditions
        assert condition.kind is ConditionKind.ENGINE_SILENT
        assert condition.resource == "local-container"
        assert condition.message.startswith("the engine behind local-container does not answer")
        rare.engine.come_back()
        await told(rare, lambda: not rare.plane.conditions)


async def test_a_full_disk_is_told_with_its_figures_until_there_is_room(
    rare: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 1 << 30

    async def seen(_: object) -> int:
        return free

    monkeypatch.setattr("agent.daemon.claim.Floor.seen", seen)
    rare.settings = {"min_free_disk": 1 << 31}
    async with rare.running():
        await told(rare, lambda: bool(rare.plane.conditions))
        (condition,) = rare.plane.conditions
        assert condition.kind is ConditionKind.DISK_LOW
        assert "1.0 GiB are free" in condition.message
        assert "2.0 GiB must stay free" in condition.message
        assert not rare.plane.requests
        free = 1 << 32
        await told(rare, lambda: not rare.plane.conditions)
        await rare.plane.until_called("claim")


class Silent:
    """A runner whose engine can fall silent while others answer."""

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
def silent(bench: Bench) -> Callable[[str], Silent]:
    """Two resources; the one that is named can fall silent."""
    runners: dict[str, Silent] = {}

    def backends(made: dict[str, Backend]) -> dict[str, Backend]:
        (backend,) = made.values()
        for resource in ("local-container", "local-process"):
            runners[resource] = Silent(backend.runner)
        return {name: replace(backend, runner=runner) for name, runner in runners.items()}

    bench.backends = backends
    return runners.__getitem__


async def test_one_silent_engine_leaves_the_others_at_work(
    bench: Bench, silent: Callable[[str], Silent]
) -> None:
    async with bench.running():
        for down, up in (
            ("local-container", "local-process"),
            ("local-process", "local-container"),
        ):
            silent(down).down = True
            await told(bench, lambda: bool(bench.plane.conditions))
            waiting = bench.plane.submit(IMAGE_JOB, resource=down)
            taken = bench.plane.submit(IMAGE_JOB, resource=up)
            await bench.until_over(taken)
            assert taken.outcome == Succeeded()
            assert waiting.phase is Phase.QUEUED
            assert bench.plane.requests[-1].resources == (up,)
            silent(down).down = False
            await bench.until_over(waiting)
            await told(bench, lambda: not bench.plane.conditions)


async def test_with_every_engine_silent_nothing_is_asked_for(
    bench: Bench, silent: Callable[[str], Silent]
) -> None:
    async with bench.running():
        for resource in ("local-container", "local-process"):
            silent(resource).down = True
        await told(bench, lambda: len(bench.plane.conditions) == 2)
        asked = len(bench.plane.requests)
        bench.plane.submit(IMAGE_JOB)
        await _beats(bench, 3)
        assert len(bench.plane.requests) == asked


async def test_a_server_that_cannot_leave_resources_out_is_asked_for_nothing(
    bench: Bench, silent: Callable[[str], Silent]
) -> None:
    bench.plane.narrows_claims = False
    async with bench.running():
        silent("local-container").down = True
        await told(bench, lambda: bool(bench.plane.conditions))
        item = bench.plane.submit(IMAGE_JOB, resource="local-process")
        await _beats(bench, 3)
        assert item.phase is Phase.QUEUED
        silent("local-container").down = False
        await bench.until_over(item)


async def test_what_a_cut_poll_was_given_for_a_silent_engine_is_handed_back(
    bench: Bench, silent: Callable[[str], Silent]
) -> None:
    """1. A poll is given a job. 2. Its engine falls silent, and the poll is cut."""
    with bench.plane.hold("claim") as gate:
        async with bench.running():
            await gate.reached.wait()
            item = bench.plane.submit(IMAGE_JOB)
            assert bench.plane.grant(bench.plane.requests[-1], bench.identity) == [item]
            silent("local-container").down = True
            await told(bench, lambda: bool(bench.plane.conditions))
            gate.open.set()
            await bench.plane.until_called("release")
            await told(bench, lambda: item.phase is Phase.QUEUED)
            assert not bench.engine.created
            silent("local-container").down = False
            await bench.until_over(item)
    assert item.outcome == Succeeded()


async def told(bench: Bench, condition: Callable[[], bool]) -> None:
    """Wait until the far end was told so."""
    while not condition():
        await bench.plane.changed()


async def _beats(bench: Bench, number: int) -> None:
    seen = len(bench.plane.statuses)
    await told(bench, lambda: len(bench.plane.statuses) >= seen + number)


async def test_it_is_ready_while_one_engine_answers_and_there_is_room(
    bench: Bench, silent: Callable[[str], Silent], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Vitals] = []
    whole = service.serving

    def serving(config: HealthConfig, vitals: Vitals) -> Any:
        seen.append(vitals)
        return whole(config, vitals)

    monkeypatch.setattr(service, "serving", serving)
    async with bench.running():
        (vitals,) = seen
        silent("local-container").down = True
        await told(bench, lambda: bool(bench.plane.conditions))
        assert vitals.complaints() == []
        silent("local-process").down = True
        await told(bench, lambda: len(bench.plane.conditions) == 2)
        assert [text.partition(":")[0] for text in vitals.complaints()] == [
            "local-container",
            "local-process",
        ]
        for resource in ("local-container", "local-process"):
            silent(resource).down = False
        await told(bench, lambda: not bench.plane.conditions)
        vitals.heartbeat.conditions.note(ConditionKind.DISK_LOW, "no room.")
        assert vitals.complaints() == ["no room."]
