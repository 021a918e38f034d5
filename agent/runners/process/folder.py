"""The folder of one job: its spec, its log, its status file. All of it blocks.

The starter creates the status file exclusively, so its existence means that a start was tried.
Its lines: `start <seconds since 1970>` and `boot <id>` by the starter, `pid <n>` by the
supervisor once it handles signals, `exit <code>` at the end. The supervisor holds a lock on it
while it lives, which no reuse of process ids can imitate.

A machine that loses power loses files of its last seconds, so a missing status file proves
something only in the boot in which the folder was created.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agent.model.work import Lease, lease_from_labels
from agent.system.locks import try_lock
from agent.system.machine import boot_id

_JOB: Final = "job.json"
_SECRETS: Final = "environment"


@dataclass(frozen=True, slots=True)
class Status:
    """One reading of the file."""

    started_at: datetime
    #: `None` until the supervisor handles signals.
    pid: int | None
    exit_code: int | None
    finished_at: datetime | None
    #: Whether the supervisor lives.
    alive: bool
    #: The machine is still in the boot in which the start was tried.
    same_boot: bool


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What a process is started with, written when it is created; holds no secret."""

    name: str
    labels: dict[str, str]
    argv: tuple[str, ...]
    workdir: str
    #: Of the machine, at its creation.
    boot: str
    #: Of the user that it runs as; `None`: the agent's own.
    uid: int | None = None

    @property
    def lease(self) -> Lease | None:
        """Whose attempt it is; `None` when the labels are not ours."""
        return lease_from_labels(self.labels)


class Folder:
    """Paths and files of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = path / "log"
        self.status_file = path / "status"
        #: Home and temporary files of a user that has this job only.
        self.private = (path / "home", path / "tmp")

    def create(self, spec: ProcessSpec, environment: dict[str, str]) -> None:
        """Write the files; `job.json` is last and makes the folder valid.

        Files of a creator that died half-way are overwritten.
        """
        pairs = (f"{name}={value}" for name, value in environment.items())
        _write(self.path / _SECRETS, "\0".join(pairs))
        draft = self.path / f"{_JOB}.new"
        _write(draft, json.dumps(asdict(spec)))
        draft.replace(self.path / _JOB)

    def spec(self) -> ProcessSpec | None:
        """The spec; `None` when nothing was created here."""
        try:
            text = (self.path / _JOB).read_text("ascii")
        except (FileNotFoundError, NotADirectoryError):
            return None
        raw = json.loads(text)
        return ProcessSpec(**raw | {"argv": tuple(raw["argv"])})

    def environment(self) -> dict[str, str]:
        """Variables of the job; removed once it has been started."""
        raw = (self.path / _SECRETS).read_bytes()
        text = os.fsdecode(raw)
        return dict(pair.split("=", 1) for pair in text.split("\0") if pair)

    def forget_secrets(self) -> None:
        """Remove the variables, which the started job has."""
        (self.path / _SECRETS).unlink(missing_ok=True)

    def status(self) -> Status | None:
        """The present status; `None` when no start was tried."""
        return _read_status(self.status_file)

    def remove(self) -> None:
        """Remove it, `job.json` last, so that an interrupted removal is found and repeated."""
        for entry in self._entries():
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != _JOB:
                os.unlink(entry.path)  # noqa: PTH108 -- a path object per file is not free
        with suppress(FileNotFoundError):
            (self.path / _JOB).unlink(missing_ok=True)
            self.path.rmdir()

    def _entries(self) -> list[os.DirEntry[str]]:
        with suppress(FileNotFoundError), os.scandir(self.path) as entries:
            return list(entries)
        return []


def held_uids(root: Path) -> Iterator[int]:
    """Uids of all jobs below the root."""
    for folder in folders(root):
        spec = folder.spec()
        if spec is not None and spec.uid is not None:
            yield spec.uid


def folders(root: Path) -> Iterator[Folder]:
    """Every folder below the root."""
    with suppress(FileNotFoundError), os.scandir(root) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                yield Folder(Path(entry.path))


def _write(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.fsencode(text))


def _read_status(path: Path) -> Status | None:
    """The present status; `None` when no start was tried."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # First the lock, then the text: a supervisor that ends in between has written it.
        alive = not try_lock(descriptor, shared=True)
        facts = os.fstat(descriptor)
        text = os.pread(descriptor, 4096, 0).decode("ascii", "replace")
    finally:
        os.close(descriptor)
    words = dict(line.split(" ", 1) for line in text.split("\n")[:-1] if " " in line)
    changed = datetime.fromtimestamp(facts.st_mtime, UTC)
    started = float(words["start"]) if "start" in words else facts.st_mtime
    code = int(words["exit"]) if "exit" in words else None
    return Status(
        started_at=datetime.fromtimestamp(started, UTC),
        pid=int(words["pid"]) if "pid" in words else None,
        exit_code=code,
        finished_at=None if code is None else changed,
        alive=alive,
        same_boot=words.get("boot") == boot_id(),
    )
