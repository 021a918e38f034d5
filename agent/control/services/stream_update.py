"""The body of a file stream request, and lines in chunks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import structlog

from agent.control.services.history_keys import counted_keys
from agent.control.store.run_streams import ChunkRecord, Stream
from agent.model.errors import InvalidInputError
from agent.model.spec import Json

#: The file of W&B's protocol that holds each stream.
FILES: Final[dict[str, Stream]] = {
    "wandb-history.jsonl": "history",
    "wandb-events.jsonl": "events",
    "output.log": "output",
}
SUMMARY_FILE: Final = "wandb-summary.json"
#: Bytes of a chunk, unless one line has more.
CHUNK_SIZE: Final = 64 * 1024
#: A longer highest line is not kept with the state of its stream.
_LONG_TAIL: Final = 64 * 1024
_KEPT_OF_TAIL: Final = ("_step", "_timestamp", "_runtime")
_INT32: Final = range(-(2**31), 2**31)
#: Numbers of lines and steps: integers that JavaScript and every database hold.
_NUMBERS: Final = range(2**53)


@dataclass(frozen=True, slots=True)
class StreamLines:
    """Consecutive lines for one stream."""

    stream: Stream
    first_line: int
    #: Without newlines.
    lines: Sequence[bytes]
    #: `_step` of each line; its number where it has none.
    steps: Sequence[int]
    #: Of a history: the decoded lines.
    rows: Sequence[Json] = ()
    keys: Json = field(default_factory=dict)

    @property
    def end_line(self) -> int:
        """One more than the last line's number."""
        return self.first_line + len(self.lines)

    @property
    def tail(self) -> bytes:
        """The last line; of a long one of the history or of events only times and step."""
        last = self.lines[-1]
        if len(last) <= _LONG_TAIL:
            return last
        if self.stream == "output":
            return last[:_LONG_TAIL].decode(errors="ignore").encode()
        row = json.loads(last)
        return json.dumps({key: row[key] for key in _KEPT_OF_TAIL if key in row}).encode()


@dataclass(frozen=True, slots=True)
class StreamUpdate:
    """What one request of a file stream says."""

    streams: tuple[StreamLines, ...] = ()
    summary: Json | None = None
    #: Of the ended run; `None` while it runs.
    exit_code: int | None = None
    preempting: bool = False


def parse_update(body: bytes) -> StreamUpdate:
    """Read the body of a request.

    Text that is no valid Unicode is replaced, since clients send whatever a program prints.

    Raises:
        InvalidInputError: names what is wrong and where.
    """
    try:
        sent: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInputError("The body is not JSON in UTF-8.") from None
    if not isinstance(sent, dict):
        raise InvalidInputError("The body must be one JSON object.")
    files = sent.get("files") or {}
    if not isinstance(files, dict):
        raise InvalidInputError("`files` must be an object.")
    streams: list[StreamLines] = []
    summary: Json | None = None
    for name, part in files.items():
        offset, content = _part(name, part)
        if not content:
            continue
        if name == SUMMARY_FILE:
            summary = _object(name, offset, content[-1])
        elif name in FILES:
            streams.append(_stream_lines(FILES[name], name, offset, content))
        else:
            structlog.get_logger().warning("unknown file of a run's stream", name=name[:80])
    exit_code = _exit_code(sent) if sent.get("complete") is True else None
    return StreamUpdate(tuple(streams), summary, exit_code, sent.get("preempting") is True)


def chunked(lines: StreamLines) -> list[ChunkRecord]:
    """The lines as chunks with their bytes."""
    found: list[ChunkRecord] = []
    start = 0
    while start < len(lines.lines):
        stop, size = start, 0
        while stop < len(lines.lines) and (stop == start or size < CHUNK_SIZE):
            size += len(lines.lines[stop]) + 1
            stop += 1
        data = b"\n".join(lines.lines[start:stop]) + b"\n"
        steps = lines.steps[start:stop]
        first = lines.first_line + start
        rising = all(a < b for a, b in pairwise(steps))
        end = first + stop - start
        found.append(ChunkRecord(first, end, min(steps), max(steps), rising, len(data), data))
        start = stop
    return found


