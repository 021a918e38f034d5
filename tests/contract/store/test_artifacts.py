"""Artifacts and jobs without a wire, over both databases."""

import asyncio
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from agent.control.services import contents as contents_module
from agent.control.services.artifact_uploads import NewArtifact
from agent.control.services.contents import Contents
from agent.control.services.jobs import JOB_TYPE
from agent.control.store import artifact_files
from agent.control.store.accounts import Role
from agent.control.store.artifact_files import EntryRecord
from agent.control.store.artifact_tables import contents as stored
from agent.control.store.artifacts import ArtifactRecord
from agent.control.store.contents import ContentRecord
from agent.control.store.items import Submission
from agent.control.store.tx import Tx
from agent.model.errors import ConflictError, InvalidInputError, NotFoundError, UnreachableError
from agent.model.job.digest import encoded, manifest_digest
from tests.contract.store.conftest import BOTH

NAMES = ("kept", "gone", "gone a", "gone b", "gone c")
GIT = {"git": {"remote": "https://host.example/o/r.git", "commit": "c0ffee" * 6 + "abcd"}}


def entries(*contents: str) -> list[EntryRecord]:
    found = []
    for number, content in enumerate(contents):
        md5 = hashlib.md5(content.encode()).digest()
        found.append(EntryRecord(f"f{number}", encoded(md5), md5.hex(), len(content)))
    return found


def wanted(name: str, files: list[EntryRecord], **how: Any) -> NewArtifact:
    digest = manifest_digest({file.path: file.digest for file in files})
    new = NewArtifact(None, "demo", "code", name, digest, aliases=("latest",), deduplicate=True)
    return replace(new, **how)


async def store(world, files: list[EntryRecord], key: str = "") -> None:
    for file in files:
        new = ContentRecord(world.me.default_entity, file.md5, key or f"key-{file.md5}", file.size)
        await world.plane.contents.record(new)


async def all_are_old(world) -> datetime:
    """As if nobody had asked for a content since; the moment before which they are old."""
    await world.plane.database.write(lambda tx: tx.run(sa.update(stored).values(touched_at=1.0)))
    return datetime.fromtimestamp(2, UTC)


async def forgotten(world, before: datetime | None = None) -> list[str]:
    """What the sweep forgets, by names under which `entries` makes them, else by MD5."""
    names = {hashlib.md5(name.encode()).hexdigest(): name for name in NAMES}
    contents, last, gone = world.plane.contents, None, []
    before = before or datetime.now(UTC) + timedelta(hours=1)
    while found := await contents.unused(before, last):
        last = found[-1]
        gone += await contents.delete_unused(found, before)
    return [names.get(each.md5, each.md5) for each in gone]


async def made(world, name: str, *contents: str, job: Any = None, **how: Any) -> ArtifactRecord:
    files = entries(*contents)
    uploads = world.plane.uploads
    artifact = await uploads.create(world.me, wanted(name, files, **how))
    await store(world, files)
    return await uploads.commit(world.me, artifact.id, files, (job, None))


async def job(world, name: str, source: dict[str, Any], kind: str, **how: Any) -> ArtifactRecord:
    file = {"_version": "v0", "source_type": kind, "source": source, "runtime": "3.11"}
    return await made(world, name, f"{name}{source}", job=file, type=JOB_TYPE, **how)


async def submit(world, spec: dict[str, Any], queue: str = "default"):
    wanted = Submission(
        entity=None, project="demo", queue=queue, run_spec=spec, template_variables={}
    )
    return await world.plane.items.submit(world.me, wanted)


async def test_versions_committed_at_once_get_numbers_of_their_own(world):
    found = await asyncio.gather(*(made(world, "c", str(n)) for n in range(8)))
    assert sorted(each.version for each in found) == list(range(8))
    latest = await world.plane.artifacts.by_name(world.me, None, "demo", "c:latest")
    assert latest.version == 7


