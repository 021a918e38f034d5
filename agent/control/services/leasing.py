"""Leases: how agents take items, keep them and report about them.

Every write names item, attempt and epoch, and the agent that holds them; the store changes
the row only if all four match. Zero rows changed is `LeaseStatus.FENCED`, never an exception.
"""

from collections.abc import Sequence
from time import monotonic
from typing import Final

from agent.control.auth.policy import Principal
from agent.control.services import holding
from agent.control.services.context import Context, serves
from agent.control.services.granting import Wish, claim_record, grant_items
from agent.control.services.notifications import topic_agent, topic_queue
from agent.control.services.registering import join_queues
from agent.control.services.renewing import check_status, renew
from agent.control.store import items
from agent.control.store.queues import of_agent as queue_rows
from agent.control.store.records import ClaimRecord, HeartbeatReply
from agent.control.store.tx import AnyRow, Tx
from agent.model.capacity import Capacity
from agent.model.cause import Cause
from agent.model.errors import FencedError, InvalidInputError, NotFoundError
from agent.model.phase import Phase
from agent.model.protocol import Condition, LeaseStatus
from agent.model.spec import Json
from agent.model.work import Lease

_LONGEST_WAIT: Final = 30.0
_MOST_ITEMS: Final = 100
#: Seconds after which a waiting claim looks without having been woken: a notice of another
#: replica may have been lost.
_SLOW_POLL: Final = 5.0


