"""Mounts: those that a process has left behind, and disks that tests fill."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ServiceError
from .process import run


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Make a folder on a disk of its own; `size` as of tmpfs (`16m`).

    Raises ServiceError unless the user is root.
    """
    if os.geteuid() != 0:
        message = "only root mounts a disk"
        raise ServiceError(message)
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder])
    try:
        yield folder
    finally:
        unmount_below(folder)


def unmount_below(directory: Path) -> None:
    """Unmount whatever is mounted in the directory or deeper, the latest first."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount).is_relative_to(directory):
            run(["umount", mount])
