"""The queue port over HTTP: documents that the schema knows, answers as values."""

import asyncio
import importlib.resources
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from graphql import build_schema, parse, validate

from agent.model.capacity import Allocation, Capacity
from agent.model.cause import Cause
from agent.model.errors import FencedError, PermissionDeniedError, ServerError
from agent.model.phase import Failed, Phase
from agent.model.protocol import (
    AgentRegistration,
    AttemptStatus,
    ClaimRequest,
    Condition,
    ConditionKind,
    Heartbeat,
    LeaseStatus,
)
from agent.model.work import Lease
from agent.remote import launch_queue
from agent.remote.client import ControlPlaneClient
from agent.remote.launch_queue import LaunchQueue
from tests.unit.remote.far_end import FarEnd, data, error, reply

LEASE = Lease("item", 1, 2)
HELLO = AgentRegistration(
    "me", "agent", "host", "1", ("q",), "identity", "session", "backend",
    ("local-container",), Capacity(2, 4.0, 100, ("0",)), {},
)  # fmt: skip
CLAIM: dict[str, Any] = {
    "itemId": "item", "attempt": 1, "epoch": 2, "phase": "LEASED", "entityName": "e",
    "projectName": "p", "queueName": "q", "runName": "r", "name": None, "author": "ann",
    "resource": "local-container", "runSpec": {"retries": 1},
    "layers": {"queue": {}}, "cpus": 1.5, "memory": "1024", "gpus": ["0"],
    "runToken": "launchrun-x", "leaseLosses": 1, "stopRequested": False,
}  # fmt: skip
FEATURES = data(serverInfo={"features": [{"name": "LAUNCH_LEASES", "isEnabled": True}, None]})


@pytest.fixture
def queue(client: ControlPlaneClient) -> LaunchQueue:
    return LaunchQueue(client)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, value in vars(launch_queue).items()
        if isinstance(value, str) and value.lstrip().startswith(("query ", "mutation "))
    ],
)
def test_the_schema_knows_every_document(name: str) -> None:
    schema = importlib.resources.files("agent.control.graphql") / "schema.graphql"
    assert not validate(build_schema(schema.read_text()), parse(getattr(launch_queue, name)))


async def test_registration_tells_what_was_held(queue: LaunchQueue, end: FarEnd) -> None:
    payload = {
        "agent": {"id": "a1", "name": "agent", "entityName": "me"},
        "controlPlaneId": "cp", "heartbeatSeconds": 10, "leaseSeconds": 45, "held": [CLAIM],
    }  # fmt: skip
    end.then(
        FEATURES, data(registerLaunchAgent=payload), data(permitLaunchStart={"status": "HELD"})
    )
    welcome = await queue.register(HELLO)
    (claim,) = welcome.held
    assert claim.lease == LEASE
    assert claim.allocation == Allocation(1.5, 1024, ("0",))
    assert claim.spec.retries == 1
    assert "launchrun" not in repr(claim)
    assert await queue.permit(LEASE) is LeaseStatus.HELD
    assert end.asked()["variables"]["input"] == {
        "agentId": "a1", "itemId": "item", "attempt": 1, "epoch": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    "answer",
    [
        data(serverInfo={"features": []}),
        data(serverInfo=None),
        data(serverInfo={"features": [{"name": "LAUNCH_LEASES", "isEnabled": False}]}),
        error("GRAPHQL_VALIDATION_FAILED", "no such field"),
    ],
)
async def test_a_server_without_leases_is_named(
    queue: LaunchQueue, end: FarEnd, answer: Any
) -> None:
    end.then(answer)
    with pytest.raises(ServerError, match="W&B's protocol only"):
        await queue.register(HELLO)


async def test_a_bad_key_is_no_question_of_features(queue: LaunchQueue, end: FarEnd) -> None:
    end.then(error("FORBIDDEN", "not with this key"))
    with pytest.raises(PermissionDeniedError):
        await queue.register(HELLO)


async def test_a_claim_is_repeated_with_its_request_id(queue: LaunchQueue, end: FarEnd) -> None:
    end.then(reply(502, b""), data(claimLaunchItems=[CLAIM]))
    request = ClaimRequest("a1", "session", "request", Capacity(), ("q",), 3, 0.0)
    assert await queue.claim(request)
    ids = [end.asked(number)["variables"]["input"]["requestId"] for number in (0, 1)]
    assert ids == ["request", "request"]


