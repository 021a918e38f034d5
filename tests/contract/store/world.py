"""A control plane without a wire, and short ways to do what people and agents do with it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import delete, text

from agent.config.control import ControlConfig
from agent.control.auth.policy import Principal
from agent.control.services.agents import AgentWithItems
from agent.control.services.assembly import Services, open_services
from agent.control.services.run_streams import RunName
from agent.control.services.stream_update import StreamUpdate
from agent.control.store.items import ClaimRecord, ItemRecord, Submission
from agent.control.store.tables import metadata
from agent.control.store.tx import Tx
from agent.model.capacity import Capacity
from agent.model.cause import Cause
from agent.model.phase import Phase, may_follow
from agent.model.protocol import (
    AgentRegistration,
    ClaimRequest,
    Condition,
    Heartbeat,
    LeaseStatus,
)

IMAGE = {"docker": {"docker_image": "busybox"}}
PLENTY = Capacity(slots=100)
#: Rows of a table.
_LARGE = 1_000
_TIMES = {
    "work_leases": ("expires_at",),
    "items": ("lease_expires_at", "lost_contact_at", "finished_at", "not_before"),
    "attempts": ("finished_at",),
    "agents": ("heartbeat_at",),
    "idempotency_keys": ("created_at",),
    "sign_ins": ("created_at", "expires_at"),
    "api_keys": ("expires_at",),
    "runs": ("heartbeat_at",),
}


@dataclass
class Agent:
    """One process of an agent, as the control plane knows it."""

    world: "World"
    welcome: AgentWithItems
    session: str

    @property
    def id(self) -> str:
        return self.welcome.agent.id

    async def claim(
        self,
        request: str | None = None,
        *,
        free: Capacity = PLENTY,
        most: int = 1,
        queues: tuple[str, ...] | None = None,
        resources: tuple[str, ...] | None = None,
        self_scheduled: tuple[str, ...] = (),
        wait: float = 0.0,
    ) -> tuple[ClaimRecord, ...]:
        return await self.world.plane.leases.claim(
            self.world.me,
            ClaimRequest(
                agent_id=self.id,
                session=self.session,
                request_id=request or f"request-{next(self.world.numbers)}",
                free=free,
                queues=queues or (),
                resources=resources,
                self_scheduled=self_scheduled,
                max_items=most,
                wait_seconds=wait,
            ),
        )

    async def claim_one(self, **how: Any) -> ClaimRecord:
        (claim,) = await self.claim(**how)
        return claim

    async def permit(self, claim: ClaimRecord) -> LeaseStatus:
        return await self.world.plane.leases.permit(self.world.me, self.id, claim.lease)

    async def advance(
        self, claim: ClaimRecord, phase: Phase | None = None, **how: Any
    ) -> LeaseStatus:
        leases = self.world.plane.leases
        return await leases.advance(self.world.me, self.id, claim.lease, phase=phase, **how)

    async def finish(
        self,
        claim: ClaimRecord,
        phase: Phase = Phase.SUCCEEDED,
        cause: Cause = Cause.SUCCEEDED,
        message: str = "exit code 0",
        exit_code: int | None = None,
        facts: dict[str, Any] | None = None,
    ) -> LeaseStatus:
        return await self.world.plane.leases.finish(
            self.world.me,
            self.id,
            claim.lease,
            phase=phase,
            cause=cause,
            message=message,
            exit_code=exit_code,
            facts=facts,
        )

    async def release(
        self, claim: ClaimRecord, reason: str | None = None, delay: float = 0.0
    ) -> LeaseStatus:
        leases = self.world.plane.leases
        return await leases.release(self.world.me, self.id, claim.lease, reason, delay)

    async def beat(
        self,
        *claims: ClaimRecord,
        status: str = "POLLING",
        conditions: tuple[Condition, ...] = (),
    ) -> Any:
        leases = tuple(claim.lease for claim in claims)
        heartbeat = Heartbeat(self.id, self.session, status, leases, conditions)
        return await self.world.plane.leases.renew(self.world.me, heartbeat)

    async def adopt(self) -> tuple[ClaimRecord, ...]:
        return await self.world.plane.agents.adopt(self.world.me, self.id, self.session)

    async def commands(self, seen: str | None = None, wait: float = 0.0) -> str:
        return await self.world.plane.agents.commands(
            self.world.me, self.id, self.session, seen, wait_seconds=wait
        )

    async def start(self, claim: ClaimRecord) -> None:
        assert await self.permit(claim) is LeaseStatus.HELD
        assert await self.advance(claim, Phase.STARTED) is LeaseStatus.HELD


@dataclass
class World:
    """The control plane, its first user, and the passing of time."""

    plane: Services
    me: Principal
    key: str
    numbers: Any = field(default_factory=itertools.count)

    async def submit(
        self,
        spec: dict[str, Any] | None = None,
        *,
        queue: str = "default",
        priority: int | None = None,
        key: str | None = None,
        variables: dict[str, Any] | None = None,
    ) -> ItemRecord:
        return await self.plane.items.submit(
            self.me,
            Submission(
                entity=None,
                project=None,
                queue=queue,
                run_spec=IMAGE if spec is None else {**IMAGE, **spec},
                template_variables=variables or {},
                priority=priority,
                idempotency_key=key,
            ),
        )

    async def agent(
        self,
        name: str = "alpha",
        *,
        queues: tuple[str, ...] = ("default",),
        identity: str | None = None,
        backend: str | None = None,
        session: str | None = None,
        **other: Any,
    ) -> Agent:
        session = session or f"session-{next(self.numbers)}"
        registration = AgentRegistration(
            entity=None,
            name=name,
            hostname=f"{name}.example",
            version="1",
            queues=queues,
            identity=f"installation-{name}" if identity is None else identity,
            session=session,
            backend_id=backend,
            resources=("local-container",),
            capacity=PLENTY,
            config={},
        )
        welcome = await self.plane.agents.register(self.me, replace(registration, **other))
        return Agent(self, welcome, session)

    async def queue(self, name: str, **how: Any) -> Any:
        how.setdefault("resource", "local-container")
        return await self.plane.queues.save(self.me, None, name, **how)

    async def item(self, item: ItemRecord | str) -> ItemRecord:
        item_id = item if isinstance(item, str) else item.id
        return await self.plane.items.get(self.me, item_id)

    async def run_ended(
        self, who: Principal, entity: str, project: str, run: str, exit_code: int
    ) -> None:
        """What the process of a run reports at its end."""
        update = StreamUpdate(exit_code=exit_code)
        name = RunName(entity, project, run)
        await self.plane.run_streams.append(who, name, update, {})

    async def pass_time(self, seconds: float, *, reap: bool = True) -> Any:
        """As if so much time had passed: everything stored is that much older."""

        def work(tx: Any) -> None:
            for table, columns in _TIMES.items():
                changes = ", ".join(f"{one} = {one} - :by" for one in columns)
                tx.run(text(f"UPDATE {table} SET {changes}"), {"by": seconds})  # noqa: S608

        await self.plane.database.write(work)
        return await self.plane.reaper.reap_once() if reap else None

    async def somebody_waits(self, number: int = 1) -> None:
        """So many wait to be woken by now, their first look behind them."""
        subscriptions = self.plane.notifications._subscriptions.values
        async with asyncio.timeout(10):
            while sum(one.waiting for each in subscriptions() for one in each) < number:
                await asyncio.sleep(0)

    async def history(self, item: ItemRecord | str) -> list[Phase]:
        """The phases of an item, proven to be a path of the transition table."""
        item_id = item if isinstance(item, str) else item.id
        events = await self.plane.items.events(self.me, item_id)
        path = [event.phase for event in events]
        assert path[0] is Phase.QUEUED
        assert all(may_follow(before, after) for before, after in itertools.pairwise(path))
        attempts = [event.attempt for event in events]
        assert attempts == sorted(attempts)
        for number in set(attempts):
            permits = [
                event
                for before, event in itertools.pairwise(events)
                if event.attempt == number
                and event.phase is Phase.PERMITTED
                and before.phase is not Phase.PERMITTED
            ]
            assert len(permits) <= 1
        return path


def remove_all_rows(tx: Tx) -> None:
    """Leave an empty database to the next test.

    `TRUNCATE` makes the files of each table and index anew, a hundred times as slow. It is for
    tables that were large, whose size the planner would go on to see.
    """
    for table in reversed(metadata.sorted_tables):
        if tx.changed(delete(table)) > _LARGE:
            tx.run(text(f"TRUNCATE {table.name} CASCADE"))


@asynccontextmanager
async def open_world(config: ControlConfig) -> AsyncIterator[World]:
    async with open_services(config) as plane:
        account = await plane.accounts.bootstrap_local("ann")
        me = await plane.accounts.authenticate(account.api_key)
        yield World(plane, me, account.api_key)
