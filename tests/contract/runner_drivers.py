"""Stages of the runner suite: how each backend runs a scenario, and how to look at it."""

import json
import os
import shlex
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from docker.api.client import APIClient
from docker.errors import NotFound

from agent.config.execution import DockerRunnerConfig, MountConfig, ProcessRunnerConfig
from agent.model.capacity import Allocation
from agent.model.work import LABEL_CONTROL_PLANE, Image, Lease, workload_labels, workload_name
from agent.ports.runner import Pending, RunRequest, Workload
from agent.runners.docker.runner import DockerRunner
from agent.runners.process.runner import ProcessRunner
from agent.system.job_users import JobUser, JobUsers
from agent.testing.runner_suite import Scenario
from tests.infrastructure.scripted_runner import ScriptedEngine, ScriptedRunner

TEST_LABEL = "launch-agent-tests.runners"
ENVIRONMENT = Image("environment", "environment", reused=True)


def script_of(scenario: Scenario, folder: str) -> str:
    """The scenario for a shell; it prints a file, so that any bytes will do."""
    lines = [f"cd {shlex.quote(folder)}"]
    if scenario.ignores_term:
        lines.append("trap '' TERM")
    lines.append("cat output")
    if scenario.waits:
        lines.append("while [ ! -e go ]; do sleep 0.02; done")
    return "\n".join([*lines, f"exit {scenario.exit_code}"])


