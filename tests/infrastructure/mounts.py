"""Mounts that a process has left behind."""

from pathlib import Path

from .process import run


def unmount_below(directory: Path) -> None:
    """Unmount whatever is mounted in the directory or deeper, the latest first."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if Path(mount).is_relative_to(directory):
            run(["umount", mount])