async def test_a_claim_that_cannot_be_read_is_refused_at_once(
    queue: LaunchQueue, end: FarEnd
) -> None:
    broken = {**CLAIM, "runSpec": {"retries": "many"}}
    end.then(data(claimLaunchItems=[broken, CLAIM]), data(finishLaunchItem={"status": "HELD"}))
    claims = await queue.claim(ClaimRequest("a", "s", "r", Capacity(), ("q",)))
    assert [claim.lease for claim in claims] == [LEASE]
    told = end.asked()["variables"]["input"]
    assert (told["phase"], told["cause"]) == ("REFUSED", "POLICY_SPEC")
    assert "retries" in told["message"]


async def test_a_refusal_that_does_not_arrive_is_left_to_the_lease(
    queue: LaunchQueue, end: FarEnd
) -> None:
    broken = {**CLAIM, "runSpec": {"retries": "many"}}
    end.then(data(claimLaunchItems=[broken]), error("CONFLICT", "too late"))
    assert await queue.claim(ClaimRequest("a", "s", "r", Capacity(), ("q",))) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "DREAMING"},
        {"epoch": None},
        {"attempt": "first"},
        {"itemId": None},
        {"itemId": "../../etc"},
        {"itemId": "a/b"},
        {"itemId": ""},
        {"itemId": "-rf"},
    ],
)
async def test_a_claim_against_the_schema_is_the_servers_fault(
    queue: LaunchQueue, end: FarEnd, change: dict[str, Any]
) -> None:
    raw = {**CLAIM, **change}
    end.then(data(claimLaunchItems=[{k: v for k, v in raw.items() if v is not None}]))
    with pytest.raises(ServerError, match="schema"):
        await queue.claim(ClaimRequest("a", "s", "r", Capacity(), ("q",)))


@pytest.mark.parametrize("stop", [None, "DRAIN", "STOP"])
async def test_a_renewal_answers_by_item(queue: LaunchQueue, end: FarEnd, stop: Any) -> None:
    leases = [{"itemId": "item", "status": "STOP"}, {"itemId": "other", "status": "FENCED"}]
    end.then(
        data(
            renewLaunchLeases={
                "leases": leases,
                "current": True,
                "stop": stop,
                "adoptable": True,
            }
        )
    )
    answer = await queue.renew(Heartbeat("a", "s", "RUNNING", (LEASE,)))
    assert answer.statuses == {"item": LeaseStatus.STOP, "other": LeaseStatus.FENCED}
    assert answer.current
    assert answer.adoptable
    assert answer.stop == stop


async def test_progress_tells_only_what_is_new(queue: LaunchQueue, end: FarEnd) -> None:
    end.then(data(advanceLaunchItem={"status": "HELD"}))
    await queue.advance(LEASE, phase=Phase.STARTED, facts={"image": "x"})
    told = end.asked()["variables"]["input"]
    assert told["phase"] == "STARTED"
    assert told["facts"] == {"image": "x"}
    assert "activity" not in told


async def test_an_outcome_and_a_release(queue: LaunchQueue, end: FarEnd) -> None:
    end.then(
        data(finishLaunchItem={"status": "HELD"}), data(releaseLaunchItem={"status": "FENCED"})
    )
    outcome = Failed(Cause.RUN_EXIT_CODE, "exit code 3", 3)
    assert await queue.finish(LEASE, outcome, {}) is LeaseStatus.HELD
    assert end.asked()["variables"]["input"]["exitCode"] == 3
    assert await queue.release(LEASE, "leaving") is LeaseStatus.FENCED


async def test_an_answer_without_its_field(queue: LaunchQueue, end: FarEnd) -> None:
    end.then(data(somethingElse=1))
    with pytest.raises(ServerError, match="permitLaunchStart"):
        await queue.permit(LEASE)


@pytest.mark.parametrize(
    ("item", "standing"),
    [
        (None, AttemptStatus.UNKNOWN),
        ({"attempt": 1, "phase": "STARTED"}, AttemptStatus.ACTIVE),
        ({"attempt": 1, "phase": "FAILED"}, AttemptStatus.ENDED),
        ({"attempt": 2, "phase": "QUEUED"}, AttemptStatus.ENDED),
    ],
)
async def test_the_status_of_an_attempt(
    queue: LaunchQueue, end: FarEnd, item: Any, standing: AttemptStatus
) -> None:
    end.then(data(launchItem=item))
    assert await queue.attempt_status(LEASE) is standing


