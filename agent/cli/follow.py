"""Following one item: its phases as they happen, its logs as they are."""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agent.cli.output import say
from agent.model.errors import LaunchError, UnreachableError
from agent.model.phase import TERMINAL, Phase

if TYPE_CHECKING:
    from agent.remote.console import Console

Json = dict[str, Any]
Write = Callable[[str, bytes], None]
Remark = Callable[[Json], None]

_LOOK_EVERY: Final = 0.3
#: A control plane may restart under a running job; so long we wait for it.
_PATIENCE: Final = 300.0
#: Seconds; a connection that could not be made has failed before.
_STOOD: Final = 10.0


async def wait_for(
    console: "Console", item_id: str, remark: Remark | None = None, *, every: float = _LOOK_EVERY
) -> Json:
    """Wait until an item has ended; `remark` is called with every change.

    `every` is the time between two looks, in seconds.

    Raises:
        UnreachableError: the server was away for five minutes.
    """
    watch = _Watch(console, item_id)
    last: tuple[object, ...] | None = None
    while True:
        item = await watch.look()
        seen = (item["phase"], item["attempt"], item["activity"], item["lostContact"])
        if remark is not None and seen != last:
            remark(item)
        last = seen
        if Phase(item["phase"]) in TERMINAL:
            return item
        await asyncio.sleep(every)


async def follow(
    console: "Console",
    item_id: str,
    remark: Remark,
    write: Write,
    *,
    every: float = _LOOK_EVERY,
) -> Json:
    """Wait for an item's end, and write both channels of each attempt's log meanwhile."""
    streams: dict[tuple[int, str], asyncio.Task[None]] = {}

    def noticed(item: Json) -> None:
        remark(item)
        for attempt in item["attempts"]:
            for channel in ("setup", "job"):
                key = (int(attempt["number"]), channel)
                if key not in streams:
                    copying = copy_log(console, item_id, key, write)
                    streams[key] = asyncio.create_task(copying, name=f"log {key}")

    try:
        item = await wait_for(console, item_id, noticed, every=every)
        await asyncio.gather(*streams.values())
    finally:
        for task in streams.values():
            task.cancel()
        await asyncio.gather(*streams.values(), return_exceptions=True)
    return item


async def copy_log(console: "Console", item_id: str, key: tuple[int, str], write: Write) -> None:
    """One channel of one attempt to its end; a cut connection is taken up where it broke.

    Raises:
        UnreachableError: the server was away for five minutes.
    """
    number, channel = key
    offset = 0
    seen = time.monotonic()
    while True:
        began = time.monotonic()
        try:
            async for piece in console.log(item_id, number, channel, offset, follow=True):
                offset += len(piece)
                write(channel, piece)
                seen = time.monotonic()
        except UnreachableError:
            now = time.monotonic()
            # A job may say nothing for hours: a connection that stood was one to a server.
            seen = now if now - began > _STOOD else seen
            if now - seen > _PATIENCE:
                raise
            await asyncio.sleep(1.0)
        else:
            return


@dataclass(slots=True)
class _Watch:
    """Asks for an item, patient with a server that is away for a while."""

    console: "Console"
    item_id: str
    _away_since: float | None = field(default=None)

    async def look(self) -> Json:
        while True:
            try:
                item = await self.console.glance(self.item_id)
            except UnreachableError as error:
                self._note_absence(error)
                await asyncio.sleep(1.0)
            else:
                if self._away_since is not None:
                    say("launch: the server answers again.")
                self._away_since = None
                return item

    def _note_absence(self, error: LaunchError) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            say(f"launch: {error.message} Waiting for it; the job is not affected.")
        elif time.monotonic() - self._away_since > _PATIENCE:
            raise error


class Screen:
    """The job's own log to standard output, all else to standard error, in whole lines of ours."""

    def __init__(self) -> None:
        self._at_line_start = True
        self._last = ""

    def write(self, channel: str, piece: bytes) -> None:
        """A piece of a log, unchanged."""
        stream = sys.stdout if channel == "job" else sys.stderr
        stream.buffer.write(piece)
        stream.buffer.flush()
        self._at_line_start = piece.endswith((b"\n", b"\r"))

    def remark(self, item: Json) -> None:
        """A line about an item's phase, if it says something new."""
        line = phase_line(item)
        if line == self._last or Phase(item["phase"]) in TERMINAL:
            return
        self._last = line
        if not self._at_line_start:
            say("")
            self._at_line_start = True
        say(line)


def phase_line(item: Json) -> str:
    """`launch: preparing · fetching the source, attempt 2`."""
    phase = "lost contact" if item["lostContact"] else str(item["phase"]).lower()
    parts = [
        item["activity"] if item["phase"] == "PREPARING" else "",
        f"agent {item['agentName']}" if item["agentName"] and item["phase"] == "LEASED" else "",
        f"attempt {item['attempt']}" if item["attempt"] > 1 else "",
    ]
    told = ", ".join(part for part in parts if part)
    return f"launch: {phase}" + (f" · {told}" if told else "")


def exit_code_for(item: Json) -> int:
    """A command that waited ends as the job did: with its exit code, else with 1."""
    phase = Phase(item["phase"])
    if phase is Phase.SUCCEEDED:
        return 0
    code = item["exitCode"]
    return int(code) if phase is Phase.FAILED and code else 1
