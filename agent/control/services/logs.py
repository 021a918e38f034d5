"""Who may write an attempt's log, and how much of it there is. The bytes live elsewhere."""

from dataclasses import dataclass
from time import monotonic
from typing import Final

from agent.control.auth.policy import Action, Kind, Principal
from agent.control.services.context import Context, no_such_item
from agent.control.services.notifications import topic_log
from agent.control.store import history
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
    entity: str


#: Seconds between two writes of a log's length into the store.
_WRITE_EVERY: Final = 1.0

_Key = tuple[str, int, Channel]


class AttemptLogs:
    """The rights and the bookkeeping of `POST|GET|HEAD /launch/items/…/logs/…`.

    Lengths that were not written yet are kept here until the attempt is over; a process that
    dies loses at most a second of them, and the bytes themselves are elsewhere.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ends: dict[_Key, int] = {}
        self._written: dict[_Key, float] = {}

    async def may_append(self, principal: Principal, lease: Lease) -> str:
        """Check a writer and return the entity's name.

        The last holder may write until the attempt has been over for `token_grace`.

        Raises:
            FencedError: another epoch owns the attempt, or it has been over too long.
            NotFoundError: absent or hidden.
        """

        def work(tx: Tx) -> str:
            attempt = self._attempt(tx, principal, lease.item_id, lease.attempt)
            self._context.policy.require(principal, attempt.entity, Action.RUN_AGENT)
            if attempt.agent_id is not None and principal.kind is Kind.AGENT:
                self._context.may_speak(tx, principal, attempt.agent_id)
            over = attempt.finished_at
            late = over is not None and over + self._context.config.token_grace < tx.now
            if attempt.epoch != lease.epoch or late or Phase(attempt.phase) is Phase.QUEUED:
                raise FencedError(
                    f"Attempt {lease.attempt} of item {lease.item_id} is not held by this agent."
                )
            return str(attempt.entity)

        return await self._context.database.read(work)

    async def stored(self, lease: Lease, channel: Channel, end: int) -> None:
        """Note how many bytes are stored; cheap to call often.

        Lengths are written about once a second, those of short logs by the reaper's `flush`.
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

    async def state(
        self, principal: Principal, item_id: str, attempt: int, channel: Channel
    ) -> LogState:
        """How much there is, and whether more may come.

        Wake-ups for followers: `Notifications.listen([topic_log(item_id)])`.

        Raises:
            NotFoundError: item or attempt, absent or hidden.
        """

        def work(tx: Tx) -> LogState:
            row = self._attempt(tx, principal, item_id, attempt)
            end = max(_length(row, channel), self._ends.get((item_id, attempt, channel), 0))
            return LogState(end, Phase(row.phase) in TERMINAL, row.entity)

        return await self._context.database.read(work)

    def _attempt(self, tx: Tx, principal: Principal, item_id: str, number: int) -> AnyRow:
        row = history.placed_attempt(tx, item_id, number)
        if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
            raise no_such_item(item_id)
        if row.number is None:
            raise NotFoundError(
                f"Item {item_id} has no attempt {number}.", hint=f"It has 1 to {row.last}."
            )
        return row

    async def _write(self, ends: dict[_Key, int]) -> None:
        def work(tx: Tx) -> list[_Key]:
            return [key for key, end in ends.items() if _store(tx, key, end)]

        if not ends:
            return
        for key in await self._context.database.write(work):
            if self._ends.get(key) == ends[key]:
                self._ends.pop(key)
                self._written.pop(key, None)


def _store(tx: Tx, key: _Key, end: int) -> bool:
    """Write one length; true when nothing more will come."""
    item_id, number, channel = key
    row = history.attempt(tx, item_id, number)
    if row is None:
        return True
    if end > _length(row, channel):
        history.change_attempt(tx, item_id, number, {f"{channel}_log_bytes": end})
    return Phase(row.phase) in TERMINAL


def _length(row: AnyRow, channel: Channel) -> int:
    return int(row.setup_log_bytes if channel == "setup" else row.job_log_bytes)
