"""The documents of W&B's clients, in the order in which clients send them."""

import base64
import json

import pytest
from graphql import get_introspection_query

from tests.integration.control_wire import client_documents as documents
from tests.integration.control_wire.uploading import Upload
from tests.integration.control_wire.wire import SPEC

QUEUES = "model-registry"
NAMED = {"entityName": "ann", "projectName": QUEUES}


async def _push(caller, queue="default", **more):
    text = documents.PUSH_WITH_ALL if more else documents.PUSH_BY_NAME
    data = await caller.data(text, queueName=queue, runSpec=json.dumps(SPEC), **NAMED, **more)
    return data["pushToRunQueueByName"]


async def _queue_id(caller, name="default"):
    data = await caller.data(documents.METADATA, runQueue=name, **NAMED)
    return data["project"]["runQueue"]["id"]


async def _agent(caller):
    data = await caller.data(
        documents.CREATE_AGENT,
        entity="ann",
        project=QUEUES,
        queues=[await _queue_id(caller)],
        hostname="box",
        agentConfig=json.dumps({"max_jobs": 1, "queues": ["default"]}),
        version="wandb@0.31.0",
    )
    return data["createLaunchAgent"]["launchAgentId"]


async def _pop(caller, agent):
    data = await caller.data(
        documents.POP, entity="ann", project=QUEUES, queueName="default", launchAgentId=agent
    )
    return data["popFromRunQueue"]


async def _item(caller, item):
    data = await caller.data(documents.QUEUE_ITEM, runQueue="default", itemId=item, **NAMED)
    return data["project"]["runQueue"]["runQueueItem"]


async def test_a_client_finds_out_who_it_is_and_what_the_server_can(wire):
    viewer = (await wire.ann.data(documents.VIEWER))["viewer"]
    assert viewer["entity"] == viewer["username"] == "ann"
    assert json.loads(viewer["flags"])["code_saving_enabled"] is True
    features = (await wire.ann.data(documents.FEATURES))["serverInfo"]["features"]
    assert all(feature["isEnabled"] for feature in features)
    names = {feature["name"] for feature in features}
    assert {"LAUNCH_LEASES", "FILESTREAM_GZIP", "UPDATE_RUN_STATE"} <= names
    info = (await wire.ann.data(documents.SERVER_INFO))["serverInfo"]["cliVersionInfo"]
    assert {"max_cli_version", "min_cli_version"} <= set(info)
    assert (await wire.ann.data(documents.ORGANIZATION, entityName="ann"))["entity"] == {
        "organization": None
    }


async def test_older_clients_ask_for_more(wire):
    data = await wire.ann.data(documents.OLD_VIEWER)
    assert data["viewer"]["admin"] is True
    assert data["viewer"]["apiKeys"]["edges"]
    assert wire.ann.key not in json.dumps(data)
    assert data["serverInfo"]["latestLocalVersionInfo"]["outOfDate"] is False


async def test_introspection_is_answered_to_those_who_have_a_key(wire):
    data = await wire.ann.data(documents.INPUT_FIELDS, typeName="PushToRunQueueInput")
    names = {field["name"] for field in data["__type"]["inputFields"]}
    assert names == {"queueID", "runSpec", "templateVariableValues", "priority"}
    assert (await wire.ann.data(documents.INPUT_FIELDS, typeName="ServerSettings"))["__type"]
    assert (await wire.ann.data(get_introspection_query()))["__schema"]["types"]
    body = {"query": get_introspection_query()}
    assert await wire.nobody.status("POST", "/graphql", json=body) == 401


async def test_an_agent_and_a_runs_token_are_viewers_as_well(wire):
    await wire.team("team")
    robot = await wire.agent_key("team")
    viewer = (await robot.data(documents.OLD_VIEWER))["viewer"]
    assert viewer["entity"] == "team"
    assert viewer["apiKeys"] == {"edges": []}
    assert viewer["teams"]["edges"] == [{"node": {"name": "team"}}]


