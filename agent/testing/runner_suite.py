"""Conformance tests for runners: derive a class, give it a fixture `driver`.

`RunnerSuite` is for every runner; a backend that schedules by itself is held to
`agent.testing.queueing_runner_suite` too. The tests use the port alone. A `Driver` makes a
backend run a job that follows a `Scenario`, and inspects the backend without the runner.
"""

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from agent.model.cause import Cause
from agent.model.errors import FencedError, JobError, LaunchError, PolicyError
from agent.model.work import LABEL_EPOCH
from agent.ports.runner import (
    LOG_START,
    Ended,
    Ending,
    LogPiece,
    LogPosition,
    Pending,
    Progress,
    RunnerPort,
    Running,
    RunRequest,
    Started,
    Workload,
    WorkloadState,
)

Kind = TypeVar("Kind", bound=BaseException)

_PIECE = 64 * 1024
_TERMINATED = Ending(143, signal=15)
_KILLED = Ending(137, signal=9)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What one workload does, and what goes wrong with it."""

    #: Printed right after the start.
    output: bytes = b""
    exit_code: int = 0
    #: Runs on after its output until `Driver.release` or a stop.
    waits: bool = False
    ignores_term: bool = False
    #: Why it is pending after its start; it runs after as many calls of `place`.
    pending: tuple[Pending, ...] = ()
    out_of_memory: bool = False
    #: Raised by `create`; nothing was created.
    create_error: LaunchError | None = None
    #: The start is refused with this error.
    start_error: LaunchError | None = None
    #: So many start requests are lost before they reach the backend.
    starts_lost: int = 0
    #: The answer to the start that takes effect is lost.
    start_answer_lost: bool = False
    #: Bytes at the head of the log that the engine no longer has.
    log_lost: int = 0
    #: The log never ends and yields nothing more after the output.
    log_hangs: bool = False


class Driver(Protocol):
    """One backend under test."""

    #: A resource argument that is refused unless an administrator allows it.
    refused_argument: str

    def runner(self) -> RunnerPort:
        """A runner as a new process of the agent would have it: nothing remembered."""

    def request(self, scenario: Scenario, item: str = "item", attempt: int = 1) -> RunRequest:
        """A request for a job that runs a scenario; same item and attempt, same name."""

    async def release(self, name: str) -> None:
        """Let a waiting job go on to its end."""

    async def occupy(self, name: str) -> None:
        """Put something that is not ours under a name."""

    async def vanish(self, workload: Workload) -> None:
        """Remove a running workload behind the runner's back."""

    async def starts(self, name: str) -> int:
        """How often a workload was really started, as the backend counts."""


async def raised(kind: type[Kind], call: Awaitable[object]) -> Kind:
    """The error that a call ends with."""
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


async def read_all(
    runner: RunnerPort, workload: Workload, position: LogPosition = LOG_START
) -> bytes:
    """A log from a position to its end; pieces must be small and nothing missing."""
    data = bytearray()
    async for piece in runner.logs(workload, position):
        assert len(piece.data) <= _PIECE
        assert not piece.missing
        data += piece.data
    return bytes(data)


async def first_piece(runner: RunnerPort, workload: Workload) -> LogPiece:
    """The first output of a job: it certainly runs then."""
    async with aclosing(runner.logs(workload, LOG_START)) as pieces:
        return await anext(pieces)


async def watched(runner: RunnerPort, workload: Workload) -> list[Progress]:
    """All progress until the end, which must come last and once."""
    progress = [each async for each in runner.watch(workload)]
    assert [isinstance(each, Ended) for each in progress] == [False] * (len(progress) - 1) + [True]
    return progress


async def ended(runner: RunnerPort, workload: Workload) -> Ending:
    """How a workload ends."""
    last = (await watched(runner, workload))[-1]
    assert isinstance(last, Ended)
    return last.ending


async def started(runner: RunnerPort, workload: Workload) -> Workload:
    """Start what must start now."""
    result = await runner.start(workload)
    assert isinstance(result, Started), result
    assert not result.before
    return result.workload


