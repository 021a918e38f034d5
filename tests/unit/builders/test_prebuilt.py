"""Ready images: pinned once, pulled when they must be, and every way this fails."""

import asyncio
import json

import pytest

from agent.builders.prebuilt import PrebuiltImages, RegistryImages
from agent.docker.client import Engine
from agent.model.cause import Cause
from agent.model.errors import JobError, UnavailableError
from agent.registries.logins import DockerLogins
from agent.registries.oci import OciRegistry
from agent.testing.builder_suite import RecordingLog
from tests.unit.builders.fake_engine import DIGEST, ID, image

NAME = "shelf/tool:1"


@pytest.fixture
def ready(engine, threads, tmp_path):
    def make(pull="missing", **more):
        environment = {"DOCKER_CONFIG": str(tmp_path)}
        registry = OciRegistry([DockerLogins(environment, threads)], environment)
        return PrebuiltImages(engine, pull=pull, registry=registry, **more)

    return make


async def refused(images, name=NAME):
    with pytest.raises(JobError) as caught:
        await images.resolve(name, RecordingLog())
    return caught.value


async def test_a_local_image_is_used_as_it_is(fake, ready):
    fake.images[NAME] = image()
    found = await ready().resolve(f" {NAME} ", RecordingLog())
    assert (found.reference, found.pinned_by, found.reused) == (ID, "image-id", True)
    assert found.name == NAME
    assert fake.pulls == []


async def test_an_image_from_a_registry_is_pinned_by_its_digest(fake, ready):
    digests = [f"other/tool@{DIGEST}", f"shelf/tool@{DIGEST}"]
    fake.pulled[NAME] = image(RepoDigests=digests)
    log = RecordingLog()
    found = await ready().resolve(NAME, log)
    assert (found.reference, found.pinned_by) == (f"shelf/tool@{DIGEST}", "digest")
    assert not found.reused
    assert fake.pulls == [{"fromImage": "shelf/tool", "tag": "1"}]
    assert f"pulling {NAME}" in log.text
    assert "Status: done" in log.text


async def test_a_digest_that_is_here_is_never_pulled(fake, ready):
    fake.images[f"shelf/tool@{DIGEST}"] = image()
    found = await ready("always").resolve(f"shelf/tool:1@{DIGEST}", RecordingLog())
    assert found.reference == f"shelf/tool@{DIGEST}"
    assert fake.pulls == []


async def test_always_means_always(fake, ready):
    fake.images[NAME] = image()
    await ready("always").resolve(NAME, RecordingLog())
    assert len(fake.pulls) == 1


async def test_without_the_registry_the_local_image_serves(fake, ready):
    fake.images[NAME] = image()
    fake.lines = [{"error": "dial tcp: connection refused"}]
    log = RecordingLog()
    assert (await ready("always").resolve(NAME, log)).reference == ID
    assert "Using the image that is here." in log.text


async def test_a_refused_login_is_no_reason_to_take_the_local_one(fake, ready):
    fake.images[NAME] = image()
    fake.lines = [{"error": "unauthorized: authentication required"}]
    assert (await refused(ready("always"))).cause is Cause.IMAGE_AUTH


async def test_never_means_never(fake, ready):
    error = await refused(ready("never"))
    assert error.cause is Cause.IMAGE_NOT_FOUND
    assert "`pull` is `never`" in error.message
    assert fake.pulls == []


async def test_equal_references_are_pulled_once(fake, ready):
    fake.pulled[NAME] = image()
    fake.hanging = True
    images = ready()
    both = [asyncio.create_task(images.resolve(NAME, RecordingLog())) for _ in range(3)]
    while not fake.pulls:
        await asyncio.sleep(0.01)
    fake.hang.set()
    found = await asyncio.gather(*both)
    assert len(fake.pulls) == 1
    assert {each.reference for each in found} == {ID}
    assert images._pulls == {}


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("manifest for shelf/tool:1 not found: manifest unknown", Cause.IMAGE_NOT_FOUND),
        (
            "pull access denied for shelf/tool, repository does not exist or may require login",
            Cause.IMAGE_NOT_FOUND),
        ("unauthorized: authentication required", Cause.IMAGE_AUTH),
        ("no basic auth credentials", Cause.IMAGE_AUTH),
        ("denied: requested access to the resource is denied", Cause.IMAGE_AUTH),
        ("no matching manifest for linux/amd64 in the manifest list entries", Cause.IMAGE_PLATFORM),
        ("write /var/lib/docker/tmp: no space left on device", Cause.DISK_FULL),
        ("dial tcp 127.0.0.1:1: connect: connection refused", Cause.IMAGE_UNAVAILABLE),
        ("tls: failed to verify certificate", Cause.IMAGE_UNAVAILABLE),
    ],
)  # fmt: skip
@pytest.mark.parametrize("early", [True, False])
async def test_a_failed_pull_has_a_cause(fake, ready, words, cause, early):
    if early:
        fake.refuse["/images/create"] = (500, words)
    else:
        fake.lines = [{"error": words}]
    error = await refused(ready())
    assert error.cause is cause
    assert f"'{NAME}'" in error.message
    assert words in error.message


