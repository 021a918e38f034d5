"""Logs of attempts: who may write them, and how long they are. `control/files` has the bytes."""

from collections import Counter
from dataclasses import dataclass
from time import monotonic
from typing import Final

from agent.control.auth.policy import Action, CredentialKind, Principal
from agent.control.services.context import Service, ServiceContext, no_such_item, read, write
from agent.control.services.notifications import topic_log
from agent.control.store import history, stored_bytes
from agent.control.store.history import Channel
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import FencedError, NotFoundError
from agent.model.phase import TERMINAL, Phase
from agent.model.work import Lease


@dataclass(frozen=True, slots=True)
class LogState:
    """How much of an attempt's log is stored, and whether more may come."""

    end: int
    #: The attempt is over: nothing more will be written.
    complete: bool


#: Seconds between two writes of a log's length into the store.
_WRITE_EVERY: Final = 1.0

_Key = tuple[str, int, Channel]


class AttemptLogs(Service):
    """Rights and lengths of the logs below `/launch/items/…/logs/…`.

    Lengths that are not in the store yet are kept in memory until the attempt is over; a
    process that dies loses those of the last second, and none of the bytes.
    """

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(context)
        self._ends: dict[_Key, int] = {}
        self._written: dict[_Key, float] = {}

    @read
    def check_append(self, tx: Tx, principal: Principal, lease: Lease) -> str:
        """Check that the caller may write a log; returns the item's entity.

        The last holder of the lease may, until `token_grace` after the end of the attempt.

        Raises:
            FencedError: another epoch owns the attempt, or it has been over too long.
            NotFoundError: absent or hidden.
        """
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
        return str(attempt.entity)

    async def record_length(self, lease: Lease, channel: Channel, end: int) -> None:
        """Note how many bytes of a log are stored, and notify its readers.

        Lengths are written about once a second; the reaper's `flush` writes the last ones.
        """
        key = (lease.item_id, lease.attempt, channel)
        self._ends[key] = max(end, self._ends.get(key, 0))
        self._context.notifications.publish([topic_log(lease.item_id)])
        if monotonic() - self._written.setdefault(key, monotonic()) >= _WRITE_EVERY:
            self._written[key] = monotonic()
            await self._write({key: self._ends[key]})

    async def flush(self) -> None:
        """Write all lengths that are ahead of the store, and forget attempts that are over."""
        await self._write(dict(self._ends))

    @read
    def state(
        self, tx: Tx, principal: Principal, item_id: str, attempt: int, channel: Channel
    ) -> LogState:
        """How long a log is, and whether more may come; `topic_log` notifies of both.

        Raises:
            NotFoundError: item or attempt, absent or hidden.
        """
        row = self._attempt(tx, principal, item_id, attempt)
        end = max(_length(row, channel), self._ends.get((item_id, attempt, channel), 0))
        return LogState(end, Phase(row.phase) in TERMINAL)

    def _attempt(self, tx: Tx, principal: Principal, item_id: str, number: int) -> AnyRow:
        row = history.attempt_with_item(tx, item_id, number)
        if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
            raise no_such_item(item_id)
        if row.number is None:
            raise NotFoundError(
                f"Item {item_id} has no attempt {number}.", hint=f"It has 1 to {row.last}."
            )
        return row

    async def _write(self, ends: dict[_Key, int]) -> None:
        if not ends:
            return
        for key in await self._store(ends):
            if self._ends.get(key) == ends[key]:
                self._ends.pop(key)
                self._written.pop(key, None)

    @write
    def _store(self, tx: Tx, ends: dict[_Key, int]) -> list[_Key]:
        """Write lengths; returns the logs to which nothing will be added."""
        complete = []
        added: Counter[str] = Counter()
        for (item_id, number, channel), end in ends.items():
            row = history.attempt_with_item(tx, item_id, number)
            if row is None or row.number is None:
                complete.append((item_id, number, channel))
                continue
            if end > _length(row, channel):
                history.change_attempt(tx, item_id, number, {f"{channel}_log_bytes": end})
                added[row.entity] += end - _length(row, channel)
            if Phase(row.phase) in TERMINAL:
                complete.append((item_id, number, channel))
        stored_bytes.add(tx, "logs", added)
        return complete


def _length(row: AnyRow, channel: Channel) -> int:
    return int(row.setup_log_bytes if channel == "setup" else row.job_log_bytes)
