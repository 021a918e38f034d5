"""The daemon: starts, supervises its loops by name, and leaves in two levels.

Life cycle of `AgentDaemon.run`: open the journal → register → open engines → adopt what
was left → claim. It returns once everything has ended; a second call is not meant.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from agent.config.agent import HealthConfig
from agent.config.execution import JobSecret, MountConfig
from agent.daemon.attempts import Attempts
from agent.daemon.capacity import Ledger
from agent.daemon.claim import ClaimLoop, Floor
from agent.daemon.commands import CommandLoop
from agent.daemon.engines import EngineWatch
from agent.daemon.health import Vitals, serving
from agent.daemon.heartbeat import HeartbeatLoop
from agent.daemon.journal import Journal
from agent.daemon.leaving import EXIT_CODES, Leave, Leaving
from agent.daemon.notify import Notifier
from agent.daemon.prune import AttemptFolders, PruneLoop, Pruner
from agent.daemon.recover import Recovery
from agent.daemon.tally import Tally
from agent.model.protocol import AgentRegistration, RegisteredAgent
from agent.pipeline.build import Builds
from agent.pipeline.cancellation import CancelReason, cancel_task, race
from agent.pipeline.dependencies import Backend, Dependencies, Limits, Sources
from agent.pipeline.retry import Sleep
from agent.ports.queue import QueuePort

#: Seconds that attempts get to detach, and that stopped jobs get beyond their grace.
_DETACH: Final = 10.0
_AFTER_GRACE: Final = 30.0
_GOODBYE: Final = 3.0


@dataclass(frozen=True, slots=True)
class Workshop:
    """What is opened once the control plane is known, since labels name it."""

    backends: Mapping[str, Backend]
    pruners: Sequence[Pruner] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says about the daemon itself; durations in seconds."""

    state_dir: Path
    #: What the first SIGTERM means for running jobs.
    on_stop: Literal["wait", "detach"] = "detach"
    limits: Limits = field(default_factory=Limits)
    build_timeout: float = 3600.0
    build_concurrency: int = 2
    #: Bytes that must be free on the state folder's disk.
    min_free_disk: int = 0
    prune_interval: float = 600.0
    #: Journal entries of attempts that are over.
    keep_attempts: float = 7 * 86400.0
    secrets: Mapping[str, JobSecret] = field(default_factory=dict, repr=False)
    mounts: Mapping[str, MountConfig] = field(default_factory=dict)
    health: HealthConfig = field(default_factory=HealthConfig)


@dataclass(frozen=True, slots=True)
class _Running:
    """The parts of a daemon that has registered."""

    welcome: RegisteredAgent
    attempts: Attempts
    ledger: Ledger
    engines: EngineWatch
    heartbeat: HeartbeatLoop
    claims: ClaimLoop
    recovery: Recovery
    pruning: PruneLoop
    tally: Tally


