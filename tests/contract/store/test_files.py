"""What is stored in files behaves the same in a folder and in an S3-compatible store."""

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from obstore.store import ObjectStore
from pydantic import SecretStr

from agent.config.control import ControlConfig, ObjectStoreConfig
from agent.control.files.contents import ContentStore, SmallContent
from agent.control.files.run_files import RunFileStore
from agent.control.files.storage import (
    FOLDERS,
    DamagedError,
    DigestMismatchError,
    list_names,
    open_store,
)
from agent.control.job_creation import JobCreation
from agent.control.services.run_jobs import EndedRun
from agent.control.services.runs import RunChange
from agent.control.store.write_batches import OverloadedError
from agent.model.errors import (
    ConfigError,
    ConflictError,
    NotFoundError,
    ServerError,
    TooLargeError,
    UnreachableError,
)
from agent.model.job.recorded import METADATA_NAME, REQUIREMENTS_NAME
from tests.contract.store.world import World, open_world
from tests.infrastructure import s3, state

BOTH = [pytest.param("folder", id="folder"), pytest.param("s3", id="s3", marks=pytest.mark.s3)]
LIMIT = 20_000_000


def remote(facts: state.S3Facts, **changes: str) -> ObjectStoreConfig:
    """A prefix of its own in the tests' bucket."""
    url = f"{facts.url}/{secrets.token_hex(6)}"
    known = {"url": url, "endpoint": facts.endpoint, "region": "us-east-1", "key": facts.key}
    return ObjectStoreConfig(**(known | changes))


@dataclass
class Files:
    world: World
    store: ObjectStore
    contents: ContentStore
    run_files: RunFileStore

    async def put(self, data: bytes, announced: int | None = None, md5: str | None = None) -> str:
        md5 = md5 or digest(data)
        await self.contents.put("ann", md5, pieces(data), announced)
        return md5

    async def read(self, md5: str) -> bytes | None:
        return await self.contents.read_all("ann", md5, LIMIT)

    async def names(self) -> list[str]:
        return [name for folder in FOLDERS for name in await list_names(self.store, folder)]


@pytest.fixture(params=BOTH)
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Files]:
    config = ControlConfig(data_dir=tmp_path / "data")
    if request.param == "s3":
        facts = request.getfixturevalue("s3_server")
        config = config.model_copy(update={"object_store": remote(facts)})
    async with open_world(ControlConfig(data_dir=tmp_path)) as world, open_store(config) as store:
        quota, rows = world.plane.stored, world.plane.contents
        contents = ContentStore(store, rows, quota, LIMIT)
        yield Files(world, store, contents, RunFileStore(store, quota, LIMIT))


def digest(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1_000_000):
        yield data[start : start + 1_000_000]


@pytest.mark.parametrize("size", [0, 1, 1_048_577, 12_000_000])
async def test_contents_come_back_as_they_went_in(files: Files, size: int) -> None:
    data = secrets.token_bytes(size)
    for announced in (size, None):
        md5 = await files.put(data, announced)
    assert await files.read(md5) == data
    assert len(await files.names()) == 1
    found = await files.contents.read("ann", md5)
    assert found is not None
    assert found[0] == size


async def test_a_part_of_a_content_can_be_read(files: Files) -> None:
    data = secrets.token_bytes(3_000_000)
    md5 = await files.put(data)
    for start, end in ((0, 1), (5, 2_500_000), (2_999_999, 3_000_000)):
        part = await files.contents.read_part("ann", md5, start, end)
        assert b"".join([piece async for piece in part]) == data[start:end]


async def test_many_small_contents_are_stored_together(files: Files) -> None:
    data = [b"%d" % number for number in range(300)]

    async def arriving() -> AsyncIterator[SmallContent]:
        for one in data:
            yield SmallContent("ann", digest(one), one)

    assert await files.contents.put_all(arriving()) == 300
    assert [await files.read(digest(one)) for one in data[::50]] == data[::50]


@pytest.mark.parametrize("size", [1000, 12_000_000])
async def test_wrong_bytes_leave_nothing(files: Files, size: int) -> None:
    for announced in (size, None):
        with pytest.raises(DigestMismatchError):
            await files.put(b"x" * size, announced, md5="0" * 32)
    with pytest.raises(TooLargeError):
        await files.put(b"x" * (LIMIT + 1))
    assert await files.names() == []
    assert await files.read("0" * 32) is None


