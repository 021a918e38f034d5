"""The folder of one job: what was asked, its log, its status. All of it blocks."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.model.work import Lease, lease_from_labels
from agent.runners.process.status import Status, read_status

_JOB: Final = "job.json"
_SECRETS: Final = "environment"


@dataclass(frozen=True, slots=True)
class Job:
    """What is written down when a job is created; holds no secret."""

    name: str
    labels: dict[str, str]
    argv: tuple[str, ...]
    workdir: str

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

    def create(self, job: Job, environment: dict[str, str]) -> None:
        """Write everything down in the folder; `job.json` comes last and makes it valid.

        What a creator that died half-way left is written over.
        """
        pairs = (f"{name}={value}" for name, value in environment.items())
        _write(self.path / _SECRETS, "\0".join(pairs))
        described = {"name": job.name, "labels": job.labels, "argv": job.argv}
        draft = self.path / f"{_JOB}.new"
        _write(draft, json.dumps(described | {"workdir": job.workdir}))
        draft.replace(self.path / _JOB)

    def job(self) -> Job | None:
        """What was created here, if anything was."""
        try:
            text = (self.path / _JOB).read_text("ascii")
        except (FileNotFoundError, NotADirectoryError):
            return None
        raw = json.loads(text)
        return Job(raw["name"], raw["labels"], tuple(raw["argv"]), raw["workdir"])

    def environment(self) -> dict[str, str]:
        """Variables of the job; gone once it has been started."""
        raw = (self.path / _SECRETS).read_bytes()
        text = os.fsdecode(raw)
        return dict(pair.split("=", 1) for pair in text.split("\0") if pair)

    def forget_secrets(self) -> None:
        """The job has its variables; nobody else needs them any more."""
        (self.path / _SECRETS).unlink(missing_ok=True)

    def status(self) -> Status | None:
        """How far it is; `None` when no start was tried."""
        return read_status(self.status_file)

    def remove(self) -> None:
        """Remove it, `job.json` last, so that half a removal is found and repeated."""
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
