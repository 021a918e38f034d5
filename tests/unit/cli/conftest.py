"""A command line of its own home, and a far end to talk to."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.cli.errors import run_command
from agent.cli.main import launch
from tests.unit.cli.far_end import KEY, FarEnd


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    with FarEnd() as far_end:
        yield far_end


@pytest.fixture
def bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """Runs `launch …` in this process, with an empty home and nothing said about servers."""
    for name in list(os.environ):
        if name.startswith(("LAUNCH_", "WANDB_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LAUNCH_DEBUG", "")  # so that `--debug` is undone as well
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Ran:
        monkeypatch.setattr("sys.argv", ["launch", *args])
        code = run_command(launch, "launch")
        out, err = capfdbinary.readouterr()
        return Ran(code, out.decode(), err.decode())

    return run


@pytest.fixture
def run(bare: Run, far_end: FarEnd, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As `bare`, with the far end as the server."""
    monkeypatch.setenv("LAUNCH_SERVER", far_end.url)
    monkeypatch.setenv("LAUNCH_API_KEY", KEY)
    return bare
