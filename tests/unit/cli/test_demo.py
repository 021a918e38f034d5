"""The parts of the demo that need no daemon."""

import sys
from pathlib import Path

import pytest

from agent.cli.demo.daemon import Daemon, demo_environment
from agent.cli.demo.jobs import demo_jobs
from agent.cli.demo.live import LiveView
from agent.cli.demo.main import Row, demo
from agent.cli.demo.results import print_results
from agent.cli.demo.view import Lines, make_view, stage_of
from agent.cli.top import run_command
from agent.model.errors import LaunchError
from tests.unit.cli.far_end import ended, item

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize(
    ("phase", "activity", "stage"),
    [
        ("QUEUED", None, None),
        ("LEASED", None, "resolve"),
        ("PREPARING", "fetching the source", "resolve"),
        ("PREPARING", "preparing the image", "build"),
        ("PREPARING", "starting", "start"),
        ("PERMITTED", "starting", "start"),
        ("STARTED", "starting", "run"),
        ("SUCCEEDED", "running", None),
    ],
)
def test_phases_are_shown_as_four_stages(
    phase: str, activity: str | None, stage: str | None
) -> None:
    assert stage_of(item(phase=phase, activity=activity)) == stage


def test_output_is_cut_into_safe_lines() -> None:
    lines = Lines()
    assert lines.cut("a", "job", b"one\n\x1b[31mtw") == ["one"]
    assert lines.cut("a", "job", b"o\r50%\r") == ["?[31mtwo", "50%"]
    assert lines.cut("a", "setup", b"10%\r20%\rdone\r\n") == ["done"]


def test_plain_lines_say_each_stage_once(capsys: pytest.CaptureFixture[str]) -> None:
    with make_view(["hello", "x"], is_terminal=False) as view:
        for _ in range(2):
            view.progress("x", item(phase="STARTED"))
        view.output("x", "job", b"said\n")
        view.output("hello", "setup", b"built\n")
        view.progress("x", ended())
    out = capsys.readouterr().out
    assert out.count(" run\n") == 1
    assert "x      | said" in out
    assert "hello  : built" in out
    assert "succeeded" in out


def test_a_terminal_gets_stages_that_fill(capsys: pytest.CaptureFixture[str]) -> None:
    view = make_view(["hello"], is_terminal=True)
    assert isinstance(view, LiveView)
    with view:
        view.progress("hello", item())
        view.progress("hello", item(phase="PREPARING", activity="preparing the image"))
        view.output("hello", "job", b"said\n")
        view.progress("hello", item(phase="STARTED"))
        view.progress("hello", ended())
    out = capsys.readouterr().out
    assert "said" in out
    assert "● build" in out
    assert "succeeded" in out


def test_the_table_tells_results_and_why_a_job_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = Row("e/demo/a:v0", "directory x", {"steps": 3, "rate": 0.2}, ended())
    failed = ended("FAILED", 3, message="exit code 3")
    bad = Row("e/demo/b:v1", "git commit c", {}, failed)
    never = ended("ERRORED", None)
    never["startedAt"] = None
    print_results([good, bad, Row("e/demo/c:v0", "image i", {}, never)], "http://here")
    out = capsys.readouterr().out
    assert "e/demo/a:v0  directory x   steps=3, rate=0.2  succeeded  0 " in out
    assert "e/demo/b:v1  git commit c" in out
    assert "http://here/launch/items/abcdefghijkl" in out
    assert "exit code 3" in out
    assert "What to do" in out


async def test_equal_files_make_an_equal_commit(tmp_path: Path) -> None:
    first = await demo_jobs(EXAMPLES, tmp_path / "a", containers=True)
    second = await demo_jobs(EXAMPLES, tmp_path / "b", containers=False)
    assert [job.name for job in first] == ["hello", "train", "image"]
    assert [job.name for job in second] == ["hello", "train"]
    assert first[1].wanted.git_version == second[1].wanted.git_version


def test_what_would_steer_the_demo_elsewhere_is_left_out() -> None:
    given = {"LAUNCH_SERVER": "x", "WANDB_API_KEY": "k", "PATH": "/bin", "NOTIFY_SOCKET": "/s"}
    assert demo_environment(given) == {"PATH": "/bin"}


async def test_a_daemon_that_does_not_start_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no room for me; exit 3\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(LaunchError, match="ended with exit code 3") as caught:
        async with Daemon.running(tmp_path / "demo"):
            pytest.fail("it is not running")
    assert "no room for me" in caught.value.message


def test_without_a_checkout_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agent.cli.demo.main.__file__", str(tmp_path / "a/b/c/d.py"))
    monkeypatch.setattr("sys.argv", ["launch demo"])
    assert run_command(demo, "launch demo") == 2
    assert "runs from a checkout" in capsys.readouterr().err
