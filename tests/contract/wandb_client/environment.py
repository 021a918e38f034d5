"""W&B's own client, in a virtual environment of its own, spoken to over a pipe."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uv import find_uv_bin

from tests.infrastructure.paths import cache_directory

HERE = Path(__file__).parent
NEWEST = "0.31.0"
#: Each pinned with its dependencies in a lock file here; 0.13.8 is the oldest that can make jobs.
OLDER = ("0.28.2", "0.23.1", "0.19.11", "0.13.8")
#: Takes the place of ssh: runs on this machine what git asks the far one to run.
_SSH = '#!/bin/sh\nfor command; do :; done\nexec /bin/sh -c "$command"\n'


class ClientError(Exception):
    """What the client's own function raised."""


class WandbClient:
    """Calls functions of the client by the names that `far_side.py` gives them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(self, function: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([function, arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the client's process ended; its last words are in the test's folder"
        answer = json.loads(line)
        if "error" in answer:
            raise ClientError(answer["error"])
        return answer["value"]


@contextmanager
def running_client(folder: Path) -> Iterator[WandbClient]:
    """The client's process, with a home of its own below `folder`."""
    python = installed_client()
    command = [python, "-I", HERE / "far_side.py"]
    with (
        (folder / "client.log").open("w") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_environment(folder),
            cwd=folder,
            text=True,
        ) as process,
    ):
        yield WandbClient(process)


def installed_client(version: str = NEWEST) -> Path:
    """The interpreter that has a client; installed once per machine and lock file."""
    lock = HERE / f"wandb-{version}.lock"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = cache_directory() / f"wandb-client-{digest}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            _install(place, lock)
            (place / "complete").touch()
    return place / "bin" / "python"


def _install(place: Path, lock: Path) -> None:
    uv = find_uv_bin()
    python = place / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--no-config", "--python", sys.executable, place],
        [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _environment(folder: Path) -> dict[str, str]:
    ssh = folder / "ssh"
    ssh.write_text(_SSH)
    ssh.chmod(0o700)
    home = folder / "home"
    home.mkdir()
    places = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_SSH_COMMAND": str(ssh),
        "GIT_SSH_VARIANT": "simple",
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C.UTF-8",
        **{place: str(home) for place in places},
    }