async def test_log_bytes_go_by_offset(queue: LaunchQueue, end: FarEnd) -> None:
    end.then(
        reply(200, {"end": 7}),
        reply(200, b"", {"Launch-Log-End": "9"}),
        reply(409, {"errors": [{"message": "gone", "extensions": {"code": "FENCED"}}]}),
    )
    assert await queue.append_log(LEASE, "job", 3, b"\x00\xff4\n") == 7
    path = "/launch/items/item/attempts/1/logs/job"
    assert end.seen[0] == ("POST", f"{path}?epoch=2&offset=3", b"\x00\xff4\n")
    assert await queue.log_end(LEASE, "setup") == 9
    with pytest.raises(FencedError):
        await queue.append_log(LEASE, "job", 0, b"x")


@pytest.mark.parametrize("answer", [reply(200, {}), reply(200, {"end": "x"}), reply(200, [])])
async def test_a_log_answer_without_an_end(queue: LaunchQueue, end: FarEnd, answer: Any) -> None:
    end.then(answer)
    with pytest.raises(ServerError):
        await queue.append_log(LEASE, "job", 0, b"x")
    with pytest.raises(ServerError):
        await queue.log_end(LEASE, "job")


REGISTERED = data(
    registerLaunchAgent={
        "agent": {"id": "a1", "name": "agent", "entityName": "me"},
        "controlPlaneId": "cp", "heartbeatSeconds": 10, "leaseSeconds": 45, "held": [],
    }
)  # fmt: skip
TROUBLE = Condition(ConditionKind.ENGINE_UNREACHABLE, "no answer", "local-container")


async def test_a_renewal_carries_the_conditions(queue: LaunchQueue, end: FarEnd) -> None:
    end.then(
        data(renewLaunchLeases={"leases": [], "current": True, "stop": None, "adoptable": False})
    )
    await queue.renew(Heartbeat("a", "s", "POLLING", (), (TROUBLE,)))
    sent = {"kind": "ENGINE_UNREACHABLE", "message": "no answer", "resource": "local-container"}
    assert end.asked()["variables"]["input"]["conditions"] == [sent]


async def test_the_features_are_asked_for_once(queue: LaunchQueue, end: FarEnd) -> None:
    end.then(FEATURES, REGISTERED)
    for _ in range(2):
        await queue.register(HELLO)
    assert [path for _, path, body in end.seen if b"serverInfo" in body] == ["/graphql"]


async def test_a_claim_names_resources_only_to_leave_some_out(
    queue: LaunchQueue, end: FarEnd
) -> None:
    end.then(data(claimLaunchItems=[]))
    whole = ClaimRequest("a", "s", "r", Capacity(), ("q",))
    await queue.claim(whole)
    assert "resources" not in end.asked()["variables"]["input"]
    await queue.claim(replace(whole, resources=("local-process",), self_scheduled=("kubernetes",)))
    assert end.asked()["variables"]["input"]["resources"] == ["local-process"]
    assert end.asked()["variables"]["input"]["selfScheduledResources"] == ["kubernetes"]


async def test_commands_are_waited_for_by_their_mark(queue: LaunchQueue, end: FarEnd) -> None:
    end.then(reply(502, b""), data(launchCommands="m2"))
    assert await queue.commands("a", "s", "m1", 25.0) == "m2"
    asked = {"agentId": "a", "session": "s", "seen": "m1", "waitSeconds": 25}
    assert end.asked()["variables"] == asked
    end.then(data())
    end.answers.pop(0)
    with pytest.raises(ServerError, match="launchCommands"):
        await queue.commands("a", "s", None, 25.0)


async def test_many_attempts_do_not_delay_the_renewal_of_their_leases(
    queue: LaunchQueue, end: FarEnd
) -> None:
    """Their calls take turns, whose time begins when they are sent."""
    answered = asyncio.Event()
    waiting = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal waiting
        if b"RenewLeases" in await request.read():
            renewed = {"leases": [], "current": True, "stop": None, "adoptable": False}
            return await data(renewLaunchLeases=renewed)(request)
        waiting += 1
        await answered.wait()
        return await data(permitLaunchStart={"status": "HELD"})(request)

    end.then(answer)
    permits = [asyncio.create_task(queue.permit(LEASE)) for _ in range(100)]
    while waiting < launch_queue._CALLS_AT_ONCE:
        await asyncio.sleep(0.01)
    assert (await queue.renew(Heartbeat("a1", "session", "RUNNING", (), ()))).current
    assert waiting == launch_queue._CALLS_AT_ONCE
    answered.set()
    assert await asyncio.gather(*permits) == [LeaseStatus.HELD] * 100
