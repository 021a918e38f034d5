"""The engine's API: what is asked, and what its refusals become."""

import os

import pytest

from agent.builders.docker import DockerBuilder, _time, remove_abandoned
from agent.builders.image import repository
from agent.builders.image.references import NAMESPACE, EngineResolver, RegistryResolver
from agent.builders.image.repository import ImageRepository
from agent.config.execution import BuilderConfig
from agent.docker.address import DEFAULT
from agent.docker.client import Engine
from agent.docker.errors import EngineRefusedError, EngineUnavailableError
from agent.docker.images import EngineImages
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, UnavailableError
from agent.testing.builder_suite import RecordingLog
from tests.unit.builders.fake_engine import DIGEST, ID, image


class Registry:
    """A registry that holds what it is told to, and wants no login."""

    def __init__(self, **held):
        self.held = held
        self.asked = []

    async def credentials(self, repository):
        return None

    async def exists(self, reference):
        self.asked.append(reference)
        return self.held.get(reference.rpartition(":")[2])


def builder(engine, threads, tmp_path, registry=None, *, runs_on_engine=True, **config):
    return DockerBuilder(
        BuilderConfig(**config), engine, tmp_path, threads=threads, environment={},
        registry=registry or Registry(), runs_on_engine=runs_on_engine,
    )  # fmt: skip


def test_the_engine_is_the_configured_one_else_docker_s():
    assert Engine(None, {}).address.given == DEFAULT
    assert Engine(None, {"DOCKER_HOST": "tcp://h:1"}).address.given == "tcp://h:1"
    assert Engine("unix:///x", {"DOCKER_HOST": "tcp://h:1"}).address.given == "unix:///x"


async def test_closing_is_legal_at_any_time():
    engine = Engine(None, {})
    await engine.close()
    await engine.close()


def test_an_address_that_is_not_supported_is_told():
    with pytest.raises(ConfigError, match="'ssh://h' cannot be used"):
        Engine("ssh://h", {})


async def test_an_engine_that_cannot_be_reached_is_away():
    async with Engine("tcp://127.0.0.1:1", {}) as engine:
        with pytest.raises(EngineUnavailableError):
            await EngineImages(engine).platform()


async def test_an_engine_that_is_not_there_is_named_in_the_system_s_words(tmp_path):
    host = f"unix://{tmp_path}/none.sock"
    async with Engine(host, {}) as engine:
        with pytest.raises(EngineUnavailableError) as caught:
            await EngineImages(engine).platform()
    assert caught.value.detail == f"{host}: No such file or directory"


async def test_a_refusal_keeps_its_words(fake, engine):
    fake.refuse["/version"] = (500, "out of order")
    with pytest.raises(EngineRefusedError, match="out of order"):
        await EngineImages(engine).platform()
    fake.refuse["/images/x/json"] = (500, "broken")
    with pytest.raises(EngineRefusedError):
        await EngineImages(engine).inspect("x")


async def test_removing_tells_whether_it_was_possible(fake, engine):
    assert await EngineImages(engine).remove("x")
    for status, possible in ((404, False), (409, False)):
        fake.refuse["/images/x"] = (status, "conflict")
        assert await EngineImages(engine).remove("x") is possible
    fake.refuse["/images/x"] = (500, "broken")
    with pytest.raises(EngineRefusedError):
        await EngineImages(engine).remove("x")


async def test_the_build_cache_is_pruned_by_age_and_size(fake, engine, threads, tmp_path):
    made = builder(engine, threads, tmp_path)
    assert await made.prune_cache(60, 1000) == 14
    assert await made.prune_cache(0, 0) == 0
    queries = [query for _, path, query in fake.requests if path == "/build/prune"]
    assert "60s" in queries[0]["filters"]
    assert queries[1]["keep-storage"] == "1000"
    fake.refuse["/build/prune"] = (500, "x")
    assert await made.prune_cache(60, 0) == 0


KEY = "ab" * 32
TAG = f"{NAMESPACE}team/x:{KEY[:12]}"


async def test_a_label_alone_proves_nothing(fake, engine, threads, tmp_path):
    """A pulled image can carry any label, but no name in our namespace."""
    fake.listed = [{"Id": ID, "RepoTags": [f"evil/x:{KEY[:12]}"]}, {"Id": ID, "RepoTags": None}]
    fake.images[ID] = image()
    assert await builder(engine, threads, tmp_path).find(KEY) is None


async def test_finding_renews_the_last_use(fake, engine, threads, tmp_path):
    fake.listed = [{"Id": ID, "RepoTags": [TAG]}]
    fake.images[ID] = image()
    found = await builder(engine, threads, tmp_path).find(KEY)
    assert found is not None
    assert (found.reference, found.pinned_by, found.name) == (ID, "image-id", TAG)
    assert ("POST", f"/images/{ID}/tag", {"repo": TAG.rpartition(":")[0], "tag": KEY[:12]}) in (
        fake.requests
    )


