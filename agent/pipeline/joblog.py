"""The job's own output, from its first to its last byte.

The runner keeps it and can be read again from any offset, so nothing has to be held here:
when the far end is away, reading simply waits; when the stream breaks, or the far end has
less than it said, reading begins again where the far end stands.
"""

import asyncio
from collections.abc import AsyncIterator

import structlog

from agent.model.cause import Cause
from agent.model.errors import JobError, LaunchError
from agent.model.units import format_size
from agent.model.work import Lease
from agent.pipeline.cancellation import cancel_task
from agent.pipeline.retry import Backoff, Sleep
from agent.pipeline.shipping import RewoundError, Shipper, patiently
from agent.ports.journal import AttemptJournal
from agent.ports.runner import LogPiece, RunnerPort, Workload


class JobLog:
    """Follows one workload's output.

    Stored offsets are the runner's plus `shift`: where the engine has dropped bytes, a line
    that says so stands in their place.
    """

    def __init__(
        self,
        runner: RunnerPort,
        lease: Lease,
        shipper: Shipper,
        journal: AttemptJournal,
        sleep: Sleep,
    ) -> None:
        self._runner = runner
        self._lease = lease
        self._shipper = shipper
        self._journal = journal
        self._sleep = sleep
        self._shift = 0
        self._task: asyncio.Task[None] | None = None

    def begin(self, workload: Workload, shift: int = 0) -> None:
        """Follow from where the far end stands."""
        self._shift = shift
        name = f"log-{self._lease.item_id}"
        self._task = asyncio.create_task(self._follow(workload), name=name)

    async def finished(self, stall: float) -> bool:
        """Wait until all has been shipped, for as long as something moves.

        False when, for `stall` seconds, the runner's stream gave nothing although the far end
        took bytes, or the far end took none although it answers; the rest is then missing.
        """
        return self._task is None or await patiently(self._task, self._shipper, stall)

    async def close(self) -> None:
        """Stop following; the runner keeps what was not read. Legal twice."""
        task, self._task = self._task, None
        await cancel_task(task)

    async def _follow(self, workload: Workload) -> None:
        backoff = Backoff()
        complained = ""
        while True:
            try:
                await self._read_all(workload)
            except RewoundError as error:
                structlog.get_logger().warning(
                    "the control plane lost log bytes; read again", end=error.end
                )
            except (LaunchError, OSError) as error:
                if str(error) != complained:
                    structlog.get_logger().warning(
                        "the job's log broke off; read again", error=str(error)
                    )
                complained = str(error)
                await self._sleep(backoff.pause())
            else:
                return

    async def _read_all(self, workload: Workload) -> None:
        """Until the far end has all there is; what vanished has no more."""
        try:
            await self._read(workload)
        except JobError as error:
            if error.cause is not Cause.LOST_WORKLOAD:
                raise
            structlog.get_logger().warning("the rest of the job's log is gone", error=str(error))
        await self._shipper.flush()

    async def _read(self, workload: Workload) -> None:
        await self._shipper.ready()
        offset = max(0, self._shipper.end - self._shift)
        pieces = self._runner.logs(workload, offset)
        try:
            async for piece in pieces:
                await self._take(piece)
        finally:
            await _close(pieces)

    async def _take(self, piece: LogPiece) -> None:
        if piece.missing:
            size = format_size(piece.missing)
            text = f"\nlaunch: {size} of output are missing here; the engine no longer has them\n"
            line = text.encode()
            self._shift = self._shipper.end + len(line) - piece.offset
            self._journal.log_shifted(self._lease, self._shift)
            await self._shipper.write(line)
        await self._shipper.write(piece.data)


async def _close(pieces: AsyncIterator[LogPiece]) -> None:
    """End a stream that was left early, where it is a generator."""
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()
