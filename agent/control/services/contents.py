"""Which bytes are stored, under which names; the bytes themselves are `control/files`'."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from agent.control.services.context import Context
from agent.control.store import artifact_files, artifacts
from agent.control.store.artifact_records import ContentRecord
from agent.control.store.tx import Tx
from agent.model.job.digest import encoded

#: Contents that one round of the sweep forgets.
_ROUND: Final = 1000


@dataclass(slots=True)
class _Turn:
    """Bytes that wait to be recorded, and then what counts for them."""

    new: ContentRecord
    counts: ContentRecord | None = None


class Contents:
    """Contents of artifacts: once per entity and MD5."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._waiting: list[_Turn] = []
        self._writing = asyncio.Lock()

    async def find(self, entity: str, md5: str) -> ContentRecord | None:
        """Stored bytes. Whoever asks has shown a right to them, by a signed address."""
        return await self._context.database.read(lambda tx: artifact_files.content(tx, entity, md5))

    async def stored(self, new: ContentRecord) -> ContentRecord:
        """Record bytes that have just been stored; what counts is returned.

        It is another one when the same content was stored meanwhile; the caller then removes
        its own bytes. A directory arrives in many uploads at once: those that wait while one
        transaction is under way share the next.
        """
        turn = _Turn(new)
        self._waiting.append(turn)
        async with self._writing:
            return turn.counts or await self._record(turn)

    async def stored_all(
        self, new: Sequence[ContentRecord]
    ) -> dict[tuple[str, str], ContentRecord]:
        """As `stored`, for several at once: what counts, by entity and MD5."""
        return await self._context.database.write(lambda tx: _inserted(tx, new))

    async def _record(self, own: _Turn) -> ContentRecord:
        """Write all that waits; when it fails, the others try it themselves."""
        batch, self._waiting = self._waiting, []
        try:
            found = await self._context.database.write(
                lambda tx: _inserted(tx, [turn.new for turn in batch])
            )
        except BaseException:
            self._waiting[:0] = [turn for turn in batch if turn is not own]
            raise
        for turn in batch:
            turn.counts = found[turn.new.entity, turn.new.md5]
        return found[own.new.entity, own.new.md5]

    async def forget_abandoned(self, before: datetime) -> int:
        """Remove artifacts that were never committed and not touched since."""
        moment = before.timestamp()
        return await self._context.database.write(lambda tx: artifacts.forget_abandoned(tx, moment))

    async def unused(
        self, before: datetime, after: ContentRecord | None = None
    ) -> list[ContentRecord]:
        """Contents behind that one that no file refers to and nobody asked for since.

        Up to 1,000, by entity and MD5; manifests are among them.
        """
        moment, last = before.timestamp(), (after.entity, after.md5) if after else ("", "")
        return await self._context.database.read(
            lambda tx: artifact_files.unused_contents(tx, moment, last, _ROUND)
        )

    async def forget(
        self, unused: Sequence[ContentRecord], before: datetime
    ) -> list[ContentRecord]:
        """Forget those that are unused even now; gives them.

        Their bytes are the caller's to remove, now that no new artifact can count on them.
        """
        moment = before.timestamp()

        def work(tx: Tx) -> list[ContentRecord]:
            digests = {encoded(bytes.fromhex(one.md5)): one for one in unused}
            manifests = artifact_files.manifest_digests(tx, digests)
            keys = [one.key for digest, one in digests.items() if digest not in manifests]
            return artifact_files.delete_unused(tx, keys, moment)

        return await self._context.database.write(work)

    async def known_keys(self, keys: Collection[str]) -> set[str]:
        """Those of the names in the object store that contents have."""
        return await self._context.database.read(lambda tx: artifact_files.content_keys(tx, keys))


def _inserted(tx: Tx, new: Sequence[ContentRecord]) -> dict[tuple[str, str], ContentRecord]:
    artifact_files.save_contents(tx, new)
    found: dict[tuple[str, str], ContentRecord] = {}
    for entity in {one.entity for one in new}:
        md5s = [one.md5 for one in new if one.entity == entity]
        known = artifact_files.contents_of(tx, entity, md5s)
        found.update(((entity, md5), one) for md5, one in known.items())
    return found
