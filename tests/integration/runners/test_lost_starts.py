"""The connection to the engine breaks around a start: the runner finds out what happened."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.ports.runner import NeverStarted, Started, StartUnknown
from agent.runners.docker import runner as docker_runner
from agent.testing.runner_suite import Play, ended
from tests.contract.runner_stages import DockerStage
from tests.infrastructure.state import DockerFacts

pytestmark = pytest.mark.docker


class CuttingProxy:
    """A socket in front of the engine's; it can break the connection of one start request."""

    def __init__(self, engine: str, socket: Path) -> None:
        self._engine = engine.removeprefix("unix://")
        self.socket = socket
        #: `request`: drop the next start; `answer`: pass it on and drop its answer.
        self.cut: str | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.socket)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self.socket.unlink(missing_ok=True)
            self._server = None
        for writer in tuple(self._open):
            writer.close()
        while self._open:
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_unix_connection(self._engine)
        self._open |= {writer, engine_writer}
        back = asyncio.create_task(self._copy(engine_reader, writer))
        try:
            with suppress(OSError):
                while data := await reader.read(65536):
                    if b"/start HTTP/1.1" in data and self.cut is not None:
                        cut, self.cut = self.cut, None
                        if cut == "answer":
                            back.cancel()
                            await asyncio.wait({back})
                            engine_writer.write(data)
                            await engine_reader.read(65536)
                        break
                    engine_writer.write(data)
        finally:
            back.cancel()
            await asyncio.wait({back})
            for each in (writer, engine_writer):
                each.close()
                self._open.discard(each)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


@pytest.fixture
async def proxy(docker_engine: DockerFacts, tmp_path: Path) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(docker_engine.host, tmp_path / "engine.sock")
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def stage(
    proxy: CuttingProxy, docker_engine: DockerFacts, tmp_path: Path, threads: ThreadPoolExecutor
) -> AsyncIterator[DockerStage]:
    stage = DockerStage(tmp_path, threads, docker_engine.host, docker_engine.shell_image)
    stage.config = stage.config.model_copy(update={"host": f"unix://{proxy.socket}"})
    yield stage
    await stage.clear()


async def test_a_start_whose_answer_is_lost_is_found(
    stage: DockerStage, proxy: CuttingProxy
) -> None:
    runner = stage.runner()
    created = await runner.create(stage.request(Play(b"once\n")))
    proxy.cut = "answer"
    result = await runner.start(created)
    assert isinstance(result, Started)
    assert (await ended(runner, result.workload)).exit_code == 0
    assert await stage.starts(created.name) == 1


async def test_a_start_that_may_have_arrived_is_unknown_and_not_repeated(
    stage: DockerStage, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_runner, "_START_PAUSE", 0.05)
    runner = stage.runner()
    created = await runner.create(stage.request(Play()))
    proxy.cut = "request"
    result = await runner.start(created)
    assert isinstance(result, StartUnknown)
    assert result.cause is Cause.LOST_ENGINE
    assert "may have been started" in result.message
    assert await stage.starts(created.name) == 0


async def test_a_start_of_an_earlier_agent_that_the_engine_does_not_show_is_unknown(
    stage: DockerStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_runner, "_START_PAUSE", 0.05)
    created = await stage.runner().create(stage.request(Play()))
    result = await stage.runner().settle(created)
    assert isinstance(result, StartUnknown)
    assert await stage.starts(created.name) == 0


async def test_a_refusal_that_the_earlier_agent_did_not_hear_is_told(stage: DockerStage) -> None:
    """A container without the engine's init, which would hide that it cannot be started."""
    request = stage.request(Play())
    body = {"Image": stage.image.reference, "Cmd": ["/no/such"], "Labels": request.labels}
    stage.client.create_container_from_config(body, request.name)
    created = await stage.runner().find(request.name)
    assert created is not None
    refused = await stage.runner().start(created)
    result = await stage.runner().settle(created)
    for each in (refused, result):
        assert isinstance(each, NeverStarted)
        assert isinstance(each.error, JobError)
        assert each.error.cause is Cause.START_ENTRYPOINT


async def test_a_start_that_was_never_sent_waits_for_the_engine(
    stage: DockerStage, proxy: CuttingProxy
) -> None:
    runner = stage.runner()
    created = await runner.create(stage.request(Play()))
    await proxy.stop()
    starting = asyncio.create_task(runner.start(created))
    await asyncio.sleep(0.1)
    await proxy.start()
    result = await starting
    assert isinstance(result, Started)
    assert await stage.starts(created.name) == 1


async def test_a_start_that_could_not_be_sent_never_happened(
    stage: DockerStage, proxy: CuttingProxy
) -> None:
    runner = stage.runner(outage_timeout=0.2)
    created = await runner.create(stage.request(Play()))
    await proxy.stop()
    result = await runner.start(created)
    assert isinstance(result, NeverStarted)
    assert isinstance(result.error, JobError)
    assert result.error.cause is Cause.START_FAILED
    assert await stage.starts(created.name) == 0