async def test_projects_are_made_once(wire):
    made = await wire.ann.data(
        documents.CREATE_PROJECT, input={"name": "demo", "entityName": "ann", "invented": 1}
    )
    again = await wire.ann.data(
        documents.CREATE_PROJECT, input={"name": "demo", "entityName": "ann"}
    )
    assert made["result"]["inserted"] is True
    assert again["result"]["inserted"] is False
    assert made["result"]["project"] == again["result"]["model"]
    listed = await wire.ann.data(
        '{ models(entityName: "ann", first: 5000) { edges { node { name internalId isBenchmark '
        "readOnly user { id } entity { name } createdAt } cursor } pageInfo { hasNextPage } } }"
    )
    assert "demo" in {edge["node"]["name"] for edge in listed["models"]["edges"]}
    assert (await wire.ann.data('{ models(entityName: "nobody") { edges { cursor } } }')) == {
        "models": None
    }


async def test_a_queue_with_template_variables_comes_back_as_it_was_given(wire):
    config = {"resource_args": {"local-process": {"env": ["A={{a}}"]}}}
    variables = {"a": {"schema": {"type": "string", "enum": ["x", "y"], "default": "x"}}}
    made = await wire.ann.data(
        documents.RESOURCE_CONFIG,
        entityName="ann",
        resource="local-process",
        config=json.dumps(config),
        templateVariables=json.dumps(variables),
    )
    config_id = made["createDefaultResourceConfig"]["defaultResourceConfigID"]
    queue = {
        "entity": "ann",
        "project": QUEUES,
        "queueName": "templated",
        "access": "PROJECT",
        "prioritizationMode": "V0",
        "defaultResourceConfigID": config_id,
    }
    created = (await wire.ann.data(documents.CREATE_QUEUE, **queue))["createRunQueue"]
    assert created["success"] is True
    assert await wire.ann.code(documents.CREATE_QUEUE, **queue) == "ALREADY_EXISTS"
    metadata = await wire.ann.data(documents.METADATA, runQueue="templated", **NAMED)
    shown = metadata["project"]["runQueue"]
    assert shown["id"] == created["queueID"]
    assert shown["prioritizationMode"] == "V0"
    got = await wire.ann.data(documents.GET_RESOURCE_CONFIG, entityName="ann", id=config_id)
    stored = got["entity"]["defaultResourceConfig"]
    assert stored["config"] == config
    assert stored["resource"] == "local-process"
    assert json.loads(stored["templateVariables"][0]["schema"]) == variables["a"]["schema"]
    pushed = await _push(wire.ann, "templated", templateVariableValues='{"a": "y"}', priority=0)
    assert json.loads(pushed["runSpec"])["resource_args"]["local-process"] == {"env": ["A=y"]}
    # Changed, it says by its id what it has now.
    changed = {"queueName": "templated", "resourceType": "local-process", "templateVariables": "{}"}
    plain = '{"resource_args": {"local-process": {"env": ["B=1"]}}}'
    await wire.ann.data(documents.UPSERT_QUEUE, **NAMED, **changed, resourceConfig=plain)
    metadata = await wire.ann.data(documents.METADATA, runQueue="templated", **NAMED)
    own_id = metadata["project"]["runQueue"]["defaultResourceConfigID"]
    got = await wire.ann.data(documents.GET_RESOURCE_CONFIG, entityName="ann", id=own_id)
    assert got["entity"]["defaultResourceConfig"] == {
        "config": json.loads(plain),
        "resource": "local-process",
        "templateVariables": [],
    }
    bob = await wire.user("bob")
    hidden = await bob.data(documents.GET_RESOURCE_CONFIG, entityName="bob", id=own_id)
    assert hidden["entity"]["defaultResourceConfig"] is None


