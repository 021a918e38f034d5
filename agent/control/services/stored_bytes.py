"""The limit of what one entity may store: artifacts' contents, files of runs, logs."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final

from agent.control.services.context import Service, ServiceContext, read, write
from agent.control.store import runs, stored_bytes
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import LaunchError, NotFoundError
from agent.model.units import format_size

#: Seconds for which a sum that was read is used again, and from which part of the limit on it
#: is read for every upload.
_FRESH: Final = 1.0
_NEAR: Final = 0.9


class QuotaExceededError(LaunchError):
    """An entity has stored as many bytes as it may."""

    code = "QUOTA_EXCEEDED"


@dataclass(slots=True)
class _Known:
    """A sum as it was read, with what was stored by this process since."""

    size: int
    read_at: float


class Arrival:
    """Bytes of one upload that are not recorded yet; they count from the moment they arrive."""

    def __init__(self, quota: "StoredBytes", entity: str) -> None:
        self._quota = quota
        self._entity = entity
        self.size = 0

    def add(self, size: int) -> None:
        """Count bytes before they are stored.

        Raises:
            QuotaExceededError
        """
        self._quota.admit(self._entity, size)
        self.size += size


class StoredBytes(Service):
    """Whether an entity may store more.

    Several replicas may exceed the limit by what arrives at the others within a second.
    """

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(context)
        self._known: dict[str, _Known] = {}
        self._arriving: Counter[str] = Counter()

    @asynccontextmanager
    async def arriving(self, entity: str) -> AsyncIterator[Arrival]:
        """While an upload arrives and until it is recorded.

        Raises:
            QuotaExceededError: nothing more may be stored.
        """
        known = self._known.get(entity)
        near = _NEAR * self._context.config.max_stored
        if known is None or known.size >= near or monotonic() - known.read_at > _FRESH:
            self._known[entity] = _Known(await self._total(entity), monotonic())
        arrival = Arrival(self, entity)
        try:
            arrival.add(0)
            yield arrival
        finally:
            self._known[entity].size += arrival.size
            self._arriving[entity] -= arrival.size
            if not self._arriving[entity]:
                del self._arriving[entity]

    def admit(self, entity: str, size: int) -> None:
        """See `Arrival.add`."""
        limit = self._context.config.max_stored
        stored = self._known[entity].size + self._arriving[entity]
        if stored + size > limit or stored == limit:
            raise _exceeded(entity, limit)
        self._arriving[entity] += size

    @write
    def save_run_file(self, tx: Tx, entity: str, run_id: str, name: str, size: int) -> None:
        """Record a file of a run that has been stored.

        Raises:
            NotFoundError: the run was deleted meanwhile.
        """
        if runs.by_id(tx, run_id) is None:
            raise NotFoundError(f"There is no run with the id '{run_id}'.")
        stored_bytes.save_run_file(tx, entity, run_id, name, size)

    @read
    def every(self, tx: Tx) -> list[AnyRow]:
        """Rows of entity, kind and bytes, for metrics."""
        return list(stored_bytes.every(tx))

    @read
    def _total(self, tx: Tx, entity: str) -> int:
        return stored_bytes.total(tx, entity)


def check_room(tx: Tx, entity: str, limit: int) -> None:
    """Refuse an upload before it is sent, where nothing more may be stored.

    Raises:
        QuotaExceededError
    """
    if stored_bytes.total(tx, entity) >= limit:
        raise _exceeded(entity, limit)


def _exceeded(entity: str, limit: int) -> QuotaExceededError:
    return QuotaExceededError(
        f"'{entity}' may store {format_size(limit)} of artifacts, files of runs and logs, and this "
        "would be more.",
        hint="Delete artifacts, whose bytes are freed after a day, or runs; the administrator can "
        "raise `control.max_stored`.",
    )
