"""A user's machine in a folder: commands run there, daemons live there."""

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.config.choose_server import ServerFlags, choose_for_commands
from agent.config.load import load
from agent.remote.client import ControlPlaneClient, Endpoint
from agent.remote.retry_policy import RetryPolicy
from agent.remote.user_operations import UserOperations
from tests.e2e.harness.notify import NotifySocket

BIN = Path(sys.executable).parent
#: What a developer's shell may have and the user of these tests has not.
NOT_THE_USERS = ("WANDB_", "LAUNCH_", "PYTHONDONTWRITEBYTECODE")
#: Python's and aiohttp's warnings about our own code, and what it forgot.
WARNINGS = re.compile(
    r"^.*(?:/agent/[\w/]+\.py:\d+: \w*Warning:|was never awaited|exception was never retrieved"
    r"|Task was destroyed but it is pending|Unclosed c(?:lient session|onnector)).*$",
    re.MULTILINE,
)
READY_SECONDS = 60.0
COMMAND_SECONDS = 180.0


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


class Daemon:
    """A running `launch-agent` or `launch server`."""

    def __init__(
        self, process: asyncio.subprocess.Process, log: Path, notify: NotifySocket
    ) -> None:
        self.process = process
        self.log = log
        self.notify = notify

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    async def ready(self) -> None:
        """Wait for READY=1; if the daemon ends instead, fail with what it printed."""
        waiting = asyncio.create_task(self.notify.until("READY=1"))
        ended = asyncio.create_task(self.process.wait())
        await asyncio.wait(
            {waiting, ended}, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        is_ready = waiting.done()
        for task in (waiting, ended):
            task.cancel()
        await asyncio.gather(waiting, ended, return_exceptions=True)
        assert is_ready, f"not ready:\n{self.output()}"

    async def kill(self) -> None:
        """kill -9."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self.notify.close()

    async def terminate(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        try:
            return await asyncio.wait_for(self.process.wait(), COMMAND_SECONDS)
        finally:
            self.notify.close()


def refuse_warnings(text: str, of: str) -> None:
    """Fail on warnings about our own code."""
    found = WARNINGS.findall(text)
    assert not found, f"warnings of {of}:\n" + "\n".join(found)


class Home:
    """One user's folders, environment and configuration."""

    def __init__(self, root: Path, extra: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.config = root / "config.yaml"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(NOT_THE_USERS)}
        self.env = kept | {
            # The images of the tests are in the engine only.
            "LAUNCH_RUNNERS__LOCAL_CONTAINER__PULL": "missing",
            "HOME": str(root),
            "LAUNCH_STATE_DIR": str(root / "state"),
            "LAUNCH_DATA_DIR": str(root / "data"),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
            **(extra or {}),
        }
        #: Seconds that a command may take.
        self.timeout = COMMAND_SECONDS
        self._daemons: list[Daemon] = []

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Write the configuration file that daemons of this home are started with."""
        self.config.write_text(yaml.safe_dump(dict(settings)))

    async def launch(self, *args: str, stdin: bytes | None = None, **env: str) -> Result:
        """Run `launch …` to its end."""
        return await self.run("launch", *args, stdin=stdin, **env)

    async def run(self, *argv: str, stdin: bytes | None = None, **env: str) -> Result:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=self.env | env,
            cwd=self.root,
            stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(stdin), self.timeout)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        result = Result(process.returncode or 0, out.decode(errors="replace"), err.decode())
        refuse_warnings(result.err, " ".join(argv))
        return result

    async def item(self, item_id: str) -> dict[str, Any]:
        """What `launch item show` prints, without a process: tests ask for it again and again."""
        async with self._operations() as api:
            return await api.item(item_id)

    async def agents(self) -> list[dict[str, Any]]:
        """What `launch agent list` prints."""
        async with self._operations() as api:
            return await api.agents()

    async def items(self, limit: int = 50) -> list[dict[str, Any]]:
        """What `launch item list` prints."""
        async with self._operations() as api:
            return await api.items(limit=limit)

    @asynccontextmanager
    async def _operations(self) -> AsyncIterator[UserOperations]:
        """Of the server that commands of this home use."""
        flags = ServerFlags(None, None)
        remote = choose_for_commands(self.env, load(self.env), flags)
        endpoint = Endpoint(remote.url, remote.api_key.get_secret_value(), remote.ca_bundle)
        policy = RetryPolicy(total=30.0)
        async with ControlPlaneClient(endpoint, retry_policy=policy) as client:
            yield UserOperations(client, self.env.get("LAUNCH_ENTITY"))

    async def start(self, *argv: str, ready: bool = True, **env: str) -> Daemon:
        """Start a daemon of ours with this home's configuration, if there is one."""
        number = len(self._daemons)
        # A socket's path may have 107 characters at most; pytest's folders can be longer.
        notify = NotifySocket(Path(tempfile.mkdtemp(prefix="notify-")) / "socket")
        log = self.root / f"daemon-{number}.log"
        command = [*argv, "--config", str(self.config)] if self.config.exists() else [*argv]
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=self.env | {"NOTIFY_SOCKET": str(notify.path)} | env,
                cwd=self.root,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        daemon = Daemon(process, log, notify)
        self._daemons.append(daemon)
        if ready:
            await daemon.ready()
        return daemon

    async def close(self) -> None:
        """End every daemon of this home, gently first."""
        for daemon in self._daemons:
            if daemon.process.returncode is None:
                await daemon.kill()
            daemon.notify.close()
            daemon.notify.path.parent.rmdir()
        for daemon in self._daemons:
            refuse_warnings(daemon.output(), daemon.log.name)
