"""One build per key at a time, and who it belongs to."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.model.cause import Cause
from agent.model.errors import JobError, NotFoundError, UnreachableError
from agent.model.work import CodeVersion, Image, MountedCode, Resolved, SourceTree
from agent.pipeline.build import Builds
from agent.pipeline.cancellation import AttemptCancelledError, Cancellation, CancelReason
from agent.pipeline.until_answered import retry_until_answered
from agent.ports.log import LogSink
from tests.unit.daemon.harness import FakeBuilder, FakeImages
from tests.unit.pipeline.claims import claim


class Lines:
    def __init__(self) -> None:
        self.text = b""

    async def write(self, data: bytes) -> None:
        self.text += data


def resolved(image: str | None = None, *, tree: bool = True) -> Resolved:
    return Resolved(
        claim=claim(),
        tree=SourceTree(Path("/src"), "fake") if tree else None,
        image=image,
        command=("python", "main.py"),
        args=(),
        build_context="sub",
        dockerfile="Dockerfile",
        base_image=None,
        python=None,
        environment={},
    )


async def test_a_request_names_absolute_paths() -> None:
    builder, builds = FakeBuilder(), Builds(timeout=60, concurrency=1)
    await builds.image(resolved(), builder, FakeImages(), Lines())
    (request,) = builder.requests
    assert request.context == Path("/src/sub")
    assert request.dockerfile == Path("/src/sub/Dockerfile")
    assert request.title == "people/things/a name"
    assert request.user_id == 1000


async def test_an_image_is_called_after_its_job_whatever_the_run_is_called() -> None:
    builder, builds = FakeBuilder(), Builds(timeout=60, concurrency=1)
    launched = replace(resolved(), claim=claim({"job": "people/demo/train:v3"}))
    await builds.image(launched, builder, FakeImages(), Lines())
    assert builder.requests[0].title == "people/demo/train"


async def test_equal_keys_share_one_build_and_its_log() -> None:
    builder, builds = FakeBuilder(), Builds(timeout=60, concurrency=1)
    builder.hold = asyncio.Event()
    logs = [Lines(), Lines()]
    first = asyncio.create_task(builds.image(resolved(), builder, None, logs[0]))
    await builder.reached.wait()
    second = asyncio.create_task(builds.image(resolved(), builder, None, logs[1]))
    while b"waiting for its image" not in logs[1].text:
        await asyncio.sleep(0)
    builder.hold.set()
    assert await first == await second
    assert builder.builds == 1
    again = await builds.image(resolved(), builder, None, logs[0])
    assert again.reused
    assert b"nothing to build" in logs[0].text


async def test_warnings_of_the_source_come_with_built_and_with_reused_images() -> None:
    builder, builds = FakeBuilder(), Builds(timeout=60, concurrency=1)
    builder.warnings = ("build: no packages are installed: poetry.lock is not read",)
    for reused in (False, True):
        image = await builds.image(resolved(), builder, None, Lines())
        assert (image.reused, image.warnings) == (reused, builder.warnings)


async def test_a_base_image_with_mounted_code_is_resolved_as_a_ready_image() -> None:
    """With its digest and signature; no builder is asked."""
    code = MountedCode(CodeVersion("people/things/code:v0", "0f"), ".", 1000)
    mounted = replace(resolved("base:1"), mounted_code=code)
    images = FakeImages()
    found = await Builds(timeout=60, concurrency=1).image(mounted, None, images, Lines())
    assert found.name == "base:1"
    images.error = JobError(Cause.POLICY_SOURCE, "not signed")
    with pytest.raises(JobError, match="not signed"):
        await Builds(timeout=60, concurrency=1).image(mounted, None, images, Lines())


async def test_what_only_a_registry_has_is_pulled_by_its_digest_before_it_runs() -> None:
    class Far(FakeImages):
        def __init__(self) -> None:
            super().__init__()
            self.pulled: list[str] = []

        async def resolve(self, reference: str, log: LogSink) -> Image:
            self.pulled.append(reference)
            return await super().resolve(reference, log)

    builder, builds, puller = FakeBuilder(), Builds(timeout=60, concurrency=1), Far()
    # Signatures are asked of what jobs name.
    images = FakeImages()
    images.error = JobError(Cause.POLICY_SOURCE, "not signed")
    name = "reg.example/x@sha256:" + "1" * 64
    builder.built["cafe"] = Image(name, "digest", reused=True, name="x", needs_pull=True)
    found = await builds.image(resolved(), builder, images, Lines(), puller)
    assert puller.pulled == [name]
    assert (found.reference, found.needs_pull, found.name) == (name, False, "x")
    elsewhere = await builds.image(resolved(), builder, None, Lines())
    assert elsewhere.needs_pull
    puller.error = JobError(Cause.IMAGE_AUTH, "no entry")
    with pytest.raises(JobError, match="no entry"):
        await builds.image(resolved(), builder, images, Lines(), puller)


async def test_who_leaves_does_not_take_the_build_along() -> None:
    builder, builds = FakeBuilder(), Builds(timeout=60, concurrency=1)
    builder.hold = asyncio.Event()
    log = Lines()
    first = asyncio.create_task(builds.image(resolved(), builder, None, Lines()))
    await builder.reached.wait()
    second = asyncio.create_task(builds.image(resolved(), builder, None, log))
    while not log.text:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    builder.hold.set()
    assert (await second).name == "built"
    assert builder.cancelled == 0


async def test_a_build_has_a_deadline() -> None:
    builder, builds = FakeBuilder(), Builds(timeout=0.01, concurrency=1)
    builder.hold = asyncio.Event()
    with pytest.raises(JobError) as caught:
        await builds.image(resolved(), builder, None, Lines())
    assert caught.value.cause is Cause.BUILD_TIMEOUT
    assert builder.cancelled == 1


async def test_without_a_builder_only_images_run() -> None:
    builds = Builds(timeout=60, concurrency=1)
    image = await builds.image(resolved("repo/name"), None, FakeImages(), Lines())
    assert image.name == "repo/name"
    with pytest.raises(JobError) as caught:
        await builds.image(resolved(), None, FakeImages(), Lines())
    assert caught.value.cause is Cause.BUILD_UNAVAILABLE
    with pytest.raises(JobError) as caught:
        await builds.image(resolved("x", tree=False), FakeBuilder(), None, Lines())
    assert caught.value.cause is Cause.POLICY_SPEC


async def test_a_guarded_stage_ends_before_the_recall_is_told() -> None:
    cancellation, ended = Cancellation(), asyncio.Event()

    async def stage() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    guarded = asyncio.create_task(cancellation.guard(stage()))
    await asyncio.sleep(0)
    cancellation.send(CancelReason.STOP)
    cancellation.send(CancelReason.STOP)
    with pytest.raises(AttemptCancelledError):
        await guarded
    assert ended.is_set()
    with pytest.raises(AttemptCancelledError) as caught:
        cancellation.check()
    assert caught.value.reason is CancelReason.STOP
    cancellation.send(CancelReason.FENCED)
    assert cancellation.strongest() is CancelReason.FENCED


async def test_a_stage_that_fails_fails() -> None:
    async def stage() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Cancellation().guard(stage())


async def test_insisting_ends_with_an_answer_that_would_not_change() -> None:
    answers: list[Exception] = [UnreachableError("away"), UnreachableError("away")]

    async def call() -> str:
        if answers:
            raise answers.pop()
        return "here"

    async def sleep(_: float) -> None:
        return

    assert await retry_until_answered(call, "x", sleep) == "here"
    answers.append(NotFoundError("gone"))
    with pytest.raises(NotFoundError):
        await retry_until_answered(call, "x", sleep)