async def test_one_client_id_created_at_once_is_one_artifact(world):
    create = world.plane.uploads.create
    asked = wanted("c", entries("x"), client_id="k")
    found = await asyncio.gather(*(create(world.me, asked) for _ in range(8)))
    assert len({each.id for each in found}) == 1


async def test_one_artifact_committed_at_once_is_one_version(world):
    files = entries("x", "y")
    artifact = await world.plane.uploads.create(world.me, wanted("c", files))
    await store(world, files)
    commits = (world.plane.uploads.commit(world.me, artifact.id, files) for _ in range(5))
    assert {each.version for each in await asyncio.gather(*commits)} == {0}


async def test_a_content_stored_twice_at_once_has_one_name(world):
    (file,) = entries("x")
    record = world.plane.contents.record
    news = [ContentRecord(world.me.default_entity, file.md5, f"k{n}", 1) for n in range(6)]
    found = await asyncio.gather(*(record(new) for new in news))
    assert len({each.key for each in found}) == 1


class _Failing:
    """A database whose first write fails once others have queued up behind it."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.read = database.read
        self.waiting = asyncio.Event()
        self.writes = 0

    async def write(self, work: Any, *turn: Any) -> Any:
        self.writes += 1
        if self.writes == 1:
            await self.waiting.wait()
            raise UnreachableError("The database is away.")
        return await self._database.write(work, *turn)


async def test_contents_that_wait_behind_a_failed_write_are_recorded_all_the_same(world):
    failing = _Failing(world.plane.database)
    contents = Contents(SimpleNamespace(database=failing))
    news = [
        ContentRecord(world.me.default_entity, file.md5, f"k{n}", 1)
        for n, file in enumerate(entries("a", "b", "c"))
    ]
    storing = [asyncio.create_task(contents.record(new)) for new in news]
    await asyncio.sleep(0)
    failing.waiting.set()
    first, *others = await asyncio.gather(*storing, return_exceptions=True)
    assert isinstance(first, UnreachableError)
    assert others == news[1:]
    assert failing.writes == 2, "those that waited shared one transaction"
    assert await contents.find(world.me.default_entity, news[0].md5) is None
    assert await contents.record(news[0]) == news[0]


async def test_nothing_is_committed_while_a_content_is_missing(world):
    files = entries("x", "y")
    artifact = await world.plane.uploads.create(world.me, wanted("c", files))
    await store(world, files[:1])
    with pytest.raises(ConflictError, match="'f1' of the artifact 'c' was never uploaded"):
        await world.plane.uploads.commit(world.me, artifact.id, files)
    _, known = await world.plane.uploads.find_stored(
        world.me, artifact.id, [file.md5 for file in files]
    )
    assert known == {files[0].md5}


async def test_what_is_missing_is_looked_for_file_by_file(world):
    """Not by a list of all contents of the entity, which PostgreSQL goes through for each file."""

    def plan(tx: Tx) -> str:
        asked = []
        tx.one = asked.append
        artifact_files.first_without_content(tx, "ann", "id")
        query = asked[0].compile(tx.connection, compile_kwargs={"literal_binds": True})
        how = "" if tx.connection.dialect.name == "postgresql" else "QUERY PLAN "
        return "\n".join(str(row) for row in tx.all(sa.text(f"EXPLAIN {how}{query}")))

    told = await world.plane.database.read(plan)
    assert "SubPlan" not in told
    assert "LIST SUBQUERY" not in told
    assert "contents" in told


async def test_contents_are_forgotten_when_nothing_refers_to_them(world):
    kept = await made(world, "c", "kept")
    gone = await made(world, "d", "gone")
    await world.plane.artifacts.delete(world.me, gone.id, with_aliases=True)
    assert await forgotten(world, datetime.now(UTC) - timedelta(hours=1)) == []
    assert await forgotten(world) == ["gone"]
    (file,) = (await world.plane.artifacts.entries(world.me, kept)).rows
    assert await world.plane.contents.find(world.me.default_entity, file.md5) is not None


async def test_manifests_that_are_in_use_do_not_hide_what_is_not(world, monkeypatch):
    """No entry refers to a manifest; a thousand of them once filled every round."""
    monkeypatch.setattr(contents_module, "_ROUND", 1)
    for name in ("a", "b", "c"):
        artifact = await made(world, name, "kept", f"gone {name}")
        await world.plane.artifacts.delete(world.me, artifact.id, with_aliases=True)
        pending = await world.plane.uploads.create(world.me, wanted(name, entries(name)))
        (manifest,) = entries(f"manifest {name}")
        await store(world, [manifest])
        await world.plane.uploads.save_manifest(world.me, pending.id, "m", manifest.digest)
    await made(world, "d", "kept")
    assert sorted(await forgotten(world)) == ["gone a", "gone b", "gone c"]


@pytest.mark.parametrize("counted_on_by", ["an announcement", "an upload", "a commit"])
async def test_what_somebody_counts_on_meanwhile_is_not_forgotten(world, counted_on_by):
    """The sweep looks first and forgets then, for the whole of a day nobody had asked."""
    files, contents = entries("x"), world.plane.contents
    await store(world, files)
    artifact = await world.plane.uploads.create(world.me, wanted("c", files))
    before = await all_are_old(world)
    found = await contents.unused(before)
    assert [each.md5 for each in found] == [files[0].md5]
    match counted_on_by:
        case "an announcement":
            await world.plane.uploads.find_stored(world.me, artifact.id, [files[0].md5])
        case "an upload":
            await store(world, files, "again")
        case "a commit":
            await world.plane.uploads.commit(world.me, artifact.id, files)
    assert await contents.delete_unused(found, before) == []
    assert await contents.find(world.me.default_entity, files[0].md5) == found[0]
    assert await contents.unused(before) == []


@pytest.mark.parametrize("store_config", [BOTH[1]], indirect=True)
async def test_the_sweep_waits_for_who_is_about_to_count_on_a_content(world, store_config):
    """PostgreSQL lets both be under way: it is who comes second that has to look again."""
    files = entries("x")
    await store(world, files)
    before = await all_are_old(world)
    other = await asyncpg.connect(store_config.database_url.get_secret_value())
    try:
        announcing = other.transaction()
        await announcing.start()
        await other.execute("UPDATE contents SET touched_at = extract(epoch FROM now())")
        sweeping = asyncio.create_task(forgotten(world, before))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with asyncio.timeout(10):
            while not await world.plane.database.read(lambda tx: tx.run(sa.text(waits)).scalar()):
                await asyncio.sleep(0.01)
        await announcing.commit()
        assert await sweeping == []
    finally:
        await other.close()
    assert await world.plane.contents.find(world.me.default_entity, files[0].md5) is not None


async def test_what_was_deleted_before_its_commit_holds_no_content(world):
    files = entries("gone")
    artifact = await world.plane.uploads.create(world.me, wanted("c", files))
    await store(world, files)
    await world.plane.artifacts.delete(world.me, artifact.id)
    with pytest.raises(ConflictError, match="'c' is deleted already"):
        await world.plane.uploads.commit(world.me, artifact.id, files)
    assert await forgotten(world) == ["gone"]


async def test_what_is_never_committed_is_forgotten(world):
    artifact = await world.plane.uploads.create(world.me, wanted("c", entries("x")))
    later = datetime.now(UTC) + timedelta(hours=1)
    assert await world.plane.contents.delete_abandoned(later) == 1
    assert await world.plane.artifacts.get(world.me, artifact.id) is None


@pytest.mark.parametrize("alias", ["a/b", "", "a:b"])
async def test_an_alias_that_cannot_be_one_is_refused_before_anything_is_made(world, alias):
    with pytest.raises(InvalidInputError, match="cannot be an alias"):
        await made(world, "c", "x", aliases=(alias,))
    assert await world.plane.artifacts.collection(world.me, None, "demo", "c") is None


async def test_a_submission_pins_the_version_and_says_what_the_job_set(world):
    await job(world, "train", {**GIT, "entrypoint": ["python", "old.py"]}, "repo")
    source = {**GIT, "entrypoint": ["python", "train.py"], "build_context": "jobs"}
    artifact = await job(world, "train", source, "repo", aliases=("best",))
    place = f"{world.me.default_entity}/demo/train"
    spec = {"job": f"{place}:best", "overrides": {"args": ["--fast"]}}
    item = await submit(world, spec)
    assert item.run_spec["job"] == artifact.reference == f"{place}:v1"
    assert item.run_spec["source"] == {
        "type": "git",
        "url": GIT["git"]["remote"],
        "ref": GIT["git"]["commit"],
        "submodules": True,
    }
    assert item.run_spec["build"] == {"build_context": "jobs", "python": "3.11"}
    overrides = {"entry_point": ["python", "train.py"], "args": ["--fast"]}
    assert item.run_spec["overrides"] == overrides
    agent = await world.agent()
    claim = await agent.claim_one()
    assert claim.layers["job"]["job"] == f"{place}:v1"
    assert claim.layers["job"]["overrides"] == {"entry_point": ["python", "train.py"]}
    assert claim.layers["submitter"] == spec


async def test_code_that_the_submitter_may_not_read_is_not_fetched_for_it(world):
    """An agent with a person's key reads more than those who submit to it may."""
    accounts = world.plane.accounts
    await accounts.create_team(world.me, "team")
    await accounts.create_user(world.me, "bob")
    await accounts.set_member(world.me, "ann", "bob", Role.MEMBER)
    bob = await accounts.authenticate((await accounts.create_key(world.me, "k", user="bob")).secret)
    ann = await accounts.authenticate(world.key)
    uploads, files = world.plane.uploads, entries("secret")
    theirs = await uploads.create(ann, wanted("code", files, entity="team"))
    addresses = [f"wandb-artifact://_id/{theirs.id}", "wandb-artifact://team/demo/code:latest"]
    specs = [{"source": {"type": "artifact", "artifact": each}} for each in addresses]
    source = {"artifact": addresses[0], "entrypoint": ["python", "train.py"]}
    stored = await job(world, "train", source, "artifact")
    for spec in (*specs, {"job": stored.reference}):
        spec["overrides"] = {"entry_point": ["python", "train.py"]}
        new = Submission(
            entity="ann", project="demo", queue="default", run_spec=spec, template_variables={}
        )
        with pytest.raises(NotFoundError):
            await world.plane.items.submit(bob, new)
        await world.plane.items.submit(ann, new)


