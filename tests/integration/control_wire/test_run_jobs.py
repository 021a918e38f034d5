"""A run that ends becomes a job, made by the control plane."""

import asyncio
import json
from typing import Any

import pytest

from agent.control.files.storage import StorageFullError
from agent.control.request_data import JOB_CREATION
from agent.control.services.runs import RunChange
from agent.control.store.accounts import Role
from tests.integration.control_wire import artifact_documents as documents
from tests.integration.control_wire.agents import submitted_and_claimed
from tests.integration.control_wire.uploading import Upload, job_files
from tests.integration.control_wire.wire import Caller, Wire, open_wire

METADATA = {
    "python": "CPython 3.11.7",
    "codePath": "train.py",
    "codePathLocal": "train.py",
    "git": {"remote": "https://host.example/o/r.git", "commit": "a" * 40},
}
NAME = "job-https___host.example_o_r.git_train.py"
INPUTS = """
query ($n: String!) {
  project(name: "demo", entityName: "ann") {
    run(name: $n) { inputArtifacts { edges { node { artifactSequence { name } } } } }
  }
}
"""
PROBLEM = (
    'query ($n: String!) { project(name: "demo", entityName: "ann") { run(name: $n) '
    "{ jobProblem } } }"
)
SET = (
    "mutation ($p: String!, $on: Boolean!) { setLaunchJobCreation(projectName: $p, enabled: $on) }"
)
SET_OWN = "mutation ($on: Boolean!) { setOwnLaunchJobCreation(enabled: $on) }"


async def run_of(
    caller: Caller,
    name: str,
    metadata: dict[str, Any] = METADATA,
    *,
    files: dict[str, bytes] | None = None,
    job_type: str | None = None,
    end: bool = True,
    entity: str = "ann",
) -> None:
    """What a client sends of a run, and its end."""
    place = {"project": "demo", "entity": entity}
    await caller.data(documents.UPSERT_RUN, name=name, jobType=job_type, **place)
    sent = {
        "wandb-metadata.json": json.dumps(metadata).encode(),
        "requirements.txt": b"six==1.16.0",
        **(files or {}),
    }
    data = await caller.data(documents.RUN_FILES, run=name, files=[*sent], **place)
    for file in data["createRunFiles"]["files"]:
        async with caller.wire.http.put(file["uploadUrl"], data=sent[file["name"]]) as answer:
            assert answer.status == 200
    if end:
        await complete(caller, name, entity)


async def complete(caller: Caller, name: str, entity: str = "ann", code: int = 0) -> None:
    body = {"complete": True, "exitcode": code}
    assert await caller.status("POST", f"/files/{entity}/demo/{name}/file_stream", json=body) == 200


async def jobs(wire: Wire, entity: str = "ann") -> dict[str, list[tuple[int | None, set[str]]]]:
    """Versions and aliases by the job's name."""
    services = wire.server.services
    found = {}
    for job in await services.jobs.list(wire.admin, entity, "demo"):
        versions = await services.jobs.versions(wire.admin, entity, "demo", job.collection.name)
        found[job.collection.name] = [
            (one.artifact.version, set(one.artifact.aliases)) for one in versions
        ]
    return found


async def problem(wire: Wire, name: str) -> str | None:
    """Why no job was made, as the run itself says it to who reads it."""
    services = wire.server.services
    run = await services.runs.get(wire.admin, "ann", "demo", name)
    assert run is not None
    found = await services.run_jobs.of_run(wire.admin, run)
    assert found is not None
    assert not found.due
    told = await wire.ann.data(PROBLEM, n=name)
    assert told["project"]["run"] == {"jobProblem": found.problem}
    return found.problem


async def test_a_run_in_a_checkout_becomes_a_git_job_and_its_input(wire: Wire) -> None:
    await run_of(wire.ann, "r1", files={"diff.patch": b"+x\n"})
    assert await jobs(wire) == {NAME: [(0, {"latest"})]}
    version = await wire.server.services.jobs.get(wire.admin, f"ann/demo/{NAME}")
    assert version.summary == "https://host.example/o/r.git at aaaaaaaaaaaa"
    data = await wire.ann.data(
        documents.FILE_URLS,
        entity="ann",
        project="demo",
        collection=NAME,
        alias="latest",
        perPage=9,
    )
    listed = data["project"]["artifactCollection"]["artifactMembership"]["files"]["edges"]
    urls = {edge["node"]["name"]: edge["node"]["directUrl"] for edge in listed}
    texts = {}
    for path, url in urls.items():
        async with wire.http.get(url) as answer:
            texts[path] = await answer.text()
    assert texts["requirements.frozen.txt"] == "six==1.16.0"
    assert texts["diff.patch"] == "+x\n"
    assert json.loads(texts["wandb-job.json"])["source"]["git"] == METADATA["git"]
    manifest = await wire.ann.data(documents.FETCH_MANIFEST, id=version.artifact.id)
    async with wire.http.get(
        manifest["artifact"]["currentManifest"]["file"]["directUrl"]
    ) as answer:
        assert set((await answer.json(content_type=None))["contents"]) == set(texts)
    found = await wire.ann.data(INPUTS, n="r1")
    (edge,) = found["project"]["run"]["inputArtifacts"]["edges"]
    assert edge["node"]["artifactSequence"]["name"] == NAME