async def test_a_store_with_digests_pins_by_digest(fake, engine, threads, tmp_path):
    fake.listed = [{"Id": ID, "RepoTags": [TAG]}]
    fake.images[ID] = image(RepoDigests=[f"{TAG.rpartition(':')[0]}@{DIGEST}"])
    found = await builder(engine, threads, tmp_path).find(KEY)
    assert found is not None
    assert found.pinned_by == "digest"
    assert found.reference.endswith(DIGEST)


async def test_with_a_destination_only_what_was_pushed_there_counts(
    fake, engine, threads, tmp_path
):
    fake.listed = [{"Id": ID, "RepoTags": [TAG]}]
    fake.images[ID] = image()
    registry = Registry()
    made = builder(engine, threads, tmp_path, registry, destination="reg.example/x")
    assert await made.find(KEY) is None
    assert registry.asked == [f"reg.example/x:{KEY[:40]}"]
    fake.images[ID] = image(RepoDigests=[f"reg.example/x@{DIGEST}"])
    found = await made.find(KEY)
    assert found is not None
    assert found.reference == f"reg.example/x@{DIGEST}"
    assert len(registry.asked) == 1


async def test_for_a_cluster_only_what_the_registry_has_is_found(fake, engine, threads, tmp_path):
    fake.images[ID] = image(RepoDigests=[f"reg.example/x@{DIGEST}"])
    registry = Registry()
    made = builder(
        engine, threads, tmp_path, registry, runs_on_engine=False, destination="reg.example/x"
    )
    assert await made.find(KEY) is None
    registry.held[KEY[:40]] = DIGEST
    found = await made.find(KEY)
    assert (found.reference, found.needs_pull) == (f"reg.example/x@{DIGEST}", False)


async def test_what_only_the_registry_has_is_found_there_and_to_be_pulled(
    fake, engine, threads, tmp_path
):
    registry = Registry(**{KEY[:40]: DIGEST})
    made = builder(engine, threads, tmp_path, registry, destination="reg.example/x")
    found = await made.find(KEY)
    assert (found.reference, found.needs_pull) == (f"reg.example/x@{DIGEST}", True)
    assert found.reused
    fake.images[found.reference] = image()
    assert not (await made.find(KEY)).needs_pull
    named = {"repo": f"{NAMESPACE}pulled", "tag": KEY[:12]}
    assert ("POST", f"/images/{ID}/tag", named) in fake.requests


async def test_a_destination_without_anything_to_speak_with_it_is_refused(
    engine, threads, tmp_path
):
    config = BuilderConfig(destination="reg.example/x")
    with pytest.raises(ConfigError, match="There is no client for the registry"):
        DockerBuilder(config, engine, tmp_path, threads=threads, environment={})


async def test_names_of_the_destination_go_from_here_with_the_image(
    fake, engine, threads, tmp_path
):
    """The registry keeps what was pushed: only this engine is asked to remove."""
    digest = f"reg.example/x@{DIGEST}"
    tags = [TAG, "reg.example/x:1", "reg.example/xy:1"]
    fake.listed = [{"Id": ID, "RepoTags": tags, "RepoDigests": [digest], "Size": 10}]
    fake.images[ID] = image(Metadata={"LastTagTime": "2001-01-01T00:00:00Z"})
    registry = Registry()
    made = builder(engine, threads, tmp_path, registry, destination="reg.example/x")
    assert await made.prune(60, 0) == 10
    removed = [path for method, path, _ in fake.requests if method == "DELETE"]
    assert removed == ["/images/reg.example/x:1", f"/images/{digest}", f"/images/{TAG}"]
    assert registry.asked == []


async def test_a_base_counts_by_what_every_machine_knows_it_by(fake, engine):
    """Pulled: by its digest; only in the registry: the same; made here: by its id."""
    registry = Registry(**{"3": DIGEST})
    resolver = EngineResolver(EngineImages(engine), registry)
    name = "python:3"
    assert await resolver.content(name) == DIGEST
    assert await RegistryResolver(registry).content(name) == DIGEST
    fake.images[name] = image(RepoDigests=[f"other@sha256:{'0' * 64}", f"python@{DIGEST}"])
    assert await resolver.content(name) == DIGEST
    fake.images[name] = image()
    assert await resolver.content(name) == ID
    assert registry.asked == [name] * 2


async def test_a_base_that_nobody_knows_stops_no_build(engine):
    class Shut(Registry):
        async def exists(self, reference):
            raise JobError(Cause.IMAGE_AUTH, "no entry")

    for registry in (Shut(), Registry(), None):
        resolver = EngineResolver(EngineImages(engine), registry)
        assert await resolver.content("python:3") == "unknown"


async def test_an_image_removed_meanwhile_is_not_found(fake, engine, threads, tmp_path):
    fake.listed = [{"Id": ID, "RepoTags": [TAG]}]
    made = builder(engine, threads, tmp_path)
    assert await made.find(KEY) is None
    fake.images[ID] = image()
    fake.refuse["/tag"] = (404, "gone")
    assert await made.find(KEY) is None
    fake.refuse["/tag"] = (500, "broken")
    with pytest.raises(JobError) as caught:
        await made.find(KEY)
    assert caught.value.cause is Cause.BUILD_UNAVAILABLE


