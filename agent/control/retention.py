"""Bytes without an owner: logs of items that are gone, code that no item refers to."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from agent.control.files.blobs import BlobStore
from agent.control.files.contents import ContentStore
from agent.control.files.logs import LogStore
from agent.control.itself import ITSELF
from agent.control.services.plane import Plane
from agent.model.errors import NotFoundError

#: Seconds between two rounds, and before the first, so that it does not slow the start.
_INTERVAL: Final = 3600.0
#: Code is stored before the item that refers to it is submitted.
_GRACE: Final = timedelta(days=1)
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Swept:
    """What a round removed."""

    logs: int
    blobs: int
    contents: int


class Retention:
    """Follows what the services forget; `control.keep_items` says when they do."""

    def __init__(
        self, plane: Plane, blobs: BlobStore, logs: LogStore, contents: ContentStore
    ) -> None:
        self._plane = plane
        self._blobs = blobs
        self._logs = logs
        self._contents = contents

    async def run(self) -> None:
        """Rounds for ever, until cancelled; a failing round is logged and tried again."""
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                swept = await self.sweep(datetime.now(UTC) - _GRACE)
            except Exception as error:  # noqa: BLE001 -- the next round may do better
                structlog.get_logger().warning("retention failed", error=str(error))
            else:
                structlog.get_logger().debug("retention", **asdict(swept))

    async def sweep(self, before: datetime) -> Swept:
        """One round; only what was stored, or asked for, before that moment may go."""
        gone = [item for item in await self._logs.items() if not await self._exists(item)]
        for item in gone:
            await self._logs.delete_item(item)
        entities = await self._plane.accounts.entities(ITSELF)
        blobs = await self._sweep_blobs([entity.name for entity in entities], before)
        await self._plane.contents.forget_abandoned(before)
        contents = await self._contents.sweep(before)
        return Swept(len(gone), blobs, contents)

    async def _exists(self, item_id: str) -> bool:
        try:
            await self._plane.items.get(ITSELF, item_id)
        except NotFoundError:
            return False
        return True

    async def _sweep_blobs(self, entities: Sequence[str], before: datetime) -> int:
        old = [
            (entity, digest)
            for entity in entities
            for digest in await self._blobs.older_than(entity, before)
        ]
        if not old:
            return 0
        # Items of all entities: one on a team's queue may have its run, and its code, elsewhere.
        used = set[str]().union(*[await self._referred_to(entity) for entity in entities])
        unused = [(entity, digest) for entity, digest in old if digest not in used]
        gone = [await self._blobs.delete_old(*blob, before) for blob in unused]
        return sum(gone)

    async def _referred_to(self, entity: str) -> set[str]:
        """Digests that any item of the entity names as its source; a retry reads them again."""
        found: set[str] = set()
        after: str | None = None
        while True:
            page = await self._plane.items.list(ITSELF, entity, after=after, first=_PAGE)
            sources = (item.run_spec.get("source") or {} for item in page.rows)
            found.update(str(source["digest"]) for source in sources if "digest" in source)
            if not page.has_next:
                return found
            after = page.end_cursor
