"""One answer for every situation."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agent.control.services.explain import Situation, explain
from agent.control.store.agents import AgentProtocol, AgentRecord
from agent.control.store.items import ItemRecord
from agent.control.store.queues import QueueRecord
from agent.model.capacity import Capacity, Demand
from agent.model.cause import Cause
from agent.model.phase import TERMINAL, Phase
from agent.model.protocol import Condition, ConditionKind

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ITEM = ItemRecord(
    id="abc",
    entity="ann",
    project="p",
    queue="gpu",
    queue_id="q",
    phase=Phase.QUEUED,
    attempt=1,
    epoch=0,
    name=None,
    display_name="train",
    job=None,
    run_name=None,
    author=None,
    priority=2,
    resource="local-container",
    demand=Demand(),
    allocation=None,
    run_spec={},
    facts={},
    warnings=(),
    activity=None,
    agent_id=None,
    agent_name=None,
    protocol=None,
    cause=None,
    message=None,
    exit_code=None,
    stop_requested=False,
    lost_contact=False,
    lease_losses=0,
    retries=0,
    on_lost="fail",
    enqueued_at=NOW,
    not_before=None,
    created_at=NOW,
    updated_at=NOW,
    started_at=None,
    finished_at=None,
)
QUEUE = QueueRecord("q", "ann", "gpu", "PROJECT", "ann", None, {}, {}, "V0", None, None, False, NOW)
AGENT = AgentRecord(
    id="a",
    entity="ann",
    name="alpha",
    hostname="host",
    version="1",
    protocol=AgentProtocol.LAUNCH,
    status="POLLING",
    lost=False,
    stop=None,
    backend_id=None,
    resources=("local-container",),
    capacity=Capacity(4, 4.0, 8 * 1024**3, ("0",)),
    config={},
    conditions=(),
    queue_ids=("q",),
    queue_names=("gpu",),
    heartbeat_at=NOW,
    created_at=NOW,
)


def told(
    item: ItemRecord = ITEM,
    *agents: AgentRecord,
    ahead: int = 0,
    paused: bool = False,
    room: dict[str, Capacity] | None = None,
):
    queue = replace(QUEUE, paused=paused)
    return explain(item, Situation(queue, agents, ahead, room or {}))


def test_without_an_agent_it_says_how_to_start_one() -> None:
    answer = told()
    assert answer.cause is Cause.SCHEDULE_NO_AGENT
    assert "launch-agent --queue gpu" in answer.remedy


def test_agents_that_are_gone_are_named() -> None:
    gone = (replace(AGENT, lost=True), replace(AGENT, name="beta", status="KILLED"))
    answer = told(ITEM, *gone)
    assert answer.cause is Cause.SCHEDULE_NO_AGENT
    assert answer.details == (
        "Agent alpha on host sent its last heartbeat at 2026-01-02 03:04:05 UTC.",
        "Agent beta on host shut down at 2026-01-02 03:04:05 UTC.",
    )


@pytest.mark.parametrize("leaving", [{"stop": "DRAIN"}, {"status": "DRAINING"}])
def test_agents_that_leave_take_nothing(leaving) -> None:
    answer = told(ITEM, replace(AGENT, **leaving))
    assert (answer.cause, answer.details) == (Cause.SCHEDULE_NO_AGENT, ("Shutting down: alpha.",))


def test_a_paused_queue_comes_first() -> None:
    assert told(paused=True).cause is Cause.SCHEDULE_PAUSED


@pytest.mark.parametrize(
    ("item", "lack"),
    [
        ({"demand": Demand(cpus=8)}, "Agent alpha offers 4 of 8 cpus asked for."),
        (
            {"demand": Demand(memory=16 * 1024**3, gpus=2)},
            "Agent alpha offers 8.0 GiB of 16.0 GiB memory asked for, 1 of 2 GPUs asked for.",
        ),
        (
            {"resource": "local-process"},
            "Agent alpha offers local-container, and the job needs local-process.",
        ),
    ],
)
def test_what_no_agent_offers_is_named(item, lack: str) -> None:
    answer = told(replace(ITEM, **item), AGENT)
    assert (answer.cause, answer.details) == (Cause.SCHEDULE_CAPACITY, (lack,))


def test_a_cluster_is_not_limited_by_its_agents_own_machine() -> None:
    item = replace(ITEM, resource="kubernetes", demand=Demand(memory=900 * 1024**3))
    agent = replace(AGENT, resources=("local-container", "kubernetes"))
    assert told(item, agent).cause is not Cause.SCHEDULE_CAPACITY


def test_one_agent_that_fits_is_enough() -> None:
    large = replace(AGENT, name="large", capacity=None)
    answer = told(replace(ITEM, demand=Demand(cpus=8)), AGENT, large)
    assert answer.cause is Cause.SCHEDULE_WAITING
    assert len(answer.details) == 1


def test_busy_agents_and_items_that_come_first() -> None:
    answer = told(ITEM, replace(AGENT, status="RUNNING"), ahead=3)
    assert answer.cause is Cause.SCHEDULE_BUSY
    assert answer.details == ("3 items of this queue come first.",)


def test_an_agent_is_busy_when_the_item_does_not_fit_beside_what_it_holds() -> None:
    running = replace(AGENT, status="RUNNING")
    asking = replace(ITEM, demand=Demand(cpus=2))
    assert told(asking, running, room={"a": Capacity(3, 2.0)}).cause is Cause.SCHEDULE_WAITING
    assert told(asking, running, room={"a": Capacity(3, 1.0)}).cause is Cause.SCHEDULE_BUSY
    assert told(asking, running, room={"a": Capacity(0, 9.0)}).cause is Cause.SCHEDULE_BUSY


def test_earlier_attempts_and_lost_leases_are_told() -> None:
    details = told(replace(ITEM, attempt=2, lease_losses=1), AGENT).details
    assert details == (
        "This is attempt 2.",
        "Agents that were lost while they prepared it: 1.",
    )


def test_what_is_under_way() -> None:
    item = replace(
        ITEM,
        phase=Phase.PREPARING,
        agent_name="alpha",
        activity="building",
        stop_requested=True,
        warnings=("careful",),
    )
    answer = told(item, AGENT)
    assert answer.cause is Cause.RUN_IN_PROGRESS
    assert answer.details == (
        "alpha holds it; it is preparing.",
        "Activity: building.",
        "A stop was requested; its agent has not confirmed it yet.",
        "careful",
    )


@pytest.mark.parametrize(("on_lost", "words"), [("fail", "counts as lost"), ("retry", "tried")])
def test_a_holder_without_heartbeats(on_lost, words: str) -> None:
    item = replace(ITEM, phase=Phase.STARTED, lost_contact=True, on_lost=on_lost)
    answer = told(item, AGENT)
    assert answer.cause is Cause.LOST_AGENT
    assert words in answer.details[-1]


@pytest.mark.parametrize("phase", sorted(TERMINAL))
def test_how_it_ended(phase: Phase) -> None:
    item = replace(
        ITEM,
        phase=phase,
        cause=Cause.RUN_EXIT_CODE,
        message="exit code 3",
        exit_code=3,
        agent_name="alpha",
    )
    answer = told(item)
    assert answer.cause is Cause.RUN_EXIT_CODE
    assert answer.details == ("exit code 3", "Attempt 1, on agent alpha.")
    assert answer.remedy == "Read the job's log: `launch item logs abc`."


def test_an_exit_code_that_the_message_does_not_tell_is_told() -> None:
    item = replace(ITEM, phase=Phase.STOPPED, message="stopped on request", exit_code=143)
    assert told(item).details == ("stopped on request", "Exit code 143.")


def test_an_end_without_a_cause_is_ours() -> None:
    assert told(replace(ITEM, phase=Phase.ERRORED)).cause is Cause.INTERNAL


DISK = Condition(ConditionKind.DISK_LOW, "1.0 GiB are free.")
ENGINE = Condition(ConditionKind.ENGINE_UNREACHABLE, "no answer.", "local-container")


def agent(name: str, *conditions: Condition, **other) -> AgentRecord:
    return replace(AGENT, id=name, name=name, conditions=conditions, **other)


@pytest.mark.parametrize(
    ("condition", "cause"),
    [(DISK, Cause.SCHEDULE_DISK), (ENGINE, Cause.SCHEDULE_ENGINE)],
)
def test_what_is_wrong_at_every_agent_is_the_cause(condition: Condition, cause: Cause) -> None:
    answer = told(ITEM, agent("a", condition), agent("b", condition))
    assert answer.cause is cause
    assert answer.details == tuple(
        f"Agent {name} cannot claim it now: {condition.message}" for name in "ab"
    )


def test_one_agent_without_trouble_decides_and_the_other_is_named() -> None:
    answer = told(ITEM, agent("a", DISK), agent("b", status="RUNNING"))
    assert answer.cause is Cause.SCHEDULE_BUSY
    assert answer.details == ("Agent a cannot claim it now: 1.0 GiB are free.",)


def test_an_engine_bars_the_jobs_of_its_resource_alone() -> None:
    both = agent("a", ENGINE, resources=("local-container", "local-process"))
    assert told(ITEM, both).cause is Cause.SCHEDULE_ENGINE
    assert told(replace(ITEM, resource=None), both).cause is Cause.SCHEDULE_ENGINE
    process = told(replace(ITEM, resource="local-process"), both)
    assert (process.cause, process.details) == (Cause.SCHEDULE_WAITING, ())


def test_what_an_agent_lacks_comes_before_what_is_wrong_with_it() -> None:
    small = agent("a", DISK)
    assert told(replace(ITEM, demand=Demand(cpus=8)), small).cause is Cause.SCHEDULE_CAPACITY


def test_what_an_agent_that_is_gone_said_counts_no_more() -> None:
    assert told(ITEM, agent("a", DISK, lost=True)).cause is Cause.SCHEDULE_NO_AGENT
