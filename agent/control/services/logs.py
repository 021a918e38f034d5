"""Logs of attempts: who may write them, how long they are, and the index of their chunks.

`control/files` has the bytes that are not in the index.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from agent.control.auth.policy import Action, CredentialKind, Principal
from agent.control.services.context import Service, ServiceContext, no_such_item, read, write
from agent.control.services.notifications import topic_log
from agent.control.store import history, log_chunks, stored_bytes
from agent.control.store.history import Channel
from agent.control.store.log_chunks import LogChunk
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import FencedError, LaunchError, NotFoundError
from agent.model.phase import TERMINAL, Phase
from agent.model.work import Lease

#: So many chunks in the database, or so many bytes of them, are merged into an object.
_MANY_CHUNKS: Final = 256
_MANY_BYTES: Final = 256 * 1024
#: Chunks that are read at a time.
_PAGE: Final = 64


@dataclass(frozen=True, slots=True)
class LogState:
    """How much of an attempt's log is stored, and whether more may come."""

    end: int
    #: The attempt is over: nothing more will be written.
    complete: bool


@dataclass(frozen=True, slots=True)
class LogKey:
    """One channel of one attempt."""

    item_id: str
    attempt: int
    channel: Channel

    @property
    def prefix(self) -> str:
        """Prefix of its objects."""
        return f"logs/{self.item_id}/{self.attempt}/{self.channel}/"


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a log ends after an append, and whether its small chunks should be merged."""

    end: int
    stored: bool
    merge: bool = False


@dataclass(frozen=True, slots=True)
class _Append:
    """A chunk that waits to be written."""

    principal: Principal
    lease: Lease
    channel: Channel
    chunk: LogChunk
    done: asyncio.Future[Appended] = field(compare=False)


class AttemptLogs(Service):
    """Rights, lengths and index of the logs below `/launch/items/…/logs/…`."""

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(context)
        self._waiting: list[_Append] = []
        self._writing = asyncio.Lock()

    @read
    def check_append(
        self, tx: Tx, principal: Principal, lease: Lease, channel: Channel
    ) -> tuple[str, int]:
        """Check that the caller may write a log; returns the item's entity, and the log's end.

        The last holder of the lease may, until `token_grace` after the end of the attempt.

        Raises:
            FencedError: another epoch owns the attempt, or it has been over too long.
            NotFoundError: absent or hidden.
        """
        attempt = self._held(tx, principal, lease)
        return str(attempt.entity), _length(attempt, channel)

    async def append(
        self, principal: Principal, lease: Lease, channel: Channel, chunk: LogChunk
    ) -> Appended:
        """Add a chunk, if the log ends where it begins; readers are notified.

        What arrives while a transaction is under way is written by the next one, together: many
        jobs that print would else be held up by the disk, one commit after the other.

        Raises:
            FencedError, NotFoundError: as `check_append`.
        """
        done: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Append(principal, lease, channel, chunk, done))
        try:
            async with self._writing:
                if not done.done():
                    await self._write_waiting()
            return await done
        finally:
            done.cancel()

    async def _write_waiting(self) -> None:
        # Without those whose caller was cancelled.
        together = [each for each in self._waiting if not each.done.done()]
        self._waiting = []
        # Sorted, so that two replicas lock attempts in the same order.
        together.sort(key=lambda each: (each.lease.item_id, each.lease.attempt, each.chunk.first))
        results: Sequence[Appended | Exception]
        try:
            results = await self._write(together)
        except asyncio.CancelledError:
            # Whoever waits next writes them; those that were committed are found stored.
            self._waiting = together + self._waiting
            raise
        except Exception as error:  # noqa: BLE001 -- raised by each caller
            results = [error] * len(together)
        for each, result in zip(together, results, strict=True):
            if not each.done.done():
                _complete(each.done, result)

    @write
    def _write(self, tx: Tx, together: Sequence[_Append]) -> list[Appended | Exception]:
        results: list[Appended | Exception] = []
        added: Counter[str] = Counter()
        for each in together:
            try:
                results.append(self._add(tx, each, added))
            except LaunchError as error:
                results.append(error)
        stored_bytes.add(tx, "logs", added)
        return results

    def _add(self, tx: Tx, new: _Append, added: Counter[str]) -> Appended:
        item_id, number = new.lease.item_id, new.lease.attempt
        attempt_id = log_chunks.lock(tx, item_id, number)
        attempt = self._held(tx, new.principal, new.lease)
        end, chunk = _length(attempt, new.channel), new.chunk
        if attempt_id is None:
            return Appended(end, stored=False)
        if end != chunk.first:
            # Of a writer that was cancelled after its commit, all are written again.
            found = log_chunks.page(tx, attempt_id, new.channel, chunk.first, 1)
            return Appended(end, stored=chunk in found)
        log_chunks.add(tx, attempt_id, new.channel, [chunk])
        history.change_attempt(tx, item_id, number, {f"{new.channel}_log_bytes": chunk.stop})
        added[attempt.entity] += chunk.stop - chunk.first
        tx.notify(topic_log(item_id))
        many, size = log_chunks.count_small(tx, attempt_id, new.channel)
        return Appended(chunk.stop, stored=True, merge=many >= _MANY_CHUNKS or size >= _MANY_BYTES)

    @read
    def state(self, tx: Tx, principal: Principal, key: LogKey) -> LogState:
        """How long a log is, and whether more may come; `topic_log` notifies of both.

        Raises:
            NotFoundError: item or attempt, absent or hidden.
        """
        row = self._attempt(tx, principal, key.item_id, key.attempt)
        return LogState(_length(row, key.channel), Phase(row.phase) in TERMINAL)

    @read
    def chunks(self, tx: Tx, key: LogKey, start: int) -> Sequence[LogChunk]:
        """The next chunks of a log that the caller may read, from `start` on; none at its end."""
        attempt = history.attempt(tx, key.item_id, key.attempt)
        if attempt is None:
            return ()
        return log_chunks.page(tx, attempt.id, key.channel, start, _PAGE)

    @read
    def small_chunks(self, tx: Tx, key: LogKey) -> Sequence[LogChunk]:
        """The chunks of a log whose bytes are in the database."""
        attempt = history.attempt(tx, key.item_id, key.attempt)
        return () if attempt is None else log_chunks.small(tx, attempt.id, key.channel)

    @write
    def merge(self, tx: Tx, key: LogKey, small: Sequence[LogChunk], name: str) -> bool:
        """Replace small chunks by an object that has their bytes in the same order.

        False, and nothing is changed, if another process did so before.
        """
        attempt_id = log_chunks.lock(tx, key.item_id, key.attempt)
        if attempt_id is None:
            return False
        present = log_chunks.small(tx, attempt_id, key.channel)
        if not set(small) <= set(present):
            return False
        log_chunks.remove(tx, attempt_id, key.channel, small)
        log_chunks.add(tx, attempt_id, key.channel, merged(small, name))
        return True

    def _held(self, tx: Tx, principal: Principal, lease: Lease) -> AnyRow:
        attempt = self._attempt(tx, principal, lease.item_id, lease.attempt)
        self._context.policy.require(principal, attempt.entity, Action.RUN_AGENT)
        if attempt.agent_id is not None and principal.kind is CredentialKind.AGENT:
            self._context.require_agent(tx, principal, attempt.agent_id)
        over = attempt.finished_at
        late = over is not None and over + self._context.config.token_grace < tx.now
        if attempt.epoch != lease.epoch or late or Phase(attempt.phase) is Phase.QUEUED:
            raise FencedError(
                f"Attempt {lease.attempt} of item {lease.item_id} is not held by this agent."
            )
        return attempt

    def _attempt(self, tx: Tx, principal: Principal, item_id: str, number: int) -> AnyRow:
        row = history.attempt_with_item(tx, item_id, number)
        if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
            raise no_such_item(item_id)
        if row.number is None:
            raise NotFoundError(
                f"Item {item_id} has no attempt {number}.", hint=f"It has 1 to {row.last}."
            )
        return row


def _complete(done: asyncio.Future[Appended], result: Appended | Exception) -> None:
    if isinstance(result, Exception):
        done.set_exception(result)
    else:
        done.set_result(result)


def merged(small: Sequence[LogChunk], name: str) -> list[LogChunk]:
    """Chunks of an object that has the bytes of small ones: one for neighbours."""
    starts = [0] + [
        index for index, (one, other) in enumerate(pairwise(small), 1) if one.stop != other.first
    ]
    chunks, position = [], 0
    for start, stop in pairwise([*starts, len(small)]):
        first, last = small[start].first, small[stop - 1].stop
        chunks.append(LogChunk(first, last, object=name, position=position))
        position += last - first
    return chunks


def _length(row: AnyRow, channel: Channel) -> int:
    return int(row.setup_log_bytes if channel == "setup" else row.job_log_bytes)