async def test_another_architecture_is_named_with_ours(fake, ready):
    fake.images[NAME] = image(Architecture="arm64")
    error = await refused(ready())
    assert error.cause is Cause.IMAGE_PLATFORM
    assert "is for linux/arm64" in error.message
    assert "is linux/amd64" in error.message


async def test_a_smaller_architecture_of_the_same_processor_runs(fake, ready):
    fake.images[NAME] = image(Architecture="386")
    assert (await ready().resolve(NAME, RecordingLog())).reference == ID


async def test_a_registry_that_falls_silent_is_given_up(fake, ready):
    fake.hanging = True
    error = await refused(ready(idle=0.2))
    assert error.cause is Cause.IMAGE_UNAVAILABLE
    assert "sent nothing for 0.2 s" in error.message


async def test_an_image_that_vanishes_after_its_pull_is_not_found(fake, ready):
    assert (await refused(ready())).cause is Cause.IMAGE_NOT_FOUND


async def test_an_engine_that_is_away_is_told(threads, tmp_path):
    async with Engine(f"unix://{tmp_path}/none.sock", {}) as engine:
        images = PrebuiltImages(engine, pull="missing", registry=OciRegistry([], {}))
        error = await refused(images)
    assert isinstance(error, UnavailableError)
    assert error.cause is Cause.LOST_ENGINE
    assert "does not answer" in error.message


@pytest.mark.parametrize("name", ["UPPER/case", "-x", "a b", ""])
async def test_what_is_no_reference_is_refused(ready, name):
    error = await refused(ready(), name)
    assert error.cause is Cause.SOURCE_INVALID


async def test_images_that_were_built_for_others_are_not_to_be_had_by_name(fake, ready):
    fake.images["launch.invalid/team/x:1"] = image()
    assert (await refused(ready(), "launch.invalid/team/x:1")).cause is Cause.IMAGE_NOT_FOUND


async def test_the_login_of_docker_s_configuration_is_used(fake, ready, tmp_path):
    import base64

    auth = base64.b64encode(b"me:pass-word").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"reg.example": {"auth": auth}}}))
    name = "reg.example/tool:1"
    fake.pulled[name] = image()
    await ready().resolve(name, RecordingLog())
    header = [value for key, value in fake.sent if key == "X-Registry-Auth"]
    assert json.loads(base64.urlsafe_b64decode(header[0]))["password"] == "pass-word"


@pytest.mark.filterwarnings("ignore:docker-credential-none-here not installed")
async def test_a_credential_helper_that_fails_is_told(ready, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {"reg.example": "none-here"}}))
    error = await refused(ready(), "reg.example/tool:1")
    assert error.cause is Cause.IMAGE_AUTH
    assert "credential helper" in str(error)


async def test_progress_is_a_line_every_two_seconds(fake, ready, monkeypatch):
    monkeypatch.setattr("agent.builders.prebuilt._REPORT_EVERY", 0.0)
    layer = {"status": "Downloading", "id": "a", "progressDetail": {"current": 5, "total": 10}}
    done = {"status": "Pull complete", "id": "b", "progressDetail": {}}
    fake.lines, fake.pulled = [layer, done], {NAME: image()}
    log = RecordingLog()
    await ready().resolve(NAME, log)
    assert "1 layers done, 5 B of 10 B" in log.text


class Registry:
    """A registry that answers as it is told to."""

    def __init__(self, answer):
        self.answer = answer

    async def exists(self, reference):
        if isinstance(self.answer, JobError):
            raise self.answer
        return self.answer


async def test_for_a_cluster_an_image_is_pinned_by_its_registry_alone():
    log = RecordingLog()
    found = await RegistryImages(Registry(DIGEST), None).resolve("r.example/shelf/tool:1", log)
    assert (found.reference, found.pinned_by) == (f"r.example/shelf/tool@{DIGEST}", "digest")
    assert not found.needs_pull
    assert DIGEST in log.text


async def test_what_the_registry_does_not_show_to_the_agent_is_left_to_the_nodes():
    log, refusal = RecordingLog(), JobError(Cause.IMAGE_AUTH, "it refuses the agent's login")
    found = await RegistryImages(Registry(refusal), None).resolve("r.example/tool", log)
    assert (found.reference, found.pinned_by) == ("r.example/tool", "tag")
    assert "it refuses the agent's login" in log.text


async def test_what_the_registry_has_not_is_refused_before_anything_is_created():
    images = RegistryImages(Registry(None), None)
    assert (await refused(images, "r.example/tool:9")).cause is Cause.IMAGE_NOT_FOUND
