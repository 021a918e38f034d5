"""Facts of this machine: boot, cores, memory, GPUs, host and user name; whether a disk is full."""

import asyncio
import errno
import functools
import getpass
import os
import re
import socket
from pathlib import Path
from typing import Final

#: `nvidia-smi -L` prints one line per device: `GPU 0: NAME (UUID: GPU-…)`.
_GPU_LINE: Final = re.compile(rb"^GPU (\d+): .*\(UUID: (\S+)\)", re.MULTILINE)
_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def cores() -> float:
    """Cores that this process may use: CPU affinity, limited by the quota of its cgroup."""
    usable = float(len(os.sched_getaffinity(0)))
    quota = _cgroup_quota(Path("/sys/fs/cgroup/cpu.max"))
    return min(usable, quota) if quota else usable


def memory() -> int:
    """Bytes of memory: the machine's, or the limit of this process's cgroup if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _read(Path("/sys/fs/cgroup/memory.max"))
    return min(total, int(limit)) if limit.isdigit() else total


async def gpus() -> tuple[str, ...]:
    """Device ids as NVIDIA's driver numbers them; empty where `nvidia-smi` is missing or fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            "nvidia-smi",
            "-L",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ()
    output, _ = await process.communicate()
    return gpu_ids(output) if process.returncode == 0 else ()


def gpu_ids(listing: bytes) -> tuple[str, ...]:
    """Ids from the output of `nvidia-smi -L`."""
    return tuple(match[1].decode() for match in _GPU_LINE.finditer(listing))


@functools.cache
def boot_id() -> str:
    """The kernel's id of the present boot; another one after each restart of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def host_name() -> str:
    """The host name without its domain."""
    return socket.gethostname().partition(".")[0] or "localhost"


def user_name() -> str:
    """Login name as an entity name: lower-case letters, digits, `-` and `_`; else `local`."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = ""
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:64] or "local"


def is_disk_full(error: OSError) -> bool:
    """Whether the disk, or the user's quota on it, had no space left."""
    return error.errno in _DISK_FULL


def _cgroup_quota(file: Path) -> float | None:
    quota, _, period = _read(file).partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