@pytest.mark.parametrize("damage", ["other", "shorter", "empty"])
async def test_damaged_contents_are_not_given_out_whole(files: Files, damage: str) -> None:
    data = b"x" * 3_000_000
    md5 = await files.put(data)
    (name,) = await files.names()
    bad = {"other": b"y" * len(data), "shorter": data[:-1], "empty": b""}[damage]
    await files.store.put_async(name, bad)
    with pytest.raises(DamagedError):
        await files.read(md5)


async def test_unused_contents_are_swept_and_used_ones_kept(files: Files) -> None:
    await files.put(b"unused")
    await files.store.put_async("contents/ann/leftover", b"of a killed process")
    assert await files.contents.remove_unused(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await files.contents.remove_unused(datetime.now(UTC) + timedelta(hours=1)) == 2
    assert await files.names() == []


async def test_files_of_runs_have_any_name_and_are_replaced(files: Files) -> None:
    made = (await files.world.plane.runs.upsert(files.world.me, RunChange(), name="r"))[0]
    run, runs = made.id, files.run_files
    for name in ("a b/ü%2F+?#&.txt", "media/x.png", "%"):
        for data in (b"first", b"second " + name.encode()):
            await runs.put("ann", run, name, pieces(data), digest(data))
        assert await runs.read(run, name, 1000) == b"second " + name.encode()
    size, tag = await runs.find(run, "media/x.png") or (0, "")
    assert size == len("second media/x.png")
    assert tag
    part = [piece async for piece in runs.read_part(run, "media/x.png", 7, 12)]
    assert b"".join(part) == b"media"
    with pytest.raises(DigestMismatchError):
        await runs.put("ann", run, "new", pieces(b"x"), "0" * 32)
    assert await runs.read(run, "new", 10) is None
    assert await runs.find(run, "new") is None
    await runs.delete(run, "%")
    await runs.delete(run, "%")
    assert await runs.runs() == [run]
    assert await runs.delete_run(run) == 2
    with pytest.raises(NotFoundError):
        await runs.put("ann", "gone", "x", pieces(b"x"))
    assert await files.names() == []


async def test_more_objects_than_one_answer_lists_are_found_and_deleted(files: Files) -> None:
    names = [f"logs/item/1/job/{number:04}" for number in range(1100)]
    for start in range(0, len(names), 50):
        part = names[start : start + 50]
        await asyncio.gather(*(files.store.put_async(name, b"x") for name in part))
    assert sorted(await list_names(files.store, "logs/item/")) == names
    await files.store.delete_async(names)
    assert await files.names() == []


# --------------------------------------------------------------- stores that cannot be used


async def opened(config: ControlConfig) -> None:
    async with open_store(config):
        pass


@pytest.mark.s3
@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"key": "somebody:else"}, ConfigError, "refuses the key"),
        ({"url": "s3://missing/a"}, ConfigError, "s3://missing/a does not exist: make the bucket"),
        ({"endpoint": "http://127.0.0.1:9"}, UnreachableError, "does not answer"),
    ],
)
async def test_a_store_that_cannot_be_used_is_named_at_the_start(
    s3_server: state.S3Facts,
    tmp_path: Path,
    change: dict[str, str],
    kind: type[Exception],
    words: str,
) -> None:
    config = ControlConfig(data_dir=tmp_path, object_store=remote(s3_server, **change))
    with pytest.raises(kind, match=words) as caught:
        await opened(config)
    assert s3_server.key.partition(":")[2] not in str(caught.value)


@pytest.mark.s3
async def test_a_wrong_secret_of_a_known_key_is_refused(
    s3_server: state.S3Facts, tmp_path: Path
) -> None:
    identifier = s3_server.key.partition(":")[0]
    config = remote(s3_server, key=f"{identifier}:wrong")
    with pytest.raises(ConfigError, match="refuses the key"):
        await opened(ControlConfig(data_dir=tmp_path, object_store=config))


