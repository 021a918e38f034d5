"""Three jobs through the whole system, from nothing: `make demo`, or `python examples/demo.py`.

Starts `launch-agent` with an embedded control plane, whose files all lie in one folder (`.demo`),
makes jobs of a code directory, of a Git repository at a commit and of a ready image, runs each of
them with two sets of parameters, prints a table of results, and stops everything again. Without a
container engine the two jobs with source code run as local processes, in virtual environments.

It uses nothing but the two commands, as you would.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
#: Any image with a Python.
IMAGE = os.environ.get("DEMO_IMAGE") or "python:3.11-slim"
IMAGE_COMMAND = (
    """python -c 'import os; print("Hello from a ready image:", os.environ["WANDB_CONFIG"])'"""
)
CONFIG = """\
# Written by examples/demo.py. The protocol `file` allows the repository that the demo makes.
queues: [default]
control: {port: 0}
sources: {git: {protocols: [https, ssh, file]}}
"""
#: The same files, author and date give the same commit: a second demo builds nothing.
SIGNATURE = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (
        ("NAME", "launch demo"),
        ("EMAIL", "demo@localhost"),
        ("DATE", "2026-01-01T00:00:00Z"),
    )
}
BEGAN = time.monotonic()


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


@dataclass
class Job:
    """A job, as `launch job create` makes it, and the parameters of its two runs."""

    name: str
    source: str
    create: list[str]
    runs: list[dict[str, object]]
    entry_point: str = ""


def environment(folder: Path) -> dict[str, str]:
    """The shell's environment, with this demo's control plane instead of the user's."""
    foreign = ("LAUNCH_", "WANDB_", "NOTIFY_", "WATCHDOG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "LAUNCH_CONFIG": str(folder / "config.yaml"),
        "LAUNCH_STATE_DIR": str(folder / "state"),
        "LAUNCH_DATA_DIR": str(folder / "data"),
    }


