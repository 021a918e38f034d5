from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent.control.auth.policy import CredentialKind, Principal
from agent.control.store.accounts import Role
from agent.control.store.agents import AgentProtocol, AgentRecord
from agent.control.store.history import AttemptRecord
from agent.control.store.items import ItemRecord
from agent.control.store.queues import QueueRecord
from agent.control.web import agents, filters, items, queues
from agent.model.capacity import Capacity, Demand
from agent.model.phase import TERMINAL, Phase

NOW = datetime(2026, 1, 2, tzinfo=UTC)

QUEUE = QueueRecord(
    id="q1",
    entity="ada",
    name="default",
    access="PROJECT",
    created_by="ada",
    resource=None,
    config={},
    template_variables={},
    prioritization="V0",
    external_links=None,
    resource_config_id=None,
    paused=False,
    created_at=NOW,
)
AGENT = AgentRecord(
    id="agent1",
    entity="ada",
    name="box",
    hostname="box",
    version=None,
    protocol=AgentProtocol.LAUNCH,
    status="POLLING",
    lost=False,
    stop=None,
    backend_id=None,
    resources=("local-process",),
    capacity=Capacity(slots=2, cpus=1.5, memory=3 * 1024**3, gpus=("0", "1")),
    config={},
    conditions=(),
    queue_ids=("q1",),
    queue_names=("default",),
    heartbeat_at=NOW,
    created_at=NOW,
)
ITEM = ItemRecord(
    id="item1",
    entity="ada",
    project="default",
    queue="default",
    queue_id="q1",
    phase=Phase.QUEUED,
    attempt=1,
    epoch=0,
    name=None,
    display_name="train",
    job=None,
    run_name=None,
    author="ada",
    priority=2,
    resource=None,
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


def principal(name: str, role: Role) -> Principal:
    return Principal(CredentialKind.USER, "key", name, "ada", roles={"ada": role})


def attempt(number: int, phase: Phase, job_bytes: int = 0) -> AttemptRecord:
    return AttemptRecord(
        "item1", number, phase, None, None, None, None, None, None, None, 0, job_bytes
    )


@pytest.mark.parametrize(
    ("change", "word", "tone"),
    [
        ({}, "POLLING", "good"),
        ({"status": "RUNNING"}, "RUNNING", "busy"),
        ({"stop": "DRAIN"}, "DRAINING", "warn"),
        ({"status": "DRAINING"}, "DRAINING", "warn"),
        ({"lost": True}, "lost", "bad"),
        ({"status": "KILLED"}, "stopped", "idle"),
    ],
)
def test_an_agent_is_in_one_state(change, word, tone):
    agent = replace(AGENT, **change)

    assert (filters.agent_word(agent), filters.agent_tone(agent)) == (word, tone)


def test_agents_lost_long_ago_are_not_shown_and_live_ones_come_first():
    lost = replace(AGENT, id="lost", lost=True, heartbeat_at=NOW - timedelta(hours=2))
    gone = replace(lost, id="gone", heartbeat_at=NOW - timedelta(days=2))

    assert [a.id for a in agents.recent([lost, gone, AGENT], NOW)] == ["lost", "agent1"][::-1]


def test_counts_come_in_the_order_of_an_items_life():
    counts = {
        Phase.FAILED: 1,
        Phase.QUEUED: 2,
        Phase.STARTED: 0,
        Phase.PREPARING: 1,
        Phase.LEASED: 3,
    }

    assert queues.by_word(counts) == ((Phase.QUEUED, 2), (Phase.LEASED, 4), (Phase.FAILED, 1))


def test_a_queue_row_has_only_its_own_agents():
    other = replace(AGENT, id="other", queue_ids=("q2",))

    [row] = queues.queue_rows([QUEUE], {"q1": {Phase.QUEUED: 1}}, [AGENT, other])

    assert (row.counts, row.agents) == (((Phase.QUEUED, 1),), (AGENT,))


@pytest.mark.parametrize("config", [{}, {"resource_args": {}}, {"resource_args": {"x": {}}}])
def test_a_template_without_values_is_empty(config):
    assert queues.template_texts(replace(QUEUE, config=config)) == ("", "")


def test_a_template_is_shown_as_yaml_and_json():
    config = {"resource_args": {"local-container": {"memory": "{{m}}"}}}

    yaml_text, json_text = queues.template_texts(replace(QUEUE, config=config))

    assert yaml_text == "resource_args:\n  local-container:\n    memory: '{{m}}'\n"
    assert '"memory": "{{m}}"' in json_text


@pytest.mark.parametrize("schema", [{"type": "integer"}, '{"type": "integer"}'])
def test_variables_show_their_schema_in_both_forms_of_it(schema):
    queue = replace(QUEUE, template_variables={"n": {"schema": schema, "description": None}})

    assert queues.variables(queue) == (queues.Variable("n", '{"type": "integer"}', ""),)


def test_a_schema_that_is_no_json_is_shown_as_it_is():
    queue = replace(QUEUE, template_variables={"n": {"schema": "{oops"}})

    assert queues.variables(queue)[0].rule == '"{oops"'


def test_facts_are_texts_without_the_empty_ones():
    item = replace(ITEM, facts={"image_digest": "sha256:1", "size": 3, "none": None, "no": ""})

    assert items.facts(item) == (("image digest", "sha256:1"), ("size", "3"))


def test_pods_are_shown_by_themselves_whatever_an_agent_reports():
    pod = {"name": "p-1", "node": "n-1", "state": "running", "details": ["c: exit code 1"]}
    strange = [pod, "p-2", {"name": 3, "details": "none"}]
    item = replace(ITEM, facts={"pods": strange})
    assert items.facts(item) == ()
    other = {"name": "3", "node": "", "state": "", "details": []}
    assert items.pods(item) == [pod, other]
    assert items.pods(replace(ITEM, facts={"pods": {"a": 1}})) == []


def test_capacity_is_shown_with_units():
    assert agents.capacity(AGENT) == (
        ("Runners", "local-process"),
        ("Jobs at a time", "2"),
        ("Cores", "1.5"),
        ("Memory", "3 GiB"),
        ("GPUs", "0, 1"),
    )


def test_an_agent_of_wandb_has_no_known_capacity():
    assert agents.capacity(replace(AGENT, capacity=None, resources=())) == ()


def test_unlimited_jobs_are_shown_as_any_number():
    agent = replace(AGENT, capacity=Capacity(slots=None))

    assert ("Jobs at a time", "any number") in agents.capacity(agent)


@pytest.mark.parametrize(
    ("number", "text"),
    [(12, "12 bytes"), (1536, "1.5 KiB"), (1024**3, "1 GiB"), (2048 * 1024**4, "2048 TiB")],
)
def test_sizes_have_the_unit_that_fits(number, text):
    assert filters.size(number) == text


def test_without_attempts_there_is_no_log():
    assert items.choose_log((), 1, "job") is None


@pytest.mark.parametrize(
    ("phase", "job_bytes", "channel"),
    [
        (Phase.PREPARING, 0, "setup"),
        (Phase.ERRORED, 0, "setup"),
        (Phase.STARTED, 0, "job"),
        (Phase.LOST, 5, "job"),
    ],
)
def test_the_log_that_is_being_written_is_shown(phase, job_bytes, channel):
    attempts = (attempt(1, Phase.LOST, 9), attempt(2, phase, job_bytes))

    assert items.choose_log(attempts, None, None) == items.LogChoice(2, channel, job_bytes, None)


def test_a_requested_log_is_kept():
    attempts = (attempt(1, Phase.LOST, 9), attempt(2, Phase.STARTED))

    assert items.choose_log(attempts, 1, "setup") == items.LogChoice(1, "setup", 0, 1)
    assert items.choose_log(attempts, 7, "nonsense") == items.LogChoice(2, "job", 0, None)


@pytest.mark.parametrize(
    ("who", "may"),
    [
        (principal("ada", Role.MEMBER), True),
        (principal("bob", Role.MEMBER), False),
        (principal("bob", Role.ADMIN), True),
        (principal("ada", Role.VIEWER), False),
    ],
)
def test_members_may_change_their_own_items_and_admins_all(who, may):
    assert items.offers_stop(who, ITEM) is may


@pytest.mark.parametrize("phase", list(Phase))
def test_stop_is_offered_before_the_end_and_retry_after_a_bad_one(phase):
    who, item = principal("ada", Role.ADMIN), replace(ITEM, phase=phase)

    assert items.offers_stop(who, item) is (phase not in TERMINAL)
    again = phase in TERMINAL and phase is not Phase.SUCCEEDED
    assert items.offers_retry(who, item) is again


def test_nothing_is_offered_twice_or_without_a_queue():
    who = principal("ada", Role.ADMIN)

    assert not items.offers_stop(who, replace(ITEM, stop_requested=True))
    assert not items.offers_retry(who, replace(ITEM, phase=Phase.FAILED, queue_id=None))
