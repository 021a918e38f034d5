"""Jobs with a uid of their own: each is a stranger to the agent and to every other job."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.builders.virtualenv import VirtualenvBuilder
from agent.config.execution import BuilderConfig, ProcessRunnerConfig
from agent.model.errors import ConflictError, JobError
from agent.ports.builder import BuildRequest
from agent.ports.runner import Workload
from agent.runners.process.folder import held_uids
from agent.runners.process.runner import ProcessRunner
from agent.system import job_users
from agent.system.job_users import JobUser, JobUsers
from agent.testing.builder_suite import RecordingLog
from agent.testing.runner_suite import ended, launched, raised, read_all
from tests.contract.runner_drivers import ProcessDriver

FIRST = 712_340


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def processes_of(uid: int) -> list[str]:
    """Zombies left out: they wait for a process that the test does not have."""
    listed = ["ps", "-o", "stat=,args=", "-u", str(uid)]
    done = subprocess.run(listed, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if not line.startswith("Z")]


class Machine:
    """An agent's state folder, its users, its runner and its builder."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor, count: int) -> None:
        self.driver = ProcessDriver(folder, threads)
        self.driver.root.mkdir()
        for path in (folder, self.driver.root):
            path.chmod(0o711)
        uids = range(FIRST, FIRST + count)
        self.users = JobUsers(None, uids, lambda: held_uids(self.driver.root), threads)
        self.runner = ProcessRunner(
            self.driver.root, self.driver.folders.control_plane_id, ProcessRunnerConfig(), threads,
            os.environ, self.users,
        )  # fmt: skip
        environment = {**os.environ, "UV_PUBLISH_TOKEN": "agents-token"}
        self.builder = VirtualenvBuilder(
            BuilderConfig(), folder / "python", threads=threads, environment=environment,
            users=self.users,
        )  # fmt: skip
        self.folder = folder

    async def run(self, item: str, script: str, **environment: str) -> Workload:
        """Start a job that runs a shell script."""
        request = self.driver.running(item, "sh", "-c", script, environment=environment)
        request.folder.mkdir(mode=0o711)
        return await launched(self.runner, request)

    async def output(self, item: str, script: str) -> str:
        """Run a job to its end and remove it; what it printed."""
        workload = await self.run(item, script)
        await ended(self.runner, workload)
        printed = await read_all(self.runner, workload)
        await self.runner.destroy(workload)
        return printed.decode()


@pytest.fixture
async def machine(open_folder: Path, threads: ThreadPoolExecutor) -> AsyncIterator[Machine]:
    made = Machine(open_folder, threads, 3)
    yield made
    for uid in range(FIRST, FIRST + 3):
        job_users.kill_all(JobUser.numbered(uid))


@pytest.fixture
def victims_marker() -> str:
    return f"victim-{uuid.uuid4().hex}"


async def test_a_job_finds_nothing_of_another(machine: Machine, victims_marker: str) -> None:
    """Its environment, its folders, its temporary files; and it cannot stop it."""
    script = (
        f"umask; echo {victims_marker} > $HOME/file; echo {victims_marker} > $TMPDIR/file; "
        f"echo {victims_marker} > /tmp/{victims_marker}; echo ready; exec sleep 600"
    )
    victim = await machine.run("victim", script, TOKEN=victims_marker)
    log = machine.driver.root / victim.name / "log"
    while "ready" not in log.read_text():
        await asyncio.sleep(0.02)
    assert log.read_text().startswith("0077")
    session = machine.driver.session(victim.name)
    places = f"/proc/[0-9]*/environ /proc/[0-9]*/fd /proc/[0-9]*/cwd/ {machine.folder} /tmp"
    found = await machine.output(
        "attacker",
        f"exec 2>/dev/null; grep -rslE 'TOKEN=victim-[0-9a-f]{{32}}' {places}; "
        f"grep -rslx {victims_marker} {places} "
        f"{machine.driver.root}/{victim.name}/home {machine.driver.root}/{victim.name}/tmp; "
        f"ls {machine.driver.root} {machine.driver.root}/{victim.name}; "
        f"kill -9 {session} && echo killed; id -u",
    )
    assert found.split() == [str(FIRST + 1)]
    assert await machine.runner.find(victim.name) is not None
    os.kill(session, 0)
    await machine.runner.destroy(victim)
    assert not Path("/tmp", victims_marker).exists()