class AgentDaemon:
    """One process of one installation.

    `hello.identity` comes from `agent.daemon.identity.held_state_dir`, which the caller
    holds around `run`. `open_workshop` is called once, after registration. `on_ready` is
    called when the first claim is about to wait.
    """

    def __init__(
        self,
        *,
        queue: QueuePort,
        hello: AgentRegistration,
        open_workshop: Callable[[RegisteredAgent], Awaitable[Workshop]],
        sources: Sources,
        settings: Settings,
        executor: Executor,
        notifier: Notifier | None = None,
        on_ready: Callable[[RegisteredAgent], None] = lambda _: None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._queue = queue
        self._hello = hello
        self._open_workshop = open_workshop
        self._sources = sources
        self._settings = settings
        self._executor = executor
        self._notifier = notifier or Notifier()
        self._on_ready = on_ready
        self._sleep = sleep
        self._leaving = Leaving(settings.on_stop)

    def stop(self) -> None:
        """Ask to leave, as SIGTERM does; twice stops the jobs, too. Legal before `run`."""
        self._leaving.ask()

    async def run(self) -> int:
        """Work until asked to leave; the exit code of the process.

        Raises:
            LaunchError: it cannot begin; the message says why.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(self._leaving.signals())
            journal = await Journal.open(self._settings.state_dir / "journal.db")
            stack.push_async_callback(journal.close)
            running = await race(self._begin(journal), self._leaving.wanted())
            if running is None:
                return EXIT_CODES[await self._leaving.wanted()]
            structlog.contextvars.bind_contextvars(agent=running.welcome.agent_name)
            vitals = Vitals(
                running.attempts, running.ledger, running.engines, running.heartbeat,
                running.tally, running.welcome.lease_seconds,
            )  # fmt: skip
            await stack.enter_async_context(serving(self._settings.health, vitals))
            return await self._work(running)

    async def _begin(self, journal: Journal) -> _Running:
        welcome = await self._queue.register(self._hello)
        workshop = await self._open_workshop(welcome)
        tally, ledger = Tally(), Ledger(self._hello.capacity)
        dependencies = self._dependencies(welcome, workshop, journal, tally)
        attempts = Attempts(dependencies, ledger)
        attempts.hold(welcome.held)
        recovery = Recovery(
            self._queue, journal, workshop.backends, attempts,
            grace=self._settings.limits.grace, sleep=self._sleep,
        )  # fmt: skip
        heartbeat = self._heartbeat(welcome, attempts)
        engines = EngineWatch(
            workshop.backends,
            heartbeat.conditions,
            narrow=welcome.narrows_claims,
            sleep=self._sleep,
        )
        return _Running(
            welcome=welcome,
            attempts=attempts,
            ledger=ledger,
            engines=engines,
            heartbeat=heartbeat,
            claims=self._claims(welcome, attempts, ledger, engines, heartbeat),
            recovery=recovery,
            pruning=self._pruning(workshop, recovery, journal, attempts),
            tally=tally,
        )

    async def _work(self, running: _Running) -> int:
        loops = {
            "heartbeat": self._supervised("heartbeat", running.heartbeat.run()),
            "watchdog": self._supervised("watchdog", self._notifier.watch()),
            "work": self._supervised("work", self._adopt_then_claim(running)),
            "engines": self._supervised("engines", running.engines.run()),
            "prune": self._supervised("prune", running.pruning.run()),
        }
        if running.welcome.has_commands:
            loops["commands"] = self._supervised("commands", self._commands(running).run())
        try:
            reason = await self._leaving.wanted()
            self._notifier.stopping("leaving")
            structlog.get_logger().info("leaving", reason=reason.name.lower())
            running.heartbeat.draining = True
            for name in ("work", "engines", "prune"):
                await cancel_task(loops[name])
            await self._leave(running, reason)
            return EXIT_CODES[self._leaving.reason or reason]
        finally:
            await running.attempts.cancel()
            for loop in loops.values():
                await cancel_task(loop)

    async def _adopt_then_claim(self, running: _Running) -> None:
        await running.recovery.adopt(running.welcome.held)
        structlog.get_logger().info("ready", queues=list(self._hello.queues))
        self._notifier.ready(f"serving {', '.join(self._hello.queues)}")
        self._on_ready(running.welcome)
        await running.claims.run()

    def _supervised(self, name: str, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def watched() -> None:
            try:
                await loop
                structlog.get_logger().error("a loop ended by itself; leaving", loop=name)
            except Exception:  # noqa: BLE001 -- supervision is the last to see it
                structlog.get_logger().exception("a loop failed; leaving", loop=name)
            self._leaving.broken()

        return asyncio.create_task(watched(), name=name)

    async def _leave(self, running: _Running, reason: Leave) -> None:
        """Hand back what is not started; then what the reason says about the rest."""
        attempts = running.attempts
        if reason is Leave.SUPERSEDED:
            attempts.cancel_all(CancelReason.FENCED)
            await _at_most(_DETACH, attempts.all_ended())
            return
        detach = reason in {Leave.DETACH, Leave.BROKEN}
        attempts.cancel_all(CancelReason.DETACH if detach else CancelReason.HAND_BACK)
        await running.claims.settle()
        if detach:
            await _at_most(_DETACH, attempts.all_ended())
        else:
            await self._wait_for_jobs(attempts)
        if self._leaving.reason is not Leave.SUPERSEDED:
            await _at_most(_GOODBYE, running.heartbeat.beat("KILLED"))

    async def _wait_for_jobs(self, attempts: Attempts) -> None:
        """Until they have ended; the second level stops them."""
        if len(attempts):
            structlog.get_logger().info(
                "waiting for jobs; a second signal stops them", jobs=len(attempts)
            )
        await race(attempts.all_ended(), self._leaving.hurry())
        if not len(attempts):
            return
        superseded = self._leaving.reason is Leave.SUPERSEDED
        attempts.cancel_all(CancelReason.FENCED if superseded else CancelReason.ABORT)
        patience = self._settings.limits.grace + _AFTER_GRACE
        if not await _at_most(patience, attempts.all_ended()):
            attempts.cancel_all(CancelReason.DETACH)
            await _at_most(_DETACH, attempts.all_ended())

    def _dependencies(
        self, welcome: RegisteredAgent, workshop: Workshop, journal: Journal, tally: Tally
    ) -> Dependencies:
        settings = self._settings
        return Dependencies(
            queue=self._queue,
            backends=workshop.backends,
            sources=self._sources,
            builds=Builds(timeout=settings.build_timeout, concurrency=settings.build_concurrency),
            journal=journal,
            control_plane_id=welcome.control_plane_id,
            attempts_dir=self._attempts_dir,
            executor=self._executor,
            secrets=settings.secrets,
            mounts=settings.mounts,
            limits=settings.limits,
            observe=tally.observe,
            sleep=self._sleep,
        )

    @property
    def _attempts_dir(self) -> Path:
        return self._settings.state_dir / "attempts"

    def _heartbeat(self, welcome: RegisteredAgent, attempts: Attempts) -> HeartbeatLoop:
        return HeartbeatLoop(
            self._queue,
            attempts,
            agent_id=welcome.agent_id,
            session=self._hello.session,
            interval=welcome.heartbeat_seconds,
            commands=self._leaving.order,
            sleep=self._sleep,
        )

    def _commands(self, running: _Running) -> CommandLoop:
        return CommandLoop(
            self._queue,
            running.heartbeat.hasten,
            agent_id=running.welcome.agent_id,
            session=self._hello.session,
            sleep=self._sleep,
        )

    def _claims(
        self,
        welcome: RegisteredAgent,
        attempts: Attempts,
        ledger: Ledger,
        engines: EngineWatch,
        heartbeat: HeartbeatLoop,
    ) -> ClaimLoop:
        settings = self._settings
        return ClaimLoop(
            self._queue,
            attempts,
            ledger,
            engines,
            Floor(settings.state_dir, settings.min_free_disk, self._executor),
            heartbeat.conditions,
            agent_id=welcome.agent_id,
            session=self._hello.session,
            queues=self._hello.queues,
            sleep=self._sleep,
        )

    def _pruning(
        self, workshop: Workshop, recovery: Recovery, journal: Journal, attempts: Attempts
    ) -> PruneLoop:
        runners = [backend.runner for backend in workshop.backends.values()]
        folders = AttemptFolders(self._attempts_dir, attempts, runners, self._executor)
        return PruneLoop(
            workshop.pruners,
            recovery,
            journal,
            folders,
            interval=self._settings.prune_interval,
            keep=self._settings.keep_attempts,
            sleep=self._sleep,
        )


async def _at_most(seconds: float, work: Awaitable[Any]) -> bool:
    """Whether it ended in time; what did not is cancelled."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        return False
    return True