async def test_equal_runs_are_one_version_and_another_commit_is_the_next(wire: Wire) -> None:
    other = METADATA | {"git": METADATA["git"] | {"commit": "b" * 40}}
    await run_of(wire.ann, "r1")
    await run_of(wire.ann, "r2")
    assert await jobs(wire) == {NAME: [(0, {"latest"})]}
    await run_of(wire.ann, "r3", other)
    assert await jobs(wire) == {NAME: [(1, {"latest"}), (0, set())]}
    await run_of(wire.ann, "r4")
    assert await jobs(wire) == {NAME: [(1, set()), (0, {"latest"})]}


async def test_a_run_that_ends_twice_or_again_makes_what_it_recorded_last(wire: Wire) -> None:
    await run_of(wire.ann, "r1")
    await complete(wire.ann, "r1", code=1)
    assert await jobs(wire) == {NAME: [(0, {"latest"})]}
    await run_of(wire.ann, "r1", METADATA | {"git": METADATA["git"] | {"commit": "b" * 40}})
    assert await jobs(wire) == {NAME: [(1, {"latest"}), (0, set())]}


async def test_logged_code_becomes_a_code_job(wire: Wire) -> None:
    await run_of(wire.ann, "r1", {**METADATA, "git": None}, end=False)
    code = await Upload(
        wire.ann, "source-demo-train.py", {"train.py": b"print(1)"}, run="r1"
    ).whole()
    await complete(wire.ann, "r1")
    version = await wire.server.services.jobs.get(wire.admin, "ann/demo/job-source-demo-train.py")
    assert version.code is not None
    assert version.code.id == code.id


async def test_an_image_becomes_an_image_job_with_its_tag(wire: Wire) -> None:
    await run_of(wire.ann, "r1", {"python": "CPython 3.11.7", "docker": "org/app:v-1"})
    assert await jobs(wire) == {"job-org_app": [(0, {"v-1", "latest"})]}


@pytest.mark.parametrize("job_type", ["cli_create_job", "sweep-controller"])
async def test_runs_of_the_clients_own_programs_become_no_jobs(wire: Wire, job_type: str) -> None:
    await run_of(wire.ann, "r1", job_type=job_type)
    assert await jobs(wire) == {}
    assert job_type in str(await problem(wire, "r1"))


async def test_a_run_without_ingredients_says_what_is_missing(wire: Wire) -> None:
    place = {"project": "demo", "entity": "ann"}
    await wire.ann.data(documents.UPSERT_RUN, name="r1", jobType=None, **place)
    await complete(wire.ann, "r1")
    assert await problem(wire, "r1") == "It recorded no `wandb-metadata.json`."
    for number, bad in enumerate((b"[]", b"{", b"\xff", b"[" * 100_000, b'{"python": 5}')):
        await run_of(wire.ann, f"bad{number}", files={"wandb-metadata.json": bad})
        assert await problem(wire, f"bad{number}")
    assert await jobs(wire) == {}


async def test_a_client_that_made_the_job_itself_gets_no_second(wire: Wire) -> None:
    made = job_files({"image": "a/b"}, "image")
    own = await Upload(wire.ann, "own", made, type="job").whole()
    await run_of(wire.ann, "r1", end=False)
    await wire.ann.data(
        "mutation ($i: UseArtifactInput!) { useArtifact(input: $i) { artifact { id } } }",
        i={"entityName": "ann", "projectName": "demo", "runName": "r1", "artifactID": own.id},
    )
    await complete(wire.ann, "r1")
    assert [*await jobs(wire)] == ["own"]
    assert "ann/demo/own:v0" in str(await problem(wire, "r1"))