async def test_a_job_finds_nothing_of_the_agent(machine: Machine) -> None:
    """Its environment, its files, and no descriptor besides the three of every program."""
    secret = machine.folder / "journal.db"
    secret.touch(mode=0o600)
    me = os.getpid()
    found = await machine.output(
        "curious",
        f"cat /proc/{me}/environ {secret} /etc/shadow && echo read; ls /proc/{me}/fd && echo read; "
        "ls -l /proc/self/fd | grep -c /; cat /proc/self/status | grep -E '^(Groups|CapEff)'",
    )
    lines = found.splitlines()
    assert "read" not in lines
    # The log twice, /dev/null, and the folder that is listed.
    assert "Groups:\t " in lines
    assert "CapEff:\t0000000000000000" in lines


async def test_what_leaves_its_session_ends_with_the_job(machine: Machine) -> None:
    """Also with an empty environment: the uid tells whose it is."""
    script = "env -i setsid sleep 777 & sleep 0.2; echo left"
    workload = await machine.run("forker", script)
    await ended(machine.runner, workload)
    assert processes_of(FIRST) == []
    await machine.runner.destroy(workload)


async def test_a_uid_is_one_job_s_until_that_is_removed(
    open_folder: Path, threads: ThreadPoolExecutor
) -> None:
    machine = Machine(open_folder, threads, 1)
    first = await machine.run("first", "id -u")
    await ended(machine.runner, first)
    # Another process of the agent knows it from the job's folder.
    again = Machine.__new__(Machine)
    again.__dict__ |= machine.__dict__
    again.users = JobUsers(None, [FIRST], lambda: held_uids(machine.driver.root), threads)
    again.runner = ProcessRunner(
        machine.driver.root, machine.driver.folders.control_plane_id, ProcessRunnerConfig(),
        threads, os.environ, again.users,
    )  # fmt: skip
    waiting = asyncio.create_task(again.run("second", "id -u"))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    await again.runner.destroy(first)
    second = await waiting
    await ended(again.runner, second)
    assert (await read_all(again.runner, second)).split() == [str(FIRST).encode()]
    await again.runner.destroy(second)


async def test_a_refused_job_gives_its_uid_back(
    open_folder: Path, threads: ThreadPoolExecutor
) -> None:
    machine = Machine(open_folder, threads, 1)
    closed = open_folder / "closed"
    (closed / "source").mkdir(parents=True)
    closed.chmod(0o700)
    request = machine.driver.running("closed", "true", workdir=closed / "source")
    await raised(JobError, machine.runner.create(request))
    assert (await machine.output("next", "id -u")).strip() == str(FIRST)


