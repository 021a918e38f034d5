"""Jobs over the wire: our own look at them, and W&B's and our ways to launch them."""

import json

from tests.integration.control_wire import artifact_documents as documents
from tests.integration.control_wire.client_documents import PUSH_BY_NAME
from tests.integration.control_wire.uploading import Upload, job_files

JOBS = (
    "query ($p: String!) { launchJobs(projectName: $p) { id name entityName projectName "
    "createdAt updatedAt versionCount itemCount latest { reference version aliases digest "
    "createdAt "
    "sourceType summary jobFile problem inputSchemas } lastItem { id phase } } }"
)
VERSION = "query ($r: String!) { launchJobVersion(reference: $r) { id reference sourceType } }"
SUBMIT = "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id runSpec } }"
IMAGE = {"image": "repo/name:tag"}


async def _job(wire, name: str, **how) -> Upload:
    files = job_files(IMAGE, "image")
    return await Upload(wire.ann, name, files, type="job", **how).whole()


async def test_a_project_shows_its_jobs_and_what_became_of_them(wire):
    schema = {"@wandb.config": {"type": "object"}}
    upload = await _job(wire, "train", metadata={"input_schemas": schema})
    submitted = await wire.ann.data(
        SUBMIT, i={"queueName": "default", "projectName": "demo", "runSpec": {"job": "train"}}
    )
    (found,) = (await wire.ann.data(JOBS, p="demo"))["launchJobs"]
    assert (found["name"], found["projectName"], found["versionCount"]) == ("train", "demo", 1)
    assert found["itemCount"] == 1
    assert found["latest"]["reference"] == "ann/demo/train:v0"
    assert found["latest"]["aliases"] == ["latest"]
    assert (found["latest"]["sourceType"], found["latest"]["summary"]) == ("image", IMAGE["image"])
    assert found["latest"]["jobFile"]["source"] == IMAGE
    assert found["latest"]["inputSchemas"] == schema
    assert found["lastItem"] == {"id": submitted["submitLaunchItem"]["id"], "phase": "QUEUED"}
    version = await wire.ann.data(VERSION, r="demo/train")
    assert version["launchJobVersion"]["id"] == upload.id
    assert (await wire.ann.data(VERSION, r="demo/other"))["launchJobVersion"] is None


async def test_the_client_pushes_a_job_and_gets_the_version_back(wire):
    await _job(wire, "train")
    spec = {"job": "ann/demo/train:latest", "project": "demo", "entity": "ann"}
    pushed = await wire.ann.data(
        PUSH_BY_NAME,
        entityName="ann",
        projectName="model-registry",
        queueName="default",
        runSpec=json.dumps(spec),
    )
    effective = json.loads(pushed["pushToRunQueueByName"]["runSpec"])
    assert effective["job"] == "ann/demo/train:v0"
    wrong = json.dumps(spec | {"job": "ann/demo/trian:latest"})
    answer = await wire.ann.ask(
        PUSH_BY_NAME,
        entityName="ann",
        projectName="model-registry",
        queueName="default",
        runSpec=wrong,
    )
    assert answer["errors"][0]["extensions"]["hint"] == "Did you mean `train`?"


async def test_a_job_file_that_cannot_be_read_is_kept_and_explained(wire):
    files = {"wandb-job.json": b'{"source_type": "artefact"}'}
    await Upload(wire.ann, "broken", files, type="job").whole()
    await Upload(wire.ann, "empty", {"README": b""}, type="job").whole()
    found = {job["name"]: job for job in (await wire.ann.data(JOBS, p="demo"))["launchJobs"]}
    assert "`source_type` is 'artefact'" in found["broken"]["latest"]["problem"]
    assert found["empty"]["latest"]["problem"] == "It has no file `wandb-job.json`."


async def test_the_client_lists_jobs_with_one_look(wire):
    for name in ("a", "b", "c"):
        await _job(wire, name)
    data = await wire.ann.data(
        documents.OF_TYPE, entityName="ann", projectName="demo", artifactTypeName="job"
    )
    edges = data["project"]["artifactType"]["artifactCollections"]["edges"]
    names = [
        version["node"]["artifactSequence"]["name"]
        for edge in edges
        for version in edge["node"]["artifacts"]["edges"]
    ]
    assert names == ["a", "b", "c"]
    nothing = await wire.ann.data(
        documents.OF_TYPE, entityName="ann", projectName="demo", artifactTypeName="model"
    )
    assert nothing["project"]["artifactType"] is None


async def test_a_large_page_of_versions_shares_its_look_ups(wire):
    for number in range(30):
        files = {"x": str(number).encode()}
        await Upload(wire.ann, "c", files, aliases=(f"a{number}", "latest")).whole()
    look = (
        'artifactCollection(name: "c") { artifacts(first: 30) { totalCount edges { node { '
        "artifactSequence { project { entity { name } } } "
        "aliases { artifactCollection { project { entity { name } } } } } } } }"
    )
    many = " ".join(f"x{number}: {look}" for number in range(10))
    data = await wire.ann.data(f'{{ project(name: "demo") {{ {many} }} }}')
    assert {found["artifacts"]["totalCount"] for found in data["project"].values()} == {30}


async def test_a_project_that_no_reference_could_name_is_refused(wire):
    for name in ("a/b", "..", "a:b"):
        answer = await wire.ann.ask(
            SUBMIT,
            i={
                "queueName": "default",
                "projectName": name,
                "runSpec": {"docker": {"docker_image": "x"}},
            },
        )
        assert "cannot be the name of a project" in answer["errors"][0]["message"]
