"""What is particular to local processes: argv, environment, sessions, limits, users."""

import asyncio
import json
import os
import pwd
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config.execution import ProcessRunnerConfig
from agent.model.capacity import Allocation
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, PolicyError
from agent.model.work import Image
from agent.ports.runner import NeverStarted, Started, StartUnknown, WorkloadState
from agent.runners.process.processes import members
from agent.system.machine import boot_id
from agent.testing.runner_suite import (
    Scenario,
    ended,
    first_piece,
    launched,
    raised,
    read_all,
    started,
    started_before,
)
from tests.contract.runner_drivers import ProcessDriver
from tests.integration.runners.reading import read_whole

ECHO = """
import json, os, sys
print(json.dumps([[os.fsencode(a).hex() for a in sys.argv[1:]],
                  {os.fsencode(k).hex(): os.fsencode(v).hex() for k, v in os.environ.items()}]))
"""
#: Variables that a shell keeps for itself.
SHELLS_OWN = {"IFS", "OPTIND", "PPID", "PWD", "OLDPWD", "PS1", "PS2", "PS4", "_", "SHLVL"}

#: Any text without a zero byte, and bytes that are no UTF-8, as Python hands them on.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30) | st.binary(
    max_size=30
).map(lambda data: os.fsdecode(data.replace(b"\0", b"")))
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True).filter(
    lambda name: name not in SHELLS_OWN and not name.startswith(("LD_", "PYTHON", "LC_", "LANG"))
)


def hexed(text: str) -> str:
    return os.fsencode(text).hex()


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(args=st.lists(texts, max_size=6), variables=st.dictionaries(names, texts, max_size=6))
def test_argv_and_environment_arrive_byte_for_byte(
    tmp_path: Path, args: list[str], variables: dict[str, str]
) -> None:
    async def run() -> bytes:
        runner = driver.runner()
        request = driver.running(
            "echo", sys.executable, "-S", "-c", ECHO, *args, environment=variables
        )
        workload = await launched(runner, request)
        await ended(runner, workload)
        output = await read_all(runner, workload)
        await runner.destroy(workload)
        return output

    with ThreadPoolExecutor(2) as threads:
        driver = ProcessDriver(tmp_path, threads)
        seen_args, seen = json.loads(asyncio.run(run()))
    assert seen_args == [hexed(arg) for arg in args]
    wanted = {hexed(name): hexed(value) for name, value in variables.items()}
    assert wanted.items() <= seen.items()


@pytest.mark.parametrize(
    ("command", "output"),
    [(("echo", "-e", r"a\tb"), b"a\tb\n"), (("kill", "--version"), None)],
)
async def test_a_command_is_a_program_even_where_the_shell_has_one_of_that_name(
    processes: ProcessDriver, command: tuple[str, ...], output: bytes | None
) -> None:
    runner = processes.runner()
    workload = await launched(runner, processes.running("builtin", *command))
    assert (await ended(runner, workload)).exit_code == 0
    assert output in {None, await read_all(runner, workload)}


async def test_a_job_sees_few_variables_of_the_agent_and_no_device_that_it_was_not_given(
    processes: ProcessDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTS_SECRET", "x")
    monkeypatch.setenv("HANDED_ON", "y")
    runner = processes.runner(ProcessRunnerConfig(environment=("HANDED_ON",)))
    folder = Path("/opt/environment")
    request = processes.running(
        "env",
        "env",
        environment={"A": "1"},
        arguments={"env": ["A=theirs", "B=2"]},
        allocation=Allocation(gpus=("0", "2")),
    )
    image = Image("e", "environment", reused=True, environment=folder)
    workload = await launched(runner, replace(request, image=image))
    await ended(runner, workload)
    lines = (await read_all(runner, workload)).decode().splitlines()
    variables = dict(line.split("=", 1) for line in lines)
    assert "AGENTS_SECRET" not in variables
    assert variables["HANDED_ON"] == "y"
    assert (variables["A"], variables["B"]) == ("1", "2")
    assert variables["CUDA_VISIBLE_DEVICES"] == "0,2"
    assert variables["PATH"].startswith("/opt/environment/bin:")
    assert variables["VIRTUAL_ENV"] == "/opt/environment"


async def test_a_job_without_devices_sees_none(processes: ProcessDriver) -> None:
    runner = processes.runner()
    workload = await launched(
        runner, processes.running("none", "sh", "-c", 'echo "<$CUDA_VISIBLE_DEVICES>"')
    )
    await ended(runner, workload)
    assert await read_all(runner, workload) == b"<>\n"


async def test_secrets_are_readable_for_nobody_else_and_gone_after_the_start(
    processes: ProcessDriver,
) -> None:
    runner = processes.runner()
    request = processes.running("secret", "true", environment={"TOKEN": "sesame"})
    created = await runner.create(request)
    folder = processes.root / request.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "environment").stat().st_mode) == 0o600
    assert b"sesame" in (folder / "environment").read_bytes()
    await ended(runner, await started(runner, created))
    for path in folder.rglob("*"):
        assert path.is_dir() or b"sesame" not in path.read_bytes()


