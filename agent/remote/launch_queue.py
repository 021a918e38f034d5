"""The queue port over our own protocol; `control/graphql/schema.graphql` explains the fields.

Every operation names a lease, a session or a request id, so that repeats change nothing.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final, Literal

import structlog

from agent.model.capacity import Allocation
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, LaunchError, ServerError
from agent.model.phase import TERMINAL, Outcome, Phase, Refused, exit_code_of
from agent.model.protocol import (
    AgentRegistration,
    AttemptStatus,
    ClaimRequest,
    Heartbeat,
    HeartbeatReply,
    LeaseStatus,
    RegisteredAgent,
)
from agent.model.spec import Json, parse_spec
from agent.model.work import Claim, Lease, checked_id
from agent.ports.queue import Channel
from agent.remote.client import LEASES, ControlPlaneClient

#: Deadlines in seconds; that of a renewal is shorter than the heartbeat interval.
_RENEW_DEADLINE: Final = 8.0
_CALLS_AT_ONCE: Final = 32
_WRITE_DEADLINE: Final = 20.0
_LOG_DEADLINE: Final = 30.0
#: What a long poll may take beyond its wait.
_POLL_MARGIN: Final = 10.0
#: The header with the bytes stored of a log.
_LOG_END: Final = "Launch-Log-End"
_UPDATE: Final = "Update the agent or the server, whichever is older."

_CLAIM_FRAGMENT: Final = """
fragment claim on LaunchClaim {
  itemId attempt epoch phase entityName projectName queueName runName name author
  resource runSpec layers cpus memory gpus runToken leaseLosses stopRequested
}
"""

_REGISTER: Final = (
    """
mutation RegisterAgent($input: RegisterLaunchAgentInput!) {
  registerLaunchAgent(input: $input) {
    agent { id name entityName } controlPlaneId heartbeatSeconds leaseSeconds held { ...claim }
  }
}
"""
    + _CLAIM_FRAGMENT
)

_CLAIM: Final = (
    """
mutation ClaimItems($input: ClaimLaunchItemsInput!) {
  claimLaunchItems(input: $input) { ...claim }
}
"""
    + _CLAIM_FRAGMENT
)

_RENEW: Final = """
mutation RenewLeases($input: RenewLaunchLeasesInput!) {
  renewLaunchLeases(input: $input) { leases { itemId status } current stop adoptable }
}
"""

_ADOPT: Final = (
    """