async def test_what_clients_before_0_15_select_and_declare_is_known(wire):
    """And every client declares the pause between two alerts as a `Duration`."""
    await wire.ann.data(
        'mutation ($n: String) { upsertBucket(input: {name: $n, modelName: "demo"}) { inserted } }',
        n="r1",
    )
    urls = await wire.ann.data(
        "query RunUploadUrls($files: [String]!, $description: String) "
        '{ model(name: "demo", entityName: "ann") { bucket(name: "r1", desc: $description) '
        "{ id files(names: $files) { uploadHeaders edges { node { name url(upload: true) } } } "
        "} } }",
        files=["a.txt"],
    )
    files = urls["model"]["bucket"]["files"]
    assert files["uploadHeaders"] == []
    (edge,) = files["edges"]
    async with wire.http.put(edge["node"]["url"], data=b"text") as answer:
        assert answer.status == 200
    alert = await wire.ann.data(
        "mutation NotifyScriptableRunAlert($severity: AlertSeverity = INFO, "
        '$waitDuration: Duration) { notifyScriptableRunAlert(input: {entityName: "ann", '
        'projectName: "demo", runName: "r1", title: "t", text: "x", severity: $severity, '
        "waitDuration: $waitDuration}) { success } }",
        waitDuration=60_000_000_000,
    )
    assert alert["notifyScriptableRunAlert"]["success"] is True
    upload = await Upload(wire.ann, "c", {"a": b"a"}).whole()
    old = await wire.ann.data(
        "query ($id: ID!) { artifact(id: $id) { labels "
        "aliases { alias artifactCollectionName } } }",
        id=upload.id,
    )
    assert {"alias": "latest", "artifactCollectionName": "c"} in old["artifact"]["aliases"]


async def test_a_queue_is_changed_and_removed(wire):
    given = {
        "queueName": "up",
        "resourceType": "local-process",
        "resourceConfig": '{"resource_args": {"local-process": {}}}',
        "templateVariables": None,
        "prioritizationMode": "DISABLED",
        "externalLinks": '{"links": [{"label": "docs", "url": "https://x"}]}',
        "clientMutationId": None,
    }
    answer = await wire.ann.data(documents.UPSERT_QUEUE, **NAMED, **given)
    assert answer["upsertRunQueue"] == {"success": True, "configSchemaValidationErrors": []}
    shown = (await wire.ann.data(documents.METADATA, runQueue="up", **NAMED))["project"]["runQueue"]
    assert shown["externalLinks"] == {"links": [{"label": "docs", "url": "https://x"}]}
    gone = await wire.ann.data(documents.DELETE_QUEUE, id=shown["id"])
    assert gone["deleteRunQueues"] == {"success": True, "clientMutationId": None}
    missing = await wire.ann.data(documents.METADATA, runQueue="up", **NAMED)
    assert missing["project"]["runQueue"] is None


async def test_pushing_by_name_answers_the_effective_spec_as_a_text(wire):
    pushed = await _push(wire.ann)
    spec = json.loads(pushed["runSpec"])
    assert spec["docker"] == SPEC["docker"]
    assert spec["resource"] == "local-process"
    listed = await wire.ann.data(documents.QUEUE_ITEMS, runQueue="default", **NAMED)
    edges = listed["project"]["runQueue"]["runQueueItems"]["edges"]
    assert [edge["node"]["id"] for edge in edges] == [pushed["runQueueItemId"]]
    old = await wire.ann.data(documents.OLD_QUEUE_ITEMS, runQueue="default", **NAMED)
    assert old["project"]["runQueue"]["runQueueItems"]["edges"][0]["node"] == {
        "id": pushed["runQueueItemId"],
        "state": "PENDING",
        "associatedRunId": None,
    }


async def test_pushing_to_an_unknown_queue_is_an_error_with_a_null_payload(wire):
    answer = await wire.ann.ask(
        documents.PUSH_BY_NAME, queueName="nothing", runSpec=json.dumps(SPEC), **NAMED
    )
    assert answer["data"] == {"pushToRunQueueByName": None}
    assert "nothing" in answer["errors"][0]["message"]
    assert answer["errors"][0]["extensions"]["code"] == "NOT_FOUND"


