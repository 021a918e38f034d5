"""Removal of stored bytes that nothing refers to: logs of deleted items, unused contents."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from agent.control.auth.policy import SYSTEM
from agent.control.files.contents import ContentStore
from agent.control.files.logs import LogStore
from agent.control.services.plane import Plane
from agent.model.errors import NotFoundError

#: Seconds between two rounds, and before the first, so that it does not slow the start.
_INTERVAL: Final = 3600.0
#: Contents are stored before the artifact that refers to them is committed.
_GRACE: Final = timedelta(days=1)


class Retention:
    """Removes the bytes behind deleted rows; `control.keep_items` says when items are deleted."""

    def __init__(self, plane: Plane, logs: LogStore, contents: ContentStore) -> None:
        self._plane = plane
        self._logs = logs
        self._contents = contents

    async def run(self) -> None:
        """One round per hour until cancelled; a round that fails is logged."""
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                logs, contents = await self.sweep(datetime.now(UTC) - _GRACE)
            except Exception as error:  # noqa: BLE001 -- the next round may succeed
                structlog.get_logger().warning("retention failed", error=str(error))
            else:
                structlog.get_logger().debug("retention", logs=logs, contents=contents)

    async def sweep(self, before: datetime) -> tuple[int, int]:
        """One round; contents stored or requested since `before` are kept.

        Returns how many items' logs and how many contents were removed.
        """
        gone = [item for item in await self._logs.items() if not await self._exists(item)]
        for item in gone:
            await self._logs.delete_item(item)
        await self._plane.contents.delete_abandoned(before)
        return len(gone), await self._contents.sweep(before)

    async def _exists(self, item_id: str) -> bool:
        try:
            await self._plane.items.get(SYSTEM, item_id)
        except NotFoundError:
            return False
        return True
