"""What a caller may not read comes through no field, however deep: every path of the schema.

Two entities hold objects of every kind that refer to each other, and everything of the foreign
one has a text of its own. Whatever a caller asks, by foreign or own names, that text must not
be in the data. Those who may read it see it at the same paths, so that a path which leads
nowhere is noticed. A new field with an argument, or a new root field, needs a value here.
"""

import asyncio
import json
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from graphql import (
    GraphQLInterfaceType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLUnionType,
    get_named_type,
    is_leaf_type,
    parse,
)

from agent.control.auth.policy import Action, Principal
from agent.control.files.signed_urls import SignedUrls
from agent.control.graphql import context as context_module
from agent.control.graphql.context import Context
from agent.control.graphql.field_policies import field_policies, object_places
from agent.control.graphql.handler import Executor
from agent.control.graphql.schema import build_schema
from agent.control.request_data import CONTENTS, METRICS, RUN_FILES, RUN_STREAMS
from agent.control.services.artifact_uploads import NewArtifact
from agent.control.services.runs import RunChange
from agent.control.services.sweep_config import SweepConfig
from agent.control.services.sweeps import SweepChange
from agent.control.store.accounts import Role
from agent.control.store.artifacts import ArtifactRecord
from agent.control.store.items import Submission
from agent.model.capacity import Capacity
from agent.model.job.digest import manifest_digest
from agent.model.protocol import AgentRegistration, ClaimRequest
from tests.integration.control_wire.wire import Wire

SCHEMA = build_schema()
#: In every text of the foreign entity, and of what a run token may not read in its own.
FOREIGN, OTHER = "foreign-canary", "other-canary"
#: How deep the paths go, and how often one type may lie on a path.
DEPTH, REPEATED = 6, 1


@dataclass(frozen=True)
class Place:
    """One entity with one object of every kind, by what names it."""

    entity: str
    project: str
    canary: str
    queue_id: str = ""
    config_id: str = ""
    item: str = ""
    agent: str = ""
    collection: str = ""
    artifact: str = ""
    sweep: str = ""
    token: str = ""

    def arguments(self) -> dict[str, dict[str, Any]]:
        """Arguments of each field that requires some, and of the roots."""
        entity, project = {"entityName": self.entity}, {"projectName": self.project}
        place = {**entity, "name": self.project}
        return {
            "Query.viewer": {},
            "Query.serverInfo": {},
            "Query.entity": {"name": self.entity},
            "Query.project": place,
            "Query.model": place,
            "Query.models": entity,
            "Query.artifact": {"id": self.artifact},
            "Query.artifactCollection": {"id": self.collection},
            "Query.clientIDMapping": {"clientID": f"client-{self.entity}"},
            "Query.launchAgent": {"id": self.agent},
            "Query.launchQueues": entity,
            "Query.launchItems": entity,
            "Query.launchItem": {"id": self.item},
            "Query.launchAgents": entity,
            "Query.launchCommands": {"agentId": self.agent, "session": "s"},
            "Query.launchEntities": {},
            "Query.launchMembers": entity,
            "Query.launchKeys": entity,
            "Query.launchAudit": entity,
            "Query.launchJobs": {**entity, **project},
            "Query.launchJobVersion": {"reference": f"{self.entity}/{self.project}/train"},
            "Query.launchDryRun": {
                "input": {
                    **entity,
                    "queueName": "q",
                    "runSpec": {"job": f"{self.entity}/demo/train"},
                }
            },
            "Entity.defaultResourceConfig": {"id": self.config_id},
            "Project.run": {"name": "run"},
            "Project.bucket": {"name": "run"},
            "Project.artifactType": {"name": "dataset"},
            "Project.artifactCollection": {"name": "data"},
            "Project.artifactCollectionMembership": {"name": "data:latest"},
            "Project.artifact": {"name": "data:latest"},
            "Project.runQueue": {"name": "q"},
            "Project.sweep": {"sweepName": self.sweep},
            "Run.sampledHistory": {"specs": ["{}"]},
            "Run.parquetHistory": {"liveKeys": []},
            "RunQueue.runQueueItem": {"id": self.item},
            "ArtifactType.artifactCollection": {"name": "data"},
            "ArtifactSequence.artifactMembership": {"aliasName": "latest"},
            "ArtifactCollection.artifactMembership": {"aliasName": "latest"},
            "Artifact.filesByManifestEntries": {"storageLayout": "V2", "manifestVersion": "1"},
        }


