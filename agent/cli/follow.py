"""Follow one item: report changes of its phase, and copy its logs.

Ctrl-C ends the command, with 130 (`errors.py`).
"""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agent.cli.output import phase_word, print_stderr
from agent.cli.terminal import LogOutput
from agent.model.errors import LaunchError, UnreachableError
from agent.model.phase import TERMINAL, Phase

if TYPE_CHECKING:
    from agent.remote.user_operations import UserOperations

Json = dict[str, Any]
Write = Callable[[str, bytes], None]
Report = Callable[[Json], None]

#: Seconds between two polls.
_POLL_INTERVAL: Final = 0.3
#: Seconds for a control plane to come back, for instance after a restart.
_OUTAGE_LIMIT: Final = 300.0
#: Seconds after which a stream that breaks counts as one that had been connected.
_CONNECTED: Final = 10.0


async def wait_for(
    api: "UserOperations",
    item_id: str,
    report: Report | None = None,
    *,
    every: float = _POLL_INTERVAL,
) -> Json:
    """Wait until an item has ended; `report` receives it at every change.

    `every` is the time between two polls, in seconds.

    Raises:
        UnreachableError: the server did not answer for five minutes.
    """
    poll = _Poll(api, item_id)
    last: tuple[object, ...] | None = None
    while True:
        item = await poll.item()
        seen = (item["phase"], item["attempt"], item["activity"], item["lostContact"])
        if report is not None and seen != last:
            report(item)
        last = seen
        if Phase(item["phase"]) in TERMINAL:
            return item
        await asyncio.sleep(every)


async def follow_item(
    api: "UserOperations",
    item_id: str,
    report: Report,
    write: Write,
    *,
    every: float = _POLL_INTERVAL,
) -> Json:
    """As `wait_for`; meanwhile copy both log channels of each attempt to `write`."""
    streams: dict[tuple[int, str], asyncio.Task[None]] = {}

    def changed(item: Json) -> None:
        report(item)
        for attempt in item["attempts"]:
            for channel in ("setup", "job"):
                key = (int(attempt["number"]), channel)
                if key not in streams:
                    copying = copy_log(api, item_id, key, write)
                    streams[key] = asyncio.create_task(copying, name=f"log {key}")

    try:
        item = await wait_for(api, item_id, changed, every=every)
        await asyncio.gather(*streams.values())
    finally:
        for task in streams.values():
            task.cancel()
        await asyncio.gather(*streams.values(), return_exceptions=True)
    return item


async def copy_log(api: "UserOperations", item_id: str, key: tuple[int, str], write: Write) -> None:
    """Copy one channel of one attempt to its end; a cut connection is resumed where it broke.

    Raises:
        UnreachableError: the server did not answer for five minutes.
    """
    number, channel = key
    offset = 0
    seen = time.monotonic()
    while True:
        began = time.monotonic()
        try:
            async for piece in api.log(item_id, number, channel, offset, follow=True):
                offset += len(piece)
                write(channel, piece)
                seen = time.monotonic()
        except UnreachableError:
            now = time.monotonic()
            # A job may print nothing for hours, so a long connection counts as an answer, too.
            seen = now if now - began > _CONNECTED else seen
            if now - seen > _OUTAGE_LIMIT:
                raise
            await asyncio.sleep(1.0)
        else:
            return


@dataclass(slots=True)
class _Poll:
    """Reads an item again and again, also across outages of the server."""

    api: "UserOperations"
    item_id: str
    _failing_since: float | None = field(default=None)

    async def item(self) -> Json:
        """The item as it is now."""
        while True:
            try:
                item = await self.api.item_summary(self.item_id)
            except UnreachableError as error:
                self._note_outage(error)
                await asyncio.sleep(1.0)
            else:
                if self._failing_since is not None:
                    print_stderr("launch: the server answers again.")
                self._failing_since = None
                return item

    def _note_outage(self, error: LaunchError) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            print_stderr(f"launch: {error.message} Waiting for it; the job is not affected.")
        elif time.monotonic() - self._failing_since > _OUTAGE_LIMIT:
            raise error


class Screen:
    """Writes the job's log to standard output, the setup log and messages to standard error."""

    def __init__(self) -> None:
        setup = LogOutput(sys.stderr, progress=False)
        self._outputs = {"job": LogOutput(sys.stdout), "setup": setup}
        self._at_line_start = True
        self._last = ""

    def write(self, channel: str, piece: bytes) -> None:
        """Write a piece of a log."""
        self._outputs[channel].write(piece)
        self._at_line_start = piece.endswith((b"\n", b"\r"))

    def end(self) -> None:
        """The logs have ended."""
        self._outputs["setup"].end()

    def print_phase(self, item: Json) -> None:
        """Print a line about an item's phase, if that line is new."""
        line = phase_line(item)
        if line == self._last or Phase(item["phase"]) in TERMINAL:
            return
        self._last = line
        if not self._at_line_start:
            print_stderr("")
            self._at_line_start = True
        print_stderr(line)


def phase_line(item: Json) -> str:
    """`launch: preparing · fetching the source, attempt 2`."""
    parts = [
        item["activity"] if item["phase"] == "PREPARING" else "",
        f"agent {item['agentName']}" if item["agentName"] and item["phase"] == "LEASED" else "",
        f"attempt {item['attempt']}" if item["attempt"] > 1 else "",
    ]
    details = ", ".join(part for part in parts if part)
    return f"launch: {phase_word(item)}" + (f" · {details}" if details else "")


def exit_code_for(item: Json) -> int:
    """The exit code of a command that waited: the job's own, else 1."""
    phase = Phase(item["phase"])
    if phase is Phase.SUCCEEDED:
        return 0
    code = item["exitCode"]
    return int(code) if phase is Phase.FAILED and code else 1
