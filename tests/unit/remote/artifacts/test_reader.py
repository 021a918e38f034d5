"""Reading artifacts by W&B's own operations: pinned to a version, verified, taken up again."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from agent.model.cause import Cause
from agent.model.errors import (
    JobError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    UnreachableError,
)
from agent.model.job.names import CodeReference, JobReference
from agent.remote.artifacts.reader import RemoteArtifacts
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import ControlPlaneClient
from tests.infrastructure.artifacts import md5
from tests.unit.remote.far_end import FarEnd, cut, far_end, pieces, reply

JOB = JobReference("team", "things", "train", "prod")
FILES = {"wandb-job.json": b'{"a": 1}', "pkg/data.bin": bytes(range(256)) * 2000}


PROJECT = {"name": "things", "entity": {"name": "team"}}
FACTS = {
    "id": "QQ==",
    "versionIndex": 3,
    "state": "COMMITTED",
    "metadata": '{"x": 1}',
    "artifactType": {"name": "job"},
    "artifactSequence": {"name": "code-train", "project": PROJECT},
}


class Store:
    """A server with one artifact; what it says can be changed by a test."""

    def __init__(self, end: FarEnd, files: dict[str, bytes] = FILES) -> None:
        self.end, self.files, self.asked = end, files, []
        self.links = {name: f"{end.url}/storage/{n}" for n, name in enumerate(files)}
        self.contents = {
            name: {"digest": md5(data), "size": len(data)} for name, data in files.items()
        }
        self.downloads: list[Any] = []
        self.there = True
        end.then(self.answer)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/graphql":
            asked = await request.json()
            name = asked["query"].split("(")[0].split()[-1]
            self.asked.append((name, asked["variables"]))
            return await reply(200, {"data": getattr(self, name)(asked["variables"])})(request)
        if request.path == "/manifest":
            return await reply(200, {"contents": self.contents})(request)
        if self.downloads:
            return await self.downloads.pop(0)(request)
        name = list(self.files)[int(request.path.rpartition("/")[2])]
        return await reply(200, self.files[name])(request)

    def ArtifactMembershipByName(self, _: Any) -> Any:  # noqa: N802
        member = {"versionIndex": 3, "artifact": FACTS} if self.there else None
        return {"project": {"artifactCollectionMembership": member}}

    def ArtifactByID(self, _: Any) -> Any:  # noqa: N802
        return {"artifact": FACTS if self.there else None}

    def FetchArtifactManifest(self, _: Any) -> Any:  # noqa: N802
        return {
            "artifact": {"currentManifest": {"file": {"directUrl": f"{self.end.url}/manifest"}}}
        }

    def GetArtifactMembershipFileUrls(self, asked: Any) -> Any:  # noqa: N802
        at = int(asked["cursor"] or 0)
        names = list(self.links)
        page = {"hasNextPage": at + 1 < len(names), "endCursor": str(at + 1)}
        node = {"name": names[at], "directUrl": self.links[names[at]]}
        files = {"pageInfo": page, "edges": [{"node": node}]}
        return {"project": {"artifactCollection": {"artifactMembership": {"files": files}}}}

    def ArtifactOfType(self, _: Any) -> Any:  # noqa: N802
        version = {"versionIndex": 3, "state": "COMMITTED", "aliases": [{"alias": "production"}]}
        job = {"name": "train", "artifacts": {"edges": [{"node": version}]}}
        page = {"pageInfo": {"hasNextPage": False, "endCursor": None}, "edges": [{"node": job}]}
        return {"project": {"artifactType": {"artifactCollections": page}}}


async def content(artifacts: RemoteArtifacts, artifact: Any, path: str) -> bytes:
    return b"".join([piece async for piece in artifacts.read(artifact, path)])


@pytest.fixture
async def artifacts(
    client: ControlPlaneClient, slept: list[float]
) -> AsyncIterator[RemoteArtifacts]:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with Transfers(sleep=sleep) as transfers:
        yield RemoteArtifacts(client, transfers, sleep=sleep)


async def test_an_alias_is_pinned_to_its_version_and_files_arrive(
    artifacts: RemoteArtifacts, end: FarEnd
) -> None:
    store = Store(end)
    found = await artifacts.find(JOB)
    assert str(found.reference) == "team/things/train:v3"
    assert (found.type, found.metadata) == ("job", {"x": 1})
    for name, expected in FILES.items():
        assert await content(artifacts, found, name) == expected
    urls = [asked for name, asked in store.asked if name == "GetArtifactMembershipFileUrls"]
    assert [each["cursor"] for each in urls] == [None, "1"]
    assert {each["alias"] for each in urls} == {"v3"}


async def test_many_files_at_once_ask_for_their_addresses_once(
    artifacts: RemoteArtifacts, end: FarEnd
) -> None:
    files = {f"{number}.txt": b"x" for number in range(20)}
    store = Store(end, files)
    found = await artifacts.find(JOB)
    read = await asyncio.gather(*(content(artifacts, found, name) for name in files))
    assert read == [b"x"] * len(files)
    asked = [name for name, _ in store.asked]
    # One file a page.
    assert asked.count("GetArtifactMembershipFileUrls") == len(files)


async def test_code_is_found_by_id_and_knows_its_place(
    artifacts: RemoteArtifacts, end: FarEnd
) -> None:
    store = Store(end)
    found = await artifacts.find_code(CodeReference(id="QQ=="))
    assert str(found.reference) == "team/things/code-train:v3"
    store.there = False
    with pytest.raises(NotFoundError, match="it was deleted"):
        await artifacts.find_code(CodeReference(id="QQ=="))


@pytest.mark.parametrize(
    ("name", "alias", "words", "hint"),
    [
        ("trian", "latest", "no job `trian` in team/things", "Did you mean `train`?"),
        ("train", "producton", "has no alias `producton`", "Did you mean `production`?"),
        ("train", "v4", "has no version `v4`", "v3"),
    ],
)
async def test_what_is_not_there_is_told_with_its_neighbours(
    artifacts: RemoteArtifacts, end: FarEnd, name: str, alias: str, words: str, hint: str
) -> None:
    Store(end).there = False
    with pytest.raises(NotFoundError, match=words) as caught:
        await artifacts.find(JobReference("team", "things", name, alias))
    assert hint in (caught.value.hint or "")


async def test_a_cut_transfer_is_taken_up_where_it_broke(
    artifacts: RemoteArtifacts, end: FarEnd, slept: list[float]
) -> None:
    store = Store(end)
    found = await artifacts.find(JOB)
    whole = FILES["pkg/data.bin"]
    store.downloads = [pieces(whole[:100_000], cut=True), cut]
    assert await content(artifacts, found, "pkg/data.bin") == whole
    assert slept


async def test_addresses_that_have_expired_are_asked_for_anew(
    artifacts: RemoteArtifacts, end: FarEnd
) -> None:
    """A daemon reads a version again days later; our own plane says 403 then."""
    store = Store(end)
    found = await artifacts.find(JOB)
    await content(artifacts, found, "wandb-job.json")
    store.asked.clear()
    store.downloads = [reply(403, {"errors": [{"extensions": {"code": "FORBIDDEN"}}]})]
    assert await content(artifacts, found, "wandb-job.json") == FILES["wandb-job.json"]
    assert {name for name, _ in store.asked} == {"GetArtifactMembershipFileUrls"}


async def test_a_transfer_that_ends_early_without_an_error_is_taken_up_too(
    artifacts: RemoteArtifacts, end: FarEnd
) -> None:
    """A proxy may close the response of a server that restarts as if it were whole."""
    store = Store(end)
    found = await artifacts.find(JOB)
    whole = FILES["pkg/data.bin"]
    store.downloads = [reply(200, whole[:100_000]), reply(200, b"")]
    assert await content(artifacts, found, "pkg/data.bin") == whole


async def test_a_transfer_may_break_often_while_it_gets_further(
    artifacts: RemoteArtifacts, end: FarEnd
) -> None:
    store = Store(end)
    found = await artifacts.find(JOB)
    whole = FILES["pkg/data.bin"]
    store.downloads = [pieces(whole[: size * 10_000], cut=True) for size in range(1, 12)]
    assert await content(artifacts, found, "pkg/data.bin") == whole


async def test_a_store_that_stays_away_is_no_fault_of_the_file(
    artifacts: RemoteArtifacts, end: FarEnd
) -> None:
    store = Store(end)
    found = await artifacts.find(JOB)
    store.downloads = [reply(503, {})] * 9
    with pytest.raises(UnreachableError):
        await content(artifacts, found, "pkg/data.bin")


async def test_a_refusal_that_stays_is_told(artifacts: RemoteArtifacts, end: FarEnd) -> None:
    store = Store(end)
    found = await artifacts.find(JOB)
    refusal = {"errors": [{"message": "not yours", "extensions": {"code": "FORBIDDEN"}}]}
    store.downloads = [reply(403, refusal)] * 9
    with pytest.raises(PermissionDeniedError, match="not yours"):
        await content(artifacts, found, "wandb-job.json")


async def test_other_bytes_under_the_digest_are_refused(
    artifacts: RemoteArtifacts, end: FarEnd
) -> None:
    store = Store(end)
    found = await artifacts.find(JOB)
    store.downloads = [reply(200, b'{"a": 2}')]
    with pytest.raises(JobError, match="has the digest") as caught:
        await content(artifacts, found, "wandb-job.json")
    assert caught.value.cause is Cause.SOURCE_INVALID
    store.downloads = [reply(200, b'{"a": 2} and more')]
    with pytest.raises(JobError, match="longer than the 8 bytes"):
        await content(artifacts, found, "wandb-job.json")


async def test_a_file_that_vanished_is_named(artifacts: RemoteArtifacts, end: FarEnd) -> None:
    store = Store(end)
    found = await artifacts.find(JOB)
    del store.links["wandb-job.json"]
    with pytest.raises(JobError, match=r"no file 'wandb-job\.json' of team/things/train:v3"):
        await content(artifacts, found, "wandb-job.json")


async def test_a_foreign_store_gets_no_key(artifacts: RemoteArtifacts, end: FarEnd) -> None:
    store = Store(end)
    async with far_end() as other:
        other.then(reply(200, FILES["wandb-job.json"]))
        store.links["wandb-job.json"] = f"{other.url}/bucket/x?sig=a%2Fb"
        found = await artifacts.find(JOB)
        assert await content(artifacts, found, "wandb-job.json") == FILES["wandb-job.json"]
        assert other.seen[0][1] == "/bucket/x?sig=a%2Fb"
        assert "Authorization" not in other.headers[0]


async def test_a_manifest_that_is_none_is_told(artifacts: RemoteArtifacts, end: FarEnd) -> None:
    store = Store(end)
    store.contents = json.loads("[]")
    with pytest.raises(ServerError, match="not as expected"):
        await artifacts.find(JOB)
