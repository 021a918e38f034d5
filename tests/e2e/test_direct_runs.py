"""`launch run`, and `launch submit` without a queue: here and now, ending as the job ends."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.infrastructure.state import DockerFacts

PROCESSES = {"runners": {"local-container": {"enabled": False}}}
PROGRAM = """\
import json, os, pathlib, sys
print("words", sys.argv[1:], os.environ.get("WANDB_CONFIG"), flush=True)
sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
"""


@pytest.fixture
def code(home: Home) -> Path:
    folder = home.root / "code"
    folder.mkdir()
    (folder / "main.py").write_text(PROGRAM)
    return folder


@pytest.fixture
def processes(home: Home) -> Home:
    """Commands of this home read the same configuration as its daemons."""
    home.configure(quick(**PROCESSES))
    home.env["LAUNCH_CONFIG"] = str(home.config)
    return home


def items_of(text: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(text)
    return found


@pytest.mark.parametrize("command", ["run", "submit"])
async def test_without_any_server_a_directory_becomes_a_job_runs_and_its_exit_code_is_ours(
    processes: Home, code: Path, command: str
) -> None:
    flags = ("--uri", "code", "-E", "python main.py", "--job-name", "hello")
    done = await processes.launch(command, *flags)
    assert done.code == 0, done.err
    assert "Created job:" in done.err
    assert "words []" in done.out
    failed = await processes.launch(command, *flags, "--", "7")
    assert failed.code == 7, failed.err
    assert "No changes detected for job:" in failed.err
    assert not (processes.root / "state" / "embedded.json").exists()


async def test_a_job_of_a_server_is_launched_again_here_and_can_be_looked_at(
    processes: Home, code: Path
) -> None:
    await processes.start("launch-agent", "--queue", "default")
    made = await processes.launch(
        *("job", "create", "-p", "demo", "-n", "hello", "--json", "code", "code"),
        *("-E", "python main.py"),
    )
    assert made.code == 0, made.err
    config = '{"overrides": {"run_config": {"lr": 0.5}}}'
    done = await processes.launch(
        "run", "--job", made.json()["job"], "-c", config, "--name", "again", "--json"
    )
    assert done.code == 0, done.err
    item = done.json()
    assert (item["phase"], item["name"], item["projectName"]) == ("SUCCEEDED", "again", "demo")
    log = await processes.launch("item", "logs", item["id"])
    assert '{"lr": 0.5}' in log.out
    queues = json.loads((await processes.launch("queue", "list", "--json")).out)
    assert [each["name"] for each in queues] == ["default"]


@pytest.mark.docker
async def test_an_image_runs_in_a_container(home: Home, docker_engine: DockerFacts) -> None:
    flags = ("-d", docker_engine.shell_image, "-E", "sh -c 'echo from inside; exit 4'")
    done = await home.launch("submit", *flags)
    assert done.code == 4, done.err
    assert "from inside" in done.out


async def test_an_interrupt_stops_what_runs(processes: Home, code: Path) -> None:
    (code / "main.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    process = await asyncio.create_subprocess_exec(
        *("launch", "run", "--uri", "code", "-E", "python main.py"),
        cwd=processes.root,
        env=processes.env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    while b"up" not in await process.stdout.readline():
        assert process.returncode is None
    process.send_signal(signal.SIGINT)
    _, told = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1, told
    assert b"stopped" in told


async def test_what_this_machine_cannot_run_is_refused_before_anything_is_made(
    processes: Home, code: Path
) -> None:
    done = await processes.launch(
        "run", "--uri", "code", "-E", "python main.py", "-r", "kubernetes"
    )
    assert done.code == 2
    assert "which has no runner for `kubernetes`" in done.err


async def test_async_returns_at_once_and_leaves_the_output_in_a_file(
    processes: Home, code: Path
) -> None:
    done = await processes.launch("run", "--async", "--uri", "code", "-E", "python main.py")
    assert done.code == 0, done.err
    log = Path(done.out.rstrip().rpartition(" ")[2])
    async with asyncio.timeout(60):
        while "exit code 0" not in log.read_text():
            await asyncio.sleep(0.1)
    log.unlink()
