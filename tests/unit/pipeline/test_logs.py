"""Logs: every byte once and in order, whatever the far end and the runner do."""

import asyncio
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.docker.log_frames import FramePart
from agent.model.errors import FencedError, LogFullError, ServerError, UnreachableError
from agent.model.phase import Phase
from agent.model.redact import Redactor
from agent.model.work import Lease
from agent.pipeline.cancellation import Cancellation, CancelReason
from agent.pipeline.logs import BUFFER_SIZE, JobLog, LogLostError, LogSender, ResumePoint, SetupLog
from agent.ports.runner import Ending, LogPiece, LogPosition, Workload, WorkloadState
from agent.runners.docker.log_marks import LogCursor, LogMarks
from tests.infrastructure.fake_item import FakeItem
from tests.infrastructure.fake_queue import FakePlane, FakeQueue

WORKLOAD = Workload("name", "id", Lease("item", 1, 1), WorkloadState.RUNNING)


async def scaled(seconds: float) -> None:
    await asyncio.sleep(seconds / 1000)


class Far:
    """Stores logs; faults come as a list of what happens to each append."""

    def __init__(self, faults: list[str] | None = None) -> None:
        self.stored = bytearray()
        self.faults = faults or []
        self.batches: list[int] = []
        self.lost = 0

    async def append_log(self, lease: Lease, channel: str, offset: int, data: bytes) -> int:
        fault = self.faults.pop(0) if self.faults else "fine"
        if fault == "refuse":
            raise UnreachableError("away")
        if fault == "full":
            raise ServerError("No space is left.")
        if fault == "limit":
            raise LogFullError("1.0 GiB of one log are stored.")
        if fault == "fence":
            raise FencedError("not yours")
        if fault == "forget":
            del self.stored[len(self.stored) // 2 :]
        if offset <= len(self.stored):
            self.stored += data[len(self.stored) - offset :]
        self.batches.append(len(data))
        if fault == "cut":
            raise UnreachableError("cut")
        return len(self.stored)

    async def log_end(self, lease: Lease, channel: str) -> int:
        return len(self.stored)


class Printer:
    """The half of a runner that logs: from any offset, in pieces, breaking off at times."""

    resource = "x"

    def __init__(self, output: bytes, breaks: list[int] | None = None, lost: int = 0) -> None:
        self.output = output
        self.breaks = breaks or []
        self.lost = lost
        self.hang = False

    async def logs(self, workload: Workload, start: LogPosition):
        position = max(start.skip, self.lost)
        missing = position - start.skip
        stop = self.breaks.pop(0) if self.breaks else len(self.output)
        while position < len(self.output):
            if position >= stop:
                raise OSError("the stream broke")
            piece = self.output[position : position + 7]
            yield LogPiece(LogPosition(skip=position), piece, missing)
            position, missing = position + len(piece), 0
        if self.hang:
            await asyncio.Event().wait()


class NoJournal:
    def __init__(self) -> None:
        self.points: list[str] = []

    def log_resumes(self, lease: Lease, point: str) -> None:
        self.points.append(point)


async def _follow(
    far: Far,
    printer: Printer,
    *,
    start: int | None = 0,
    resume: str = "",
    stall: float = 5.0,
    secret: str = "",
) -> tuple[bool, NoJournal]:
    cancellation, journal = Cancellation(), NoJournal()
    sender = LogSender(far, WORKLOAD.lease, "job", cancellation, start=start, sleep=scaled)
    log = JobLog(
        printer, WORKLOAD.lease, sender, journal, Redactor([secret]), lambda _: None, scaled
    )
    log.begin(WORKLOAD, ResumePoint.from_text(resume))
    done = await log.finished(stall)
    await log.close()
    await sender.close()
    return done, journal


@given(
    output=st.binary(max_size=300),
    breaks=st.lists(st.integers(0, 300), max_size=4),
    faults=st.lists(st.sampled_from(["fine", "refuse", "cut", "forget"]), max_size=6),
)
@settings(max_examples=40, deadline=None)
async def test_every_byte_arrives_once_and_in_order(
    output: bytes, breaks: list[int], faults: list[str]
) -> None:
    far = Far(faults)
    done, _ = await _follow(far, Printer(output, breaks))
    assert done
    # What the far end forgets after the last byte was acknowledged, nobody can know.
    assert bytes(far.stored) == output


@given(output=st.binary(min_size=1, max_size=200), stored=st.integers(0, 200))
@settings(max_examples=25, deadline=None)
async def test_a_new_process_goes_on_where_the_far_end_stands(output: bytes, stored: int) -> None:
    far = Far()
    far.stored += output[:stored]
    await _follow(far, Printer(output), start=None)
    assert bytes(far.stored) == output


SECRET = "S3cretS3cret"


@given(
    before=st.integers(0, 60),
    after=st.integers(0, 60),
    breaks=st.lists(st.integers(0, 130), max_size=4),
    faults=st.lists(st.sampled_from(["fine", "refuse", "cut", "forget"]), max_size=6),
    stored=st.integers(0, 130),
    lines=st.booleans(),
)
@settings(max_examples=80, deadline=None)
async def test_a_secret_is_never_stored_wherever_reading_begins_again(
    before: int, after: int, breaks: list[int], faults: list[str], stored: int, lines: bool
) -> None:
    fill = b".\n" if lines else b".."
    output = fill * (before // 2) + SECRET.encode() + fill * (after // 2)
    masked = output.replace(SECRET.encode(), b"*" * len(SECRET))
    far = Far(faults)
    # An earlier process has stored the first part.
    far.stored += masked[:stored]
    done, _ = await _follow(far, Printer(output, breaks), start=None, secret=SECRET)
    assert done
    assert bytes(far.stored) == masked


async def test_bytes_that_were_read_again_and_are_gone_are_no_gap() -> None:
    """Reading begins earlier than what is stored; only what was never stored can be missing."""
    far = Far()
    far.stored += b"0123456789" * 5
    await _follow(far, Printer(b"0123456789" * 10, lost=30), start=None)
    assert bytes(far.stored) == b"0123456789" * 10
    far = Far()
    far.stored += b"0123456789" * 5
    await _follow(far, Printer(b"0123456789" * 10, lost=60), start=None)
    assert b"10 B of output are missing here" in far.stored
    assert far.stored.endswith(b"0123456789" * 4)


async def test_a_secret_across_the_marks_of_a_backend_is_masked() -> None:
    printer, far = Marked([b"one S3cret", b"S3cret two\n", b"three\n"]), Far()
    _, journal = await _follow(far, printer, secret=SECRET)
    masked = printer.output.replace(SECRET.encode(), b"*" * len(SECRET))
    assert bytes(far.stored) == masked
    for end in range(len(masked)):
        for point in ("", *journal.points):
            if ResumePoint.from_text(point).stored > end:
                continue
            again = Far()
            again.stored += masked[:end]
            await _follow(again, printer, start=None, resume=point, secret=SECRET)
            assert bytes(again.stored) == masked


async def test_what_the_engine_dropped_is_marked_and_resumed_from() -> None:
    far = Far()
    printer = Printer(b"0123456789" * 10, lost=50)
    _, journal = await _follow(far, printer)
    text = far.stored.decode()
    assert "50 B of output are missing here" in text
    assert text.endswith("0123456789" * 5)
    again = Far()
    again.stored += far.stored[:-20]
    await _follow(again, Printer(printer.output), start=None, resume=journal.points[-1])
    assert again.stored == far.stored


class Marked(Printer):
    """A backend whose positions are marks: the number of the line, and bytes in it."""

    def __init__(self, lines: list[bytes]) -> None:
        super().__init__(b"".join(lines))
        self.lines = lines
        self.asked: list[LogPosition] = []

    async def logs(self, workload: Workload, start: LogPosition):
        self.asked.append(start)
        number, skip = int(start.mark or 0), start.skip
        for line in range(number, len(self.lines)):
            data = self.lines[line][skip:]
            if data:
                yield LogPiece(LogPosition(str(line), skip), data)
            skip = max(0, skip - len(self.lines[line]))


async def test_a_later_process_reads_from_the_last_mark_that_was_stored() -> None:
    printer, far = Marked([b"one\n", b"two\n", b"three\n"]), Far()
    _, journal = await _follow(far, printer)
    assert bytes(far.stored) == printer.output
    del far.stored[-3:]
    await _follow(far, printer, start=None, resume=journal.points[-1])
    assert bytes(far.stored) == printer.output
    # From the mark on: what lies between is not sent again.
    assert printer.asked == [LogPosition(), LogPosition("2", 0)]


class Rotated(Printer):
    """Docker's log after a rotation: all marks are gone, how much was lost is not known."""

    def __init__(self, rest: bytes, marks: LogMarks) -> None:
        super().__init__(rest)
        self.marks = marks

    async def logs(self, workload: Workload, start: LogPosition):
        piece = LogCursor(self.marks, start.skip).take(FramePart(b"2", self.output, first=True))
        if piece is not None:
            yield piece


@pytest.mark.parametrize("stored", [b"", b"stored\n" * 1500])
async def test_a_gap_of_unknown_size_is_named_and_what_follows_arrives_whole(stored: bytes) -> None:
    far, marks, rest = Far(), LogMarks(None), b"new line\n" * 800
    marks.note(0, b"1")
    far.stored += stored
    printer = Rotated(rest, marks)
    _, journal = await _follow(far, printer, start=None, secret="S" * 40)
    expected = stored + b"\nlaunch: output is missing here; the backend has no more\n" + rest
    assert bytes(far.stored) == expected
    # A later process goes on behind the gap: no line twice, no second note.
    await _follow(far, printer, start=None, resume=journal.points[-1])
    assert bytes(far.stored) == expected


async def test_a_log_that_never_ends_is_given_up() -> None:
    far, printer = Far(), Printer(b"some\n")
    printer.hang = True
    done, _ = await _follow(far, printer, stall=0.3)
    assert not done
    assert bytes(far.stored) == b"some\n"


async def test_a_far_end_that_answers_and_takes_nothing_is_given_up() -> None:
    done, _ = await _follow(Far(["full"] * 10_000), Printer(b"some\n"), stall=0.3)
    assert not done


async def test_a_far_end_that_has_room_again_gets_everything() -> None:
    far = Far(["full"] * 5)
    done, _ = await _follow(far, Printer(b"some\n"))
    assert done
    assert bytes(far.stored) == b"some\n"


@pytest.mark.parametrize("sent", [0, 1, 3])
async def test_a_log_ends_where_the_far_end_stores_no_more(sent: int) -> None:
    """The job is not held up: what it prints beyond is dropped, and nothing is tried again."""
    far = Far(["fine"] * sent + ["limit"])
    output = bytes(range(256)) * 8 * 1024
    done, _ = await _follow(far, Printer(output))
    assert not done
    assert bytes(far.stored) == output[: len(far.stored)]
    assert (len(far.batches), far.faults) == (sent, [])


async def test_a_setup_log_ends_where_the_far_end_stores_no_more() -> None:
    far = Far(["limit"])
    sender = LogSender(far, WORKLOAD.lease, "setup", Cancellation(), start=0, sleep=scaled)
    log = SetupLog(sender, Redactor())
    for _ in range(8):
        await log.write(b"x" * BUFFER_SIZE)
    assert not await log.finished(5.0)
    assert sender.refusal == "1.0 GiB of one log are stored."
    await sender.close()


async def test_memory_is_bounded_while_the_far_end_is_away() -> None:
    far = Far(["refuse"] * 1000)
    sender = LogSender(far, WORKLOAD.lease, "job", Cancellation(), start=0, sleep=scaled)
    writing = asyncio.create_task(sender.write(b"x" * (3 * BUFFER_SIZE)))
    while not sender.unreachable:
        await asyncio.sleep(0.001)
    assert not writing.done()
    assert sender.end == BUFFER_SIZE
    far.faults.clear()
    await writing
    await sender.flush()
    await sender.close()
    assert len(far.stored) == 3 * BUFFER_SIZE
    assert max(far.batches) <= BUFFER_SIZE


async def test_fenced_bytes_are_dropped_and_the_attempt_hears_of_it() -> None:
    cancellation = Cancellation()
    sender = LogSender(Far(["fence"]), WORKLOAD.lease, "job", cancellation, start=0, sleep=scaled)
    await sender.write(b"x")
    assert await cancellation.wait() is CancelReason.FENCED
    await sender.write(b"y" * 2 * BUFFER_SIZE)
    await sender.flush()
    await sender.close()


async def test_a_setup_log_says_what_is_missing_and_never_raises() -> None:
    far = Far(["fine", "forget"])
    sender = LogSender(far, WORKLOAD.lease, "setup", Cancellation(), start=0, sleep=scaled)
    log = SetupLog(sender, Redactor(["S3cretS3cret"]))
    await log.write(b"first line\n")
    assert await log.finished(5.0)
    await log.write(b"second line\n")
    assert await log.finished(5.0)
    await log.write(b"third line\n")
    assert await log.finished(5.0)
    far.faults = ["forget"]
    await log.write(b"fourth\n")
    while len(far.batches) < 4:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0)
    await log.write(b"a key: S3cretS")
    await log.write(b"3cret\nfifth\n")
    assert await log.finished(5.0)
    await sender.close()
    assert b"earlier part of this log was lost" in far.stored
    assert b"S3cret" not in far.stored
    assert b"a key: ************" in far.stored
    assert far.stored.endswith(b"fifth\n")


async def test_a_writer_hears_of_a_rewind() -> None:
    far = Far(["fine", "forget"])
    sender = LogSender(far, WORKLOAD.lease, "job", Cancellation(), start=0, sleep=scaled)
    await sender.write(b"0123456789")
    await sender.flush()
    await sender.write(b"abc")
    with pytest.raises(LogLostError) as caught:
        await sender.flush()
    assert caught.value.end == 5
    assert sender.end == sender.acknowledged == 5
    await sender.close()
    await sender.close()


async def test_the_fake_plane_stores_by_offset_as_the_port_says() -> None:
    plane = FakePlane()
    item: FakeItem = plane.submit({})
    item.move(Phase.LEASED)
    queue = FakeQueue(plane)
    assert await queue.append_log(item.lease, "job", 0, b"abc") == 3
    assert await queue.append_log(item.lease, "job", 1, b"bcd") == 4
    assert await queue.append_log(item.lease, "job", 9, b"x") == 4
    with pytest.raises(FencedError):
        await queue.append_log(dataclasses.replace(item.lease, epoch=9), "job", 0, b"")
    assert Ending(0).exit_code == 0
