"""Making and launching jobs by the command line, and what git transfers, beside bare tools."""

import asyncio
import contextlib
import os
import shutil
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agent.config.execution import GitConfig
from agent.model.spec import GitSource
from agent.sources.address_policy import AddressPolicy
from agent.sources.git.source import GitFetcher
from agent.testing.builder_suite import RecordingLog
from tests.bench.ours import system
from tests.bench.table import Row
from tests.e2e.harness.home import BIN, Home

_QUEUE = "default"
_FILES, _BYTES = 1000, 100_000
_ROUNDS, _SUBMISSIONS = 3, 10


@dataclass(frozen=True)
class Measured:
    """One run of a command: seconds, MiB at its peak, what it printed."""

    seconds: float
    peak: float
    out: str


async def measured(home: Home, *words: str) -> Measured:
    return await asyncio.to_thread(_measured, home, [str(BIN / "launch"), *words])


def _measured(home: Home, argv: list[str]) -> Measured:
    out = home.root / "command.log"
    begin = time.monotonic()
    with out.open("wb") as log:
        process = subprocess.Popen(argv, env=home.env, cwd=home.root, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, out.read_text()
    return Measured(seconds, usage.ru_maxrss / 1024, out.read_text())


def _tree(code: Path) -> None:
    """New bytes in every file, each time."""
    code.mkdir(exist_ok=True)
    (code / "main.py").write_text("print('hello')\n")
    for number in range(_FILES):
        folder = code / f"folder-{number % 50}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.bin").write_bytes(os.urandom(_BYTES))


def _yardstick(code: Path, copy: Path) -> float:
    """One md5sum over a tree, and one copy of it."""
    files = [str(path) for path in code.rglob("*") if path.is_file()]
    begin = time.monotonic()
    subprocess.run(["md5sum", *files], check=True, stdout=subprocess.DEVNULL)
    shutil.copytree(code, copy)
    return time.monotonic() - begin


async def authoring(root: Path) -> list[Row]:
    """`launch job create code` of 100 MB in 1,000 files, again without a change, and submitting."""
    code, home = root / "code", Home(root)
    create = ("job", "create", "-p", "bench", "-n", "big", "code", "code", "-E", "python main.py")
    async with system(root, [_QUEUE]):
        rounds = []
        for number in range(_ROUNDS):
            await asyncio.to_thread(_tree, code)
            bare = await asyncio.to_thread(_yardstick, code, root / f"copy-{number}")
            rounds.append((await measured(home, *create), bare))
        first, bare = sorted(rounds, key=lambda each: each[0].seconds / each[1])[_ROUNDS // 2]
        again = await measured(home, *create)
        assert "No changes detected" in again.out
        submit = ("submit", "--job", "bench/big:latest", "--queue", "parked")
        await measured(home, "queue", "create", "parked", "--resource", "local-container")
        times = [(await measured(home, *submit)).seconds for _ in range(_SUBMISSIONS)]
    submitted = statistics.median(times)
    return [
        Row(
            f"launch job create code, 1,000 files, 100 MB, median of {_ROUNDS}",
            f"{first.seconds:.2f} s",
            f"md5sum and copy {bare:.2f} s",
            f"≤ 4 × (here {first.seconds / bare:.1f} ×)",
            first.seconds <= 4 * bare,
        ),
        Row(
            "the same, nothing changed",
            f"{again.seconds:.2f} s",
            "–",
            "≤ 1 s, nothing sent",
            again.seconds <= 1 and "files were sent" not in again.out,
        ),
        Row(
            "its memory at the peak",
            f"{max(first.peak, again.peak):.0f} MiB",
            "–",
            "≤ 100 MiB",
            max(first.peak, again.peak) <= 100,
        ),
        Row(
            f"launch submit --job, median of {_SUBMISSIONS}",
            f"{submitted:.2f} s",
            "–",
            "≤ 0.4 s",
            submitted <= 0.4,
        ),
    ]


async def git_difference(root: Path) -> list[Row]:
    """What a second commit of a repository costs, once the first was fetched."""
    commits = await asyncio.to_thread(_repository, root / "repository")
    cache = root / "cache"
    with ThreadPoolExecutor(4) as threads:
        git = GitFetcher(
            GitConfig(protocols=["https", "ssh", "file"]),
            cache,
            policy=AddressPolicy(None, embedded=True),
            threads=threads,
            environment=dict(os.environ),
        )
        sizes, seconds = [0], []
        for number, commit in enumerate(commits):
            into = root / f"tree-{number}"
            into.mkdir()
            source = GitSource(url=f"file://{root / 'repository'}", ref=commit)
            begin = time.monotonic()
            await git.fetch(source, "bench", into, RecordingLog())
            seconds.append(time.monotonic() - begin)
            sizes.append(_size(cache))
    first, second = sizes[1] / 2**20, (sizes[2] - sizes[1]) / 2**20
    return [
        Row(
            "git: another commit of a repository of 20 MB",
            f"{second:.2f} MiB more, {seconds[1]:.2f} s",
            f"first commit {first:.1f} MiB, {seconds[0]:.2f} s",
            "only the difference",
            second <= first / 20,
        )
    ]


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total


def _repository(folder: Path) -> list[str]:
    folder.mkdir()

    def git(*words: str) -> str:
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        argv = ["git", "-C", str(folder), *identity, *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    (folder / "data.bin").write_bytes(os.urandom(20 * 2**20))
    commits = []
    for number in range(2):
        (folder / "main.py").write_text(f"print({number})\n")
        git("add", "--all")
        git("commit", "--quiet", "--message", f"Commit {number}")
        commits.append(git("rev-parse", "HEAD"))
    return commits
