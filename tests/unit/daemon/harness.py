"""A whole agent between a fake control plane and a scripted engine."""

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.config.agent import AgentConfig
from agent.daemon.process import SystemdNotifier
from agent.daemon.pruning import Pruner
from agent.daemon.service import AgentDaemon, Backends
from agent.model.capacity import Capacity
from agent.model.errors import UnavailableError
from agent.model.phase import Phase
from agent.model.protocol import AgentRegistration, RegisteredAgent
from agent.model.work import Image, SourceTree, workload_name
from agent.pipeline.dependencies import AttemptTimeouts, Backend, Sources
from agent.ports.builder import BuildPreview, BuildRequest
from agent.ports.log import LogSink, write_line
from agent.ports.runner import Ended
from agent.sources.git.checkout import apply_patch
from agent.system.backoff import Sleep
from tests.infrastructure.fake_item import FakeItem
from tests.infrastructure.fake_queue import CONTROL_PLANE, FakePlane, FakeQueue
from tests.infrastructure.scripted_runner import ScriptedEngine, ScriptedRunner

IMAGE_JOB = {"docker": {"docker_image": "repo/name:tag"}}
CODE_JOB = {
    "source": {"type": "artifact", "artifact": "wandb-artifact://_id/code"},
    "overrides": {"entry_point": ["python", "main.py"]},
}
GIT_JOB = {
    "source": {"type": "git", "url": "https://git.test/org/repo.git", "ref": "v1"},
    "overrides": {"entry_point": ["python", "main.py"]},
}


class FakeImages:
    """`ImagePort`: every image exists, unless `error` is set."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.reached = asyncio.Event()
        #: Calls that have begun and not ended.
        self.inside = 0
        self.entered: Callable[[], object] = lambda: None

    async def resolve(self, reference: str, log: LogSink) -> Image:
        self.inside += 1
        try:
            self.entered()
            return await self._resolve(reference)
        finally:
            self.inside -= 1

    async def _resolve(self, reference: str) -> Image:
        self.reached.set()
        if self.hold is not None:
            await self.hold.wait()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return Image(f"{reference}@sha256:1", "digest", reused=True, name=reference)


class FakeBuilder:
    """`BuilderPort` that remembers what it built."""

    name = "fake"

    def __init__(self) -> None:
        self.built: dict[str, Image] = {}
        self.builds = 0
        self.requests: list[BuildRequest] = []
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.reached = asyncio.Event()
        self.cancelled = 0
        self.checks = 0
        #: What `check` raises.
        self.unavailable: UnavailableError | None = None
        self.pruned: list[tuple[float, int]] = []
        self.warnings: tuple[str, ...] = ()

    async def preview(self, request: BuildRequest) -> BuildPreview:
        return BuildPreview(warnings=self.warnings)

    async def key(self, request: BuildRequest) -> str:
        self.requests.append(request)
        return "cafe"

    async def find(self, key: str) -> Image | None:
        return self.built.get(key)

    async def build(self, request: BuildRequest, key: str, log: LogSink) -> Image:
        self.builds += 1
        self.reached.set()
        await write_line(log, "step 1")
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        image = Image("built@sha256:2", "digest", reused=False, name="built")
        self.built[key] = image
        return image

    async def check(self) -> None:
        self.checks += 1
        if self.unavailable is not None:
            raise self.unavailable

    async def prune(self, max_age: float, max_bytes: int) -> int:
        self.pruned.append((max_age, max_bytes))
        return 2048


class FakeSource:
    """`SourcePort`: one file, or an error."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        #: Raised by the next calls, one each.
        self.errors: list[Exception] = []
        self.files = {"main.py": "print('hello')\n"}
        self.commit: str | None = None

    async def fetch(self, source: Any, entity: str, into: Path, log: LogSink) -> SourceTree:
        if self.errors:
            raise self.errors.pop()
        if self.error is not None:
            raise self.error
        for name, text in self.files.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).write_text(text)
        return SourceTree(into, f"fake:{source.type}", self.commit)


class ObservedPort:
    """A port whose calls are recorded, and at which the process can die.

    `crash` names a call around which the process dies: before it takes effect, or after. From
    then on no call of the dead process reaches anything.
    """

    def __init__(self, inner: Any, calls: "Calls", crash: "Crash | None") -> None:
        self._inner = inner
        self._calls = calls
        self._crash = crash

    def __getattr__(self, name: str) -> Any:
        thing = getattr(self._inner, name)
        if name == "watch":
            return self._watch
        if not asyncio.iscoroutinefunction(thing):
            return thing

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._crash is not None:
                await self._crash.around(name, "before")
            try:
                result = await thing(*args, **kwargs)
            except Exception:
                self._calls.failed.add(name)
                raise
            self._calls.returned.add(name)
            if self._crash is not None:
                await self._crash.around(name, "after")
            return result

        return call

    async def _watch(self, workload: Any) -> AsyncIterator[Any]:
        if self._crash is not None:
            await self._crash.around("watch", "before")
        try:
            async for progress in self._inner.watch(workload):
                if isinstance(progress, Ended):
                    self._calls.returned.add("watch")
                    if self._crash is not None:
                        await self._crash.around("watch", "after")
                yield progress
        except Exception:
            self._calls.failed.add("watch")
            raise