class Leases:
    """The dialect of our own agents; see `agent.ports.queue` for the life cycle."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def claim(
        self,
        principal: Principal,
        agent_id: str,
        session: str,
        request_id: str,
        *,
        free: Capacity,
        queues: Sequence[str] | None = None,
        resources: Sequence[str] | None = None,
        max_items: int = 1,
        wait_seconds: float = 0.0,
    ) -> tuple[ClaimRecord, ...]:
        """Hand out what fits, by priority and age; wait for it up to `wait_seconds` (≤ 30).

        The same request id gives the same claims back while they are held. `resources`
        leaves out those that the agent cannot run at present. An agent that was asked to
        leave and a paused queue get nothing.

        Raises:
            NotFoundError: the agent, or all queues that it names.
            FencedError: a newer session took the agent over.
            AuthenticationError: the key was revoked while the claim waited.
        """
        if not 1 <= max_items <= _MOST_ITEMS:
            raise InvalidInputError(f"A claim asks for 1 to {_MOST_ITEMS} items, not {max_items}.")
        wish = Wish(request_id, free, max_items, resources)
        deadline = monotonic() + min(wait_seconds, _LONGEST_WAIT)

        def work(tx: Tx) -> tuple[tuple[ClaimRecord, ...], list[AnyRow]]:
            agent = self._context.agent(tx, principal, agent_id, lock=True)
            if agent.session != session:
                raise FencedError(f"A newer process speaks for the agent '{agent.name}'.")
            served = self._served(tx, principal, agent, queues)
            return self._claim(tx, agent, wish, served), served

        def look_again(tx: Tx) -> tuple[tuple[ClaimRecord, ...], list[AnyRow]]:
            found = work(tx)
            if found[0]:
                self._context.still_valid(tx, principal)
            return found

        # A first look, for which nobody has to listen: on a busy queue it is the only one.
        claims, served = await self._context.database.write(work)
        if claims:
            return claims
        topics = [topic_agent(agent_id), *(topic_queue(row.id) for row in served)]
        with self._context.notifications.subscribe(topics) as subscription:
            while (left := deadline - monotonic()) > 0:
                claims, _ = await self._context.database.write(look_again)
                if claims:
                    break
                await subscription.wait(min(left, _SLOW_POLL))
        return claims

    def _served(
        self, tx: Tx, principal: Principal, agent: AnyRow, wanted: Sequence[str] | None
    ) -> list[AnyRow]:
        """The queues to claim from, paused ones included: they may be resumed.

        One that was removed keeps nobody from the others, and is served again once there is
        a queue of its name.
        """
        registered = {row.name: row for row in queue_rows(tx, agent.id)}
        names = registered if wanted is None else wanted
        for name in names:
            serves(principal, name)
        fresh = [name for name in names if name not in registered]
        if fresh and join_queues(tx, agent, fresh):
            registered = {row.name: row for row in queue_rows(tx, agent.id)}
        served = [registered[name] for name in names if name in registered]
        if not served:
            raise NotFoundError(
                f"None of the queues that agent '{agent.name}' serves exists: {', '.join(names)}.",
                hint="Create one: `launch queue create NAME`; the agent takes it up by itself.",
            )
        return served

    def _claim(
        self, tx: Tx, agent: AnyRow, wish: Wish, served: Sequence[AnyRow]
    ) -> tuple[ClaimRecord, ...]:
        """One look, with the agent's row locked: a repeated request waits for the first one."""
        repeated = items.claimed_by(tx, agent.id, wish.request_id)
        if repeated:
            return tuple(claim_record(tx, self._context, row.id) for row in repeated)
        if agent.stop is not None:
            return ()
        open_queues = [row.id for row in served if not row.paused]
        return grant_items(tx, self._context, agent, open_queues, wish)

    async def renew(
        self,
        principal: Principal,
        agent_id: str,
        session: str,
        status: str,
        leases: Sequence[Lease],
        *,
        conditions: Sequence[Condition] = (),
    ) -> HeartbeatReply:
        """Heartbeat and batch renewal; status KILLED is a goodbye.

        `conditions` replace what the agent said before.

        Raises:
            NotFoundError: the agent.
            InvalidInputError: the status.
        """
        check_status(status)

        def work(tx: Tx) -> HeartbeatReply:
            agent = self._context.agent(tx, principal, agent_id, lock=True)
            return renew(tx, self._context, agent, session, status, leases, conditions)

        return await self._context.database.write(work)

    async def advance(
        self,
        principal: Principal,
        agent_id: str,
        lease: Lease,
        *,
        phase: Phase | None = None,
        activity: str | None = None,
        facts: Json | None = None,
        warning: str | None = None,
    ) -> LeaseStatus:
        """Report progress. A phase that is behind already changes nothing.

        Raises:
            InvalidInputError: a phase other than PREPARING or STARTED; facts too large.
            ConflictError: STARTED without a permit.
        """

        def work(tx: Tx) -> LeaseStatus:
            self._context.may_speak(tx, principal, agent_id)
            return holding.advance(
                tx, agent_id, lease, phase=phase, activity=activity, facts=facts, warning=warning
            )

        return await self._context.database.write(work)

    async def permit(self, principal: Principal, agent_id: str, lease: Lease) -> LeaseStatus:
        """Grant the one permit to start; HELD again to the holder until it says STARTED.

        An item still LEASED passes PREPARING on the way.

        Raises:
            ConflictError: the attempt has been started already.
        """

        def work(tx: Tx) -> LeaseStatus:
            self._context.may_speak(tx, principal, agent_id)
            return holding.permit(tx, agent_id, lease)

        return await self._context.database.write(work)

    async def finish(
        self,
        principal: Principal,
        agent_id: str,
        lease: Lease,
        *,
        phase: Phase,
        cause: Cause,
        message: str,
        exit_code: int | None = None,
        facts: Json | None = None,
    ) -> LeaseStatus:
        """Store the outcome; repeating it is HELD. May open a new attempt by policy.

        Raises:
            InvalidInputError: not a terminal phase.
            ConflictError: the transition table has no such edge.
        """

        def work(tx: Tx) -> LeaseStatus:
            self._context.may_speak(tx, principal, agent_id)
            return holding.finish(
                tx,
                agent_id,
                lease,
                phase=phase,
                cause=cause,
                message=message,
                exit_code=exit_code,
                facts=facts,
            )

        return await self._context.database.write(work)

    async def release(
        self, principal: Principal, agent_id: str, lease: Lease, reason: str | None = None
    ) -> LeaseStatus:
        """Hand an item back that was not permitted; it keeps its place and its attempt.

        Raises:
            ConflictError: it was permitted.
        """

        def work(tx: Tx) -> LeaseStatus:
            self._context.may_speak(tx, principal, agent_id)
            return holding.release(tx, agent_id, lease, reason)

        return await self._context.database.write(work)