async def output_of(*argv: str, env: dict[str, str]) -> str:
    """Run a command to its end; its standard output."""
    process = await asyncio.create_subprocess_exec(
        *argv, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    if process.returncode != 0:
        raise DemoError(f"`{argv[0]} {argv[1]}` failed:\n{err.decode(errors='replace').strip()}")
    return out.decode()


@asynccontextmanager
async def agent(folder: Path, env: dict[str, str]):
    """`launch-agent` with its control plane, while the context lasts; gives its facts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    (folder / "config.yaml").write_text(CONFIG)
    log = folder / "agent.log"
    with log.open("wb") as output:
        # In a session of its own, so that Ctrl-C reaches this script only.
        process = await asyncio.create_subprocess_exec(
            *("launch-agent", "--embedded", "--config", str(folder / "config.yaml")),
            *("--name", f"demo-{folder.parent.name}"),
            env=env, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process, await until_registered(process, log, env)
    finally:
        # The first SIGTERM stops claiming, the second stops the jobs.
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if process.returncode is None:
                process.send_signal(number)
                try:
                    await asyncio.wait_for(process.wait(), 30)
                except TimeoutError:
                    continue


async def until_registered(process, log: Path, env: dict[str, str]) -> dict:
    """Wait until the agent has registered with its own control plane."""
    deadline = time.monotonic() + 60
    while process.returncode is None and time.monotonic() < deadline:
        try:
            agents = json.loads(await output_of("launch", "agent", "list", "--json", env=env))
        except DemoError:
            agents = []
        for each in agents:
            if each["agentStatus"] == "POLLING" and not each["lost"]:
                return each
        await asyncio.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise DemoError(f"launch-agent did not start:\n{tail}\nThe whole log is in {log}.")


async def repository(folder: Path, env: dict[str, str]) -> tuple[str, str]:
    """A Git repository of `examples/train`; its URL and its one commit."""
    path = folder / "repository"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(EXAMPLES / "train", path, ignore=shutil.ignore_patterns("__pycache__"))
    git = {**env, **SIGNATURE, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        ("commit", "--quiet", "--message=The example that the demo trains"),
    ):
        await output_of("git", "-C", str(path), *arguments, env=git)
    commit = await output_of("git", "-C", str(path), "rev-parse", "HEAD", env=git)
    return f"file://{path}", commit.strip()


async def jobs_to_make(folder: Path, env: dict[str, str], *, containers: bool) -> list[Job]:
    url, commit = await repository(folder, env)
    hello = ["code", str(EXAMPLES / "hello"), "--entry-point", "python main.py"]
    train = ["git", url, "--git-hash", commit, "--entry-point", "python train.py"]
    jobs = [
        Job("hello", "directory examples/hello", hello, [{"steps": 3}, {"steps": 6}]),
        Job("train", f"commit {commit[:12]}", train, [{"steps": 20}, {"steps": 40, "rate": 0.2}]),
    ]
    if containers:
        runs = [{"name": "one"}, {"name": "two"}]
        jobs.append(Job("image", f"image {IMAGE}", ["image", IMAGE], runs, IMAGE_COMMAND))
    return jobs


async def make_and_run(job: Job, env: dict[str, str]) -> list[tuple[str, ...]]:
    """Make the job, then run it with each set of parameters; the rows of the last table."""
    create = ("launch", "job", "create", "-p", "demo", "-n", job.name, "--json", *job.create)
    made = json.loads(await output_of(*create, env=env))
    show(job.name, f"{made['action']} job {made['job']}")
    rows = []
    for number, parameters in enumerate(job.runs, 1):
        name = f"{job.name} {number}"
        spec = json.dumps({"overrides": {"run_config": parameters}})
        command = ["launch", "submit", "--job", made["job"], "-p", "demo", "-q", "default"]
        command += ["--name", name, "--config", spec, "--follow"]
        command += ["--entry-point", job.entry_point] if job.entry_point else []
        await follow(name, command, env)
        items = json.loads(await output_of("launch", "item", "list", "--json", env=env))
        item = next(each for each in items if each["name"] == name)
        if item["phase"] != "SUCCEEDED":
            show(name, await output_of("launch", "explain", item["id"], env=env))
        said = ", ".join(f"{key}={value}" for key, value in parameters.items())
        code = "-" if item["exitCode"] is None else str(item["exitCode"])
        rows.append((name, made["job"], job.source, said, item["phase"].lower(), code, item["id"]))
    return rows


async def follow(name: str, command: list[str], env: dict[str, str]) -> None:
    """Run a command, and show each line that it prints."""
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async for line in process.stdout:
            show(name, line.decode(errors="replace"))
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def show(name: str, text: str) -> None:
    """The lines of a text after time and name; of a line that was overwritten, the last state."""
    for line in text.splitlines():
        last = line.rpartition("\r")[2].rstrip()
        if last:
            print(f"{time.monotonic() - BEGAN:6.1f} s  {name:<8} {last}", flush=True)


def print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())


async def demo(folder: Path, *, keep: bool) -> int:
    env = environment(folder)
    async with agent(folder, env) as (process, facts):
        containers = "local-container" in facts["capacity"]["resources"]
        resource = "local-container" if containers else "local-process"
        print(f"Jobs run on: {resource}" + ("" if containers else " (no container engine answers)"))
        # The queue may come from an earlier demo, with the engine in another state.
        await output_of("launch", "queue", "update", "default", "-r", resource, env=env)
        jobs = await jobs_to_make(folder, env, containers=containers)
        made = await asyncio.gather(*(make_and_run(job, env) for job in jobs))
        rows = [row for rows in made for row in rows]
        print()
        print_table([("RUN", "JOB", "SOURCE", "PARAMETERS", "RESULT", "EXIT", "ITEM"), *rows])
        if keep:
            link = await output_of("launch", "open", env=env)
            print(f"\nStill running. Sign in with a browser: {link.strip()}")
            print(f"Commands: export LAUNCH_STATE_DIR={folder / 'state'}; launch item list")
            print("Ctrl-C stops it.", flush=True)
            await process.wait()
        else:
            print("\nIts control plane and its page stop now; `make demo KEEP=1` keeps them open.")
    return 0 if all(row[4] == "succeeded" for row in rows) else 1


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C")
    parser.add_argument("--folder", type=Path, default=EXAMPLES.parent / ".demo")
    given = parser.parse_args()
    work = asyncio.ensure_future(demo(given.folder.resolve(), keep=given.keep))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        return 0 if given.keep else 130
    except (DemoError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
