"""A running control plane whose pages have content."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config.control import ControlConfig
from agent.control.auth.policy import Principal
from agent.control.request_data import LOGS
from agent.control.server import ControlPlane
from agent.control.services.assembly import Services
from agent.control.store.accounts import Role
from agent.control.store.agents import AgentRecord
from agent.control.store.history import Channel
from agent.control.store.items import ClaimRecord, ItemRecord, Submission
from agent.model.capacity import Capacity
from agent.model.cause import Cause
from agent.model.phase import Phase
from agent.model.protocol import AgentRegistration, ClaimRequest, Condition, Heartbeat

SESSION = "session-1"


@dataclass(frozen=True)
class Person:
    """A user with a key."""

    key: str
    principal: Principal


@dataclass
class Scene:
    """The control plane, with operations of users and agents."""

    server: ControlPlane
    plane: Services
    ada: Person
    folder: Path

    @property
    def url(self) -> str:
        return self.server.url

    async def person(self, name: str, entity: str, role: Role) -> Person:
        """A user with a role in an entity, and a key."""
        accounts, ada = self.plane.accounts, self.ada.principal
        await accounts.create_user(ada, name)
        await accounts.set_member(ada, entity, name, role)
        made = await accounts.create_key(ada, "test", user=name)
        return Person(made.secret, await accounts.authenticate(made.secret))

    async def queue(self, name: str, entity: str = "ada", **values: Any) -> None:
        settings = {"resource": "local-process"} | values
        await self.plane.queues.save(self.ada.principal, entity, name, **settings)

    async def submit(
        self, name: str, queue: str = "default", entity: str = "ada", **spec: Any
    ) -> ItemRecord:
        run_spec = {"name": name, "docker": {"docker_image": "example/image:1"}} | spec
        submission = Submission(entity, "default", queue, run_spec)
        return await self.plane.items.submit(self.ada.principal, submission)

    async def agent(self, name: str = "box", queue: str = "default") -> AgentRecord:
        registration = AgentRegistration(
            entity="ada",
            name=name,
            hostname=f"{name}.example",
            version="0.1.0",
            queues=(queue,),
            identity=f"identity-{name}",
            session=SESSION,
            backend_id=None,
            resources=("local-process", "local-container"),
            capacity=Capacity(slots=4, cpus=8.0, memory=16 * 1024**3),
            config={},
        )
        registered = await self.plane.agents.register(self.ada.principal, registration)
        return registered.agent

    async def beat(self, agent: AgentRecord, *conditions: Condition) -> None:
        """A heartbeat with conditions."""
        await self.plane.leases.renew(
            self.ada.principal, Heartbeat(agent.id, SESSION, "POLLING", (), conditions)
        )

    async def claim(self, agent: AgentRecord) -> ClaimRecord:
        """Claim the next item; its phase is then PREPARING."""
        leases, ada = self.plane.leases, self.ada.principal
        request = ClaimRequest(
            agent.id, SESSION, f"request-{agent.id}", Capacity(slots=4), wait_seconds=0
        )
        [claim] = await leases.claim(ada, request)
        await leases.advance(ada, agent.id, claim.lease, phase=Phase.PREPARING)
        return claim

    async def start(self, agent: AgentRecord, claim: ClaimRecord) -> None:
        leases, ada = self.plane.leases, self.ada.principal
        await leases.permit(ada, agent.id, claim.lease)
        await leases.advance(ada, agent.id, claim.lease, phase=Phase.STARTED, activity="running")

    async def finish(
        self,
        agent: AgentRecord,
        claim: ClaimRecord,
        phase: Phase,
        cause: Cause,
        message: str,
        exit_code: int | None = None,
    ) -> None:
        await self.plane.leases.finish(
            self.ada.principal,
            agent.id,
            claim.lease,
            phase=phase,
            cause=cause,
            message=message,
            exit_code=exit_code,
        )

    async def log(self, claim: ClaimRecord, data: bytes, channel: Channel = "job") -> None:
        """Append to a log, as an agent does."""
        me = self.ada.principal
        _, end = await self.plane.logs.check_append(me, claim.lease, channel)
        await self.server.app[LOGS].append(me, claim.lease, channel, end, data)


@asynccontextmanager
async def open_scene(folder: Path, port: int = 0, key: str | None = None) -> AsyncIterator[Scene]:
    """A control plane of its own on loopback; `key` is one of an earlier start."""
    config = ControlConfig(port=port, data_dir=folder)
    async with ControlPlane(config) as server:
        plane = server.services
        account = await plane.accounts.bootstrap_local("ada", key)
        principal = await plane.accounts.authenticate(account.api_key)
        await plane.queues.save(principal, "ada", "default", resource="local-process")
        yield Scene(server, plane, Person(account.api_key, principal), folder)
