"""Child processes: streamed output, and the end of the whole process group."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from agent.system.child import Command, SilentError, Tail, run

ENV = {"PATH": os.environ["PATH"]}


def sh(script, **more):
    return Command(("sh", "-c", script), ENV, **more)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(pid):
    """A killed grandchild is reaped by whoever adopts it: soon, not at once."""
    async with asyncio.timeout(10):
        while alive(pid) and not _zombie(pid):
            await asyncio.sleep(0.01)


def _zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_streams_and_exit_code_arrive():
    out, err = Tail(), Tail()
    assert await run(sh("echo one; echo two >&2; exit 3"), out, err) == 3
    assert (out.text, err.text) == ("one\n", "two\n")


async def test_a_signal_is_a_negative_code():
    assert await run(sh("kill -9 $$"), Tail(), Tail()) == -9


async def test_the_environment_is_what_was_given():
    out = Tail()
    await run(
        Command((sys.executable, "-c", "import os; print(sorted(os.environ))"), {"A": "1"}),
        out,
        out,
    )
    assert "'A'" in out.text
    assert "HOME" not in out.text


async def test_a_tail_keeps_the_end_and_passes_all_on():
    seen = []

    async def then(data):
        seen.append(data)

    tail = Tail(4, then)
    await tail(b"abc")
    await tail(b"def")
    assert tail.text == "cdef"
    assert b"".join(seen) == b"abcdef"


async def test_silence_ends_the_child():
    with pytest.raises(SilentError):
        await run(sh("echo one; sleep 60", idle=0.3), Tail(), Tail())


async def test_time_that_a_consumer_takes_is_no_silence():
    async def slow(_data):
        await asyncio.sleep(2.5)

    assert await run(sh("echo one", idle=2.0), slow, Tail()) == 0


async def test_cancelling_ends_the_child_and_its_children():
    started = asyncio.Event()
    out = Tail()

    async def watch(data):
        await out(data)
        started.set()

    running = asyncio.create_task(run(sh("sleep 60 & echo $!; wait"), watch, Tail()))
    await started.wait()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await gone(int(out.text))


async def test_a_second_cancellation_still_leaves_nothing(monkeypatch):
    monkeypatch.setattr("agent.system.child._GRACE", 0.3)
    started = asyncio.Event()
    out = Tail()

    async def watch(data):
        await out(data)
        started.set()

    script = "trap '' TERM; echo $$; while :; do sleep 0.1; done"
    running = asyncio.create_task(run(sh(script), watch, Tail()))
    await started.wait()
    running.cancel()
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await gone(int(out.text))


async def test_an_outer_deadline_stays_the_outer_one_s():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await run(sh("sleep 60", idle=50), Tail(), Tail())


async def test_a_consumer_s_error_is_raised_as_it_is():
    async def fails(_data):
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        await run(sh("echo one; sleep 60"), fails, Tail())


async def test_a_missing_program_is_told():
    with pytest.raises(FileNotFoundError):
        await run(Command(("no-such-program-here",), ENV), Tail(), Tail())
