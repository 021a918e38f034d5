"""Directories of very many files, and of a very large one: stored whole, in little memory."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home

PROCESSES = {"runners": {"local-container": {"enabled": False}}}
#: Prints what it ran under, so that the peak is that of the command alone.
MEASURED = (
    "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
    "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024); "
    "sys.exit(done.returncode)"
)
COUNTING = """\
import os
found = [os.path.join(at, name) for at, _, names in os.walk(".") for name in names]
print(len(found), "files", sum(map(os.path.getsize, found)), "bytes")
"""
#: Whatever the size.
PEAK_MIB = 100


def many(folder: Path, count: int) -> int:
    """Small files, no two alike; how many bytes they are."""
    for number in range(count):
        path = folder / str(number // 1000) / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number:06}")
    return count * 6


def large(folder: Path, size: int) -> int:
    """A sparse file: the size is real, the bytes are zeroes."""
    with (folder / "big").open("wb") as file:
        file.truncate(size)
    return size


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("fill", "amount", "files"),
    [
        (many, 500, 501),
        (large, 64 << 20, 2),
        pytest.param(many, 50_000, 50_001, marks=pytest.mark.long),
        pytest.param(large, 3 << 30, 2, marks=pytest.mark.long),
    ],
    ids=["500 files", "64 MiB", "50,000 files", "3 GiB"],
)
async def test_it_is_stored_in_little_memory_and_arrives_whole(
    home: Home, fill: Callable[[Path, int], int], amount: int, files: int
) -> None:
    settings = quick(**PROCESSES)
    # Leases as in production: what is busy for a second is not silent.
    home.configure(settings | {"control": {"port": settings["control"]["port"]}})
    home.timeout = 900.0
    await home.start("launch-agent", "--queue", "default")
    folder = home.root / "code"
    folder.mkdir()
    size = fill(folder, amount) + (folder / "main.py").write_text(COUNTING)
    create = shlex.split("launch job create -p P -n N code code")
    made = await home.run(sys.executable, "-c", MEASURED, *create)
    assert made.code == 0, made.err
    assert int(made.out.rpartition("peak ")[2]) <= PEAK_MIB
    ran = await home.run("launch", *shlex.split("submit -q -j P/N --follow"))
    assert ran.code == 0, ran.err
    assert f"{files} files {size} bytes" in ran.out
