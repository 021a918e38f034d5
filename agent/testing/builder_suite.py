"""Conformance suite of `BuilderPort`, run against every builder.

A subclass gives four fixtures: `builder`; `project`, a folder that it can build without a
network; `broken`, one whose build fails; `slow`, one whose build says `started` in its log
and then takes minutes. `request_for` turns a folder into a request.
"""

import asyncio
import shutil
from pathlib import Path

import pytest

from agent.model.errors import JobError
from agent.ports.builder import BuilderPort, BuildRequest


class RecordingLog:
    """A `LogSink` that keeps everything, and can wait for a text."""

    def __init__(self) -> None:
        self.data = b""
        self._grown = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Keep it."""
        self.data += data
        self._grown.set()

    @property
    def text(self) -> str:
        """What was written."""
        return self.data.decode("utf-8", "replace")

    async def shows(self, text: str) -> None:
        """Return as soon as the text was written."""
        while text not in self.text:
            self._grown.clear()
            await self._grown.wait()


class BuilderSuite:
    """The cases."""

    def request_for(self, folder: Path) -> BuildRequest:
        """The request for one of the fixtures' folders."""
        raise NotImplementedError

    async def test_equal_content_elsewhere_has_the_same_key(
        self, builder: BuilderPort, project: Path, tmp_path: Path
    ) -> None:
        """Neither place nor times count."""
        # `copy`, not `copy2`: the modes stay, and the times are new.
        copy = tmp_path / "copy"
        shutil.copytree(project, copy, copy_function=shutil.copy)
        assert await builder.key(self.request_for(project)) == await builder.key(
            self.request_for(copy)
        )

    async def test_keys_are_hex_and_told_apart_by_requirements(
        self, builder: BuilderPort, project: Path
    ) -> None:
        """What is installed decides, for every builder."""
        before = await builder.key(self.request_for(project))
        (project / "requirements.txt").write_text("another==1.0\n", encoding="utf-8")
        after = await builder.key(self.request_for(project))
        assert int(before, 16)
        assert before == before.lower()
        assert before != after

    async def test_a_builder_that_works_passes_its_check(self, builder: BuilderPort) -> None:
        """The agent would claim nothing otherwise."""
        await builder.check()

    async def test_what_was_never_built_is_not_found(self, builder: BuilderPort) -> None:
        """`find` invents nothing."""
        assert await builder.find("0" * 64) is None

    async def test_what_was_built_is_found_and_the_same(
        self, builder: BuilderPort, project: Path
    ) -> None:
        """Build once, find ever after."""
        request, log = self.request_for(project), RecordingLog()
        key = await builder.key(request)
        built = await builder.build(request, key, log)
        found = await builder.find(key)
        assert not built.reused
        assert found is not None
        assert found.reused
        assert (found.reference, found.pinned_by) == (built.reference, built.pinned_by)
        assert built.pinned_by in {"digest", "image-id", "environment"}
        assert log.data

    async def test_a_failed_build_is_an_error_and_is_not_found(
        self, builder: BuilderPort, broken: Path
    ) -> None:
        """The error has a cause of building, and nothing half-made counts."""
        request = self.request_for(broken)
        key = await builder.key(request)
        with pytest.raises(JobError) as caught:
            await builder.build(request, key, RecordingLog())
        assert caught.value.cause.value.startswith("BUILD_")
        assert await builder.find(key) is None

    async def test_a_cancelled_build_ends_at_once_and_is_not_found(
        self, builder: BuilderPort, slow: Path
    ) -> None:
        """Its child process ends with it, and the key can be built again."""
        request, log = self.request_for(slow), RecordingLog()
        key = await builder.key(request)
        building = asyncio.create_task(builder.build(request, key, log))
        try:
            async with asyncio.timeout(60):
                await log.shows("started")
        finally:
            building.cancel()
            await asyncio.wait([building])
        assert building.cancelled()
        assert await builder.find(key) is None

    async def test_pruning_keeps_what_was_just_used(
        self, builder: BuilderPort, project: Path
    ) -> None:
        """It may be on its way to a job that has not started."""
        request = self.request_for(project)
        key = await builder.key(request)
        await builder.build(request, key, RecordingLog())
        await builder.prune(max_age=1, max_bytes=1)
        assert await builder.find(key) is not None