mutation AdoptItems($input: AdoptLaunchItemsInput!) {
  adoptLaunchItems(input: $input) { ...claim }
}
"""
    + _CLAIM_FRAGMENT
)

_COMMANDS: Final = """
query AgentCommands($agentId: ID!, $session: String!, $seen: String, $waitSeconds: Int) {
  launchCommands(agentId: $agentId, session: $session, seen: $seen, waitSeconds: $waitSeconds)
}
"""

_ADVANCE: Final = """
mutation AdvanceItem($input: AdvanceLaunchItemInput!) {
  advanceLaunchItem(input: $input) { status }
}
"""

_PERMIT: Final = """
mutation PermitStart($input: LeaseInput!) { permitLaunchStart(input: $input) { status } }
"""

_FINISH: Final = """
mutation FinishItem($input: FinishLaunchItemInput!) { finishLaunchItem(input: $input) { status } }
"""

_RELEASE: Final = """
mutation ReleaseItem($input: ReleaseLaunchItemInput!) {
  releaseLaunchItem(input: $input) { status }
}
"""

_ATTEMPT_STATUS: Final = """
query AttemptStatus($id: ID!) { launchItem(id: $id) { attempt phase } }
"""


class LaunchQueue:
    """`QueuePort` over one client."""

    def __init__(self, client: ControlPlaneClient) -> None:
        self._client = client
        #: With many attempts, calls about one of them wait here before their time begins: all at
        #: once, they would wait at the server until their time is over, and be sent again.
        #: Renewals and claims, of which there is one at a time, do not wait.
        self._turns = asyncio.Semaphore(_CALLS_AT_ONCE)
        #: Set by `register`; every write names it.
        self._agent_id = ""

    async def register(self, registration: AgentRegistration) -> RegisteredAgent:
        """Register this process.

        Raises:
            ServerError: the server has no leases, for example W&B's.
        """
        if not await self._client.has_leases():
            message = f"{self._client.endpoint.url} offers W&B's protocol only (no {LEASES})."
            hint = "This agent serves our control plane; W&B's servers are not supported yet."
            raise ServerError(message, hint=hint)
        payload = await self._mutate(
            _REGISTER,
            "registerLaunchAgent",
            {
                "entityName": registration.entity,
                "name": registration.name,
                "hostname": registration.hostname,
                "version": registration.version,
                "queueNames": list(registration.queues),
                "identity": registration.identity,
                "session": registration.session,
                "backendId": registration.backend_id,
                "resources": list(registration.resources),
                "capacity": asdict(registration.capacity),
                "config": registration.config,
                "afterShutdown": registration.after_shutdown,
            },
        )
        agent = payload["agent"]
        self._agent_id = agent["id"]
        return RegisteredAgent(
            agent_id=agent["id"],
            agent_name=agent["name"],
            entity=agent["entityName"],
            control_plane_id=checked_id(payload["controlPlaneId"], "a control plane"),
            heartbeat_seconds=float(payload["heartbeatSeconds"]),
            lease_seconds=float(payload["leaseSeconds"]),
            held=await self._claims(payload["held"]),
        )

    async def claim(self, request: ClaimRequest) -> tuple[Claim, ...]:
        """Wait for items; repeats with the same request id return the same claims."""
        resources = request.resources
        raw = await self._mutate(
            _CLAIM,
            "claimLaunchItems",
            {
                "agentId": request.agent_id,
                "session": request.session,
                "requestId": request.request_id,
                "queueNames": list(request.queues),
                **({} if resources is None else {"resources": list(resources)}),
                "max": request.max_items,
                "free": asdict(request.free),
                "selfScheduledResources": list(request.self_scheduled),
                "waitSeconds": round(request.wait_seconds),
            },
            deadline=request.wait_seconds + _POLL_MARGIN,
        )
        return await self._claims(raw)

    async def renew(self, heartbeat: Heartbeat) -> HeartbeatReply:
        """Renew all leases in one call."""
        payload = await self._mutate(
            _RENEW,
            "renewLaunchLeases",
            {
                "agentId": heartbeat.agent_id,
                "session": heartbeat.session,
                "status": heartbeat.status,
                "leases": [_lease_ref(lease) for lease in heartbeat.leases],
                "conditions": [asdict(one) for one in heartbeat.conditions],
            },
            deadline=_RENEW_DEADLINE,
        )
        answers = {one["itemId"]: LeaseStatus(one["status"]) for one in payload["leases"]}
        # A newer server may know further modes of stopping.
        asked = payload.get("stop")
        stop: Literal["DRAIN", "STOP"] | None = asked if asked in {"DRAIN", "STOP"} else None
        return HeartbeatReply(answers, bool(payload["current"]), stop, payload["adoptable"])

    async def adopt(self, agent_id: str, session: str) -> tuple[Claim, ...]:
        """Take over what agents of the same backend left running."""
        given = {"agentId": agent_id, "session": session}
        return await self._claims(await self._mutate(_ADOPT, "adoptLaunchItems", given))

    async def commands(
        self, agent_id: str, session: str, seen: str | None, wait_seconds: float
    ) -> str:
        """Wait until there is a command, which the next renewal delivers; returns its version."""
        data = await self._client.execute(
            _COMMANDS,
            {
                "agentId": agent_id,
                "session": session,
                "seen": seen,
                "waitSeconds": round(wait_seconds),
            },
            deadline=wait_seconds + _POLL_MARGIN,
        )
        return str(_field(data, "launchCommands"))

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
        given = {"phase": phase, "activity": activity, "facts": facts, "warning": warning}
        changed = {key: value for key, value in given.items() if value is not None}
        return await self._write(_ADVANCE, "advanceLaunchItem", lease, changed)

    async def permit(self, lease: Lease) -> LeaseStatus:
        """Ask for the start permit."""
        return await self._write(_PERMIT, "permitLaunchStart", lease, {})

    async def finish(self, lease: Lease, outcome: Outcome, facts: dict[str, Any]) -> LeaseStatus:
        """Report the outcome."""
        fields = {
            "phase": outcome.phase,
            "cause": outcome.cause,
            "message": outcome.message,
            "exitCode": exit_code_of(outcome),
            "facts": facts,
        }
        return await self._write(_FINISH, "finishLaunchItem", lease, fields)

    async def release(self, lease: Lease, reason: str, delay: float = 0.0) -> LeaseStatus:
        """Return an item to its queue."""
        given = {"reason": reason, "delaySeconds": delay}
        return await self._write(_RELEASE, "releaseLaunchItem", lease, given)

    async def append_log(self, lease: Lease, channel: Channel, offset: int, data: bytes) -> int:
        """Store bytes; returns the end of what is stored.

        Raises:
            FencedError: the attempt belongs to another agent by now.
        """
        async with self._turns:
            response = await self._client.send(
                "POST",
                _log_path(lease, channel),
                params={"epoch": lease.epoch, "offset": offset},
                body=data,
                headers={"Content-Type": "application/octet-stream"},
                deadline=_LOG_DEADLINE,
            )
        reply = response.json()
        try:
            return int(reply["end"])
        except (KeyError, TypeError, ValueError):
            raise ServerError("The server's reply to log bytes lacks `end`.") from None

    async def log_end(self, lease: Lease, channel: Channel) -> int:
        """Bytes stored so far."""
        async with self._turns:
            response = await self._client.send("HEAD", _log_path(lease, channel))
        text = response.headers.get(_LOG_END, "")
        if not text.isdigit():
            raise ServerError(f"The server's reply about a log lacks the header {_LOG_END}.")
        return int(text)

    async def attempt_status(self, lease: Lease) -> AttemptStatus:
        """Whether an attempt is over."""
        data = await self._client.execute(_ATTEMPT_STATUS, {"id": lease.item_id})
        item = data.get("launchItem")
        if item is None:
            return AttemptStatus.UNKNOWN
        later = int(item["attempt"]) > lease.attempt
        return (
            AttemptStatus.ENDED
            if later or Phase(item["phase"]) in TERMINAL
            else AttemptStatus.ACTIVE
        )

    async def _write(
        self, document: str, name: str, lease: Lease, fields: Mapping[str, Any]
    ) -> LeaseStatus:
        given = {"agentId": self._agent_id, **_lease_ref(lease), **fields}
        async with self._turns:
            reply = await self._mutate(document, name, given, deadline=_WRITE_DEADLINE)
        return LeaseStatus(reply["status"])

    async def _mutate(
        self, document: str, name: str, given: Mapping[str, Any], *, deadline: float = 30.0
    ) -> Any:
        data = await self._client.execute(
            document, {"input": given}, deadline=deadline, idempotent=True
        )
        return _field(data, name)

    async def _claims(self, raws: list[Json]) -> tuple[Claim, ...]:
        """The claims; one whose launch spec cannot be read is refused at once."""
        claims = []
        for raw in raws:
            try:
                claims.append(_claim(raw))
            except InvalidInputError as error:
                await self._refuse(_lease(raw), error)
        return tuple(claims)

    async def _refuse(self, lease: Lease, error: InvalidInputError) -> None:
        log = structlog.get_logger().bind(item=lease.item_id, attempt=lease.attempt)
        log.warning("refused an item whose launch spec cannot be read", error=str(error))
        try:
            await self.finish(lease, Refused(Cause.POLICY_SPEC, str(error)), {})
        except LaunchError as failure:
            # The lease expires, and the next agent that claims the item refuses it.
            log.warning("the refusal could not be reported", error=str(failure))


def _field(data: Json, name: str) -> Any:
    value = data.get(name)
    if value is None:
        message = f"The server's reply lacks `{name}`."
        raise ServerError(message, hint=_UPDATE)
    return value


def _lease_ref(lease: Lease) -> dict[str, Any]:
    return {"itemId": lease.item_id, "attempt": lease.attempt, "epoch": lease.epoch}


def _log_path(lease: Lease, channel: Channel) -> str:
    return f"/launch/items/{lease.item_id}/attempts/{lease.attempt}/logs/{channel}"


def _lease(raw: Json) -> Lease:
    try:
        item = checked_id(str(raw["itemId"]), "an item")
        return Lease(item, int(raw["attempt"]), int(raw["epoch"]))
    except (KeyError, TypeError, ValueError, InvalidInputError) as error:
        raise _broken_claim(error) from error


def _claim(raw: Json) -> Claim:
    """A claim of the wire.

    Raises:
        InvalidInputError: its launch spec cannot be read.
        ServerError: it does not have the fields of the schema.
    """
    lease = _lease(raw)
    spec = parse_spec(raw.get("runSpec") or {})
    memory = raw.get("memory")
    try:
        return Claim(
            lease=lease,
            phase=Phase(raw["phase"]),
            entity=raw["entityName"],
            project=raw["projectName"],
            queue=raw["queueName"],
            run_name=raw["runName"],
            name=raw.get("name"),
            author=raw.get("author"),
            resource=raw["resource"],
            spec=spec,
            layers=raw.get("layers") or {},
            allocation=Allocation(
                cpus=raw.get("cpus"),
                memory=None if memory is None else int(memory),
                gpus=tuple(raw.get("gpus") or ()),
            ),
            run_token=raw["runToken"],
            stop_requested=bool(raw["stopRequested"]),
            lease_losses=int(raw["leaseLosses"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _broken_claim(error) from error


def _broken_claim(error: Exception) -> ServerError:
    seen = f"{type(error).__name__}: {error}"
    message = f"The server's claim does not fit the schema ({seen})."
    return ServerError(message, hint=_UPDATE)