async def test_a_moved_item_keeps_its_version(world):
    await job(world, "train", {"image": "busybox"}, "image")
    item = await submit(world, {"job": "train"})
    await job(world, "train", {"image": "alpine"}, "image")
    await world.queue("other")
    moved = await world.plane.items.move(world.me, item.id, "other")
    assert moved.run_spec["job"].endswith("/demo/train:v0")
    assert moved.run_spec["source"] == {"type": "image", "image": "busybox"}


async def test_a_job_that_does_not_exist_is_refused_with_near_misses(world):
    await job(world, "train-resnet", {"image": "busybox"}, "image", aliases=("stable",))
    await made(world, "code-x", "x")
    place = f"{world.me.default_entity}/demo"
    cases = {
        f"{place}/train-resent:latest": (NotFoundError, "Did you mean `train-resnet`"),
        f"{place}/train-resnet:stabel": (NotFoundError, "Did you mean `stable`"),
        f"{place}/train-resnet:v7": (NotFoundError, "has no version `v7`"),
        f"{place}/code-x:latest": (ConflictError, "of type `code`, not a job"),
        f"nobody/{place}": (NotFoundError, "no entity 'nobody'"),
        "a/b/c/d:e": (InvalidInputError, "4 parts"),
    }
    for reference, (kind, text) in cases.items():
        with pytest.raises(kind) as raised:
            await submit(world, {"job": reference})
        assert text in str(raised.value), reference
    with pytest.raises(InvalidInputError, match="and a source of its own"):
        await submit(
            world, {"job": "train-resnet", "source": {"type": "image", "image": "busybox"}}
        )


