"""Following: cut streams, servers that are away, further attempts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agent.cli import follow as following
from agent.cli.follow import Screen, exit_code_for, follow_item, phase_line, wait_for
from agent.model.errors import UnreachableError
from tests.unit.cli.far_end import ended, item

Json = dict[str, Any]


class Script:
    """Operations that give these items in turn, the last one for ever."""

    def __init__(self, *items: Json | Exception) -> None:
        self._items = list(items)
        self.cuts = 0
        self.logs = {(1, "job"): b"first\n", (2, "job"): b"second\n"}

    async def item_summary(self, _: str) -> Json:
        one = self._items.pop(0) if len(self._items) > 1 else self._items[0]
        if isinstance(one, Exception):
            raise one
        return one

    async def log(
        self, _: str, attempt: int, channel: str, offset: int = 0, *, follow: bool = False
    ) -> AsyncIterator[bytes]:
        assert follow
        whole = self.logs.get((attempt, channel), b"")
        if self.cuts and channel == "job" and offset == 0:
            self.cuts -= 1
            yield whole[:3]
            raise UnreachableError("cut")
        yield whole[offset:]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    real = asyncio.sleep
    monkeypatch.setattr(following.asyncio, "sleep", lambda _: real(0))


def attempts(count: int, **over: Any) -> Json:
    whole = ended(**over)
    first = whole["attempts"][0]
    whole["attempts"] = [{**first, "number": number} for number in range(1, count + 1)]
    whole["attempt"] = count
    return whole


async def collect(script: Script) -> tuple[Json, bytes, list[str]]:
    written, remarks = bytearray(), []
    last = await follow_item(
        script,  # type: ignore[arg-type]
        "i",
        lambda seen: remarks.append(seen["phase"]),
        lambda _channel, piece: written.extend(piece),
    )
    return last, bytes(written), remarks


async def test_each_attempts_log_is_written_once() -> None:
    script = Script(item(), attempts(1, phase="STARTED", code=None), item(), attempts(2))
    last, written, remarks = await collect(script)
    assert last["phase"] == "SUCCEEDED"
    assert sorted(written.splitlines()) == [b"first", b"second"]
    assert remarks == ["QUEUED", "STARTED", "QUEUED", "SUCCEEDED"]


async def test_a_cut_log_goes_on_where_it_broke() -> None:
    script = Script(attempts(1))
    script.cuts = 1
    _, written, _ = await collect(script)
    assert written == b"first\n"


class Clock:
    """Time that passes as a test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Quiet(Script):
    """Its first connections stand for so many seconds without a byte, then break."""

    def __init__(self, clock: Clock, *stood: float) -> None:
        super().__init__(attempts(1))
        self._clock, self._stood = clock, list(stood)

    async def log(self, *given: Any, **more: Any) -> AsyncIterator[bytes]:
        if self._stood:
            self._clock.now += self._stood.pop(0)
            raise UnreachableError("quiet for too long")
        async for piece in super().log(*given, **more):
            yield piece


async def test_a_job_that_is_quiet_for_long_is_followed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(following, "time", clock)
    written: list[bytes] = []
    script: Any = Quiet(clock, 3600.0, 90.0)
    await following.copy_log(script, "i", (1, "job"), lambda _, piece: written.append(piece))
    assert b"".join(written) == b"first\n"


async def test_a_log_of_a_server_that_stays_away_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(following, "time", clock)
    script: Any = Quiet(clock, *[5.0] * 100)
    with pytest.raises(UnreachableError):
        await following.copy_log(script, "i", (1, "job"), lambda *_: None)
    assert 300.0 < clock.now < 400.0


async def test_a_server_that_is_away_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    away = UnreachableError("gone for a moment.")
    last = await wait_for(Script(item(), away, away, ended()), "i")  # type: ignore[arg-type]
    assert last["phase"] == "SUCCEEDED"
    told = capsys.readouterr().err
    assert told.count("gone for a moment") == 1
    assert "answers again" in told


async def test_a_server_that_stays_away_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_OUTAGE_LIMIT", 0.0)
    with pytest.raises(UnreachableError, match="for good"):
        await wait_for(Script(UnreachableError("for good")), "i")  # type: ignore[arg-type]


def test_remarks_begin_on_a_line_of_their_own(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    screen = Screen()
    screen.write("job", b"no end of line")
    screen.print_phase(item(phase="STARTED"))
    screen.print_phase(item(phase="STARTED"))
    screen.write("setup", b"line\n")
    screen.print_phase(ended())
    out, err = capfdbinary.readouterr()
    assert out == b"no end of line"
    assert err == b"\nlaunch: running\nline\n"


def test_phases_are_told_with_what_is_being_done() -> None:
    doing = item(phase="PREPARING", activity="fetching the source", attempt=2)
    assert phase_line(doing) == "launch: preparing · fetching the source, attempt 2"
    assert phase_line(item(phase="LEASED", agentName="desk")) == "launch: preparing · agent desk"
    assert phase_line(item(phase="STARTED", lostContact=True)) == "launch: lost contact"


@pytest.mark.parametrize(
    ("phase", "code", "exit_code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 3, 3),
        ("FAILED", None, 1),
        ("STOPPED", 143, 1),
        ("LOST", None, 1),
        ("REFUSED", None, 1),
    ],
)
def test_the_exit_code_is_the_jobs(phase: str, code: int | None, exit_code: int) -> None:
    assert exit_code_for(ended(phase, code)) == exit_code
