"""A direct run: an agent in this process, which serves a queue that exists as long as the run.

So a direct run is built, started, reported and shown like any other. The control plane is the one
that commands use; where none is known, one is embedded until the run has ended, on the user's own
data folder, so that its jobs and logs are there for the next command.
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
from agent.config.choose_server import EmbeddedServer, RemoteServer, same_server
from agent.config.local_files import read_embedded
from agent.daemon.process import locked_state_folder
from agent.daemon.service import AgentDaemon
from agent.model.errors import ConflictError, InvalidInputError, LaunchError
from agent.model.names import did_you_mean
from agent.remote.retry_policy import RetryPolicy
from agent.remote.user_operations import UserOperations
from agent.system import machine

Result = TypeVar("Result")

#: Direct runs at a time on one machine; each has its own folder.
_SLOTS: Final = 64


@dataclass(frozen=True, slots=True)
class DirectRun:
    """What a direct run is submitted to."""

    api: UserOperations
    #: Deleted when the run has ended.
    queue: str
    #: Address of the control plane, and where it was found.
    url: str
    origin: str


async def run_direct(
    config: AgentConfig,
    choice: RemoteServer | EmbeddedServer,
    entity: str | None,
    resource: str | None,
    retry_policy: RetryPolicy,
    work: Callable[[DirectRun], Awaitable[Result]],
) -> Result:
    """Call `work` while an agent of this process serves a queue for it.

    The first SIGTERM or SIGINT stops the job; `work` sees its item end.

    Raises:
        LaunchError: the run cannot begin, or the agent failed.
    """
    async with AsyncExitStack() as stack:
        folder, identity = stack.enter_context(_slot(config.state_dir / "direct"))
        resources = await detect_resources(config, os.environ)
        wanted = _resource(resource, resources)
        queue = f"direct-{secrets.token_hex(6)}"
        ours = _settings(config, folder, queue, entity)
        redactor = configure_log(ours)
        threads = stack.enter_context(ThreadPoolExecutor(config.threads, thread_name_prefix="work"))
        # Any free port: no client knows the address beforehand, and the usual one may be taken.
        control = config.control.model_copy(update={"port": 0})
        server, client = await connect(
            stack, choice, control, config.state_dir,
            origin="embedded for this run", program="launch", retry_policy=retry_policy,
        )  # fmt: skip
        redactor.add(server.remote.api_key.get_secret_value())
        api = UserOperations(client, entity)
        context = BackendContext(
            ours, os.environ, threads, server.remote.url, server.control_plane, resources,
            embedded_elsewhere=_is_other_process(config.state_dir, server.remote),
        )  # fmt: skip
        await api.save_queue("CREATE", name=queue, resource=wanted)
        stack.push_async_callback(_remove_queue, api, queue)
        daemon = await make_daemon(stack, context, client, identity, redactor)
        direct = DirectRun(api, queue, server.remote.url, server.remote.origin)
        async with _running(daemon) as agent:
            return await _result_of(work(direct), agent)


def _settings(config: AgentConfig, folder: Path, queue: str, entity: str | None) -> AgentConfig:
    """The agent's configuration, changed for one run: its own folder and queue, a short log."""
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
    """The first state folder that no other direct run uses, and the agent's identity in it."""
    for number in range(_SLOTS):
        slot = folder / str(number)
        with ExitStack() as held:
            try:
                identity = held.enter_context(locked_state_folder(slot))
            except ConflictError:
                continue
            yield slot, identity
            return
    message = f"There are {_SLOTS} direct runs on this machine already."
    raise ConflictError(message, hint="Wait for one to end, or use a queue.")


def _resource(wanted: str | None, offered: tuple[str, ...]) -> str:
    if wanted is None:
        return offered[0]
    if wanted not in offered:
        message = f"A direct run is on this machine, which has no runner for `{wanted}`."
        raise InvalidInputError(message, hint=did_you_mean(wanted, offered, "resource"))
    return wanted


def _is_other_process(state_dir: Path, remote: RemoteServer) -> bool:
    """Whether the control plane is embedded in another process of this machine."""
    found = read_embedded(state_dir)
    return found is not None and found.pid != os.getpid() and same_server(found.url, remote.url)


async def _remove_queue(api: UserOperations, queue: str) -> None:
    """Delete the queue; its items stay readable. An unreachable server keeps an empty queue."""
    with suppress(LaunchError):
        await api.delete_queue(queue, force=True)


@asynccontextmanager
async def _running(daemon: AgentDaemon) -> AsyncIterator["asyncio.Task[int]"]:
    """Run the daemon while the context lasts; jobs that still run at its end are stopped."""
    task = asyncio.create_task(daemon.run(), name="direct agent")
    loop = asyncio.get_running_loop()

    def stop() -> None:
        # Both levels of shutdown: an interrupt of a direct run stops its job at once.
        daemon.stop()
        daemon.stop()

    try:
        await asyncio.sleep(0)
        # Replaces the daemon's own handlers, which wait for the jobs at the first signal.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        yield task
    finally:
        stop()
        await asyncio.gather(task, return_exceptions=True)


async def _result_of(work: Awaitable[Result], agent: "asyncio.Task[int]") -> Result:
    """The result of the work, or the failure of the agent that it depends on."""
    task: asyncio.Task[Any] = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task, agent}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            agent.result()
            # The agent was asked to stop, and the end of the item is being reported.
            await asyncio.wait({task}, timeout=10.0)
        if task.done():
            result: Result = task.result()
            return result
        message = "The run was interrupted."
        raise LaunchError(message, hint="`launch item list` shows its state.")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