def test_two_agents_of_a_machine_have_no_uid_in_common(threads: ThreadPoolExecutor) -> None:
    code = (
        "from agent.system.job_users import JobUsers\n"
        f"JobUsers(None, range({FIRST}, {FIRST + 9}), tuple, None).lock()\n"
        "print('locked', flush=True); input()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ConflictError, match="Another agent"):
            JobUsers(None, range(FIRST + 8, FIRST + 12), tuple, threads).lock()
        JobUsers(None, range(FIRST + 20, FIRST + 22), tuple, threads).lock()
        other.kill()


# ------------------------------------------------------------------ the build of an environment

SETUP = """
import os, subprocess, sys
from setuptools import setup
def tried(path):
    try:
        return open(path, 'rb').read().decode('utf-8', 'replace')
    except OSError as error:
        return error.strerror
told = [str(os.getuid()), tried('/proc/{agent}/environ'), tried('{key}'), repr(dict(os.environ)),
        oct(os.umask(0o22))]
open('evil.py', 'w').write('TOLD = ' + repr(told))
subprocess.Popen(['env', '-i', 'sleep', '778'], start_new_session=True,
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
setup(name='evil', py_modules=['evil'])
"""


def request_for(source: Path, entity: str) -> BuildRequest:
    return BuildRequest(
        root=source, context=source, dockerfile=None, base_image=None, python=None, command=(),
        user_id=1000, title="t", entity=entity, queue="q", labels={},
    )  # fmt: skip


async def build(machine: Machine, source: Path, entity: str = "ann") -> Path:
    request = request_for(source, entity)
    image = await machine.builder.build(request, await machine.builder.key(request), RecordingLog())
    assert image.environment is not None
    return image.environment


@pytest.fixture
def package(machine: Machine) -> Path:
    """A source whose `setup.py` reads what it can; and the agent's key beside it."""
    key = machine.folder / "admin.key"
    key.write_text("launch-agents-key")
    key.chmod(0o600)
    source = machine.folder / "source"
    (source / "pkg").mkdir(parents=True)
    script = SETUP.replace("{agent}", str(os.getpid())).replace("{key}", str(key))
    (source / "pkg/setup.py").write_text(script)
    (source / "requirements.txt").write_text("./pkg\nsix==1.16.0\n")
    return source


async def test_build_scripts_are_the_job_s_user_and_see_nothing_of_the_agent(
    machine: Machine, package: Path
) -> None:
    venv = await build(machine, package)
    program = "import evil; print(*evil.TOLD, sep='\\n')"
    done = subprocess.run(
        [venv / "bin/python", "-c", program], capture_output=True, text=True, check=True
    )
    uid, environ, key, variables, umask = done.stdout.splitlines()
    assert (uid, environ, key) == (str(FIRST), "Permission denied", "Permission denied")
    assert umask == "0o77"
    assert "agents-token" not in variables
    assert processes_of(FIRST) == []


async def test_no_job_can_change_an_environment_a_cache_or_a_source(
    machine: Machine, package: Path
) -> None:
    """Not even the next job with the uid that built them."""
    venv = await build(machine, package)
    code = (
        f"id -u; find {venv.parent} ! -user 0; find {venv.parent} -writable -type f; "
        f"ls {package}; cat {package}/requirements.txt; "
        f"find {machine.folder}/python/uv-cache -mindepth 1; "
        f"{venv}/bin/python -c 'import six; print(six)'"
    )
    found = await machine.output("later", code + " 2>/dev/null")
    lines = [line for line in found.splitlines() if "ermission denied" not in line]
    assert lines[0] == str(FIRST)
    assert len(lines) == 2, lines
    assert "six.py" in lines[1]


async def test_entities_share_neither_environments_nor_caches(
    machine: Machine, package: Path
) -> None:
    ann = await build(machine, package, "ann")
    bob = await build(machine, package, "bob")
    assert ann != bob
    gates = [path for path in (machine.folder / "python/uv-cache").iterdir() if path.is_dir()]
    assert len(gates) == 2
    assert {path.stat().st_mode & 0o777 for path in gates} == {0o700}


def test_an_environment_with_somebody_else_s_file_is_refused(open_folder: Path) -> None:
    """A hard link could make the agent open /etc/shadow to everybody."""
    user = JobUser.numbered(FIRST)
    made = open_folder / "made"
    made.mkdir()
    theirs = made / "theirs"
    theirs.touch(mode=0o600)
    os.chown(theirs, FIRST + 1, FIRST + 1)
    with pytest.raises(PermissionError):
        job_users.take_over(made, user)
    assert theirs.stat().st_mode & 0o777 == 0o600


def test_links_are_not_followed_when_a_folder_changes_hands(open_folder: Path) -> None:
    user = JobUser.numbered(FIRST)
    agents = open_folder / "agents"
    agents.touch(mode=0o600)
    made = open_folder / "made"
    (made / "deep").mkdir(parents=True)
    (made / "deep/link").symlink_to(agents)
    user.hand_over(made)
    assert agents.stat().st_uid == 0
    assert (made / "deep/link").lstat().st_uid == FIRST
    job_users.take_over(made, user)
    assert agents.stat().st_mode & 0o777 == 0o600