async def test_inputs_are_held_against_the_schema_of_the_job(world):
    schema = {
        "type": "object",
        "properties": {
            "lr": {"type": "number", "maximum": 1, "required": True},
            "net": {"type": "object", "properties": {"depth": {"type": "integer"}}},
        },
    }
    metadata = {"input_schemas": {"@wandb.config": schema, "files": {"a.yaml": schema}}}
    await job(world, "train", {"image": "busybox"}, "image", metadata=metadata)
    good = {"job": "train", "overrides": {"run_config": {"lr": 0.1}}}
    assert (await submit(world, good)).run_spec["overrides"]["run_config"] == {"lr": 0.1}
    cases = {
        "`overrides.run_config.lr`: 7 breaks the rule `maximum: 1`": {"run_config": {"lr": 7}},
        '`overrides.run_config.net.depth`: "x" breaks the rule `type: "integer"`': {
            "run_config": {"lr": 0.1, "net": {"depth": "x"}}
        },
        '`overrides.run_config`: {} breaks the rule `required: ["lr"]`': {"run_config": {}},
        "`overrides.files.a.yaml.lr`: 2 breaks the rule `maximum: 1`": {
            "run_config": {"lr": 0},
            "files": {"a.yaml": {"lr": 2}},
        },
    }
    for message, overrides in cases.items():
        with pytest.raises(InvalidInputError) as raised:
            await submit(world, {"job": "train", "overrides": overrides})
        assert message in raised.value.message


