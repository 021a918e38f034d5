"""What the holder of a run token tries against everything that is not its run's.

The token's run is in project `default` of entity `mallory`. There are, beside it, another run, a
job, a data set, an item with a log, a project and another entity, of which nothing may change and
nothing may be read beyond the token's project.
"""

import base64
import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp

from tests.integration.control_wire.uploading import Upload, job_files
from tests.integration.control_wire.wire import SPEC, Caller, Wire

IMAGE_JOB = job_files({"image": "busybox", "entrypoint": ["true"]}, "image")


def caller(url: str, http: aiohttp.ClientSession, key: str) -> Caller:
    """Somebody with a key or token, at a server that runs elsewhere."""
    server: Any = SimpleNamespace(url=url)
    who: Any = None
    return Wire(server, http, who).caller(key)


async def run_of(who: Caller, entity: str, project: str, name: str) -> str:
    """A new run; its id."""
    made = await who.data(
        "mutation ($e: String, $p: String, $n: String) { upsertBucket(input: "
        "{entityName: $e, modelName: $p, name: $n}) { bucket { id } } }",
        e=entity, p=project, n=name,
    )  # fmt: skip
    run: str = made["upsertBucket"]["bucket"]["id"]
    return run


async def item_of(who: Caller, entity: str, queue: str) -> str:
    """A new item; its id."""
    made = await who.data(
        "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }",
        i={"entityName": entity, "queueName": queue, "runSpec": SPEC},
    )
    item: str = made["submitLaunchItem"]["id"]
    return item


