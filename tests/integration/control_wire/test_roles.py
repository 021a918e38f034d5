"""Every field under every kind of key: nobody does what the table does not grant."""

import re
from importlib import resources
from types import SimpleNamespace

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLList,
    GraphQLNonNull,
    get_named_type,
    is_leaf_type,
)

from agent.control.auth.policy import Action, CredentialKind, may_ever
from agent.control.graphql import schema as schema_module
from agent.control.graphql.field_policies import field_policies
from agent.control.graphql.schema import build_schema
from agent.control.store.accounts import Role
from agent.model.errors import PermissionDeniedError
from tests.integration.control_wire.agents import Agent
from tests.integration.control_wire.wire import SPEC

SCHEMA = build_schema()
POLICIES = {path: action for path, (_, action) in field_policies(SCHEMA).items()}
#: Of the fields that are asked for by themselves.
FIELDS = {
    path: action for path, action in POLICIES.items() if path.startswith(("Query.", "Mutation."))
}
READING = {Action.READ, Action.READ_PROJECT}
#: What each kind of key may do in the team.
GRANTED = {
    "stranger": set(),
    "viewer": READING,
    "member": READING | {Action.SUBMIT, Action.CONTROL_OWN, Action.WRITE_RUNS},
    "robot": READING | {Action.RUN_AGENT},
}
_EMPTY_MD5 = "1B2M2Y8AsgTpgAmY7PhCfg=="
REFUSALS = {"FORBIDDEN", "NOT_FOUND", "UNAUTHENTICATED"}
#: About the caller or the server alone; absent and hidden are null here.
NULL_WHEN_HIDDEN = {
    "Query.entity",
    "Query.project",
    "Query.model",
    "Query.models",
    "Query.launchItem",
    "Query.launchAgent",
    "Query.artifact",
    "Query.artifactCollection",
    "Query.clientIDMapping",
    "Query.launchJobVersion",
}
#: The caller's own things: nobody is refused for lack of a role.
OWN = {
    "Query.viewer",
    "Query.serverInfo",
    "Query.launchEntities",
    "Mutation.createLaunchTeam",
    "Mutation.createLaunchKey",
    "Mutation.answerLaunchInvitation",
    "Mutation.setOwnLaunchJobCreation",
}
#: False instead of an error, since clients of W&B take it so.
FALSE_WHEN_REFUSED = {
    "Mutation.updateLaunchAgent",
    "Mutation.ackRunQueueItem",
    "Mutation.failRunQueueItem",
    "Mutation.updateRunQueueItemWarning",
    "Mutation.deleteFiles",
    "Mutation.deleteFromRunQueue",
    "Mutation.stopRun",
    "Mutation.deleteRun",
    "Mutation.updateRunState",
}


class _Values:
    """Arguments for any field: names of the team's real things, dummies elsewhere."""

    def __init__(self, known: dict[str, object]) -> None:
        self._known = known

    def of(self, field: str, name: str, kind: object) -> object:
        own = f"{field}.{name}"
        if own in self._known:
            return self._known[own]
        if name in self._known:
            return self._known[name]
        inner = kind.of_type if isinstance(kind, GraphQLNonNull) else kind
        match inner:
            case GraphQLList():
                return []
            case GraphQLEnumType():
                return next(iter(inner.values))
            case GraphQLInputObjectType():
                return {
                    key: self.of(field, key, part.type)
                    for key, part in inner.fields.items()
                    if isinstance(part.type, GraphQLNonNull) or key in self._known
                }
        return {"Boolean": True, "Int": 1, "Float": 1.0, "JSONString": "{}", "JSON": {}}.get(
            inner.name, "x"
        )


def _document(path: str, values: _Values) -> tuple[str, dict[str, object]]:
    type_name, name = path.split(".")
    field = SCHEMA.type_map[type_name].fields[name]
    needed = {
        key: argument
        for key, argument in field.args.items()
        if isinstance(argument.type, GraphQLNonNull) or key in {"entityName", "name"}
    }
    types = ", ".join(f"${key}: {argument.type}" for key, argument in needed.items())
    given = ", ".join(f"{key}: ${key}" for key in needed)
    named = get_named_type(field.type)
    selected = "success" if named.name == "MutationResult" else "__typename"
    inside = "" if is_leaf_type(named) else f" {{ {selected} }}"
    head = f"({types})" if types else ""
    tail = f"({given})" if given else ""
    text = f"{type_name.lower()} T{head} {{ {name}{tail}{inside} }}"
    return text, {key: values.of(path, key, arg.type) for key, arg in needed.items()}


@pytest.fixture
async def stage(wire):
    """A team with one queue and one item, and one key of every kind."""
    callers = {name: await wire.user(name) for name in ("stranger", "viewer", "member")}
    await wire.team("team", viewer=Role.VIEWER, member=Role.MEMBER)
    services = wire.server.services
    queue = await services.queues.save(
        wire.admin, "team", "q", resource="local-process", mode="CREATE"
    )
    submitted = await wire.ann.data(
        "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }",
        i={"entityName": "team", "queueName": "q", "runSpec": SPEC},
    )
    item = submitted["submitLaunchItem"]["id"]
    callers["robot"] = await wire.agent_key("team")
    agent = await services.wandb.create_agent(
        await services.accounts.authenticate(callers["robot"].key), "team", [queue.id], "host"
    )
    values = _Values(
        {
            "entityName": "team",
            "name": "q",
            "Query.entity.name": "team",
            "queueName": "q",
            "queueNames": ["q"],
            "queueID": queue.id,
            "queueIDs": [queue.id],
            "runQueues": [queue.id],
            "itemId": item,
            "runQueueItemId": item,
            "agentId": agent.id,
            "launchAgentId": agent.id,
            "id": item,
            "Query.launchAgent.id": agent.id,
            "Mutation.stopLaunchAgent.id": agent.id,
            "runSpec": SPEC,
            "resource": "local-process",
            "userName": "viewer",
            "cause": "INTERNAL",
            "status": "POLLING",
            "state": "failed",
            "resources": ["local-process"],
            "resourceType": "local-process",
            "reference": "team/demo/x:latest",
            "artifactFiles": [{"artifactID": "x", "name": "x", "md5": _EMPTY_MD5}],
        }
    )
    return callers, values


