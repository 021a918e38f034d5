"""Artifacts remembered for a moment: asked for once, forgotten in time, aliases never kept."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from agent.model.errors import JobError, NotFoundError
from agent.model.job.names import CodeReference, JobReference
from agent.remote.artifacts.reader import CachedArtifacts, RemoteArtifacts
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import ControlPlaneClient
from tests.unit.remote.artifacts.test_reader import FILES, JOB, Store, content
from tests.unit.remote.far_end import FarEnd, pieces, reply

VERSION = JobReference("team", "things", "train", "v3")
CODE = CodeReference(id="QQ==")
SMALL, LARGE = "wandb-job.json", "pkg/data.bin"


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def artifacts(client: ControlPlaneClient, clock: Clock) -> AsyncIterator[CachedArtifacts]:
    async with Transfers() as transfers:
        yield CachedArtifacts(RemoteArtifacts(client, transfers), clock)


@pytest.mark.parametrize("code", [CODE, CodeReference(name=VERSION)])
async def test_a_version_and_its_small_files_are_asked_for_once(
    artifacts: CachedArtifacts, end: FarEnd, code: CodeReference
) -> None:
    Store(end)
    for _ in range(2):
        assert await content(artifacts, await artifacts.find(VERSION), SMALL) == FILES[SMALL]
        assert await content(artifacts, await artifacts.find_code(code), SMALL) == FILES[SMALL]
    asked = len(end.seen)
    await content(artifacts, await artifacts.find(VERSION), SMALL)
    await content(artifacts, await artifacts.find_code(code), SMALL)
    assert len(end.seen) == asked


async def test_an_alias_is_asked_for_each_time(artifacts: CachedArtifacts, end: FarEnd) -> None:
    store = Store(end)
    await artifacts.find(JOB)
    store.there = False
    with pytest.raises(NotFoundError):
        await artifacts.find(JOB)


@pytest.mark.parametrize("reference", [VERSION, CODE])
async def test_a_deleted_version_is_heard_of_within_a_minute(
    artifacts: CachedArtifacts,
    end: FarEnd,
    clock: Clock,
    reference: JobReference | CodeReference,
) -> None:
    async def find() -> object:
        if isinstance(reference, CodeReference):
            return await artifacts.find_code(reference)
        return await artifacts.find(reference)

    store = Store(end)
    found = await find()
    store.there = False
    clock.seconds = 59
    assert await find() == found
    clock.seconds = 61
    with pytest.raises(NotFoundError):
        await find()


async def test_large_files_are_not_kept(artifacts: CachedArtifacts, end: FarEnd) -> None:
    Store(end)
    found = await artifacts.find(VERSION)
    for _ in range(2):
        before = len(end.seen)
        assert await content(artifacts, found, LARGE) == FILES[LARGE]
        assert len(end.seen) > before


async def test_what_is_not_whole_is_not_kept(artifacts: CachedArtifacts, end: FarEnd) -> None:
    store = Store(end)
    found = await artifacts.find(VERSION)
    store.downloads = [reply(200, b'{"a": 2}'), pieces(FILES[SMALL][:3], FILES[SMALL][3:])]
    with pytest.raises(JobError, match="has the digest"):
        await content(artifacts, found, SMALL)
    async with aclosing(artifacts.read(found, SMALL)) as left_early:
        await anext(left_early)
    assert await content(artifacts, found, SMALL) == FILES[SMALL]