async def test_jobs_are_listed_with_versions_and_the_item_submitted_last(world):
    await job(world, "a", {"image": "busybox"}, "image")
    await job(world, "b", {**GIT, "entrypoint": ["python", "x.py"]}, "repo")
    await job(world, "b", {**GIT, "entrypoint": ["python", "y.py"]}, "repo", aliases=("best",))
    await made(world, "code-x", "x")
    await submit(world, {"job": "b:v0"})
    item = await submit(world, {"job": "b"})
    found = await world.plane.jobs.list(world.me, None, "demo")
    assert [(each.collection.name, each.version_count) for each in found] == [("b", 2), ("a", 1)]
    assert found[0].last_item.id == item.id
    assert found[1].last_item is None
    counts = [await world.plane.jobs.item_count(world.me, each.collection) for each in found]
    assert counts == [2, 0]
    assert found[0].latest.summary == f"{GIT['git']['remote']} at c0ffeec0ffee"
    versions = await world.plane.jobs.versions(world.me, None, "demo", "b")
    assert [(each.artifact.version, each.artifact.aliases) for each in versions] == [
        (1, ("best", "latest")),
        (0, ()),
    ]
    version = await world.plane.jobs.get(world.me, f"{world.me.default_entity}/demo/b:best")
    assert version.artifact.version == 1


async def test_a_job_that_cannot_be_read_is_shown_and_not_launched(world):
    files = entries("x")
    uploads = world.plane.uploads
    artifact = await uploads.create(world.me, wanted("j", files, type=JOB_TYPE))
    await store(world, files)
    await uploads.commit(world.me, artifact.id, files, (None, "It is broken."))
    (found,) = await world.plane.jobs.list(world.me, None, "demo")
    assert (found.latest.source_type, found.latest.summary) == (None, "It is broken.")
    with pytest.raises(InvalidInputError, match=r"cannot be read\. It is broken\."):
        await submit(world, {"job": "j"})
