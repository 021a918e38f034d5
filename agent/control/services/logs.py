"""Who may write an attempt's log, and how much of it there is. The bytes live elsewhere."""

from agent.control.services.policy import Principal
from agent.control.store.records import Channel, LogState
from agent.model.work import Lease


class AttemptLogs:
    """The rights and the bookkeeping of `POST|GET|HEAD /launch/items/…/logs/…`."""

    async def may_append(self, principal: Principal, lease: Lease) -> str:
        """Check a writer and return the entity's name; the last epoch may write until the
        attempt has been over for `token_grace`.

        Raises:
            FencedError: another epoch owns the attempt, or it has been over too long.
            NotFoundError: absent or hidden.
        """
        raise NotImplementedError

    async def stored(self, lease: Lease, channel: Channel, end: int) -> None:
        """Note how many bytes are stored; cheap to call often (written about once a second)."""
        raise NotImplementedError

    async def state(
        self, principal: Principal, item_id: str, attempt: int, channel: Channel
    ) -> LogState:
        """How much there is, and whether more may come.

        Wake-ups for followers: `Notices.listen([topic_log(item_id)])`.

        Raises:
            NotFoundError: item or attempt, absent or hidden.
        """
        raise NotImplementedError