async def test_a_creator_that_died_half_way_is_made_good(processes: ProcessDriver) -> None:
    request = processes.running("half", "echo", "whole")
    folder = processes.root / request.name
    folder.mkdir(parents=True)
    (folder / "environment").write_bytes(b"HALF")
    runner = processes.runner()
    assert await runner.find(request.name) is None
    workload = await launched(runner, request)
    await ended(runner, workload)
    assert await read_all(runner, workload) == b"whole\n"


async def test_stop_ends_children_that_left_the_session(
    processes: ProcessDriver, tmp_path: Path
) -> None:
    script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo up; sleep 1000' & sleep 1000 & wait"
    runner = processes.runner()
    workload = await launched(runner, processes.running("fork", "sh", "-c", script))
    await first_piece(runner, workload)
    session = processes.session(workload.name)
    outside = [pid for pid in members(workload.name, None) if os.getsid(pid) != session]
    assert outside
    await runner.stop(workload, 0.2)
    assert list(members(workload.name, session)) == []
    assert (await ended(runner, workload)).exit_code == 137


async def test_children_that_a_job_leaves_behind_end_with_it(processes: ProcessDriver) -> None:
    runner = processes.runner()
    script = "sleep 1000 & exit 3"
    workload = await launched(runner, processes.running("orphan", "sh", "-c", script))
    assert (await ended(runner, workload)).exit_code == 3
    assert list(members(workload.name, processes.session(workload.name))) == []


async def test_a_suspended_job_can_be_stopped(processes: ProcessDriver) -> None:
    runner = processes.runner()
    workload = await launched(runner, processes.request(Scenario(b"up\n", waits=True)))
    await first_piece(runner, workload)
    os.killpg(processes.session(workload.name), signal.SIGSTOP)
    await runner.stop(workload, 30)
    assert (await ended(runner, workload)).exit_code == 143


async def test_an_early_stop_is_seen_by_the_supervisor(processes: ProcessDriver) -> None:
    """SIGTERM right after the start must not take the exit code away."""
    runner = processes.runner()
    for number in range(10):
        workload = await launched(runner, processes.running(f"early-{number}", "sleep", "1000"))
        await runner.stop(workload, 30)
        assert (await ended(runner, workload)).exit_code in {143, 137}


async def test_a_sigkill_is_a_signal_and_the_shell_writes_no_word_about_it(
    processes: ProcessDriver,
) -> None:
    runner = processes.runner()
    workload = await launched(runner, processes.running("kill", "sh", "-c", "kill -KILL $$"))
    ending = await ended(runner, workload)
    assert (ending.exit_code, ending.signal) == (137, 9)
    assert await read_all(runner, workload) == b""


async def test_a_start_that_was_cut_between_fence_and_fork_is_lost_not_repeated(
    processes: ProcessDriver,
) -> None:
    runner = processes.runner()
    created = await runner.create(processes.request(Scenario()))
    (processes.root / created.name / "status").write_text("start 1700000000.0\n")
    found = await started_before(runner, created)
    assert (await ended(runner, found)).cause is Cause.LOST_WORKLOAD
    assert await processes.starts(created.name) == 0


def restart_machine(processes: ProcessDriver, name: str) -> None:
    """What the runner finds in a later boot: files that name an earlier one."""
    for file in ("job.json", "status"):
        path = processes.root / name / file
        if path.exists():
            path.write_text(path.read_text().replace(boot_id(), "an-earlier-boot"))


@pytest.mark.parametrize("code", [0, 3, 143])
async def test_an_exit_code_of_an_earlier_boot_does_not_count(
    processes: ProcessDriver, code: int
) -> None:
    """The shutdown ends jobs, and one that handles SIGTERM exits with any code."""
    runner = processes.runner()
    workload = await launched(runner, processes.request(Scenario(b"out\n", exit_code=code)))
    await ended(runner, workload)
    restart_machine(processes, workload.name)
    (found,) = await processes.runner().owned()
    ending = await ended(processes.runner(), found)
    assert found.state is WorkloadState.EXITED
    assert (ending.exit_code, ending.cause) == (None, Cause.LOST_WORKLOAD)
    assert "the machine was restarted" in ending.message
    assert await read_all(processes.runner(), found) == b"out\n"