async def test_an_engine_that_is_away_is_told(threads, tmp_path):
    async with Engine(f"unix://{tmp_path}/none", {}) as engine:
        made = builder(engine, threads, tmp_path)
        with pytest.raises(JobError, match="does not answer"):
            await made.find(KEY)
        assert await made.prune(1, 1) == 0
        assert await made.prune_cache(1, 1) == 0


async def test_pruning_takes_what_was_longest_unused_and_is_in_no_use(
    fake, engine, threads, tmp_path
):
    old, newer, foreign = ("sha256:" + letter * 64 for letter in "abc")
    fake.listed = [
        {"Id": old, "RepoTags": [f"{NAMESPACE}a:1", "other/name:1"], "Size": 10},
        {"Id": newer, "RepoTags": [f"{NAMESPACE}b:1"], "Size": 10},
        {"Id": foreign, "RepoTags": ["foreign:1"], "Size": 10},
    ]
    fake.images[old] = image(Metadata={"LastTagTime": "2001-01-01T00:00:00.123456789Z"})
    fake.images[newer] = image(Created="2002-01-01T00:00:00Z")
    made = builder(engine, threads, tmp_path)
    assert await made.prune(0, 15) == 10
    removed = [path for method, path, _ in fake.requests if method == "DELETE"]
    assert removed == [f"/images/{NAMESPACE}a:1"]
    fake.refuse[f"/images/{NAMESPACE}"] = (409, "a container uses it")
    assert await made.prune(60, 0) == 0


def test_what_killed_builds_left_goes_after_a_week(tmp_path):
    notes = tmp_path / "buildx" / "refs" / "default" / "default"
    notes.mkdir(parents=True)
    for name in ("old", "new"):
        (tmp_path / f"build-{name}").mkdir()
        (notes / name).write_text("{}")
    (tmp_path / "buildx" / "instances").mkdir()
    for old in (tmp_path / "build-old", notes / "old", tmp_path / "buildx" / "instances"):
        os.utime(old, (1, 1))
    remove_abandoned(tmp_path)
    remove_abandoned(tmp_path / "nowhere")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path != notes}
    assert {"build-new", "buildx/refs/default/default/new", "buildx/instances"} <= left
    assert not {"build-old", "buildx/refs/default/default/old"} & left


def test_a_time_that_cannot_be_read_counts_as_now():
    assert _time("", "now") == "now"


class FailingRegistry(Registry):
    """A registry that answers with an error."""

    def __init__(self, cause):
        super().__init__()
        self.cause = cause

    async def exists(self, reference):
        raise JobError(self.cause, f"no {reference}")


async def test_a_destination_that_does_not_answer_is_the_agent_s_trouble(engine, threads, tmp_path):
    away = FailingRegistry(Cause.IMAGE_UNAVAILABLE)
    made = builder(engine, threads, tmp_path, away, destination="reg.example/x")
    for call in (made.check(), made.find(KEY)):
        with pytest.raises(UnavailableError, match=r"no reg\.example/x:"):
            await call


async def test_a_destination_that_refuses_the_login_answers(engine, threads, tmp_path):
    strict = FailingRegistry(Cause.IMAGE_AUTH)
    made = builder(engine, threads, tmp_path, strict, destination="reg.example/x")
    await made.check()
    with pytest.raises(JobError) as caught:
        await made.find(KEY)
    assert not isinstance(caught.value, UnavailableError)


async def test_a_builder_without_destination_asks_no_registry(engine, threads, tmp_path):
    registry = FailingRegistry(Cause.IMAGE_UNAVAILABLE)
    await builder(engine, threads, tmp_path, registry).check()


async def push(fake, threads):
    async with Engine(fake.host, {}) as engine:
        return await ImageRepository("reg.example/x", Registry()).push(
            EngineImages(engine), ID, KEY, RecordingLog()
        )


async def test_a_push_gives_the_registry_s_digest(fake, threads):
    fake.lines = [{"status": "Pushed"}, {"aux": {"Digest": DIGEST}}, {"status": "end"}]
    assert await push(fake, threads) == DIGEST


async def test_the_containerd_store_tells_it_in_words(fake, threads):
    fake.lines = [{"status": f"{KEY[:40]}: digest: {DIGEST} size: 884"}]
    assert await push(fake, threads) == DIGEST


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"error": "denied"}], "cannot be pushed to reg.example/x: denied"),
        ([{"status": "Pushed"}], "the registry returned no digest"),
    ],
)
async def test_a_failed_push_is_told(fake, threads, lines, words):
    fake.lines = lines
    with pytest.raises(JobError, match=words):
        await push(fake, threads)


async def test_a_refused_or_silent_push_is_told(fake, threads, monkeypatch):
    fake.refuse["/tag"] = (500, "no such thing")
    with pytest.raises(JobError, match="no such thing"):
        await push(fake, threads)
    fake.refuse.clear()
    fake.hanging = True
    monkeypatch.setattr(repository, "_IDLE", 0.2)
    with pytest.raises(JobError, match="no progress for"):
        await push(fake, threads)