async def test_the_older_push_by_id(wire):
    listed = await wire.ann.data(documents.PROJECT_QUEUES, entity="ann", projectName=QUEUES)
    queue = next(q for q in listed["project"]["runQueues"] if q["name"] == "default")
    pushed = await wire.ann.data(documents.PUSH, queueID=queue["id"], runSpec=json.dumps(SPEC))
    item = pushed["pushToRunQueue"]["runQueueItemId"]
    assert (await _item(wire.ann, item))["state"] == "PENDING"
    gone = {"queueID": queue["id"], "runQueueItemId": item}
    deleted = await wire.ann.data(documents.DELETE_ITEM, **gone)
    assert deleted["deleteFromRunQueue"]["success"] is True


async def test_bare_nan_in_a_spec_passes(wire):
    spec = json.dumps(SPEC | {"overrides": {"run_config": {"lr": float("nan")}}})
    data = await wire.ann.data(documents.PUSH_BY_NAME, queueName="default", runSpec=spec, **NAMED)
    assert "NaN" in data["pushToRunQueueByName"]["runSpec"]


async def test_an_agents_life_from_pop_to_the_running_run(wire):
    agent = await _agent(wire.ann)
    shown = (await wire.ann.data(documents.AGENT, agentId=agent))["launchAgent"]
    assert shown["stopPolling"] is False
    assert shown["hostname"] == "box"
    assert shown["runQueues"] == [await _queue_id(wire.ann)]
    assert (await wire.ann.data(documents.IS_TEAM, entity="ann"))["entity"]["isTeam"] is False
    assert await _pop(wire.ann, agent) is None
    item = (await _push(wire.ann))["runQueueItemId"]
    popped = await _pop(wire.ann, agent)
    assert popped["runQueueItemId"] == item
    assert popped["runSpec"]["docker"] == SPEC["docker"]
    assert popped["runSpec"]["author"] == "ann"
    assert (await _item(wire.ann, item))["state"] == "LEASED"
    status = {"agentId": agent, "agentStatus": "RUNNING"}
    assert (await wire.ann.data(documents.UPDATE_AGENT, **status))["updateLaunchAgent"]["success"]
    for _ in range(2):
        acked = await wire.ann.data(documents.ACK, itemId=item, runId="9g93b38e")
        assert acked["ackRunQueueItem"]["success"] is True
    assert await _item(wire.ann, item) == {
        "id": item,
        "state": "CLAIMED",
        "associatedRunId": "9g93b38e",
    }
    shown = (await wire.ann.data(documents.AGENT, agentId=agent))["launchAgent"]
    assert shown["agentStatus"] == "RUNNING"
    stopped = {"projectName": "demo", "entityName": "ann", "runId": "9g93b38e"}
    await wire.ann.data(documents.STOPPED, **stopped)
    run = {"entity": "ann", "project": "demo", "name": "9g93b38e"}
    made = await wire.ann.data(documents.UPSERT_BUCKET, config="{}", **run)
    assert made["upsertBucket"]["bucket"]["project"]["entity"]["name"] == "ann"
    state = await wire.ann.data(documents.RUN_STATE, **run)
    assert state["project"]["run"]["state"] == "running"


async def test_an_item_that_fails_is_told_so_with_a_warning_before(wire):
    agent = await _agent(wire.ann)
    item = (await _push(wire.ann))["runQueueItemId"]
    await _pop(wire.ann, agent)
    told = {"runQueueItemId": item, "message": "no image", "stage": "agent", "filePaths": ["a"]}
    warned = await wire.ann.data(documents.WARN, **told)
    assert warned["updateRunQueueItemWarning"]["success"] is True
    failed = await wire.ann.data(documents.FAIL, **told)
    assert failed["failRunQueueItem"]["success"] is True
    assert (await _item(wire.ann, item))["state"] == "FAILED"


