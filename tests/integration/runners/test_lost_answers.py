"""The connection to the engine breaks around a call: the runner finds out what happened."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.ports.runner import NeverStarted, Started, StartUnknown, WorkloadState
from agent.runners.docker import runner as docker_runner
from agent.testing.runner_suite import Scenario, bare, ended, first_piece, launched, leased_again
from tests.contract.runner_drivers import DockerDriver
from tests.infrastructure.engine import Engine

pytestmark = pytest.mark.docker


class CuttingProxy:
    """A socket in front of the engine's; it can break the connection of one request."""

    def __init__(self, engine: str, socket: Path) -> None:
        self._engine = engine.removeprefix("unix://")
        self.socket = socket
        #: Part of the request line that is cut, and `request`: drop it; `answer`: pass it on and
        #: drop its answer.
        self._cut: tuple[bytes, str] | None = None
        #: What happens before the client sees that the connection broke.
        self._meanwhile: Callable[[], Awaitable[object]] | None = None
        self.happened = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    def cut(
        self, call: str, what: str, meanwhile: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        self._cut, self._meanwhile = (call.encode(), what), meanwhile
        self.happened.clear()

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
        try:
            engine_reader, engine_writer = await asyncio.open_unix_connection(self._engine)
        except OSError:
            writer.close()
            return
        self._open |= {writer, engine_writer}
        back = asyncio.create_task(self._copy(engine_reader, writer))
        try:
            with suppress(OSError):
                while data := await reader.read(65536):
                    if self._cut is not None and self._cut[0] in data.split(b"\r\n")[0]:
                        back.cancel()
                        await asyncio.wait({back})
                        await self._break(data, engine_reader, engine_writer)
                        break
                    engine_writer.write(data)
        finally:
            back.cancel()
            await asyncio.wait({back})
            for each in (writer, engine_writer):
                each.close()
                self._open.discard(each)

    async def _break(
        self, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        assert self._cut is not None
        what, self._cut = self._cut[1], None
        if what == "answer":
            writer.write(data)
            await reader.read(65536)
        if self._meanwhile is not None:
            await self._meanwhile()
        self.happened.set()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


@pytest.fixture
async def proxy(engine: Engine, tmp_path: Path) -> AsyncIterator[CuttingProxy]:
    proxy = CuttingProxy(engine.host, tmp_path / "engine.sock")
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def driver(own: DockerDriver, proxy: CuttingProxy) -> DockerDriver:
    own.config = own.config.model_copy(update={"host": f"unix://{proxy.socket}"})
    return own


@pytest.fixture(params=["engine stays", "engine is killed"])
def meanwhile(
    request: pytest.FixtureRequest, engine: Engine
) -> Callable[[], Awaitable[object]] | None:
    def killed() -> None:
        engine.daemon.stop(signal.SIGKILL)
        engine.start()

    return None if request.param == "engine stays" else lambda: asyncio.to_thread(killed)


LOST = pytest.mark.parametrize("lost", ["request", "answer"])
SAME_AGENT = pytest.mark.parametrize("same_agent", [True, False])


async def until_cut_then_dead(call: Awaitable[object], proxy: CuttingProxy) -> None:
    """The agent dies as soon as the connection broke."""
    calling = asyncio.ensure_future(call)
    await proxy.happened.wait()
    calling.cancel()
    await asyncio.wait({calling})


@LOST
@SAME_AGENT
async def test_create(
    driver: DockerDriver,
    proxy: CuttingProxy,
    meanwhile: Callable[[], Awaitable[object]] | None,
    lost: str,
    *,
    same_agent: bool,
) -> None:
    """Nothing ran, so nothing is lost and nothing is left."""
    request = driver.request(Scenario(b"ran\n", exit_code=3))
    runner = driver.runner()
    await runner._process.stream()
    proxy.cut(f"/containers/create?name={request.name}", lost, meanwhile)
    if same_agent:
        created = await runner.create(request)
    else:
        await until_cut_then_dead(runner.create(request), proxy)
        runner, request = driver.runner(), leased_again(request)
        created = await runner.create(request)
    assert (created.state, created.lease) == (WorkloadState.CREATED, request.lease)
    assert [one.id for one in await runner.owned()] == [created.id]
    result = await runner.start(created)
    assert isinstance(result, Started)
    assert bare(await ended(runner, result.workload)).exit_code == 3


@LOST
@SAME_AGENT
async def test_start(
    driver: DockerDriver,
    proxy: CuttingProxy,
    meanwhile: Callable[[], Awaitable[object]] | None,
    lost: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    same_agent: bool,
) -> None:
    """It is sent once; what the job itself writes says how often it ran."""
    monkeypatch.setattr(docker_runner, "_START_PAUSE", 0.05)
    request, folder = driver.tracing("item", "echo >> /scene/trace; exit 3")
    trace = folder / "trace"
    runner = driver.runner()
    created = await runner.create(request)
    proxy.cut(f"/containers/{created.id}/start", lost, meanwhile)
    if same_agent:
        result = await runner.start(created)
    else:
        await until_cut_then_dead(runner.start(created), proxy)
        runner = driver.runner()
        result = await runner.settle(created)
    assert isinstance(result, Started if lost == "answer" else StartUnknown)
    if isinstance(result, Started):
        ending = bare(await ended(runner, result.workload))
        assert ending.cause is Cause.LOST_ENGINE if meanwhile else ending.exit_code == 3
    await runner.destroy(created)
    assert (trace.exists() and trace.read_text()) == ("\n" if lost == "answer" else False)


@LOST
async def test_stop(
    driver: DockerDriver,
    proxy: CuttingProxy,
    meanwhile: Callable[[], Awaitable[object]] | None,
    lost: str,
) -> None:
    """The caller repeats it until it succeeds; an ended job is stopped, too."""
    runner = driver.runner()
    workload = await launched(runner, driver.request(Scenario(b"up\n", waits=True)))
    await first_piece(runner, workload)
    proxy.cut(f"/containers/{workload.id}/stop", lost, meanwhile)
    with suppress(JobError):
        await runner.stop(workload, 5)
    await driver.runner().stop(workload, 5)
    found = await runner.find(workload.name)
    assert found is not None
    assert found.state is WorkloadState.EXITED
    await ended(runner, workload)


@LOST
async def test_destroy(
    driver: DockerDriver,
    proxy: CuttingProxy,
    meanwhile: Callable[[], Awaitable[object]] | None,
    lost: str,
) -> None:
    runner = driver.runner()
    workload = await launched(runner, driver.request(Scenario()))
    await ended(runner, workload)
    proxy.cut(f"DELETE /containers/{workload.id}", lost, meanwhile)
    await runner.destroy(workload)
    assert proxy.happened.is_set()
    assert await runner.owned() == []


@pytest.mark.parametrize("call", ["/json", "/logs"])
@LOST
async def test_reading(driver: DockerDriver, proxy: CuttingProxy, call: str, lost: str) -> None:
    """Inspecting and reading the log change nothing, and are repeated."""
    runner = driver.runner()
    workload = await launched(runner, driver.request(Scenario(b"up\n", exit_code=3, waits=True)))
    proxy.cut(f"/containers/{workload.id}{call}", lost)
    reading = asyncio.create_task(first_piece(runner, workload))
    await driver.release(workload.name)
    assert bare(await ended(runner, workload)).exit_code == 3
    assert (await reading).data == b"up\n"


async def test_a_start_whose_answer_is_lost_is_found(
    driver: DockerDriver, proxy: CuttingProxy
) -> None:
    runner = driver.runner()
    created = await runner.create(driver.request(Scenario(b"once\n")))
    proxy.cut("/start ", "answer")
    result = await runner.start(created)
    assert isinstance(result, Started)
    assert (await ended(runner, result.workload)).exit_code == 0
    assert await driver.starts(created.name) == 1


async def test_a_start_that_may_have_arrived_is_unknown_and_not_repeated(
    driver: DockerDriver, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_runner, "_START_PAUSE", 0.05)
    runner = driver.runner()
    created = await runner.create(driver.request(Scenario()))
    proxy.cut("/start ", "request")
    result = await runner.start(created)
    assert isinstance(result, StartUnknown)
    assert result.cause is Cause.LOST_ENGINE
    assert "may have been started" in result.message
    assert await driver.starts(created.name) == 0


async def test_a_start_of_an_earlier_agent_that_the_engine_does_not_show_is_unknown(
    driver: DockerDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_runner, "_START_PAUSE", 0.05)
    created = await driver.runner().create(driver.request(Scenario()))
    result = await driver.runner().settle(created)
    assert isinstance(result, StartUnknown)
    assert await driver.starts(created.name) == 0


async def test_a_refusal_that_the_earlier_agent_did_not_hear_is_told(driver: DockerDriver) -> None:
    """A container without the engine's init, which would hide that it cannot be started."""
    request = driver.request(Scenario())
    body = {"Image": driver.image.reference, "Cmd": ["/no/such"], "Labels": request.labels}
    driver.client.create_container_from_config(body, request.name)
    created = await driver.runner().find(request.name)
    assert created is not None
    refused = await driver.runner().start(created)
    result = await driver.runner().settle(created)
    for each in (refused, result):
        assert isinstance(each, NeverStarted)
        assert isinstance(each.error, JobError)
        assert each.error.cause is Cause.START_ENTRYPOINT


async def test_a_start_that_was_never_sent_waits_for_the_engine(
    driver: DockerDriver, proxy: CuttingProxy
) -> None:
    runner = driver.runner()
    created = await runner.create(driver.request(Scenario()))
    await proxy.stop()
    starting = asyncio.create_task(runner.start(created))
    await asyncio.sleep(0.1)
    await proxy.start()
    result = await starting
    assert isinstance(result, Started)
    assert await driver.starts(created.name) == 1


async def test_a_start_that_could_not_be_sent_never_happened(
    driver: DockerDriver, proxy: CuttingProxy
) -> None:
    runner = driver.runner(outage_timeout=0.2)
    created = await runner.create(driver.request(Scenario()))
    await proxy.stop()
    result = await runner.start(created)
    assert isinstance(result, NeverStarted)
    assert isinstance(result.error, JobError)
    assert result.error.cause is Cause.START_FAILED
    assert await driver.starts(created.name) == 0
