import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.cli.errors import run_command
from agent.cli.main import launch
from tests.unit.jobs.plane import Plane, plane

KEY = "launch-" + "k" * 40


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Cli = Callable[..., Awaitable[Said]]


@pytest.fixture
async def far() -> AsyncIterator[Plane]:
    async with plane() as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Code that could be a job."""
    (tmp_path / "main.py").write_text("print(1)\n")
    return tmp_path


@pytest.fixture
def cli(
    far: Plane,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """`launch …` in a thread of this process, against the far end."""
    home: Path = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith(("WANDB_", "LAUNCH_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LAUNCH_STATE_DIR", str(home / "state"))
    monkeypatch.setenv("LAUNCH_SERVER", far.url)
    monkeypatch.setenv("LAUNCH_API_KEY", KEY)

    async def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["launch", *arguments])
        code = await asyncio.to_thread(run_command, launch, "launch")
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run