async def test_projects_and_users_can_switch_it_off(wire: Wire) -> None:
    await run_of(wire.ann, "r0", job_type="cli_create_job")
    await wire.ann.data(SET, p="demo", on=False)
    await run_of(wire.ann, "r1")
    assert "project 'demo'" in str(await problem(wire, "r1"))
    await wire.ann.data(SET, p="demo", on=True)
    await wire.ann.data(SET_OWN, on=False)
    await run_of(wire.ann, "r2")
    assert "ann has" in str(await problem(wire, "r2"))
    assert await jobs(wire) == {}
    await wire.ann.data(SET_OWN, on=True)
    await run_of(wire.ann, "r3")
    assert [*await jobs(wire)] == [NAME]
    assert await wire.ann.code(SET, p="nowhere", on=True) == "NOT_FOUND"


async def test_only_administrators_switch_projects_and_only_users_themselves(wire: Wire) -> None:
    bob = await wire.user("bob")
    await wire.team("team", bob=Role.MEMBER)
    await run_of(bob, "r1", entity="team")
    query = (
        'mutation { setLaunchJobCreation(entityName: "team", projectName: "demo", enabled: false) }'
    )
    assert await bob.code(query) == "FORBIDDEN"
    assert await (await wire.agent_key("team")).code(SET_OWN, on=False) == "FORBIDDEN"


async def test_a_program_that_wants_no_job_gets_none(wire: Wire) -> None:
    program = b"import wandb\nwandb.init(settings=wandb.Settings(disable_job_creation=True))\n"
    await run_of(wire.ann, "r1", files={"code/train.py": program})
    assert "disable_job_creation" in str(await problem(wire, "r1"))
    named = b"import wandb\nwandb.init(settings=wandb.Settings(job_name='mine'))\n"
    await run_of(wire.ann, "r2", files={"code/train.py": named})
    assert [*await jobs(wire)] == ["mine"]


async def launched(wire: Wire, run_id: str | None = None) -> tuple[Caller, str]:
    """The token and the name of a run that an agent has begun for ann."""
    spec = {"docker": {"docker_image": "repo/name:tag"}, "project": "demo"}
    spec |= {"run_id": run_id} if run_id else {}
    _, claim = await submitted_and_claimed(wire.ann, spec)
    return wire.caller(claim["runToken"]), claim["runName"]


@pytest.mark.parametrize("taken", [False, True])
async def test_a_launched_run_moves_no_alias_of_a_job(wire: Wire, taken: bool) -> None:
    """Its code may write anything into the metadata; others launch what `latest` names."""
    await run_of(wire.ann, "first")
    run_id = None
    if taken:
        run_id = "victim"
        await wire.ann.data(
            documents.UPSERT_RUN, name=run_id, jobType=None, project="demo", entity="ann"
        )
    job, name = await launched(wire, run_id)
    evil = METADATA | {"git": {"remote": "https://host.example/o/r.git", "commit": "e" * 40}}
    await run_of(job, name, evil)
    assert await jobs(wire) == {NAME: [(1, set()), (0, {"latest"})]}
    # Nor back to an older version, whose content it repeats.
    await run_of(wire.ann, "next", METADATA | {"git": METADATA["git"] | {"commit": "b" * 40}})
    await run_of(job, name, METADATA)
    assert await jobs(wire) == {NAME: [(2, {"latest"}), (1, set()), (0, set())]}


async def test_a_job_is_made_with_the_rights_that_the_author_has_now(wire: Wire) -> None:
    bob = await wire.user("bob")
    await wire.team("team", bob=Role.MEMBER)
    await run_of(bob, "r1", entity="team", end=False)
    services = wire.server.services
    run = await services.runs.get(wire.admin, "team", "demo", "r1")
    await services.accounts.set_member(wire.admin, "team", "bob", Role.VIEWER)
    await complete(wire.ann, "r1", "team")
    assert await jobs(wire, "team") == {}
    assert "may not" in str((await services.run_jobs.of_run(wire.admin, run)).problem)


async def until_made(wire: Wire) -> None:
    async with asyncio.timeout(60):
        while not await jobs(wire):
            await asyncio.sleep(0.05)


async def test_a_run_that_ended_as_the_server_stopped_gets_its_job_later(tmp_path) -> None:
    async with open_wire(tmp_path) as wire:
        await run_of(wire.ann, "r1", end=False)
        creation = wire.server.app[JOB_CREATION]
        creation.create = never
        await complete(wire.ann, "r1")
        assert await jobs(wire) == {}
    async with open_wire(tmp_path) as wire:
        await until_made(wire)


async def never(_run_id: str) -> None:
    raise StorageFullError("The disk is full.")


async def test_a_state_set_by_the_api_counts_as_an_end(wire: Wire) -> None:
    await run_of(wire.ann, "r1", end=False)
    await wire.server.services.runs.upsert(
        wire.admin, RunChange(state="finished"), entity="ann", project="demo", name="r1"
    )
    await until_made(wire)