async def test_an_unknown_agent_and_an_unknown_item_are_null(wire):
    assert (await wire.ann.data(documents.AGENT, agentId="nope"))["launchAgent"] is None
    assert await _item(wire.ann, "nope") is None
    update = {"agentId": "nope", "agentStatus": "POLLING"}
    answer = await wire.ann.data(documents.UPDATE_AGENT, **update)
    assert answer["updateLaunchAgent"]["success"] is False


async def test_an_item_of_another_queue_is_not_found_in_this_one(wire):
    await wire.server.services.queues.save(
        wire.admin, "ann", "other", resource="local-process", mode="CREATE"
    )
    item = (await _push(wire.ann, "other"))["runQueueItemId"]
    assert await _item(wire.ann, item) is None


@pytest.mark.parametrize("name", ["demo", "uncategorized"])
async def test_queues_live_under_one_project_only(wire, name):
    await wire.ann.data(documents.CREATE_PROJECT, input={"name": name, "entityName": "ann"})
    listed = await wire.ann.data(documents.PROJECT_QUEUES, entity="ann", projectName=name)
    assert listed["project"]["runQueues"] == []
    named = {"entityName": "ann", "projectName": name, "runQueue": "default"}
    assert (await wire.ann.data(documents.METADATA, **named))["project"]["runQueue"] is None


async def test_a_runs_life(wire):
    run = {"entity": "ann", "project": "demo", "name": "abcd1234"}
    config = '{"lr": {"value": NaN}}'
    made = await wire.ann.data(
        documents.UPSERT_BUCKET,
        config=config,
        tags=["a"],
        host="box",
        program="train.py",
        summaryMetrics='{"loss": Infinity}',
        **run,
    )
    assert made["upsertBucket"]["inserted"] is True
    bucket = made["upsertBucket"]["bucket"]
    assert bucket["id"] == base64.b64encode(b"Run:v1:abcd1234:demo:ann").decode()
    assert bucket["displayName"]
    again = await wire.ann.data(documents.UPSERT_BUCKET, id=bucket["id"], displayName="named")
    assert again["upsertBucket"]["inserted"] is False
    shown = (await wire.ann.data(documents.RUN, **run))["project"]["run"]
    assert shown["displayName"] == "named"
    assert shown["tags"] == ["a"]
    assert "NaN" in shown["config"]
    assert shown["running"] is True
    assert shown["user"] == {"name": "ann", "username": "ann"}
    stopped = await wire.ann.data(documents.STOP_RUN, id=bucket["id"])
    assert stopped["stopRun"]["success"] is True
    assert (await wire.ann.data(documents.RUN, **run))["project"]["run"]["shouldStop"] is True
    state = {"input": {"id": bucket["id"], "state": "failed"}}
    assert (await wire.ann.data(documents.RUN_UPDATE_STATE, **state))["updateRunState"]["success"]
    listed = await wire.ann.data(
        'query ($f: JSONString) { project(name: "demo", entityName: "ann") { runCount '
        "runs(filters: $f, first: 10) { totalCount edges { node { name failed } cursor } } "
        'bucket(name: "nope", missingOk: true) { id } } }',
        f='{"state": "failed"}',
    )
    assert listed["project"]["runCount"] == 1
    assert listed["project"]["bucket"] is None
    assert listed["project"]["runs"]["edges"][0]["node"] == {"name": "abcd1234", "failed": True}


async def test_documents_are_parsed_once_however_often_they_come(wire):
    handler = next(
        route.handler
        for route in wire.server.app.router.routes()
        if route.resource.canonical == "/graphql"
    )
    cache = handler.__self__._executor.documents
    await wire.ann.data(documents.VIEWER)
    before = cache.parsed
    for _ in range(20):
        await wire.ann.data(documents.VIEWER)
    assert cache.parsed == before