@dataclass(frozen=True, slots=True)
class Segment:
    """The lines of a chunk that count: `first_line` (inclusive) to `end_line` (exclusive)."""

    chunk: ChunkRecord
    first_line: int
    end_line: int

    def lines(self, data: bytes) -> list[bytes]:
        """Of the bytes of the whole chunk."""
        lines = data.split(b"\n")
        start = self.first_line - self.chunk.first_line
        return lines[start : start + self.end_line - self.first_line]


def segments(chunks: Sequence[ChunkRecord]) -> list[Segment]:
    """Each line once, in order: of chunks that overlap, the later version counts.

    `chunks` are ordered by first line.
    """
    if all(a.end_line <= b.first_line for a, b in pairwise(chunks)):
        return [Segment(chunk, chunk.first_line, chunk.end_line) for chunk in chunks]
    borders = sorted({n for chunk in chunks for n in (chunk.first_line, chunk.end_line)})
    found: list[Segment] = []
    active: list[ChunkRecord] = []
    coming = iter(chunks)
    following = next(coming, None)
    for start, end in pairwise(borders):
        active = [chunk for chunk in active if chunk.end_line > start]
        while following is not None and following.first_line == start:
            active.append(following)
            following = next(coming, None)
        if not active:
            continue
        newest = max(active, key=lambda chunk: chunk.version)
        if found and found[-1].chunk is newest and found[-1].end_line == start:
            found[-1] = Segment(newest, found[-1].first_line, end)
        else:
            found.append(Segment(newest, start, end))
    return found


def only_new(lines: StreamLines, stored: Sequence[ChunkRecord]) -> Json:
    """The counted keys of those lines that no stored chunk has."""
    taken = {
        number
        for chunk in stored
        for number in range(
            max(chunk.first_line, lines.first_line), min(chunk.end_line, lines.end_line)
        )
    }
    rows = enumerate(lines.rows, lines.first_line)
    return counted_keys(row for number, row in rows if number not in taken)


def _part(name: str, part: Any) -> tuple[int, list[str]]:
    if not isinstance(part, dict):
        raise InvalidInputError(f"`files` has no object for '{name[:80]}'.")
    offset, content = part.get("offset", 0), part.get("content")
    if isinstance(content, str):
        content = [content]
    if not isinstance(content, list) or not all(isinstance(line, str) for line in content):
        raise InvalidInputError(f"`content` of '{name[:80]}' must be a list of lines.")
    whole = isinstance(offset, int) and not isinstance(offset, bool)
    if not whole or offset not in _NUMBERS or offset + len(content) not in _NUMBERS:
        raise InvalidInputError(f"`offset` of '{name[:80]}' must be a whole number from 0 on.")
    return offset, content


def _stream_lines(stream: Stream, name: str, offset: int, content: list[str]) -> StreamLines:
    # A line is what ends at a newline: JSON means the same with a space instead.
    lines = [line.replace("\n", " ").encode(errors="replace") for line in content]
    numbers = range(offset, offset + len(lines))
    if stream == "output":
        return StreamLines(stream, offset, lines, numbers)
    rows = [_object(name, *pair) for pair in zip(numbers, content, strict=True)]
    if stream == "events":
        return StreamLines(stream, offset, lines, numbers)
    steps = [step_of(row, number) for row, number in zip(rows, numbers, strict=True)]
    return StreamLines(stream, offset, lines, steps, rows, counted_keys(rows))


def _object(name: str, number: int, line: str) -> Json:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InvalidInputError(f"Line {number} of '{name}' is not a JSON object.")
    return row


def step_of(row: Json, number: int) -> int:
    """The step of a row of the history; the number of its line where it has none."""
    step = row.get("_step")
    if isinstance(step, float) and step.is_integer():
        step = int(step)
    if not isinstance(step, int) or isinstance(step, bool) or step not in _NUMBERS:
        return number
    return step


def _exit_code(sent: Json) -> int:
    code = sent.get("exitcode")
    if isinstance(code, bool) or not isinstance(code, int):
        return int(sent.get("failed") is True)
    if code not in _INT32:
        raise InvalidInputError("`exitcode` is not an integer of 32 bits.")
    return code