@dataclass
class Calls:
    """Names of the calls that returned, and of those that raised, so far."""

    returned: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


@dataclass
class Crash:
    """Where a process dies."""

    call: str
    when: str
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def around(self, call: str, when: str) -> None:
        if (call, when) == (self.call, self.when):
            self.reached.set()
        if self.reached.is_set():
            await asyncio.Event().wait()


async def scaled(seconds: float) -> None:
    """Sleep, a thousand times shorter."""
    await asyncio.sleep(seconds / 1000)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that sends no signal; the test's own timeout is the only limit."""
    while not condition():
        await asyncio.sleep(0.001)


@dataclass
class Harness:
    """Everything around one installation; `daemon` makes processes of it."""

    root: Path
    plane: FakePlane = field(default_factory=FakePlane)
    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    images: FakeImages = field(default_factory=FakeImages)
    builder: FakeBuilder = field(default_factory=FakeBuilder)
    git: FakeSource = field(default_factory=FakeSource)
    code: FakeSource = field(default_factory=FakeSource)
    capacity: Capacity = field(default_factory=lambda: Capacity(slots=4))
    on_stop: Any = "detach"
    executor: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))
    settings: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    sleep: Sleep = scaled
    limits: AttemptTimeouts = field(default_factory=lambda: AttemptTimeouts(5.0, engine=2.0))
    pruners: tuple[Pruner, ...] = ()
    backends: Callable[[dict[str, Backend]], dict[str, Backend]] = dict
    sessions: Any = field(default_factory=lambda: itertools.count(1))
    identity: str = "installation"
    last: AgentDaemon | None = None
    calls: Calls = field(default_factory=Calls)

    def name(self, item: FakeItem) -> str:
        return workload_name(CONTROL_PLANE, item.id, item.attempt)

    def daemon(
        self,
        *,
        state: Path | None = None,
        crash: Crash | None = None,
        on_ready: Callable[[RegisteredAgent], None] = lambda _: None,
    ) -> AgentDaemon:
        state_dir = state or self.root / "state"
        state_dir.mkdir(parents=True, exist_ok=True)

        async def open_backends(welcome: RegisteredAgent) -> Backends:
            runner = ScriptedRunner(self.engine, welcome.control_plane_id)
            backend = Backend(
                runner=ObservedPort(runner, self.calls, crash),
                builder=self.builder,
                images=self.images,
                job_url="http://plane.test",
            )
            return Backends(self.backends({"local-container": backend}), self.pruners)

        queue = FakeQueue(self.plane)
        self.last = AgentDaemon(
            queue=ObservedPort(queue, self.calls, crash),
            registration=AgentRegistration(
                entity="people",
                name="agent",
                hostname="host",
                version="0",
                queues=("default",),
                identity=self.identity,
                session=f"session-{next(self.sessions)}",
                backend_id="b",
                resources=("local-container",),
                capacity=self.capacity,
                config={},
            ),
            open_backends=open_backends,
            sources=Sources(git=self.git, apply_patch=apply_patch, artifact=self.code),
            config=AgentConfig.model_validate(
                {"state_dir": state_dir, "min_free_disk": 0, **self.settings}
            ),
            limits=self.limits,
            on_stop=self.on_stop,
            executor=self.executor,
            notifier=SystemdNotifier(self.environ),
            on_ready=on_ready,
            sleep=self.sleep,
        )
        return self.last

    @asynccontextmanager
    async def running(self, **given: Any) -> AsyncIterator["asyncio.Task[int]"]:
        """A process that works while the context lasts, and detaches at its end."""
        ready = asyncio.Event()
        daemon = self.daemon(on_ready=lambda _: ready.set(), **given)
        task = asyncio.create_task(daemon.run(), name="daemon")
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            task.result()
        try:
            yield task
        finally:
            if not task.done():
                daemon.stop()
                daemon.stop()
            await task

    async def die(self, crash: Crash, state: Path | None = None) -> Path:
        """Run a process into its crash; the state folder as the kernel would leave it."""
        state = state or self.root / f"state-{crash.call}-{crash.when}"
        daemon = self.daemon(state=state, crash=crash)
        task = asyncio.create_task(daemon.run(), name="doomed")
        await crash.reached.wait()
        left = self.root / f"left-{crash.call}-{crash.when}"
        shutil.copytree(state, left)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return left

    async def until_running(self, item: FakeItem) -> None:
        """The job has been started, and the plane knows."""
        await self.plane.until_phase(item, Phase.STARTED)

    async def until_over(self, item: FakeItem) -> None:
        """It has its outcome, and nothing is left of it."""
        await self.plane.until_phase(item)
        await eventually(lambda: self.name(item) not in self.engine.workloads)

    async def plane_until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the agent tells the control plane."""
        while not condition():
            await self.plane.changed()

    async def renewals(self, number: int) -> None:
        """Wait for so many further heartbeats."""
        seen = len(self.plane.statuses)
        await self.plane_until(lambda: len(self.plane.statuses) >= seen + number)

    async def until_call_failed(self, name: str) -> None:
        """A call of the agent raised."""
        await eventually(lambda: name in self.calls.failed)

    async def until_call_returned(self, name: str) -> None:
        """A call of the agent returned."""
        await eventually(lambda: name in self.calls.returned)
