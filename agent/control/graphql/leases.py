"""What our agents call: claim, renew, commands, advance, permit, finish, release."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from ariadne import ObjectType

from agent.control.graphql.agents import capacity_of
from agent.control.graphql.context import Args, Context, object_or_none
from agent.control.store.items import ClaimRecord
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError
from agent.model.phase import Phase
from agent.model.protocol import ClaimRequest, Condition, ConditionKind, Heartbeat, LeaseStatus
from agent.model.spec import Json
from agent.model.work import Lease

_MAX_WAIT_SECONDS: Final = 30
#: Conditions of one agent, and characters of each one's message.
_MAX_CONDITIONS: Final = 16
_MAX_MESSAGE: Final = 500

T = TypeVar("T")


async def _claim(context: Context, args: Args) -> tuple[ClaimRecord, ...]:
    began = time.perf_counter()
    context.waited = True
    resources = args.get("resources")
    request = ClaimRequest(
        agent_id=args["agent_id"],
        session=args["session"],
        request_id=args["request_id"],
        free=capacity_of(args["free"]),
        queues=tuple(args.get("queue_names") or ()),
        max_items=1 if args.get("max") is None else args["max"],
        wait_seconds=_wait(args),
        resources=None if resources is None else tuple(resources),
        self_scheduled=tuple(args.get("self_scheduled_resources") or ()),
    )
    polling = context.plane.leases.claim(context.principal, request)
    # An item leased just as the client disconnects is not lost: the same request id gets it
    # again, and without a repetition its lease expires before anything has started.
    claims = await _unless_unwanted(context, polling) or ()
    outcome = "claimed" if claims else "nothing"
    context.metrics.claims.labels(outcome).observe(time.perf_counter() - began)
    return claims


async def _commands(context: Context, args: Args) -> str:
    context.waited = True
    seen = args.get("seen")
    polling = context.plane.agents.commands(
        context.principal, args["agent_id"], args["session"], seen, wait_seconds=_wait(args)
    )
    return await _unless_unwanted(context, polling) or seen or ""


async def _unless_unwanted(context: Context, poll: Coroutine[Any, Any, T]) -> T | None:
    """The result of a long poll; `None` as soon as the client is gone or the server stops."""
    polling = asyncio.ensure_future(poll)
    unwanted = asyncio.create_task(context.unwanted.wait())
    try:
        await asyncio.wait((polling, unwanted), return_when=asyncio.FIRST_COMPLETED)
    finally:
        unwanted.cancel()
        if not polling.done():
            polling.cancel()
            await asyncio.wait((polling,))
    return None if polling.cancelled() else polling.result()


def _wait(args: Args) -> float:
    return float(min(max(args.get("wait_seconds") or 0, 0), _MAX_WAIT_SECONDS))


async def _renew(context: Context, args: Args) -> Json:
    heartbeat = Heartbeat(
        agent_id=args["agent_id"],
        session=args["session"],
        status=args["status"],
        leases=tuple(_lease(lease) for lease in args["leases"]),
        conditions=_conditions(args.get("conditions") or ()),
    )
    reply = await context.plane.leases.renew(context.principal, heartbeat)
    statuses = [_result(item, status) for item, status in reply.statuses.items()]
    return {
        "leases": statuses,
        "current": reply.current,
        "stop": reply.stop,
        "adoptable": reply.adoptable,
    }


def _conditions(given: Sequence[Args]) -> tuple[Condition, ...]:
    """Those of a known kind: an agent must not lose its leases because of another one."""
    known = [one for one in given if one["kind"] in ConditionKind.__members__]
    return tuple(
        Condition(ConditionKind(one["kind"]), one["message"][:_MAX_MESSAGE], one.get("resource"))
        for one in known[:_MAX_CONDITIONS]
    )


async def _advance(context: Context, args: Args) -> Json:
    phase = args.get("phase")
    status = await context.plane.leases.advance(
        context.principal,
        args["agent_id"],
        _lease(args),
        phase=Phase(phase) if phase else None,
        activity=args.get("activity"),
        facts=object_or_none(args.get("facts"), "facts"),
        warning=args.get("warning"),
    )
    return _result(args["item_id"], status)


async def _permit(context: Context, args: Args) -> Json:
    status = await context.plane.leases.permit(context.principal, args["agent_id"], _lease(args))
    return _result(args["item_id"], status)


async def _finish(context: Context, args: Args) -> Json:
    status = await context.plane.leases.finish(
        context.principal,
        args["agent_id"],
        _lease(args),
        phase=Phase(args["phase"]),
        cause=_cause(args["cause"]),
        message=args["message"],
        exit_code=args.get("exit_code"),
        facts=object_or_none(args.get("facts"), "facts"),
    )
    return _result(args["item_id"], status)


async def _release(context: Context, args: Args) -> Json:
    status = await context.plane.leases.release(
        context.principal,
        args["agent_id"],
        _lease(args),
        args.get("reason"),
        float(args.get("delay_seconds") or 0.0),
    )
    return _result(args["item_id"], status)


def _lease(args: Args) -> Lease:
    return Lease(args["item_id"], args["attempt"], args["epoch"])


def _cause(text: str) -> Cause:
    try:
        return Cause(text)
    except ValueError:
        message = f"'{text}' is not a cause code."
        raise InvalidInputError(message, hint="docs/causes.md lists them all.") from None


def _result(item_id: str, status: LeaseStatus) -> Json:
    return {"item_id": item_id, "status": status.value}


_CLAIM: Final = ObjectType("LaunchClaim")
for _field, _path in {
    "itemId": "lease.item_id",
    "attempt": "lease.attempt",
    "epoch": "lease.epoch",
    "entityName": "entity",
    "projectName": "project",
    "queueName": "queue",
    "cpus": "allocation.cpus",
    "memory": "allocation.memory",
    "gpus": "allocation.gpus",
}.items():
    _CLAIM.set_alias(_field, _path)

QUERIES: Final = {"launchCommands": _commands}
MUTATIONS: Final = {
    "claimLaunchItems": _claim,
    "renewLaunchLeases": _renew,
    "advanceLaunchItem": _advance,
    "permitLaunchStart": _permit,
    "finishLaunchItem": _finish,
    "releaseLaunchItem": _release,
}
TYPES: Final = (_CLAIM,)