async def started_before(runner: RunnerPort, workload: Workload) -> Workload:
    """Start what an earlier call has started: it must be found, not started again."""
    result = await runner.start(workload)
    assert isinstance(result, Started), result
    assert result.before
    return result.workload


async def launched(runner: RunnerPort, request: RunRequest) -> Workload:
    """Create and start."""
    return await started(runner, await runner.create(request))


def leased_again(request: RunRequest) -> RunRequest:
    """The same attempt under a later lease."""
    lease = replace(request.lease, epoch=request.lease.epoch + 1)
    labels = {**request.labels, LABEL_EPOCH: str(lease.epoch)}
    return replace(request, lease=lease, labels=labels)


def bare(ending: Ending) -> Ending:
    """An ending without its time and message, for comparison."""
    return replace(ending, message="", finished_at=None)


class RunnerSuite:
    """The tests; each works on workloads of its own."""

    async def test_job_runs_to_its_end(self, driver: Driver) -> None:
        """Output, exit code and times of a job that succeeds."""
        runner = driver.runner()
        request = driver.request(Scenario(b"hello\n"))
        workload = await launched(runner, request)
        ending = await ended(runner, workload)
        # A backend that queues has not placed it yet.
        assert workload.state in {WorkloadState.PENDING, WorkloadState.RUNNING}
        found = await runner.find(request.name)
        assert found is not None
        assert found.started_at is not None
        assert bare(ending) == Ending(0)
        assert ending.finished_at is not None
        assert await read_all(runner, workload) == b"hello\n"
        assert await driver.starts(request.name) == 1

    async def test_exit_code_is_the_jobs_own(self, driver: Driver) -> None:
        """A failure is a value."""
        runner = driver.runner()
        workload = await launched(runner, driver.request(Scenario(exit_code=7)))
        assert bare(await ended(runner, workload)) == Ending(7)

    async def test_creating_does_not_start(self, driver: Driver) -> None:
        """Nothing runs before the permit."""
        runner = driver.runner()
        request = driver.request(Scenario())
        await runner.create(request)
        found = await runner.find(request.name)
        assert found is not None
        assert found.state is WorkloadState.CREATED
        assert found.started_at is None
        assert found.lease == request.lease
        assert await driver.starts(request.name) == 0

    async def test_creating_again_adopts_what_is_there(self, driver: Driver) -> None:
        """The same attempt twice is one workload, in whatever state it is."""
        request = driver.request(Scenario(b"up\n", waits=True))
        first = await driver.runner().create(request)
        again = await driver.runner().create(request)
        assert again.id == first.id
        assert again.state is WorkloadState.CREATED
        runner = driver.runner()
        await started(runner, again)
        await first_piece(runner, again)
        assert (await runner.create(request)).state is WorkloadState.RUNNING
        await runner.stop(again, 5)
        assert (await runner.create(request)).state is WorkloadState.EXITED
        assert await driver.starts(request.name) == 1

    async def test_a_later_lease_runs_nothing_an_earlier_one_created(self, driver: Driver) -> None:
        """Its token, its devices and its arguments went with the lease that had them."""
        earlier = driver.request(Scenario(b"earlier\n"))
        await driver.runner().create(earlier)
        later = leased_again(driver.request(Scenario(b"later\n", exit_code=3)))
        runner = driver.runner()
        workload = await runner.create(later)
        assert workload.state is WorkloadState.CREATED
        assert workload.lease == later.lease
        assert [one.lease for one in await runner.owned()] == [later.lease]
        await started(runner, workload)
        assert bare(await ended(runner, workload)) == Ending(3)
        assert await driver.starts(later.name) == 1

    async def test_what_an_earlier_lease_started_is_adopted(self, driver: Driver) -> None:
        """It runs or ran: nothing is created, and nothing is started, beside it."""
        earlier = driver.request(Scenario(b"up\n", waits=True))
        runner = driver.runner()
        first = await launched(runner, earlier)
        await first_piece(runner, first)
        later = leased_again(earlier)
        found = await driver.runner().create(later)
        assert (found.id, found.state) == (first.id, WorkloadState.RUNNING)
        assert found.lease == earlier.lease
        await started_before(driver.runner(), found)
        await driver.release(earlier.name)
        await ended(driver.runner(), found)
        assert await driver.starts(earlier.name) == 1

    async def test_what_a_later_lease_created_is_left_alone(self, driver: Driver) -> None:
        """A caller with a lost lease neither uses nor removes it."""
        earlier = driver.request(Scenario())
        late = driver.runner()
        lost = await late.create(earlier)
        created = await driver.runner().create(leased_again(earlier))
        await raised(FencedError, late.create(earlier))
        await late.destroy(lost)
        found = await driver.runner().find(earlier.name)
        assert found is not None
        assert (found.id, found.lease) == (created.id, created.lease)

    async def test_a_foreign_name_is_refused(self, driver: Driver) -> None:
        """What is not ours is neither adopted nor touched."""
        request = driver.request(Scenario())
        await driver.occupy(request.name)
        error = await raised(JobError, driver.runner().create(request))
        assert error.cause is Cause.START_FAILED
        assert request.name in error.message
        assert await driver.runner().find(request.name) is None

    async def test_a_running_job_is_not_started_again(self, driver: Driver) -> None:
        """Neither by its starter nor by another agent."""
        runner = driver.runner()
        request = driver.request(Scenario(b"up\n", waits=True))
        created = await runner.create(request)
        running = await started(runner, created)
        await first_piece(runner, created)
        for again, seen in ((runner, created), (runner, running), (driver.runner(), created)):
            found = await started_before(again, seen)
            assert (found.id, found.state) == (created.id, WorkloadState.RUNNING)
        assert await driver.starts(request.name) == 1

    async def test_an_ended_job_is_not_started_again(self, driver: Driver) -> None:
        """An engine would run it a second time."""
        runner = driver.runner()
        request = driver.request(Scenario(b"once\n"))
        created = await runner.create(request)
        await ended(runner, await started(runner, created))
        for again in (runner, driver.runner()):
            assert (await started_before(again, created)).state is WorkloadState.EXITED
        assert await driver.starts(request.name) == 1
        assert await read_all(runner, created) == b"once\n"

    async def test_a_start_that_was_sent_is_settled_not_sent_again(self, driver: Driver) -> None:
        """By another agent, which does not know that it was sent."""
        runner = driver.runner()
        created = await launched(runner, driver.request(Scenario(b"once\n", waits=True)))
        await first_piece(runner, created)
        for state in (WorkloadState.RUNNING, WorkloadState.EXITED):
            result = await driver.runner().settle(created)
            assert isinstance(result, Started)
            assert (result.workload.id, result.workload.state) == (created.id, state)
            await driver.release(created.name)
            await ended(driver.runner(), created)
        assert await driver.starts(created.name) == 1

    async def test_two_starts_at_once_are_one(self, driver: Driver) -> None:
        """At most one of two racing agents starts it."""
        request = driver.request(Scenario(b"up\n", waits=True))
        created = await driver.runner().create(request)
        tries = [driver.runner().start(created), driver.runner().start(created)]
        results = await asyncio.gather(*tries)
        assert sorted(isinstance(one, Started) and one.before for one in results) == [False, True]
        await first_piece(driver.runner(), created)
        assert await driver.starts(request.name) == 1

    async def test_another_agent_finds_everything(self, driver: Driver) -> None:
        """What a killed agent left, in every state."""
        runner = driver.runner()
        requests = [driver.request(Scenario(waits=True), item) for item in ("one", "two", "three")]
        created = [await runner.create(request) for request in requests]
        await started(runner, created[1])
        await started(runner, created[2])
        await driver.release(created[2].name)
        await ended(runner, created[2])
        found = {workload.name: workload for workload in await driver.runner().owned()}
        states = [found[request.name].state for request in requests]
        running = WorkloadState.RUNNING
        assert states == [WorkloadState.CREATED, running, WorkloadState.EXITED]
        assert [found[request.name].lease for request in requests] == [
            request.lease for request in requests
        ]
        ending = found[requests[2].name].ending
        assert ending is not None
        assert bare(ending) == Ending(0)

    async def test_another_agent_gets_the_whole_log_and_the_exit_code(self, driver: Driver) -> None:
        """Adoption loses nothing, while it runs and after its end."""
        request = driver.request(Scenario(b"first\nlast\n", exit_code=3, waits=True))
        workload = await launched(driver.runner(), request)
        adopter = driver.runner()
        reading = asyncio.create_task(read_all(adopter, workload))
        waiting = asyncio.create_task(ended(adopter, workload))
        await driver.release(request.name)
        assert bare(await waiting) == Ending(3)
        assert await reading == b"first\nlast\n"
        late = driver.runner()
        assert bare(await ended(late, workload)) == Ending(3)
        assert await read_all(late, workload) == b"first\nlast\n"

    async def test_a_log_can_be_read_from_any_position(self, driver: Driver) -> None:
        """Resuming after a restart: by bytes after a piece's position, kept as text."""
        runner = driver.runner()
        workload = await launched(runner, driver.request(Scenario(b"one\ntwo\nthree\n")))
        await ended(runner, workload)
        first = await first_piece(runner, workload)
        kept = LogPosition.from_text(first.position.to_text())
        assert kept == first.position
        assert await read_all(driver.runner(), workload, kept.after(4)) == b"two\nthree\n"
        assert await read_all(runner, workload, kept.after(6)) == b"o\nthree\n"
        assert await read_all(runner, workload, kept.after(14)) == b""
        assert await read_all(runner, workload, kept.after(6).after(-6)) == b"one\ntwo\nthree\n"

    async def test_a_log_is_followed_while_the_job_runs(self, driver: Driver) -> None:
        """The first line comes before the end."""
        runner = driver.runner()
        request = driver.request(Scenario(b"soon\n", waits=True))
        workload = await launched(runner, request)
        pieces = runner.logs(workload, LOG_START)
        first = await anext(pieces)
        assert (first.data, first.missing) == (b"soon\n", 0)
        await driver.release(request.name)
        assert [piece async for piece in pieces] == []

    async def test_a_log_keeps_every_byte(self, driver: Driver) -> None:
        """Colours, progress bars, what is no text, and no newline at the end."""
        output = b"\x1b[31mred\x1b[0m\r 50%\r100%\n\xff\xfe\x00\n" + b"\xc3\xa9" * 20_000 + b"\nend"
        runner = driver.runner()
        workload = await launched(runner, driver.request(Scenario(output)))
        await ended(runner, workload)
        assert await read_all(runner, workload) == output

    async def test_a_long_log_arrives_whole(self, driver: Driver) -> None:
        """Short and long lines, three megabytes."""
        output = b"".join(b"%d %s\n" % (n, b"x" * (n % 3000)) for n in range(2000))
        runner = driver.runner()
        workload = await launched(runner, driver.request(Scenario(output)))
        assert await read_all(runner, workload) == output

    async def test_stop_ends_a_job_by_sigterm(self, driver: Driver) -> None:
        """Most jobs need no more."""
        runner = driver.runner()
        workload = await launched(runner, driver.request(Scenario(b"up\n", waits=True)))
        await first_piece(runner, workload)
        await runner.stop(workload, 60)
        assert bare(await ended(runner, workload)) == _TERMINATED

    async def test_stop_kills_a_job_that_ignores_sigterm(self, driver: Driver) -> None:
        """After the grace it is dead."""
        runner = driver.runner()
        scenario = Scenario(b"deaf\n", waits=True, ignores_term=True)
        workload = await launched(runner, driver.request(scenario))
        await first_piece(runner, workload)
        await runner.stop(workload, 1)
        assert bare(await ended(runner, workload)) == _KILLED

    async def test_stop_and_destroy_are_always_legal(self, driver: Driver) -> None:
        """Without a start, twice, after the end, after the removal."""
        runner = driver.runner()
        request = driver.request(Scenario())
        unstarted = await runner.create(request)
        await runner.stop(unstarted, 1)
        await runner.destroy(unstarted)
        assert await runner.find(request.name) is None
        await runner.stop(unstarted, 1)
        await runner.destroy(unstarted)
        over = await launched(runner, driver.request(Scenario(), "other"))
        await ended(runner, over)
        await runner.stop(over, 1)
        await runner.stop(over, 1)
        await runner.destroy(over)
        assert await runner.owned() == []

    async def test_destroy_removes_a_running_job(self, driver: Driver) -> None:
        """Nothing of it is left."""
        runner = driver.runner()
        request = driver.request(Scenario(waits=True))
        workload = await launched(runner, request)
        await runner.destroy(workload)
        assert await runner.find(request.name) is None
        assert await runner.owned() == []

    async def test_cancelled_calls_do_not_harm_the_job(self, driver: Driver) -> None:
        """Waiting and following can be given up and taken up again."""
        runner = driver.runner()
        request = driver.request(Scenario(b"on\n", exit_code=4, waits=True))
        workload = await launched(runner, request)
        await first_piece(runner, workload)
        tasks = [
            asyncio.create_task(ended(runner, workload)),
            asyncio.create_task(read_all(runner, workload)),
        ]
        await asyncio.wait(tasks, timeout=0.1)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        found = await runner.find(request.name)
        assert found is not None
        assert found.state is WorkloadState.RUNNING
        await driver.release(request.name)
        assert bare(await ended(runner, workload)) == Ending(4)

    async def test_a_vanished_job_is_lost(self, driver: Driver) -> None:
        """Its ending is unknown, to the present watcher and to later ones."""
        runner = driver.runner()
        workload = await launched(runner, driver.request(Scenario(b"here\n", waits=True)))
        await first_piece(runner, workload)
        waiting = asyncio.create_task(ended(runner, workload))
        await driver.vanish(workload)
        for ending in (await waiting, await ended(driver.runner(), workload)):
            assert (ending.exit_code, ending.cause) == (None, Cause.LOST_WORKLOAD)
            assert workload.name in ending.message

    async def test_watching_tells_that_it_ran_and_then_how_it_ended(self, driver: Driver) -> None:
        """Also of a job that had ended before anybody watched."""
        runner = driver.runner()
        request = driver.request(Scenario(b"up\n", exit_code=2, waits=True))
        workload = await launched(runner, request)
        watching = asyncio.create_task(watched(runner, workload))
        await first_piece(runner, workload)
        await driver.release(request.name)
        progress = await watching
        found = await driver.runner().find(request.name)
        assert found is not None
        for each in (progress, await watched(driver.runner(), found)):
            running, end = each[-2:]
            assert isinstance(running, Running)
            assert running.since is not None
            assert isinstance(end, Ended)
            assert bare(end.ending) == Ending(2)

    async def test_a_preview_calls_nothing_and_shows_the_command(self, driver: Driver) -> None:
        """What would be sent to the backend."""
        request = replace(driver.request(Scenario()), command=("train", "--fast"), args=("1",))
        assert "--fast" in repr(driver.runner().preview(request))
        assert await driver.runner().owned() == []
        assert await driver.starts(request.name) == 0

    async def test_a_refused_argument_is_named(self, driver: Driver) -> None:
        """Before anything is created."""
        runner = driver.runner()
        runner.check({}, {})
        runner.demand({})

        async def checked() -> None:
            runner.check({driver.refused_argument: "yes"}, {})

        error = await raised(PolicyError, checked())
        assert error.cause is Cause.POLICY_RESOURCE
        assert driver.refused_argument in error.message

    async def test_an_unknown_name_is_not_found(self, driver: Driver) -> None:
        """Nothing there, in any state."""
        assert await driver.runner().find("launch-nothing-of-this-name-1") is None

    async def test_the_backend_has_one_identity(self, driver: Driver) -> None:
        """Who shares it may adopt."""
        assert await driver.runner().backend_id() == await driver.runner().backend_id()
