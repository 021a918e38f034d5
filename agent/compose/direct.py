"""One run here and now: an agent of this process, for a queue that exists as long as the run.

It is the whole way of every other run, so that a direct run builds, starts, reports and can be
looked at like one from a queue. The control plane is the one that commands use; where none is
known, one is embedded for as long as it takes, on the user's own data folder, so that the jobs
it makes and the logs it writes are there for the next command, too.
"""

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from agent.compose.agent import connect, make_daemon
from agent.compose.backends import BackendContext, detect_resources
from agent.compose.logs import configure_log
from agent.config.agent import AgentConfig, HealthConfig
from agent.config.credentials import read_embedded
from agent.config.load import Loaded
from agent.config.server import EmbeddedServer, RemoteServer, same_server
from agent.daemon.service import AgentDaemon
from agent.daemon.state_folder import locked_state_folder
from agent.model.errors import ConflictError, InvalidInputError, LaunchError
from agent.model.names import did_you_mean
from agent.remote.console import Console
from agent.system import machine

Result = TypeVar("Result")

#: Direct runs at a time on one machine; each has a folder of its own.
_SLOTS: Final = 64


@dataclass(frozen=True, slots=True)
class Here:
    """Where a direct run takes place."""

    console: Console
    #: Exists until the run has ended.
    queue: str
    #: Address of the control plane, and where it was found.
    url: str
    origin: str


def run_direct(
    loaded: Loaded,
    choice: RemoteServer | EmbeddedServer,
    entity: str | None,
    resource: str | None,
    work: Callable[[Here], Awaitable[Result]],
) -> Result:
    """Call `work` while an agent of this process serves a queue of its own.

    The first SIGTERM or SIGINT stops what runs; `work` sees its item end.

    Raises:
        LaunchError: it cannot begin, or the agent broke; the message says why.
    """
    return asyncio.run(_run_direct(loaded.config, choice, entity, resource, work))


async def _run_direct(
    config: AgentConfig,
    choice: RemoteServer | EmbeddedServer,
    entity: str | None,
    resource: str | None,
    work: Callable[[Here], Awaitable[Result]],
) -> Result:
    async with AsyncExitStack() as stack:
        folder, identity = stack.enter_context(_slot(config.state_dir / "direct"))
        resources = await detect_resources(config, os.environ)
        wanted = _resource(resource, resources)
        queue = f"direct-{secrets.token_hex(6)}"
        ours = _settings(config, folder, queue, entity)
        redactor = configure_log(ours)
        workers = config.runners.local_container.threads
        threads = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="work"))
        # Nobody knows an embedded one's address beforehand, and its usual port may be another
        # user's.
        control = config.control.model_copy(update={"port": 0})
        far = await connect(
            stack, choice, control, config.state_dir,
            origin="embedded for this run", program="launch",
        )  # fmt: skip
        redactor.add(far.remote.api_key.get_secret_value())
        console = Console(far.client, entity)
        context = BackendContext(
            ours, os.environ, threads, far.remote.url, far.control_plane, resources,
            embedded_elsewhere=_is_neighbour(config.state_dir, far.remote),
        )  # fmt: skip
        await console.save_queue("CREATE", name=queue, resource=wanted)
        stack.push_async_callback(_remove_queue, console, queue)
        daemon = await make_daemon(stack, context, far.client, identity)
        here = Here(console, queue, far.remote.url, far.remote.origin)
        async with _working(daemon) as broken:
            return await _unless(broken, work(here))


def _settings(config: AgentConfig, folder: Path, queue: str, entity: str | None) -> AgentConfig:
    """The agent's configuration as it is, but for one run, quietly and aside from others."""
    quiet = config.log.model_copy(update={"level": "warning"})
    return config.model_copy(
        update={
            "state_dir": folder,
            "queues": (queue,),
            "entity": entity,
            "max_jobs": 1,
            "name": f"{machine.host_name()}-direct-{folder.name}",
            "on_stop": "wait",
            "health": HealthConfig(),
            "log": config.log if config.verbosity else quiet,
        }
    )


@contextmanager
def _slot(folder: Path) -> Iterator[tuple[Path, str]]:
    """The first state folder that no other direct run holds, and its identity."""
    for number in range(_SLOTS):
        slot = folder / str(number)
        with ExitStack() as held:
            try:
                identity = held.enter_context(locked_state_folder(slot))
            except ConflictError:
                continue
            yield slot, identity
            return
    message = f"{_SLOTS} direct runs are going on on this machine."
    raise ConflictError(message, hint="Wait for one to end, or use a queue.")


def _resource(wanted: str | None, offered: tuple[str, ...]) -> str:
    if wanted is None:
        return offered[0]
    if wanted not in offered:
        message = f"This machine cannot run `{wanted}`; a direct run takes place here."
        raise InvalidInputError(message, hint=did_you_mean(wanted, offered, "resource"))
    return wanted


def _is_neighbour(state_dir: Path, remote: RemoteServer) -> bool:
    """Whether the plane is embedded in another process of this machine."""
    found = read_embedded(state_dir)
    return found is not None and found.pid != os.getpid() and same_server(found.url, remote.url)


async def _remove_queue(console: Console, queue: str) -> None:
    """Its items stay readable. A plane that went away keeps an empty queue, no more."""
    with suppress(LaunchError):
        await console.delete_queue(queue, force=True)


@asynccontextmanager
async def _working(daemon: AgentDaemon) -> AsyncIterator["asyncio.Task[int]"]:
    """The daemon at work; on leaving, what still runs is stopped."""
    task = asyncio.create_task(daemon.run(), name="direct agent")
    loop = asyncio.get_running_loop()

    def stop() -> None:
        # Both levels at once: whoever interrupts a direct run wants it to end.
        daemon.stop()
        daemon.stop()

    try:
        await asyncio.sleep(0)
        # After the daemon has put up its own, which knows two levels.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        yield task
    finally:
        stop()
        await asyncio.gather(task, return_exceptions=True)


async def _unless(broken: "asyncio.Task[int]", work: Awaitable[Result]) -> Result:
    """The result of the work, or the failure of the agent that it waits for."""
    doing: asyncio.Task[Any] = asyncio.ensure_future(work)
    try:
        await asyncio.wait({doing, broken}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            broken.result()
            # It left because it was asked to; the item's end is on its way.
            await asyncio.wait({doing}, timeout=10.0)
        if doing.done():
            result: Result = doing.result()
            return result
        message = "The run was interrupted."
        raise LaunchError(message, hint="`launch item list` shows what became of it.")
    finally:
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