@dataclass(frozen=True)
class Targets:
    """What is there to be read or changed, by id."""

    owner: Caller
    run: str
    job: str
    data: str
    far: str
    foreign: str
    item: str
    #: Contents of the data set that lies in another project, of the foreign one, by MD5 in hex.
    far_md5: str
    foreign_md5: str

    @classmethod
    async def make(cls, owner: Caller, alice: Caller, queue: str) -> "Targets":
        """Everything; `queue` is a queue of mallory's that nobody serves."""

        async def stored(who: Caller, name: str, project: str, kind: str, files: Any) -> Upload:
            place = {"entityName": "mallory" if who is owner else "alice", "projectName": project}
            return await Upload(who, name, files, type=kind, place=place).whole()

        far = await stored(owner, "far", "elsewhere", "dataset", {"f": b"far away"})
        foreign = await stored(alice, "hers", "default", "dataset", {"f": b"alice's own"})
        job = await stored(owner, "train", "default", "job", IMAGE_JOB)
        data = await stored(owner, "data", "default", "dataset", {"f": b"data"})
        return cls(
            owner=owner,
            run=await run_of(owner, "mallory", "default", "other"),
            job=job.id,
            data=data.id,
            far=far.id,
            foreign=foreign.id,
            item=await item_of(owner, "mallory", queue),
            far_md5=_hexadecimal(far),
            foreign_md5=_hexadecimal(foreign),
        )

    def documents(self) -> dict[str, str]:
        """Attacks by the API, by what is attacked: none may give data."""
        alias = '[{{artifactCollectionName: "{}", alias: "latest"}}]'.format
        bucket = "mutation {{ upsertBucket(input: {{{}}}) {{ bucket {{ id }} }} }}".format
        return {
            "another run": bucket(f'id: "{self.run}", notes: "mine now"'),
            "another run by name": bucket(
                'entityName: "mallory", modelName: "default", name: "other", notes: "mine now"'
            ),
            "a new run": bucket('entityName: "mallory", modelName: "default", name: "fresh"'),
            "a run of another entity": bucket('entityName: "alice", modelName: "default"'),
            "stop another run": (
                f'mutation {{ stopRun(input: {{id: "{self.run}"}}) {{ success }} }}'
            ),
            "delete another run": (
                f'mutation {{ deleteRun(input: {{id: "{self.run}"}}) {{ success }} }}'
            ),
            "files of another run": (
                'mutation { createRunFiles(input: {entityName: "mallory", projectName: "default", '
                'runName: "other", files: ["x"]}) { files { uploadUrl } } }'
            ),
            "alias of a job": (
                f'mutation {{ addAliases(input: {{artifactID: "{self.job}", '
                f"aliases: {alias('train')}}}) {{ success }} }}"
            ),
            "take a job's alias away": (
                f'mutation {{ deleteAliases(input: {{artifactID: "{self.job}", '
                f"aliases: {alias('train')}}}) {{ success }} }}"
            ),
            "delete a job": (
                f'mutation {{ deleteArtifact(input: {{artifactID: "{self.job}", '
                "deleteAliases: true}) { artifact { id } } }"
            ),
            "a new job": (
                'mutation { createArtifact(input: {entityName: "mallory", projectName: "default", '
                'artifactTypeName: "job", artifactCollectionName: "train", '
                f'digest: "{"0" * 32}", digestAlgorithm: MANIFEST_MD5}}) {{ artifact {{ id }} }} }}'
            ),
            "delete what another run made": (
                f'mutation {{ deleteArtifact(input: {{artifactID: "{self.data}", '
                "deleteAliases: true}) { artifact { id } } }"
            ),
            "describe what another run made": (
                f'mutation {{ updateArtifact(input: {{artifactID: "{self.data}", '
                'description: "mine now"}) { artifact { id } } }'
            ),
            "an artifact of another project": f'{{ artifact(id: "{self.far}") {{ id }} }}',
            "an artifact of another entity": f'{{ artifact(id: "{self.foreign}") {{ id }} }}',
            "another project": (
                '{ project(name: "elsewhere", entityName: "mallory") { runs { edges { node '
                "{ id } } } } }"
            ),
            "projects": '{ models(entityName: "mallory") { edges { node { name } } } }',
            "a new project": (
                'mutation { upsertModel(input: {entityName: "mallory", name: "fresh"}) '
                "{ project { id } } }"
            ),
            "a spec": f'{{ launchItem(id: "{self.item}") {{ runSpec }} }}',
            "specs": '{ launchItems(entityName: "mallory") { edges { node { runSpec } } } }',
            "stop an item": f'mutation {{ stopLaunchItem(id: "{self.item}") {{ id }} }}',
            "submit": (
                'mutation { submitLaunchItem(input: {entityName: "mallory", '
                'queueName: "containers", runSpec: {}}) { id } }'
            ),
            "push": (
                'mutation { pushToRunQueueByName(input: {entityName: "mallory", '
                'projectName: "model-registry", queueName: "containers", runSpec: "{}"}) '
                "{ runQueueItemId } }"
            ),
            "keys": '{ launchKeys(entityName: "mallory") { id hint } }',
            "a new key": 'mutation { createLaunchKey(name: "mine") { secret } }',
            "an agent key": (
                'mutation { createLaunchAgentKey(entityName: "mallory", name: "mine") { secret } }'
            ),
            "members": '{ launchMembers(entityName: "mallory") { user } }',
            "the audit log": '{ launchAudit(entityName: "mallory") { edges { node { action } } } }',
            "queues": '{ launchQueues(entityName: "mallory") { name config } }',
            "agents": '{ launchAgents(entityName: "mallory") { id } }',
            "act as an agent": (
                'mutation { createLaunchAgent(input: {entityName: "mallory", '
                'projectName: "model-registry", runQueues: [], hostname: "h"}) '
                "{ launchAgentId } }"
            ),
        }

    def routes(self) -> dict[str, tuple[str, str]]:
        """Attacks by other routes; none may be answered with success."""
        logs = f"/launch/items/{self.item}/attempts/1/logs"
        return {
            "a log": ("GET", f"{logs}/job"),
            "a setup log": ("GET", f"{logs}/setup"),
            "write a log": ("POST", f"{logs}/job?epoch=1&offset=0"),
            "a page": ("GET", f"/launch/items/{self.item}"),
            "events": ("GET", "/launch/events"),
            "metrics": ("GET", "/metrics"),
            "a sign-in link": ("POST", "/launch/sign-in-links"),
            "stream into another run": ("POST", "/files/mallory/default/other/file_stream"),
            "a content of another project": (
                "GET",
                f"/artifactsV2/x/mallory/elsewhere/far/x/{self.far_md5}/f",
            ),
            "a content of another entity": (
                "GET",
                f"/artifactsV2/x/alice/default/hers/x/{self.foreign_md5}/f",
            ),
        }

    async def state(self) -> Any:
        """All that the owner sees of what must not change."""
        return await self.owner.data(
            "query ($job: ID!, $data: ID!, $item: ID!) {"
            ' project(name: "default", entityName: "mallory")'
            '   { run(name: "other") { notes state } runs { edges { node { name } } } }'
            ' models(entityName: "mallory") { edges { node { name } } }'
            ' launchJobs(entityName: "mallory", projectName: "default")'
            "   { name versionCount latest { id aliases } }"
            " job: artifact(id: $job) { state aliases { alias } description }"
            " data: artifact(id: $data) { state aliases { alias } description }"
            " launchItem(id: $item) { phase stopRequested }"
            ' launchKeys(entityName: "mallory") { id }'
            "}",
            job=self.job, data=self.data, item=self.item,
        )  # fmt: skip


def _hexadecimal(upload: Upload) -> str:
    return base64.b64decode(upload.digests["f"]).hex()


def gave(answer: dict[str, Any]) -> list[Any]:
    """What an answer of the API has of substance: nothing, empty lists and nulls do not count.

    A document that the schema does not know is no attack.
    """
    codes = [error["extensions"]["code"] for error in answer.get("errors", ())]
    assert not {"INVALID_QUERY", "GRAPHQL_PARSE_FAILED", "SERVER_ERROR"} & set(codes), answer
    values = (answer.get("data") or {}).values()
    return [value for value in values if value and json.dumps(value) not in _NOTHING]


_NOTHING = frozenset(
    {"null", "[]", "false", '{"success": false}', '{"edges": []}', '{"runs": null}'}
    | {'{"runs": {"edges": []}}'}
)