@pytest.mark.s3
async def test_what_was_stored_before_the_store_went_away_is_there_when_it_is_back(
    tmp_path: Path, short_retries: None
) -> None:
    server = s3.server(tmp_path / "s3")
    server.start()
    config = ControlConfig(data_dir=tmp_path, object_store=remote(server.facts))
    async with AsyncExitStack() as stack:
        stack.callback(server.daemon.stop)
        world = await stack.enter_async_context(open_world(ControlConfig(data_dir=tmp_path)))
        store = await stack.enter_async_context(open_store(config))
        contents = ContentStore(store, world.plane.contents, world.plane.stored, LIMIT)
        before, missing = b"before", b"while it was away"
        await contents.put("ann", digest(before), pieces(before), None)
        server.daemon.stop()
        with pytest.raises(ServerError, match="the store failed"):
            await contents.put("ann", digest(missing), pieces(missing), None)
        with pytest.raises(ServerError, match="the store failed"):
            await contents.read("ann", digest(before))
        server.start()
        assert await contents.read_all("ann", digest(before), 100) == before
        assert await contents.read("ann", digest(missing)) is None


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.control.files.storage._RETRIES", {"max_retries": 1})


async def test_one_folder_belongs_to_one_control_plane(tmp_path: Path) -> None:
    config = ControlConfig(data_dir=tmp_path)
    async with open_store(config):
        with pytest.raises(ConflictError, match="are in use by another control plane"):
            await opened(config)
    await opened(config)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"url": "s3://"}, "`url` is not that of an object store"),
        ({"url": "ftp://x"}, "`url` is not that of an object store"),
        ({"url": "s3://key:secret@bucket"}, "`url` is not that of an object store"),
        ({"url": "gs://bucket", "key": "a:b"}, "belong to a `url` that begins with s3://"),
        ({"endpoint": "https://x"}, "belong to a `url` that begins with s3://"),
        ({"url": "s3://b", "endpoint": "x:9000"}, "`endpoint` is not an address"),
        ({"url": "s3://b", "key": "only-one-part"}, "`key` must be ACCESS_KEY_ID"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        ObjectStoreConfig(**values)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value.errors(include_input=False))  # type: ignore[attr-defined]


@pytest.mark.postgres
async def test_the_job_of_a_run_is_made_once_by_one_of_two_replicas(
    new_postgres_database: str, tmp_path: Path
) -> None:
    """The replica that has the run's end, and the background tasks of both, begin at once."""
    config = ControlConfig(data_dir=tmp_path, database_url=SecretStr(new_postgres_database))
    metadata = {
        "python": "CPython 3.11.7",
        "codePath": "train.py",
        "git": {"remote": "https://host.example/o/r.git", "commit": "a" * 40},
    }
    async with open_world(config) as one, open_world(config) as other, open_store(config) as store:
        made = []
        for world in (one, other):
            plane = world.plane
            contents = ContentStore(store, plane.contents, plane.stored, LIMIT)
            made.append(JobCreation(plane, contents, RunFileStore(store, plane.stored, LIMIT)))
        run = (await one.plane.runs.upsert(one.me, RunChange(), project="p", name="r"))[0]
        files = RunFileStore(store, one.plane.stored, LIMIT)
        await files.put("ann", run.id, METADATA_NAME, pieces(json.dumps(metadata).encode()))
        await files.put("ann", run.id, REQUIREMENTS_NAME, pieces(b"six==1.16.0"))
        await one.run_ended(one.me, "ann", "p", "r", 0)
        await asyncio.gather(*(each.create(run.id) for each in made * 2))
        result = await other.plane.run_jobs.of_run(one.me, run)
        assert result is not None
        assert (result.due, result.problem) == (False, None)
        assert result.artifact_id is not None


async def test_a_run_whose_job_was_refused_for_overload_stays_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ControlConfig(data_dir=tmp_path)
    async with open_world(config) as world, open_store(config) as store:
        plane = world.plane
        contents = ContentStore(store, plane.contents, plane.stored, LIMIT)
        creation = JobCreation(plane, contents, RunFileStore(store, plane.stored, LIMIT))
        run = (await plane.runs.upsert(world.me, RunChange(), project="p", name="r"))[0]
        await world.run_ended(world.me, "ann", "p", "r", 0)

        async def refused(run_id: str) -> EndedRun:
            raise OverloadedError

        with monkeypatch.context() as patched:
            patched.setattr(plane.run_jobs, "ended_run", refused)
            await creation.create_if_possible(run.id)
        assert await plane.run_jobs.due() == [run.id]
        await creation.create_if_possible(run.id)
        result = await plane.run_jobs.of_run(world.me, run)
        assert result is not None
        assert (result.due, result.artifact_id) == (False, None)
        assert "wandb-metadata.json" in str(result.problem)
