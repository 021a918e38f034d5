"""Retention: removal of old rows, and of stored bytes that no row refers to any more."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from agent.control.auth.policy import SYSTEM
from agent.control.files.contents import ContentStore
from agent.control.files.logs import LogStore
from agent.control.files.run_files import RunFileStore
from agent.control.files.run_streams import RunStreamStore
from agent.control.services.assembly import Services
from agent.control.store import agents, idempotency, items, runs, sign_ins, work_leases
from agent.control.store.ids import new_id
from agent.control.store.tx import Tx
from agent.model.errors import NotFoundError

#: Seconds between two rounds, and before the first, so that it does not slow the start.
_INTERVAL: Final = 60.0
#: Seconds after which another replica takes over. A search that takes longer does not renew it:
#: two at once do the same work twice, and no harm.
_LEASE: Final = 600.0
#: Rounds between two searches for unused bytes, each of which lists the object store.
_ROUNDS_PER_SEARCH: Final = 60
#: Items that one round removes at most.
_BATCH: Final = 500
#: Seconds that an idempotency key is remembered.
_KEY_AGE: Final = 86_400.0
#: Contents are stored before the artifact that refers to them is committed.
_GRACE: Final = timedelta(days=1)


class Retention:
    """Removes rows that are older than `control.keep_items`, then the bytes behind them."""

    def __init__(
        self,
        plane: Services,
        logs: LogStore,
        contents: ContentStore,
        run_files: RunFileStore,
        run_streams: RunStreamStore,
    ) -> None:
        self._plane = plane
        self._holder = new_id()
        self._logs = logs
        self._contents = contents
        self._run_files = run_files
        self._run_streams = run_streams

    async def run(self) -> None:
        """Rounds until cancelled; a round that fails is logged."""
        keep = self._plane.config.keep_items
        for number in itertools.count(1):
            await asyncio.sleep(_INTERVAL)
            logs = contents = 0
            try:
                if not await self._plane.database.write(self._take_lease):
                    continue
                rows = await self._plane.database.write(lambda tx: remove_old_rows(tx, keep))
                if number % _ROUNDS_PER_SEARCH == 0:
                    logs, contents = await self.remove_unused_bytes(datetime.now(UTC) - _GRACE)
            except Exception as error:  # noqa: BLE001 -- the next round may succeed
                structlog.get_logger().warning("retention round failed", error=str(error))
            else:
                removed = {"rows": rows, "logs": logs, "contents": contents}
                structlog.get_logger().debug("retention round finished", **removed)

    async def remove_unused_bytes(self, before: datetime) -> tuple[int, int]:
        """Remove unused bytes; contents stored or requested since `before` are kept.

        Returns how many items' logs and how many contents were removed.
        """
        gone = [item for item in await self._logs.items() if not await self._exists(item)]
        for item in gone:
            await self._logs.delete_item(item)
        # Of runs that were deleted with their entity, or whose deletion was interrupted.
        for store in (self._run_files, self._run_streams):
            stored = await store.runs()
            known = await self._known(stored)
            for run in set(stored) - known:
                await store.delete_run(run)
        await self._plane.contents.delete_abandoned(before)
        return len(gone), await self._contents.remove_unused(before)

    def _take_lease(self, tx: Tx) -> bool:
        return work_leases.take(tx, "retention", self._holder, _LEASE)

    async def _known(self, run_ids: list[str]) -> set[str]:
        return await self._plane.database.read(lambda tx: runs.known_ids(tx, run_ids))

    async def _exists(self, item_id: str) -> bool:
        try:
            await self._plane.items.get(SYSTEM, item_id)
        except NotFoundError:
            return False
        return True


def remove_old_rows(tx: Tx, keep_seconds: float) -> int:
    """Remove old items, agents, idempotency keys and sign-ins; returns how many rows."""
    before = tx.now - keep_seconds
    return (
        items.remove_finished(tx, before, _BATCH)
        + agents.remove_inactive(tx, before)
        + idempotency.remove_old(tx, tx.now - _KEY_AGE)
        + sign_ins.remove_expired(tx)
    )
