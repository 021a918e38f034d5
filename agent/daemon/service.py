"""The agent daemon: starts up, supervises its background tasks, and shuts down.

`AgentDaemon.run`: open the journal → register → open the backends → adopt attempts of an
earlier process → claim. It returns when everything has ended; call it once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import Any, Final, Literal, TypeVar

import structlog

from agent.config.agent import AgentConfig
from agent.daemon.attempts import Attempts
from agent.daemon.backend_health import BackendHealth
from agent.daemon.capacity import CapacityTracker
from agent.daemon.claim import ClaimLoop
from agent.daemon.conditions import Conditions, FreeDiskCheck
from agent.daemon.health_endpoints import AgentStatus, OutcomeCounter, serve_health
from agent.daemon.heartbeat import AgentCommand, HeartbeatLoop
from agent.daemon.journal import Journal
from agent.daemon.process import SystemdNotifier, signal_handlers
from agent.daemon.pruning import PruneLoop, Pruner, prune_attempt_folders
from agent.daemon.recovery import Recovery
from agent.model.errors import LaunchError
from agent.model.protocol import AgentRegistration, RegisteredAgent
from agent.model.redact import Redactor
from agent.pipeline.build import Builds
from agent.pipeline.cancellation import CancelReason
from agent.pipeline.dependencies import AttemptTimeouts, Backend, Dependencies, Sources
from agent.ports.queue import QueuePort
from agent.system.backoff import Sleep
from agent.system.tasks import cancel_task, race

Result = TypeVar("Result")

#: Seconds that attempts get to detach from their jobs.
_DETACH: Final = 10.0
#: Seconds that stopped jobs get beyond their grace period.
_AFTER_GRACE: Final = 30.0
#: File in the state folder that says that the last process shut down in order.
_SHUT_DOWN: Final = "shut-down"
#: Seconds for the last heartbeat.
_LAST_HEARTBEAT: Final = 3.0


class ShutdownReason(Enum):
    """The first reason to shut down; it decides what happens to running jobs."""

    #: The agent waits until its jobs have ended.
    WAIT = auto()
    #: The jobs keep running, and the next process of this agent adopts them.
    DETACH = auto()
    #: A newer process of this installation has adopted the jobs already.
    SUPERSEDED = auto()
    #: A background task of the daemon ended unexpectedly; the jobs keep running, as in DETACH.
    FAILED = auto()


_EXIT_CODES: Final = {
    ShutdownReason.WAIT: 0,
    ShutdownReason.DETACH: 0,
    ShutdownReason.SUPERSEDED: 1,
    ShutdownReason.FAILED: 1,
}


class ShutdownRequest:
    """Requests to shut down, from signals, operators and failures.

    Graceful shutdown: claim no more, and release items that have not started. Forced shutdown: stop
    the running jobs, too.
    """

    def __init__(self, on_stop: Literal["wait", "detach"]) -> None:
        self._on_stop = ShutdownReason.WAIT if on_stop == "wait" else ShutdownReason.DETACH
        self.reason: ShutdownReason | None = None
        self._graceful = asyncio.Event()
        self._forced = asyncio.Event()

    def by_signal(self) -> None:
        """The first signal requests a graceful shutdown, the next one a forced shutdown."""
        if self.reason is None:
            self._request(self._on_stop)
        else:
            self._forced.set()

    def by_command(self, command: AgentCommand) -> None:
        """A command of the server, which repeats it with every heartbeat."""
        log = structlog.get_logger()
        match command:
            case "DRAIN" if self.reason is None:
                log.info("an operator asked this agent to shut down once its jobs have ended")
                self._request(ShutdownReason.WAIT)
            case "STOP" if not self._forced.is_set():
                log.info("an operator asked this agent to stop its jobs and shut down")
                self._request(ShutdownReason.WAIT)
                self._forced.set()
            case "SUPERSEDED" if self.reason is not ShutdownReason.SUPERSEDED:
                log.error("a newer process of this installation took over; shutting down")
                self.reason = ShutdownReason.SUPERSEDED
                self._graceful.set()
                self._forced.set()

    def by_failure(self) -> None:
        """A background task of the daemon ended unexpectedly."""
        self._request(ShutdownReason.FAILED)

    async def wait_graceful(self) -> ShutdownReason:
        """Wait for a request to shut down; returns its reason."""
        await self._graceful.wait()
        return self.reason or ShutdownReason.FAILED

    async def wait_forced(self) -> None:
        """Wait for a request to stop the running jobs, too."""
        await self._forced.wait()

    def _request(self, reason: ShutdownReason) -> None:
        if self.reason is None:
            self.reason = reason
            self._graceful.set()


@dataclass(frozen=True, slots=True)
class Backends:
    """The agent's backends, and what prunes their files; opened after registration (labels)."""

    #: By resource.
    backends: Mapping[str, Backend]
    pruners: Sequence[Pruner] = ()


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of a daemon that has registered."""

    agent: RegisteredAgent
    claims: ClaimLoop
    recovery: Recovery
    pruning: PruneLoop
    status: AgentStatus


class AgentDaemon:
    """One process of one installation.

    The caller holds `agent.daemon.process.locked_state_folder` around `run`; it yields
    `registration.identity`. `open_backends` is called once, after registration. `on_ready` is
    called before the first claim. `on_stop`: what the first SIGTERM means for running jobs.
    """

    def __init__(
        self,
        *,
        queue: QueuePort,
        registration: AgentRegistration,
        open_backends: Callable[[RegisteredAgent], Awaitable[Backends]],
        sources: Sources,
        config: AgentConfig,
        limits: AttemptTimeouts,
        on_stop: Literal["wait", "detach"],
        executor: Executor,
        redactor: Redactor | None = None,
        notifier: SystemdNotifier | None = None,
        on_ready: Callable[[RegisteredAgent], None] = lambda _: None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._registration = registration
        self._open_backends = open_backends
        self._sources = sources
        self._config = config
        self._limits = limits
        self._executor = executor
        self._redactor = redactor or Redactor()
        self._notifier = notifier or SystemdNotifier()
        self._on_ready = on_ready
        self._sleep = sleep
        self._shutdown = ShutdownRequest(on_stop)
        #: What earlier processes held has been decided about.
        self._recovered = asyncio.Event()

    def stop(self) -> None:
        """Request shutdown as SIGTERM does; a second call stops the jobs, too.

        It may be called before `run`.
        """
        self._shutdown.by_signal()

    async def run(self) -> int:
        """Work until shutdown is requested; returns the exit code of the process.

        Raises:
            LaunchError: it cannot start; the message says why.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(signal_handlers(self._shutdown.by_signal))
            journal = await Journal.open(self._config.state_dir / "journal.db")
            stack.push_async_callback(journal.close)
            parts = await race(self._register_and_assemble(journal), self._shutdown.wait_graceful())
            if parts is None:
                return _EXIT_CODES[await self._shutdown.wait_graceful()]
            structlog.contextvars.bind_contextvars(agent=parts.agent.agent_name)
            await stack.enter_async_context(serve_health(self._config.health, parts.status))
            return await self._supervise(parts)

    async def _register_and_assemble(self, journal: Journal) -> _Parts:
        """Register, open the backends, and connect the parts with each other."""
        config, registration, queue = self._config, self._registration, self._queue
        marker = config.state_dir / _SHUT_DOWN
        after_shutdown = await self._in_thread(marker.exists)
        agent = await queue.register(replace(registration, after_shutdown=after_shutdown))
        await self._in_thread(lambda: marker.unlink(missing_ok=True))
        opened = await self._open_backends(agent)
        backends, attempts_dir = opened.backends, config.state_dir / "attempts"
        capacity, outcomes = CapacityTracker(registration.capacity), OutcomeCounter()
        conditions = Conditions()
        health = BackendHealth(backends, conditions, self._sleep)
        dependencies = Dependencies(
            queue=queue,
            backends=backends,
            sources=self._sources,
            builds=Builds(timeout=config.builder.timeout, concurrency=config.builder.concurrency),
            journal=journal,
            backend_state=health,
            control_plane_id=agent.control_plane_id,
            attempts_dir=attempts_dir,
            executor=self._executor,
            secrets=config.secrets,
            mounts=config.mounts,
            redactor=self._redactor,
            limits=self._limits,
            observe=outcomes.observe,
            sleep=self._sleep,
        )
        attempts = Attempts(dependencies, capacity)
        attempts.keep_leases(agent.held)
        heartbeat = HeartbeatLoop(
            queue, attempts, conditions,
            agent_id=agent.agent_id, session=registration.session,
            interval=agent.heartbeat_seconds, on_command=self._shutdown.by_command,
            sleep=self._sleep,
        )  # fmt: skip
        disk = FreeDiskCheck(
            config.state_dir, config.min_free_disk, conditions, self._executor, self._sleep
        )
        claims = ClaimLoop(
            queue, attempts, capacity, health, disk,
            agent_id=agent.agent_id, session=registration.session,
            queues=registration.queues, self_scheduled=_self_scheduling_resources(backends),
            sleep=self._sleep,
        )  # fmt: skip
        recovery = Recovery(
            queue, journal, backends, attempts, grace=self._limits.grace, sleep=self._sleep
        )
        own_pruners: dict[str, Callable[[], Awaitable[None]]] = {
            "workloads of attempts that are over": recovery.remove_ended,
            "folders of attempts": partial(
                prune_attempt_folders, attempts_dir, attempts, backends, self._executor
            ),
            "journal": partial(journal.forget, config.prune.journal.max_age),
        }
        pruning = PruneLoop(
            own_pruners, opened.pruners, interval=config.prune.interval, sleep=self._sleep
        )
        status = AgentStatus(attempts, capacity, health, heartbeat, agent.lease_seconds, outcomes)
        return _Parts(agent, claims, recovery, pruning, status)

    async def _supervise(self, parts: _Parts) -> int:
        """Run the loops until shutdown is requested, then shut down."""
        loops = {
            "heartbeat": parts.status.heartbeat.run(),
            "watchdog": self._notifier.run_watchdog(),
            "claims": self._adopt_then_claim(parts),
            "adoption": self._adopt_more(parts),
            "backend health": parts.status.backends.run(),
            "pruning": parts.pruning.run(),
            "commands": parts.status.heartbeat.watch_commands(),
        }
        tasks = {name: self._supervised(name, loop) for name, loop in loops.items()}
        try:
            reason = await self._shutdown.wait_graceful()
            self._notifier.stopping("shutting down")
            structlog.get_logger().info("shutting down", reason=reason.name.lower())
            parts.status.heartbeat.draining = True
            for name in ("claims", "adoption", "backend health", "pruning"):
                await cancel_task(tasks[name])
            await self._shut_down(parts, reason)
            if self._shutdown.reason is not ShutdownReason.SUPERSEDED:
                # First, so that none of its heartbeats arrives after the last one.
                await cancel_task(tasks["heartbeat"])
                await _ends_within(_LAST_HEARTBEAT, parts.status.heartbeat.send("KILLED"))
            if reason in {ShutdownReason.WAIT, ShutdownReason.DETACH}:
                await self._in_thread((self._config.state_dir / _SHUT_DOWN).touch)
            return _EXIT_CODES[self._shutdown.reason or reason]
        finally:
            await parts.status.attempts.abandon()
            for task in tasks.values():
                await cancel_task(task)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _adopt_then_claim(self, parts: _Parts) -> None:
        await parts.recovery.adopt(parts.agent.held)
        self._recovered.set()
        queues = self._registration.queues
        structlog.get_logger().info("ready", queues=list(queues))
        self._notifier.ready(f"serving {', '.join(queues)}")
        self._on_ready(parts.agent)
        await parts.claims.run()

    async def _adopt_more(self, parts: _Parts) -> None:
        """Adopt what other agents leave while this one lives; never returns."""
        adoptable = parts.status.heartbeat.adoptable
        while True:
            await adoptable.wait()
            adoptable.clear()
            await self._recovered.wait()
            try:
                given = await self._queue.adopt(parts.agent.agent_id, self._registration.session)
            except LaunchError as error:
                # The next heartbeat asks again.
                structlog.get_logger().warning("nothing was adopted", error=str(error))
            else:
                await parts.recovery.adopt_more(given)

    def _supervised(self, name: str, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task for a loop that never returns; its end shuts the daemon down."""

        async def supervise() -> None:
            try:
                await loop
                structlog.get_logger().error(
                    "background task ended unexpectedly; shutting down", task=name
                )
            except Exception:  # noqa: BLE001 -- any failure of a task shuts the daemon down
                structlog.get_logger().exception("background task failed; shutting down", task=name)
            self._shutdown.by_failure()

        return asyncio.create_task(supervise(), name=name)

    async def _shut_down(self, parts: _Parts, reason: ShutdownReason) -> None:
        """Release items that have not started; the reason decides about running jobs."""
        attempts = parts.status.attempts
        if reason is ShutdownReason.SUPERSEDED:
            attempts.cancel_all(CancelReason.FENCED)
            await _ends_within(_DETACH, attempts.all_ended())
            return
        detach = reason in {ShutdownReason.DETACH, ShutdownReason.FAILED}
        attempts.cancel_all(CancelReason.DETACH if detach else CancelReason.RELEASE)
        await parts.claims.release_claims_of_pending_request()
        if detach:
            await _ends_within(_DETACH, attempts.all_ended())
        else:
            await self._wait_for_jobs(attempts)

    async def _wait_for_jobs(self, attempts: Attempts) -> None:
        """Wait until the jobs have ended; a forced shutdown stops them."""
        if len(attempts):
            structlog.get_logger().info(
                "waiting for jobs; a second signal stops them", jobs=len(attempts)
            )
        await race(attempts.all_ended(), self._shutdown.wait_forced())
        if not len(attempts):
            return
        superseded = self._shutdown.reason is ShutdownReason.SUPERSEDED
        attempts.cancel_all(CancelReason.FENCED if superseded else CancelReason.ABORT)
        limit = self._limits.grace + _AFTER_GRACE
        if not await _ends_within(limit, attempts.all_ended()):
            attempts.cancel_all(CancelReason.DETACH)
            await _ends_within(_DETACH, attempts.all_ended())


def _self_scheduling_resources(backends: Mapping[str, Backend]) -> tuple[str, ...]:
    """Resources whose backend schedules by itself, so that only the number of jobs is limited."""
    return tuple(name for name, one in backends.items() if one.runner.demand({}) is None)


async def _ends_within(seconds: float, work: Awaitable[Any]) -> bool:
    """Whether the work ended in time; it is cancelled otherwise."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return False
    return True