class JobFolders:
    """Folders of scenarios, one per job, and requests for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.control_plane_id = uuid.uuid4().hex[:12]

    def lay_out(self, scenario: Scenario, item: str, attempt: int) -> tuple[Lease, str, Path]:
        lease = Lease(item, attempt, 1)
        name = workload_name(self.control_plane_id, item, attempt)
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "output").write_bytes(scenario.output)
        return lease, name, folder

    def request(
        self, lease: Lease, name: str, image: Image, command: tuple[str, ...], **more: object
    ) -> RunRequest:
        labels = workload_labels(self.control_plane_id, lease)
        given = {"environment": {}, "arguments": {}, "allocation": Allocation(), "args": ()} | more
        return RunRequest(
            lease, name, labels, image, command, folder=self.root / name / "attempt", **given
        )

    def release(self, name: str) -> None:
        (self.root / name / "go").touch()


class ScriptedDriver:
    """The fake, held to the same promises."""

    refused_argument = "privileged"

    def __init__(self, root: Path) -> None:
        self.engine = ScriptedEngine(queues=True)
        self.folders = JobFolders(root)

    def runner(self) -> ScriptedRunner:
        return ScriptedRunner(self.engine, self.folders.control_plane_id)

    def request(self, scenario: Scenario, item: str = "item", attempt: int = 1) -> RunRequest:
        lease, name, _ = self.folders.lay_out(scenario, item, attempt)
        self.engine.scenarios[name] = scenario
        return self.folders.request(lease, name, Image("image", "digest", reused=True), ())

    async def release(self, name: str) -> None:
        self.engine.release(name)

    async def occupy(self, name: str) -> None:
        foreign = JobFolders(Path("unused"))
        image = Image("image", "digest", reused=True)
        request = foreign.request(Lease("theirs", 1, 1), name, image, ())
        other = ScriptedRunner(self.engine, foreign.control_plane_id)
        await other.create(request)

    async def vanish(self, workload: Workload) -> None:
        self.engine.vanish(workload.name)

    def wording(self, reason: Pending) -> str:
        return reason.message

    async def place(self, name: str) -> None:
        self.engine.place(name)

    async def preempt(self, name: str) -> None:
        self.engine.preempt(name)

    async def lose_node(self, name: str) -> None:
        self.engine.lose_node(name)

    async def starts(self, name: str) -> int:
        return self.engine.starts(name)


class ProcessDriver:
    """Local processes below a folder."""

    refused_argument = "volume"

    def __init__(self, root: Path, threads: ThreadPoolExecutor) -> None:
        self.root = root / "jobs"
        self.folders = JobFolders(root / "folders")
        self._threads = threads

    def runner(self, config: ProcessRunnerConfig | None = None) -> ProcessRunner:
        config = config or ProcessRunnerConfig()
        users = None
        if config.user is not None:
            users = JobUsers(JobUser.named(config.user), (), tuple, self._threads)
        return ProcessRunner(
            self.root, self.folders.control_plane_id, config, self._threads, os.environ, users
        )

    def request(self, scenario: Scenario, item: str = "item", attempt: int = 1) -> RunRequest:
        lease, name, folder = self.folders.lay_out(scenario, item, attempt)
        script = f"echo >> {shlex.quote(str(folder / 'starts'))}\n" + script_of(
            scenario, str(folder)
        )
        return self.folders.request(lease, name, ENVIRONMENT, ("sh", "-c", script))

    def running(self, item: str, *command: str, **more: object) -> RunRequest:
        """A request for any command."""
        lease, name, _ = self.folders.lay_out(Scenario(), item, 1)
        return self.folders.request(lease, name, ENVIRONMENT, command, **more)

    async def release(self, name: str) -> None:
        self.folders.release(name)

    async def occupy(self, name: str) -> None:
        folder = self.root / name
        folder.mkdir(parents=True)
        theirs = {"name": name, "labels": {}, "argv": ["true"], "workdir": "/", "boot": ""}
        (folder / "job.json").write_text(json.dumps(theirs))

    async def vanish(self, workload: Workload) -> None:
        os.killpg(self.session(workload.name), signal.SIGKILL)

    async def starts(self, name: str) -> int:
        path = self.folders.root / name / "starts"
        return path.read_text().count("\n") if path.exists() else 0

    def session(self, name: str) -> int:
        """Process id of a supervisor."""
        lines = (self.root / name / "status").read_text().splitlines()
        return int(dict(line.split(" ", 1) for line in lines)["pid"])

    async def clear(self) -> None:
        runner = self.runner()
        for workload in await runner.owned():
            await runner.destroy(workload)


class DockerDriver:
    """Containers of a real engine, on the host's network, which is the quickest."""

    refused_argument = "volume"

    def __init__(self, root: Path, threads: ThreadPoolExecutor, host: str, image: str) -> None:
        self.root = root
        self.client = APIClient(base_url=host, version="auto")
        self.image = Image(image, "image-id", reused=True)
        self.config = DockerRunnerConfig(host=host, host_network=True)
        self.folders = JobFolders(root / "folders")
        #: The administrator's mounts; runners see what is added.
        self.mounts: dict[str, MountConfig] = {}
        self._threads = threads
        self._runners: list[DockerRunner] = []
        self._since = int(time.time()) - 1

    def runner(
        self, config: DockerRunnerConfig | None = None, outage_timeout: float = 60.0
    ) -> DockerRunner:
        runner = DockerRunner(
            self.folders.control_plane_id,
            config or self.config,
            self._threads,
            mounts=self.mounts,
            state_dir=self.root / "marks",
            outage_timeout=outage_timeout,
        )
        self._runners.append(runner)
        return runner

    def request(self, scenario: Scenario, item: str = "item", attempt: int = 1) -> RunRequest:
        lease, name, folder = self.folders.lay_out(scenario, item, attempt)
        self.mounts[name] = MountConfig(source=folder, target="/scene", queues=("*",))
        command = ("sh", "-c", script_of(scenario, "/scene"))
        return self.folders.request(lease, name, self.image, command, mounts=(name,))

    def running(self, item: str, *command: str, **more: object) -> RunRequest:
        """A request for any command."""
        lease, name, _ = self.folders.lay_out(Scenario(), item, 1)
        return self.folders.request(lease, name, more.pop("image", self.image), command, **more)

    def tracing(self, item: str, script: str) -> tuple[RunRequest, Path]:
        """A request for a script that may write to /scene, and that folder."""
        _, name, folder = self.folders.lay_out(Scenario(), item, 1)
        self.mounts[name] = MountConfig(
            source=folder, target="/scene", queues=("*",), read_only=False
        )
        return self.running(item, "sh", "-c", script, mounts=(name,)), folder

    async def release(self, name: str) -> None:
        self.folders.release(name)

    async def occupy(self, name: str) -> None:
        theirs = {TEST_LABEL: self.folders.control_plane_id}
        config = {"Image": self.image.reference, "Cmd": ["true"], "Labels": theirs}
        self.client.create_container_from_config(config, name)

    async def vanish(self, workload: Workload) -> None:
        self.client.remove_container(workload.id, force=True)

    async def starts(self, name: str) -> int:
        return self.events(name, "start")

    def events(self, name: str, kind: str) -> int:
        """How many events of a kind the engine has seen."""
        filters = {"container": [name], "event": [kind]}
        until = int(time.time()) + 1
        found = self.client.events(since=self._since, until=until, filters=filters, decode=True)
        return sum(1 for _ in found)

    async def clear(self) -> None:
        for runner in self._runners:
            await runner.close()
        for label in (LABEL_CONTROL_PLANE, TEST_LABEL):
            wanted = [f"{label}={self.folders.control_plane_id}"]
            for found in self.client.containers(all=True, filters={"label": wanted}):
                with suppress(NotFound):
                    self.client.remove_container(found["Id"], force=True, v=True)
        self.client.close()