def _allocation(path: str, kind: str) -> bool:
    action = FIELDS[path]
    return action is None or action in GRANTED[kind]


def _asked(path: str, values: _Values) -> tuple[str, dict[str, object]]:
    text, variables = _document(path, values)
    if path.endswith(("pushToRunQueue", "pushToRunQueueByName")):
        variables["input"]["runSpec"] = "{}"
    return text, variables


def _is_refusal(path: str, answer: dict[str, object]) -> bool:
    """An error of the right kind, or the empty answer that W&B's clients expect instead."""
    name = path.split(".")[1]
    if "errors" in answer:
        code = answer["errors"][0]["extensions"]["code"]
        return code in REFUSALS and not (answer.get("data") or {}).get(name)
    if path in NULL_WHEN_HIDDEN:
        return answer["data"] == {name: None}
    return path in FALSE_WHEN_REFUSED and answer["data"] == {name: {"success": False}}


async def test_what_the_table_does_not_grant_is_refused(stage):
    callers, values = stage
    passed = []
    for path in sorted(FIELDS):
        text, variables = _asked(path, values)
        for kind, caller in callers.items():
            if _allocation(path, kind) or (path in OWN and kind != "robot"):
                continue
            answer = await caller.ask(text, **variables)
            if not _is_refusal(path, answer):
                passed.append((path, kind, answer))
    assert [(path, kind) for path, kind, _ in passed] == []


async def test_what_the_table_grants_is_not_refused_for_the_key(stage):
    callers, values = stage
    wrong = []
    for path in sorted(FIELDS):
        # Own items only: the stage's item is another's.
        bad = (
            {"SERVER_ERROR"}
            if FIELDS[path] is Action.CONTROL_OWN
            else {"SERVER_ERROR", "FORBIDDEN"}
        )
        text, variables = _asked(path, values)
        for kind, caller in callers.items():
            if not _allocation(path, kind):
                continue
            answer = await caller.ask(text, **variables)
            codes = {error["extensions"]["code"] for error in answer.get("errors", ())}
            if codes & bad:
                wrong.append((path, kind, answer))
    assert wrong == []


async def test_a_run_token_reads_and_writes_runs_and_nothing_else(stage, wire):
    callers, values = stage
    agent = await Agent.register(callers["robot"], "team", "q", name="robot-box")
    (claim,) = await agent.claim()
    token = wire.caller(claim["runToken"])
    assert (await token.data("{ viewer { entity } }"))["viewer"]["entity"] == "team"
    for path, action in FIELDS.items():
        if action in {None, Action.READ_PROJECT, Action.WRITE_RUNS}:
            continue
        text, variables = _asked(path, values)
        assert await token.code(text, **variables) == "FORBIDDEN", path


async def test_an_agent_key_bound_to_one_queue_gets_no_other(stage, wire):
    await wire.server.services.queues.save(
        wire.admin, "team", "other", resource="local-process", mode="CREATE"
    )
    bound = await wire.agent_key("team", "other")
    text = """mutation ($e: String!, $q: String!) { popFromRunQueue(input: {entityName: $e,
      projectName: "model-registry", queueName: $q}) { runQueueItemId } }"""
    assert await bound.code(text, e="team", q="q") in REFUSALS
    assert (await bound.data(text, e="team", q="other"))["popFromRunQueue"] is None


async def test_a_nested_field_is_refused_to_kinds_of_keys_that_can_never_use_it(stage, wire):
    """Beyond the root: such fields are only reached through fields that are refused already."""
    callers, _ = stage
    for path, action in POLICIES.items():
        if action is None or may_ever(CredentialKind.AGENT, action):
            continue
        field = field_policies(SCHEMA)[path][0]
        principal = await wire.server.services.accounts.authenticate(callers["robot"].key)
        info = SimpleNamespace(context=SimpleNamespace(principal=principal))
        with pytest.raises(PermissionDeniedError, match=path):
            field.resolve(None, info)


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("  viewer: User @policy(action: AUTHENTICATED)", "Query.viewer"),
        ("type LaunchKey @policy(action: MANAGE_MEMBERS) {", "LaunchKey.id"),
    ],
)
def test_a_schema_with_a_field_without_a_policy_cannot_be_built(
    monkeypatch, tmp_path, line, missing
):
    text = (resources.files("agent.control.graphql") / "schema.graphql").read_text()
    assert line in text
    stripped = text.replace(line, re.sub(r" @policy\(.*\)", "", line))
    (tmp_path / "schema.graphql").write_text(stripped)
    monkeypatch.setattr(schema_module, "files", lambda _package: tmp_path)
    with pytest.raises(RuntimeError, match=rf"{missing} has no @policy"):
        build_schema()
