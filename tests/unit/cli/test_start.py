"""What is imported when, and what `launch-agent` says before it runs anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli.errors import run_command
from agent.cli.launch_agent import launch_agent
from agent.cli.main import COMMANDS, LazyGroup, Subcommand, launch
from agent.cli.server import print_announcement
from agent.compose.control_plane import Announcement
from tests.unit.cli.conftest import Run

HEAVY = ("aiohttp", "pydantic", "yaml", "rich", "structlog", "asyncio", "docker", "sqlalchemy")


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after some code."""
    ask = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)), file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True, text=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("args", [["--version"], ["--help"]])
def test_the_version_and_the_help_load_nothing_heavy(args: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['launch', *{args!r}]\n"
        "from agent.cli.main import launch\nfrom agent.cli.errors import run_command\n"
        "assert run_command(launch, 'launch') == 0"
    )
    assert loaded(code) & set(HEAVY) == set()


def test_an_agent_loads_neither_a_control_plane_nor_the_engines_sdk() -> None:
    code = (
        "from agent.cli.import_cost import import_structlog_without_rich\n"
        "import_structlog_without_rich()\n"
        "import agent.cli.launch_agent, agent.compose.agent, agent.compose.backends"
    )
    absent = {"docker", "kubernetes", "sqlalchemy", "alembic", "ariadne", "jinja2", "rich"}
    assert loaded(code) & absent == set()


def test_every_entry_of_the_group_can_be_loaded() -> None:
    group = launch
    assert isinstance(group, LazyGroup)
    for name in COMMANDS:
        assert group.get_command(None, name) is not None  # type: ignore[arg-type]


def test_help_of_a_lazy_group_comes_without_imports(capsys: pytest.CaptureFixture[str]) -> None:
    group = LazyGroup("g", subcommands={"x": Subcommand("no.such.module:x", "Does x.")})
    group.main(["--help"], standalone_mode=False)
    assert "Does x." in capsys.readouterr().out


def test_the_effective_configuration_is_shown_with_its_origins(
    bare: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    (tmp_path / "c.yaml").write_text(
        "server: {url: https://s, api_key: launch-geheim}\nmax_jobs: 2\n"
        "secrets: {a: {value: verborgen, as_env: A, queues: ['*']}}\ncontrol: {lease: 90s}\n"
    )
    monkeypatch.setenv("LAUNCH_NAME", "desk")
    monkeypatch.setattr(
        "sys.argv",
        ["launch-agent", "-c", "c.yaml", "-q", "a", "-q", "b", "-j", "-1", "--check-config"],
    )
    assert run_command(launch_agent, "launch-agent") == 0
    out = capfdbinary.readouterr().out.decode()
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "https://s (from c.yaml:1)" in rows["server:"]
    assert "--max-jobs" in rows["max_jobs"]
    assert "-1" in rows["max_jobs"]
    assert "[a, b]" in rows["queues"]
    assert "the environment variable LAUNCH_NAME" in rows["name"]
    assert "c.yaml:4" in rows["control.lease"]
    assert "90s" in rows["control.lease"]
    assert "default" in rows["log.level"]
    assert "geheim" not in out
    assert "verborgen" not in out


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ((), 2, "at least one queue"),
        (("-q", "a", "-c", "none.yaml"), 2, "none.yaml, named by --config, does not exist"),
        (("-u", "x"), 2, "-u/--url was removed"),
        (("-q", "a", "--server", "https://x"), 4, "no API key for the server https://x"),
        (("-q", "a", "--server", "https://x", "--embedded"), 2, "exclude each other"),
        (("-c", "allow.yaml", "--check-config"), 2, "there is no option 'volumes'"),
        (("-q", "a", "-j", "-5"), 2, "--max-jobs: `max_jobs`: seen `-5`"),
    ],
)
def test_what_keeps_an_agent_from_starting_is_told(
    bare: Run,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    args: tuple[str, ...],
    code: int,
    says: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "allow.yaml").write_text("runners: {local-container: {allow: [volumes]}}\n")
    monkeypatch.setattr("sys.argv", ["launch-agent", *args])
    assert run_command(launch_agent, "launch-agent") == code
    assert says in capfdbinary.readouterr().err.decode()


def test_people_are_told_where_and_how(capsys: pytest.CaptureFixture[str]) -> None:
    print_announcement(
        Announcement(
            "http://127.0.0.1:1",
            "embedded: no server is named",
            "http://127.0.0.1:1/login/link?token=t",
            ("local-process",),
            ("That is no security boundary.",),
        )
    )
    told = capsys.readouterr().out
    assert "http://127.0.0.1:1  (embedded: no server is named)" in told
    assert "a new queue takes local-process" in told
    assert "no security boundary" in told
    # Standard output is no terminal here: the link, a credential, is not for files.
    assert "token=t" not in told
