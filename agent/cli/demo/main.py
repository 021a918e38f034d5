"""The demo from end to end: daemon, jobs, live view, table, and everything stopped again."""

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.demo.daemon import Daemon, daemon_environment, demo_environment
from agent.cli.demo.jobs import DemoJob, demo_jobs
from agent.cli.demo.results import print_results
from agent.cli.demo.view import make_view
from agent.cli.follow import follow
from agent.cli.workbench import open_workbench
from agent.model.errors import InvalidInputError

if TYPE_CHECKING:
    from agent.cli.demo.view import View
    from agent.jobs.create import Workbench
    from agent.remote.console import Console

Json = dict[str, Any]


@click.command("demo")
@click.option("--keep", is_flag=True, help="Leave it running afterwards, until Ctrl-C.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where it keeps things; .demo by default."
)
def demo(*, keep: bool, folder: Path | None) -> int:
    """Make three example jobs and launch each twice, from nothing.

    Starts `launch-agent` with its own control plane in a folder of its own, makes jobs of a
    code directory, a git repository at a commit and a ready image, launches them with one set
    of parameters and with another, and stops everything again. Without a container engine the
    two jobs with source code run as processes.
    """
    examples = Path(__file__).parents[3] / "examples"
    if not (examples / "hello").is_dir():
        message = f"The demo runs from a checkout: there is no {examples}."
        raise InvalidInputError(message, hint="Clone the repository, then `make demo`.")
    own = (folder or examples.parent / ".demo").resolve()
    return asyncio.run(_cancellable(examples, own, keep=keep))


async def _cancellable(examples: Path, folder: Path, *, keep: bool) -> int:
    """SIGTERM ends the demo as Ctrl-C does: with everything that it started."""
    work = asyncio.create_task(_demo(examples, folder, keep=keep), name="demo")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _demo(examples: Path, folder: Path, *, keep: bool) -> int:
    containers = await _say_where()
    async with AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(Daemon.running(folder))
        console = await stack.enter_async_context(daemon.console())
        # Its queue may come from an earlier demo, when the engine was in another state.
        resource = "local-container" if containers else "local-process"
        await console.save_queue("EITHER", name="default", resource=resource)
        jobs = await demo_jobs(examples, folder, containers=containers)
        async with open_workbench(console, daemon_environment(folder)) as bench:
            rows = await _run_all(console, bench, jobs)
        print_results(rows, daemon.url)
        succeeded = all(row.item["phase"] == "SUCCEEDED" for row in rows)
        if keep:
            await _stay(console, daemon)
    return 0 if succeeded else 1


async def _say_where() -> bool:
    from agent.compose.backends import engine_failure

    complaint = await engine_failure(None, demo_environment(os.environ))
    if complaint is None:
        print("A container engine answers: three jobs run in containers, each twice.", flush=True)
        return True
    print(
        "There is no container engine, so two jobs run as local processes in virtual "
        f"environments ({complaint}).",
        flush=True,
    )
    return False


@dataclass(frozen=True, slots=True)
class Row:
    """A run of a job, and how its item ended."""

    #: `entity/project/name:v<N>`.
    reference: str
    source: str
    parameters: Json
    item: Json


async def _run_all(console: "Console", bench: "Workbench", jobs: list[DemoJob]) -> list[Row]:
    view = make_view([name for job in jobs for name in job.runs], is_terminal=sys.stdout.isatty())
    with view:
        tasks = [
            asyncio.create_task(_make_and_run(console, bench, job, view), name=job.name)
            for job in jobs
        ]
        try:
            return [row for rows in await asyncio.gather(*tasks) for row in rows]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _make_and_run(
    console: "Console", bench: "Workbench", job: DemoJob, view: "View"
) -> list[Row]:
    """Make the job, then launch it with each set of parameters, one after the other."""
    from agent.jobs.create import create_job

    entity = await console.acting_entity()
    made = await create_job(bench, replace(job.wanted, entity=entity))
    reference = str(made.reference)
    rows: list[Row] = []
    for name, parameters in zip(job.runs, job.launches, strict=True):
        overrides: Json = {"run_config": parameters}
        if job.command:
            overrides["entry_point"] = list(job.command)
        spec = {"job": reference, "project": "demo", "name": name, "overrides": overrides}
        item = await _run(console, name, spec, view)
        rows.append(Row(reference, job.source, parameters, item))
    return rows


async def _run(console: "Console", name: str, spec: Json, view: "View") -> Json:
    item = await console.submit("default", spec)
    await follow(
        console,
        str(item["id"]),
        lambda seen: view.progress(name, seen),
        lambda channel, piece: view.output(name, channel, piece),
        every=0.1,
    )
    return await console.item(str(item["id"]))


async def _stay(console: "Console", daemon: Daemon) -> None:
    print(f"\nStill running at {daemon.url}")
    print(f"Sign in:  {await console.sign_in_link()}")
    print(f"Commands: export LAUNCH_STATE_DIR={daemon.state_dir}; launch item list")
    print("Ctrl-C stops it.", flush=True)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):  # from here on they are the way to leave
        loop.add_signal_handler(number, asked.set)
    waits = [asyncio.create_task(asked.wait()), asyncio.create_task(daemon.ended())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