async def test_a_start_is_repeated_only_while_its_trace_cannot_be_lost(
    processes: ProcessDriver,
) -> None:
    """Without power the status file may be lost, and the job may have run for seconds."""
    same, other = (processes.request(Scenario(b"once\n"), item) for item in ("same", "other"))
    runner = processes.runner()
    created = [await runner.create(request) for request in (same, other)]
    restart_machine(processes, other.name)
    settled = [await processes.runner().settle(each) for each in created]
    assert isinstance(settled[0], Started)
    assert isinstance(settled[1], StartUnknown)
    assert "the machine was restarted" in settled[1].message
    assert (await ended(runner, settled[0].workload)).exit_code == 0
    assert [await processes.starts(each.name) for each in (same, other)] == [1, 0]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("no-such-program",), "'no-such-program' does not exist on the job's PATH"),
        (("./missing.sh",), "'./missing.sh' does not exist"),
        (("/etc/passwd",), "'/etc/passwd' cannot be executed"),
        (("/etc",), "'/etc' cannot be executed"),
    ],
)
async def test_a_command_that_cannot_run_is_named(
    processes: ProcessDriver, command: tuple[str, ...], words: str
) -> None:
    runner = processes.runner()
    created = await runner.create(processes.running("entry", *command))
    result = await runner.start(created)
    assert isinstance(result, NeverStarted)
    assert isinstance(result.error, JobError)
    assert result.error.cause is Cause.START_ENTRYPOINT
    assert words in result.error.message


async def test_what_a_process_cannot_be_given_is_refused(processes: ProcessDriver) -> None:
    runner = processes.runner()
    cases = [
        (processes.running("none"), JobError, Cause.START_ENTRYPOINT, "no command"),
        (processes.running("zero", "true", "a\0b"), PolicyError, Cause.POLICY_SPEC, "argument"),
        (processes.running("half", "true", "\ud800"), PolicyError, Cause.POLICY_SPEC, "argument"),
        (
            processes.running("name", "true", environment={"a.b": "1"}),
            PolicyError,
            Cause.POLICY_SPEC,
            "'a.b'",
        ),
        (
            processes.running("value", "true", environment={"A": "\0"}),
            PolicyError,
            Cause.POLICY_SPEC,
            "'A'",
        ),
        (
            processes.running("mount", "true", mounts=("data",)),
            PolicyError,
            Cause.POLICY_RESOURCE,
            "data",
        ),
    ]
    for request, kind, cause, words in cases:
        error = await raised(kind, runner.create(request))
        assert error.cause is cause
        assert words in error.message
    assert await runner.owned() == []


async def test_limits_hold_for_the_job(processes: ProcessDriver) -> None:
    config = ProcessRunnerConfig(max_memory=256 * 1024**2, max_open_files=64, max_processes=500)
    runner = processes.runner(config)
    script = "import resource as r; print(r.getrlimit(r.RLIMIT_AS)[0], r.getrlimit(r.RLIMIT_NOFILE)[0], r.getrlimit(r.RLIMIT_NPROC)[0])"  # noqa: E501
    workload = await launched(runner, processes.running("limits", sys.executable, "-c", script))
    assert (await ended(runner, workload)).exit_code == 0
    assert await read_all(runner, workload) == b"268435456 64 500\n"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


async def test_jobs_run_as_the_configured_user(processes: ProcessDriver, open_folder: Path) -> None:
    workdir = open_folder / "source"
    workdir.mkdir()
    (workdir / "main.sh").write_text(
        "id -un; id -gn; echo $HOME; touch made; echo ok >> /dev/stdout"
    )
    runner = processes.runner(ProcessRunnerConfig(user="nobody"))
    request = processes.running("user", "sh", "main.sh", workdir=workdir)
    workload = await launched(runner, request)
    assert (await ended(runner, workload)).exit_code == 0
    nobody = pwd.getpwnam("nobody")
    assert (await read_all(runner, workload)).split() == [
        b"nobody",
        b"nogroup",
        nobody.pw_dir.encode(),
        b"ok",
    ]
    assert (workdir / "made").stat().st_uid == nobody.pw_uid


async def test_a_users_job_in_a_closed_folder_is_refused(
    processes: ProcessDriver, open_folder: Path
) -> None:
    closed = open_folder / "closed"
    (closed / "source").mkdir(parents=True)
    closed.chmod(0o700)
    runner = processes.runner(ProcessRunnerConfig(user="nobody"))
    request = processes.running("closed", "true", workdir=closed / "source")
    error = await raised(JobError, runner.create(request))
    assert "'nobody' may not enter" in error.message
    assert str(closed) in error.message


def test_an_unknown_user_is_a_configuration_error(processes: ProcessDriver) -> None:
    with pytest.raises(ConfigError, match="no user 'nobody-of-this-name'"):
        processes.runner(ProcessRunnerConfig(user="nobody-of-this-name"))


async def test_a_hundred_megabytes_without_a_newline_need_no_memory(
    processes: ProcessDriver,
) -> None:
    runner = processes.runner()
    script = "head -c 100000000 /dev/zero"
    workload = await launched(runner, processes.running("line", "sh", "-c", script))
    total, taken = await read_whole(runner, workload)
    assert total == 100_000_000
    assert taken < 16 * 1024**2
