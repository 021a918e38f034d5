"""`launch run`: one run here and now, in the foreground, ending as it ends."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.connect import Target, json_option, on_server
from agent.cli.follow import exit_code_for
from agent.cli.job_create import with_options
from agent.cli.output import print_json, say
from agent.cli.submit import conclude, follow_item, push
from agent.cli.submit_options import WISHES, Asked, read_flags
from agent.model.errors import ConfigError

if TYPE_CHECKING:
    from agent.compose.direct import Here
    from agent.config.load import Loaded
    from agent.config.server import EmbeddedServer, RemoteServer

Json = dict[str, Any]


@click.command("run")
@with_options(WISHES)
@on_server
@json_option
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(context: click.Context, /, target: Target, *, as_json: bool, **flags: Any) -> None:
    """Build and run a job here and now, and end as it does.

    The same as `launch submit` without --queue. It is shown and kept like any other run; Ctrl-C
    stops it. ARGS after `--` are appended to its command.
    """
    no_wait = flags["no_wait"]
    asked = read_flags(target.entity, flags)
    context.exit(run_here(target, asked, as_json=as_json, detached=no_wait))


def run_here(target: Target, asked: Asked, *, as_json: bool, detached: bool) -> int:
    """Run it in this process, or in one of its own; the command's exit code.

    Raises:
        LaunchError: it cannot begin; the message says why.
    """
    if detached:
        return _detach()
    from agent.compose.direct import run_direct
    from agent.config.load import load
    from agent.config.server import EmbeddedServer

    loaded = load(os.environ)
    choice = _choose(target, loaded)
    embedded = isinstance(choice, EmbeddedServer)

    async def work(here: "Here") -> Json:
        if not as_json:
            say(f"launch: it runs here; control plane {here.url} ({here.origin}).")
        item = await push(here.console, here.queue, asked, {}, quiet=as_json)
        item = await follow_item(here.console, str(item["id"]), quiet=as_json)
        if not as_json:
            conclude(item, explained=not embedded)
        return item

    resource = asked.wishes.resource or (asked.wishes.base or {}).get("resource")
    item = run_direct(loaded, choice, target.entity, resource, work)
    if as_json:
        print_json(item)
    return exit_code_for(item)


def _choose(target: Target, loaded: "Loaded") -> "RemoteServer | EmbeddedServer":
    """The plane of all commands; where none is known, one of this process."""
    from agent.config.server import EmbeddedServer

    try:
        return target.remote()
    except ConfigError:
        named = (target.server, os.environ.get("LAUNCH_SERVER"), os.environ.get("WANDB_BASE_URL"))
        if any(named) or loaded.config.server:
            raise
        return EmbeddedServer("no control plane is known")


def _detach() -> int:
    """The same command without `--async` in a process of its own, which outlives this one."""
    words = [word for word in sys.argv[1:] if word != "--async"]
    descriptor, name = tempfile.mkstemp(prefix="launch-run-", suffix=".log")
    with os.fdopen(descriptor, "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli.main", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    print(f"Process {process.pid} runs it; its output is in {Path(name)}")
    return 0
