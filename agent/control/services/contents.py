"""Which contents are stored, and under which keys; the bytes are in `control/files`."""

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from agent.control.services.context import Service, ServiceContext, read, write
from agent.control.store import artifacts, contents, stored_bytes
from agent.control.store.contents import ContentRecord
from agent.control.store.tx import Tx
from agent.model.job.digest import encoded

#: Contents that are looked at in one round of removal.
_ROUND: Final = 1000


@dataclass(slots=True)
class _Pending:
    """Bytes whose row is not written yet; `result` is the row once it is."""

    new: ContentRecord
    result: ContentRecord | None = None


class Contents(Service):
    """Contents of artifacts: one per entity and MD5.

    Callers have shown a right to the content they name: a signed URL, or an artifact.
    """

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(context)
        self._pending: list[_Pending] = []
        self._writing = asyncio.Lock()

    @read
    def find(self, tx: Tx, entity: str, md5: str) -> ContentRecord | None:
        """A content; `None` when it is not stored."""
        return contents.by_md5(tx, entity, md5)

    async def record(self, new: ContentRecord) -> ContentRecord:
        """Record bytes that have been stored; returns the row that is valid for them.

        That is another one than `new` when the same content was stored meanwhile; the caller
        then removes its own bytes. A directory arrives in many uploads at once: those that
        wait while one transaction runs share the next.
        """
        own = _Pending(new)
        self._pending.append(own)
        async with self._writing:
            if own.result is not None:
                return own.result
            batch, self._pending = self._pending, []
            try:
                found = await self.record_all([each.new for each in batch])
            except BaseException:
                # The others try it themselves.
                self._pending[:0] = [each for each in batch if each is not own]
                raise
            for each in batch:
                each.result = found[each.new.entity, each.new.md5]
            return found[new.entity, new.md5]

    @write
    def record_all(
        self, tx: Tx, new: Sequence[ContentRecord]
    ) -> dict[tuple[str, str], ContentRecord]:
        """As `record`, for several: the valid rows by entity and MD5."""
        known = _stored(tx, new)
        contents.save(tx, new)
        found = _stored(tx, new)
        # After a commit whose answer was lost the same contents come again.
        inserted = {each.key for key, each in found.items() if key not in known}
        _count(tx, [each for each in new if each.key in inserted], 1)
        return found

    @write
    def delete_abandoned(self, tx: Tx, before: datetime) -> int:
        """Delete artifacts that were never committed and not changed since; how many."""
        return artifacts.delete_abandoned(tx, before.timestamp())

    @read
    def unused(
        self, tx: Tx, before: datetime, after: ContentRecord | None = None
    ) -> list[ContentRecord]:
        """Up to 1,000 contents behind `after` that no entry refers to, untouched since `before`.

        Ordered by entity and MD5; the files of manifests are among them.
        """
        last = (after.entity, after.md5) if after else ("", "")
        return contents.unused(tx, before.timestamp(), last, _ROUND)

    @write
    def delete_unused(
        self, tx: Tx, unused: Sequence[ContentRecord], before: datetime
    ) -> list[ContentRecord]:
        """Delete the rows of those that are still unused and belong to no manifest.

        Returns them; the caller removes their bytes, on which no new artifact relies any more.
        """
        digests = {encoded(bytes.fromhex(each.md5)): each for each in unused}
        manifests = contents.manifest_digests(tx, digests)
        keys = [each.key for digest, each in digests.items() if digest not in manifests]
        deleted = contents.delete_unused(tx, keys, before.timestamp())
        _count(tx, deleted, -1)
        return deleted

    @read
    def known_keys(self, tx: Tx, keys: Collection[str]) -> set[str]:
        """Those of the keys of the object store that belong to contents."""
        return contents.known_keys(tx, keys)


def _stored(tx: Tx, wanted: Sequence[ContentRecord]) -> dict[tuple[str, str], ContentRecord]:
    """The rows of contents that are stored, by entity and MD5."""
    found: dict[tuple[str, str], ContentRecord] = {}
    for entity in {each.entity for each in wanted}:
        md5s = [each.md5 for each in wanted if each.entity == entity]
        known = contents.stored_contents(tx, entity, md5s)
        found.update(((entity, md5), content) for md5, content in known.items())
    return found


def _count(tx: Tx, changed: Sequence[ContentRecord], sign: int) -> None:
    """Change the sums of stored bytes by inserted (1) or deleted (-1) contents."""
    sizes: Counter[str] = Counter()
    for each in changed:
        sizes[each.entity] += sign * each.size
    stored_bytes.add(tx, "contents", sizes)
