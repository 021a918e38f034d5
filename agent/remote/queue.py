"""The queue port over HTTP."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import structlog

from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, LaunchError, ServerError
from agent.model.outcome import Outcome, Refused, exit_code_of, phase_of
from agent.model.phase import TERMINAL, Phase
from agent.model.protocol import (
    AgentRegistration,
    AttemptStatus,
    ClaimRequest,
    Heartbeat,
    HeartbeatReply,
    LeaseStatus,
    RegisteredAgent,
)
from agent.model.spec import Json
from agent.model.work import Claim, Lease
from agent.ports.queue import Channel
from agent.remote import documents
from agent.remote.client import GraphQLClient
from agent.remote.decode import capacity_input, claim_of, lease_of
from agent.remote.features import CLAIM_RESOURCES, COMMANDS, CONDITIONS, require_leases
from agent.remote.logs import append_log, log_end

#: Seconds. A renewal that takes longer is worth less than the next one.
_RENEW: Final = 8.0
_WRITE: Final = 20.0
#: What a long poll may take beyond its wait.
_POLL_MARGIN: Final = 10.0


class RemoteQueue:
    """`QueuePort` over one client."""

    def __init__(self, client: GraphQLClient) -> None:
        self._client = client
        #: Written once, by `register`: every later write names it.
        self._agent_id = ""
        self._features: frozenset[str] = frozenset()

    async def register(self, hello: AgentRegistration) -> RegisteredAgent:
        """Announce this process, after a look at what the server offers."""
        self._features = await require_leases(self._client)
        payload = await self._mutate(
            documents.REGISTER,
            "registerLaunchAgent",
            {
                "entityName": hello.entity,
                "name": hello.name,
                "hostname": hello.hostname,
                "version": hello.version,
                "queueNames": list(hello.queues),
                "identity": hello.identity,
                "session": hello.session,
                "backend": hello.backend,
                "resources": list(hello.resources),
                "capacity": capacity_input(hello.capacity),
                "config": hello.config,
            },
        )
        agent = payload["agent"]
        self._agent_id = agent["id"]
        return RegisteredAgent(
            agent_id=agent["id"],
            agent_name=agent["name"],
            entity=agent["entityName"],
            control_plane_id=payload["controlPlaneId"],
            heartbeat_seconds=float(payload["heartbeatSeconds"]),
            lease_seconds=float(payload["leaseSeconds"]),
            held=await self._claims(payload["held"]),
            has_commands=COMMANDS in self._features,
            narrows_claims=CLAIM_RESOURCES in self._features,
        )

    async def claim(self, request: ClaimRequest) -> tuple[Claim, ...]:
        """Wait for items; the request id makes a repeat harmless."""
        resources = request.resources
        raw = await self._mutate(
            documents.CLAIM,
            "claimLaunchItems",
            {
                "agentId": request.agent_id,
                "session": request.session,
                "requestId": request.request_id,
                "queueNames": list(request.queues),
                **({} if resources is None else {"resources": list(resources)}),
                "max": request.max_items,
                "free": capacity_input(request.free),
                "waitSeconds": round(request.wait_seconds),
            },
            deadline=request.wait_seconds + _POLL_MARGIN,
        )
        return await self._claims(raw)

    async def renew(self, beat: Heartbeat) -> HeartbeatReply:
        """Renew all leases in one call."""
        payload = await self._mutate(
            documents.RENEW,
            "renewLaunchLeases",
            {
                "agentId": beat.agent_id,
                "session": beat.session,
                "status": beat.status,
                "leases": [_lease_ref(lease) for lease in beat.leases],
                **self._conditions(beat),
            },
            deadline=_RENEW,
        )
        answers = {one["itemId"]: LeaseStatus(one["answer"]) for one in payload["leases"]}
        return HeartbeatReply(answers, bool(payload["current"]), _stop(payload.get("stop")))

    async def commands(
        self, agent_id: str, session: str, seen: str | None, wait_seconds: float
    ) -> str:
        """Wait for a reason to renew at once."""
        given = {"agentId": agent_id, "session": session, "seen": seen}
        data = await self._client.execute(
            documents.COMMANDS,
            {**given, "waitSeconds": round(wait_seconds)},
            deadline=wait_seconds + _POLL_MARGIN,
        )
        return str(_answer(data, "launchCommands"))

    async def advance(
        self,
        lease: Lease,
        *,
        phase: Phase | None = None,
        activity: str | None = None,
        facts: dict[str, Any] | None = None,
        warning: str | None = None,
    ) -> LeaseStatus:
        """Report progress."""
        said = {"phase": phase, "activity": activity, "facts": facts, "warning": warning}
        told = {key: value for key, value in said.items() if value is not None}
        return await self._write(documents.ADVANCE, "advanceLaunchItem", lease, told)

    async def permit(self, lease: Lease) -> LeaseStatus:
        """Ask for the start permit."""
        return await self._write(documents.PERMIT, "permitLaunchStart", lease, {})

    async def finish(self, lease: Lease, outcome: Outcome, facts: dict[str, Any]) -> LeaseStatus:
        """Report the outcome."""
        told = {
            "phase": phase_of(outcome),
            "cause": outcome.cause,
            "message": outcome.message,
            "exitCode": exit_code_of(outcome),
            "facts": facts,
        }
        return await self._write(documents.FINISH, "finishLaunchItem", lease, told)

    async def release(self, lease: Lease, reason: str) -> LeaseStatus:
        """Hand an item back."""
        return await self._write(documents.RELEASE, "releaseLaunchItem", lease, {"reason": reason})

    async def append_log(self, lease: Lease, channel: Channel, offset: int, data: bytes) -> int:
        """Store bytes of a log."""
        return await append_log(self._client, lease, channel, offset, data)

    async def log_end(self, lease: Lease, channel: Channel) -> int:
        """How much of a log is stored."""
        return await log_end(self._client, lease.item_id, lease.attempt, channel)

    async def attempt_status(self, lease: Lease) -> AttemptStatus:
        """Whether an attempt is over."""
        data = await self._client.execute(documents.STANDING, {"id": lease.item_id})
        item = data.get("launchItem")
        if item is None:
            return AttemptStatus.UNKNOWN
        later = int(item["attempt"]) > lease.attempt
        return (
            AttemptStatus.ENDED
            if later or Phase(item["phase"]) in TERMINAL
            else AttemptStatus.ACTIVE
        )

    def _conditions(self, beat: Heartbeat) -> dict[str, Any]:
        if CONDITIONS not in self._features:
            return {}
        told = [
            {"kind": one.kind, "message": one.message, "resource": one.resource}
            for one in beat.conditions
        ]
        return {"conditions": told}

    async def _write(
        self, document: str, name: str, lease: Lease, told: Mapping[str, Any]
    ) -> LeaseStatus:
        given = {"agentId": self._agent_id, **_lease_ref(lease), **told}
        verdict = await self._mutate(document, name, given, deadline=_WRITE)
        return LeaseStatus(verdict["answer"])

    async def _mutate(
        self, document: str, name: str, given: Mapping[str, Any], *, deadline: float = 30.0
    ) -> Any:
        # Every operation here names a lease, a session or a request id: repeats are harmless.
        data = await self._client.execute(
            document, {"input": given}, deadline=deadline, idempotent=True
        )
        return _answer(data, name)

    async def _claims(self, raws: list[Json]) -> tuple[Claim, ...]:
        """Claims that can be read; one whose spec cannot is refused at once."""
        claims = []
        for raw in raws:
            try:
                claims.append(claim_of(raw))
            except InvalidInputError as error:
                await self._refuse(lease_of(raw), error)
        return tuple(claims)

    async def _refuse(self, lease: Lease, error: InvalidInputError) -> None:
        log = structlog.get_logger().bind(item=lease.item_id, attempt=lease.attempt)
        log.warning("the spec of a claimed item cannot be read; refused", error=str(error))
        try:
            await self.finish(lease, Refused(Cause.POLICY_SPEC, str(error)), {})
        except LaunchError as failure:
            # The lease lapses, and whoever gets the item next refuses it.
            log.warning("the refusal did not arrive", error=str(failure))


def _answer(data: Json, name: str) -> Any:
    answer = data.get(name)
    if answer is None:
        message = f"The server's answer lacks `{name}`."
        raise ServerError(message, hint="Update the older of the two sides.")
    return answer


def _lease_ref(lease: Lease) -> dict[str, Any]:
    return {"itemId": lease.item_id, "attempt": lease.attempt, "epoch": lease.epoch}


def _stop(text: str | None) -> Literal["DRAIN", "STOP"] | None:
    match text:
        case "DRAIN":
            return "DRAIN"
        case "STOP":
            return "STOP"
        case _:
            return None