#: Roots that say nothing about an entity that is named.
ABOUT_THE_CALLER = {
    "Query.viewer", "Query.serverInfo", "Query.launchEntities", "Query.launchCommands",
    "Query.clientIDMapping", "Query.launchInvitations", "Query.launchAuditProblem",
}  # fmt: skip


def _literal(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_literal(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def _call(path: str, place: Place) -> str:
    """A field with its arguments; one that needs some and has none here fails the test."""
    kind, name = path.split(".")
    field = SCHEMA.type_map[kind].fields[name]
    given = place.arguments().get(path, {})
    needed = {key for key, one in field.args.items() if isinstance(one.type, GraphQLNonNull)}
    assert needed <= set(given), f"{path} needs values for {needed}: add them to `Place.arguments`"
    shown = ", ".join(f"{key}: {_literal(value)}" for key, value in given.items())
    return f"{name}({shown})" if given else name


def _selection(kind: Any, place: Place, trail: tuple[str, ...], skip: Container[str]) -> str:
    """All fields of a type, and of the types behind them."""
    if isinstance(kind, GraphQLUnionType):
        parts = [
            f"... on {each.name} {_selection(each, place, trail, skip)}" for each in kind.types
        ]
        return "{ __typename " + " ".join(parts) + " }"
    if isinstance(kind, GraphQLInterfaceType):
        (only,) = SCHEMA.get_possible_types(kind)
        return f"{{ __typename ... on {only.name} {_selection(only, place, trail, skip)} }}"
    trail = (*trail, kind.name)
    parts = ["__typename"]
    for number, (name, field) in enumerate(kind.fields.items()):
        inner, path = get_named_type(field.type), f"{kind.name}.{name}"
        if path in skip:
            continue
        if is_leaf_type(inner):
            parts.append(f"{kind.name}_{number}: {_call(path, place)}")
        elif len(trail) < DEPTH and trail.count(inner.name) < REPEATED:
            below = _selection(inner, place, trail, skip)
            parts.append(f"{kind.name}_{number}: {_call(path, place)} {below}")
    return "{ " + " ".join(parts) + " }"


def _document(root: str, place: Place, skip: Container[str] = ()) -> str:
    inner = get_named_type(SCHEMA.type_map["Query"].fields[root.split(".")[1]].type)
    below = "" if is_leaf_type(inner) else _selection(inner, place, (), skip)
    return f"{{ {_call(root, place)} {below} }}"


ROOTS = sorted(f"Query.{name}" for name in SCHEMA.type_map["Query"].fields)


async def _ask(wire: Wire, principal: Principal, root: str, place: Place) -> str:
    """The data of one root with all that is below it, as text.

    A field that is refused may make everything around it null, and so hide what another field
    gives away: it is asked again without such fields, until nothing is refused any more.
    """
    app = wire.server.app
    skip, shown = set[str](), ""
    while True:
        asked = Context(
            wire.server.services,
            principal,
            app[METRICS],
            contents=app[CONTENTS],
            run_files=app[RUN_FILES],
            signed_urls=SignedUrls(wire.server.services.keys, "http://x", 60.0),
            run_streams=app[RUN_STREAMS],
            max_manifest=1024**2,
            max_answer=2**40,
        )
        before = asyncio.all_tasks()
        result = await Executor(SCHEMA).execute(parse(_document(root, place, skip)), asked)
        # An error at a field that must not be null leaves what was asked beside it running.
        if beside := asyncio.all_tasks() - before - {asyncio.current_task()}:
            await asyncio.wait(beside)
        errors = result.errors or []
        assert [str(each) for each in errors if each.original_error is None] == []
        shown += json.dumps(result.data, default=str)
        refused = {_field_of(each.path) for each in errors} - {None}
        if refused <= skip:
            return shown
        skip |= refused


def _field_of(path: list[str | int] | None) -> str | None:
    """The field that an error is about, by its alias; `None` for a root field."""
    alias = next(each for each in reversed(path or [""]) if isinstance(each, str))
    found = re.fullmatch(r"([A-Za-z]+?)_([0-9]+)", alias)
    return (
        None
        if found is None
        else f"{found[1]}.{list(SCHEMA.type_map[found[1]].fields)[int(found[2])]}"
    )


async def _fill(wire: Wire, place: Place, member: Principal) -> Place:
    """One object of every kind; the texts of all of them hold the canary."""
    plane, canary = wire.server.services, place.canary
    entity, project = place.entity, place.project
    config = {"resource_args": {"local-process": {"note": canary}}}
    queue = await plane.queues.save(
        wire.admin, entity, "q", resource="local-process", config=config
    )
    default = await plane.projects.create_resource_config(
        wire.admin, entity, "local-process", config, None
    )
    spec = {"docker": {"docker_image": "x"}, "overrides": {"args": [canary]}}
    submission = Submission(entity, project, "q", {**spec, "project": project, "name": canary})
    await plane.items.submit(member, submission)
    agent = await plane.agents.register(wire.admin, _registration(entity, canary))
    (claim,) = await plane.leases.claim(
        wire.admin,
        ClaimRequest(agent_id=agent.agent.id, session="s", request_id="r", free=Capacity(slots=1)),
    )
    await plane.runs.upsert(
        member, RunChange(notes=canary), entity=entity, project=project, name="run"
    )
    grid = SweepConfig.parse(f"method: grid\nparameters: {{x: {{value: {canary}}}}}\n")
    sweep = await plane.sweeps.insert(member, entity, project, SweepChange(grid, canary, canary))
    artifact = await _artifact(wire, member, place, "data", "dataset", "run")
    await plane.artifacts.use(member, artifact.id, entity=entity, project=project, run_name="run")
    return replace(
        place,
        queue_id=queue.id,
        config_id=default.id,
        item=claim.lease.item_id,
        agent=agent.agent.id,
        artifact=artifact.id,
        sweep=sweep.name,
        collection=artifact.collection.id,
        token=claim.run_token,
    )


def _image_job(place: Place) -> dict[str, Any]:
    source = {"image": f"{place.canary}:1"}
    return {"_version": "v0", "source_type": "image", "source": source, "runtime": ""}


def _registration(entity: str, canary: str) -> AgentRegistration:
    return AgentRegistration(
        entity=entity, name=f"box-{entity}", hostname=canary, version="1", queues=("q",),
        identity=f"identity-{entity}", session="s", backend_id=None, resources=("local-process",),
        capacity=Capacity(slots=4), config={},
    )  # fmt: skip


async def _artifact(
    wire: Wire, principal: Principal, place: Place, name: str, kind: str, run: str | None = None,
    job: dict[str, Any] | None = None,
) -> ArtifactRecord:  # fmt: skip
    uploads = wire.server.services.uploads
    made = await uploads.create(
        principal,
        NewArtifact(
            place.entity, place.project, kind, name, manifest_digest({}),
            description=place.canary, run_name=run, client_id=f"client-{place.entity}",
        ),
    )  # fmt: skip
    return await uploads.commit(principal, made.id, [], (job, None))


@dataclass(frozen=True)
class Scene:
    wire: Wire
    ours: Place
    theirs: Place
    callers: dict[str, Principal]


@pytest.fixture
async def scene(wire, monkeypatch) -> Scene:
    monkeypatch.setattr(context_module, "_NESTED", 100_000)
    accounts = wire.server.services.accounts
    names = ("viewer", "member", "boss", "friend", "stranger", f"{FOREIGN}-user")
    keys = {name: (await wire.user(name)).key for name in names}
    await wire.team("ours", viewer=Role.VIEWER, member=Role.MEMBER, boss=Role.ADMIN,
                    friend=Role.VIEWER)  # fmt: skip
    await wire.team("theirs", friend=Role.MEMBER, **{f"{FOREIGN}-user": Role.VIEWER})
    await accounts.create_agent_key(wire.admin, "theirs", FOREIGN, None)
    keys["robot"] = (await wire.agent_key("ours")).key
    callers = {name: await accounts.authenticate(key) for name, key in keys.items()}
    ours = Place("ours", "demo", "own-text")
    await _artifact(wire, callers["member"], ours, "train", "job", job=_image_job(ours))
    ours = await _fill(wire, ours, callers["member"])
    theirs = Place("theirs", "demo", FOREIGN)
    await _artifact(wire, callers["friend"], theirs, "train", "job", job=_image_job(theirs))
    theirs = await _fill(wire, theirs, callers["friend"])
    await _connect(wire, ours, theirs, callers["friend"])
    callers = {name: await accounts.authenticate(key) for name, key in keys.items()}
    return Scene(wire, ours, theirs, {**callers, "admin": wire.admin})


async def _connect(wire: Wire, ours: Place, theirs: Place, friend: Principal) -> None:
    """References between both: a job's items, an artifact's runs, a run's inputs, a job's code."""
    plane = wire.server.services
    spec = {"job": "ours/demo/train:latest", "overrides": {"args": [FOREIGN]}, "name": FOREIGN}
    await plane.items.submit(friend, Submission("theirs", "demo", "q", spec))
    run = {"entity": "theirs", "project": "demo", "run_name": "run"}
    await plane.artifacts.use(friend, ours.artifact, **run)
    run = {"entity": "ours", "project": "demo", "run_name": "run"}
    await plane.artifacts.use(wire.admin, theirs.artifact, **run)
    source = {"artifact": f"wandb-artifact://_id/{theirs.artifact}", "entrypoint": ["python", "x"]}
    job = {**_image_job(ours), "source_type": "artifact", "source": source}
    await _artifact(wire, wire.admin, ours, "of-their-code", "job", job=job)


@pytest.mark.parametrize("role", ["viewer", "member", "boss", "robot", "stranger"])
async def test_nothing_of_a_foreign_entity_comes_through_any_field(scene: Scene, role: str) -> None:
    leaks = [
        (root, place.entity)
        for root in ROOTS
        for place in (scene.theirs, scene.ours)
        if FOREIGN in await _ask(scene.wire, scene.callers[role], root, place)
    ]
    assert leaks == []


@pytest.mark.parametrize("role", ["friend", "admin"])
async def test_the_same_paths_show_it_to_those_who_may_read_it(scene: Scene, role: str) -> None:
    asked = {
        root: await _ask(scene.wire, scene.callers[role], root, scene.theirs) for root in ROOTS
    }
    silent = {root for root, data in asked.items() if FOREIGN not in data} - ABOUT_THE_CALLER
    # Keys are for administrators; a project by itself has no texts of its own.
    hidden = {"Query.launchKeys", "Query.launchAudit", "Query.launchUsers"}
    assert silent <= (hidden if role == "friend" else set()) | {"Query.models"}
    across = {
        root for root in ROOTS
        if FOREIGN in await _ask(scene.wire, scene.callers[role], root, scene.ours)
    }  # fmt: skip
    assert {"Query.launchJobs", "Query.project", "Query.artifact"} <= across


# What is asked beside a refused field that must not be null is cancelled before it begins.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
async def test_a_run_token_reads_its_project_and_nothing_else_of_its_entity(
    scene: Scene, wire: Wire
) -> None:
    token = await wire.server.services.accounts.authenticate(scene.ours.token)
    other = replace(scene.ours, project="other", canary=OTHER)
    member = scene.callers["member"]
    plane = wire.server.services
    await plane.runs.upsert(
        member, RunChange(notes=OTHER), entity="ours", project="other", name="run"
    )
    made = await _artifact(wire, member, other, "data", "dataset", "run")
    other = replace(other, artifact=made.id, collection=made.collection.id)
    spec = {"docker": {"docker_image": "x"}, "overrides": {"args": [OTHER]}}
    item = await plane.items.submit(member, Submission("ours", "demo", "q", spec))
    other = replace(other, item=item.id)
    shown = {root: await _ask(wire, token, root, other) for root in ROOTS}
    assert [root for root, data in shown.items() if OTHER in data or FOREIGN in data] == []
    shown = {root: await _ask(wire, token, root, scene.ours) for root in ROOTS}
    assert [root for root, data in shown.items() if OTHER in data or FOREIGN in data] == []
    # Its own project: the run and the artifact; no item, queue, agent, member or key.
    assert {root for root, data in shown.items() if "own-text" in data} == {
        "Query.artifact", "Query.artifactCollection", "Query.model", "Query.project",
    }  # fmt: skip
    member_sees = await _ask(wire, member, "Query.launchItem", other)
    assert OTHER in member_sees


def test_every_type_of_a_record_says_where_it_has_its_entity() -> None:
    """Types without a place are parts: they are reached through an object that has one."""
    parts = {name for name, _ in _object_types()} - set(object_places(SCHEMA))
    loose = {
        path
        for path, (field, action) in field_policies(SCHEMA).items()
        if path.split(".")[0] in {"Query", "Mutation"}
        and action in {Action.READ, Action.READ_PROJECT, Action.SUBMIT}
        and get_named_type(field.type).name in parts
        and not _is_envelope(get_named_type(field.type))
    }
    assert loose == {"Query.clientIDMapping", "Query.launchDryRun"} | {
        path for path in loose if path.startswith("Mutation.pushToRunQueue")
    }


def _object_types() -> Iterator[tuple[str, GraphQLObjectType]]:
    for name, kind in SCHEMA.type_map.items():
        if isinstance(kind, GraphQLObjectType) and not name.startswith("__"):
            yield name, kind


def _is_envelope(kind: Any) -> bool:
    """A connection, whose nodes are checked one by one."""
    return isinstance(kind, GraphQLObjectType) and "edges" in kind.fields
