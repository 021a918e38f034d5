"""`launch-agent`: the daemon that takes jobs off queues and runs them on this machine."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from pydantic import SecretStr

from agent import __version__
from agent.cli.errors import debug_option, run_command
from agent.cli.import_cost import import_structlog_without_rich, reduce_garbage_collection
from agent.cli.options import example
from agent.cli.output import print_table
from agent.config.agent import AgentConfig
from agent.config.base import Model
from agent.config.choose_server import EmbeddedServer, RemoteServer, ServerFlags, choose_for_agent
from agent.config.document import KeyPath, dotted
from agent.config.load import Loaded, flag_values, load
from agent.config.schema import annotation_at, describe, values_of
from agent.model.errors import InvalidInputError
from agent.model.redact import MASK, Redactor
from agent.model.units import format_size

#: Which key of the configuration a flag sets.
_FLAGS: Final[dict[str, tuple[str, KeyPath]]] = {
    "queues": ("--queue", ("queues",)),
    "entity": ("--entity", ("entity",)),
    "log_file": ("--log-file", ("log", "file")),
    "max_jobs": ("--max-jobs", ("max_jobs",)),
    "name": ("--name", ("name",)),
    "listen": ("--listen", ("control", "listen")),
    "port": ("--port", ("control", "port")),
    "state_dir": ("--state-dir", ("state_dir",)),
    "data_dir": ("--data-dir", ("control", "data_dir")),
    "on_stop": ("--on-stop", ("on_stop",)),
    "log_format": ("--log-format", ("log", "format")),
    "verbosity": ("-v", ("verbosity",)),
}


@click.command(
    "launch-agent",
    epilog=example(
        "launch-agent --queue default",
        "launch-agent --queue gpu --queue cpu -e team --server https://launch.example",
    ),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("-q", "--queue", "queues", multiple=True, help="Queue to serve; may be repeated.")
@click.option("-e", "--entity", help="Entity of the queues; the key's owner by default.")
@click.option("-l", "--log-file", help="Destination of the log; `-` is standard error.")
@click.option("-j", "--max-jobs", type=int, help="Jobs at a time; -1 is unlimited.")
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Configuration file, ours or W&B's launch-config.yaml.",
)
@click.option("-v", "--verbose", "verbosity", count=True, help="Log more; -vv logs most.")
@click.option("--name", help="Name of this agent; the host's name by default.")
@click.option("--embedded", is_flag=True, help="Embed a control plane in any case.")
@click.option("--server", metavar="URL", help="Address of the control plane.")
@click.option(
    "--api-key-file", type=click.Path(path_type=Path), help="File with the API key for --server."
)
@click.option("--listen", metavar="ADDRESS", help="Embedded server: address; 127.0.0.1 by default.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Embedded server: port; 0 is any free one."
)
@click.option("--state-dir", type=click.Path(), help="Folder of journal, caches and jobs.")
@click.option(
    "--data-dir",
    type=click.Path(),
    help="Embedded server: database, logs, code.",
)
@click.option(
    "--on-stop",
    type=click.Choice(["auto", "wait", "detach"]),
    help="Running jobs at the first SIGTERM: auto waits if embedded, else detaches.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    help="Form of the log; auto: console on a terminal, else JSON.",
)
@click.option("--check-config", is_flag=True, help="Print the effective values and origins.")
@click.option("-u", "--url", "wandb_url", hidden=True)
@click.version_option(__version__, prog_name="launch-agent", message="%(prog)s %(version)s")
@debug_option
def launch_agent(
    *,
    config_file: Path | None,
    embedded: bool,
    server: str | None,
    api_key_file: Path | None,
    check_config: bool,
    wandb_url: str | None,
    **flags: Any,
) -> int:
    """Take jobs off queues and run them on this machine.

    Without a server it embeds a control plane: SQLite and a folder, on loopback. The first
    SIGTERM or Ctrl-C stops claiming and shuts down in order; the second stops the jobs.
    """
    if wandb_url is not None:
        message = "-u/--url was removed, as in W&B's agent."
        raise InvalidInputError(message, hint="Use --queue, and --server for the address.")
    # Not given, `-v` counts 0, which would replace the file's value.
    flags["verbosity"] = flags["verbosity"] or None
    loaded = load(os.environ, file=config_file, flags=flag_values(flags, _FLAGS))
    choice = choose_for_agent(os.environ, loaded, ServerFlags(server, api_key_file, embedded))
    if check_config:
        _print_config(loaded, choice)
        return 0
    if not loaded.config.queues:
        message = "launch-agent needs at least one queue to serve."
        raise InvalidInputError(message, hint="Add --queue default, or `queues:` to the file.")
    from agent.cli.server import print_announcement
    from agent.compose.agent import run_agent

    return asyncio.run(run_agent(loaded, choice, print_announcement))


def _print_config(loaded: Loaded, choice: RemoteServer | EmbeddedServer) -> None:
    """Print the file that was read, the server that was chosen, and all values."""
    from agent.config.schema import missing_inputs
    from agent.runners.docker.options import allowance

    # Refuses what only the runner can check.
    allowance(loaded.config.runners.local_container.allow)
    print(f"file:    {loaded.file or 'none'}")
    if isinstance(choice, RemoteServer):
        print(f"server:  {choice.url} (from {choice.origin}), key {MASK}")
    else:
        print(f"server:  embedded ({choice.origin})")
    print()
    rows = [
        (dotted(path), _shown(path, value), loaded.origin(path))
        for path, value in _leaves((), loaded.config)
    ]
    print_table(("KEY", "VALUE", "FROM"), rows, "")
    processes = loaded.config.runners.local_process
    exposure = () if processes.enabled is False else filter(None, (processes.exposure,))
    for warning in (*loaded.warnings, *missing_inputs(loaded.config, os.environ), *exposure):
        print(f"note:    {warning}")


def _leaves(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, Model):
        for key, inner in values_of(value):
            yield from _leaves((*path, key), inner)
    elif isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves((*path, key), item)
    elif isinstance(value, tuple) and value and isinstance(value[0], Model):
        for index, item in enumerate(value):
            yield from _leaves((*path, index), item)
    else:
        yield path, value


def _shown(path: KeyPath, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, tuple):
        return "[" + ", ".join(_shown((*path, 0), item) for item in value) + "]"
    return Redactor().text(_scalar(describe(annotation_at(AgentConfig, path)), value))


def _scalar(form: str, value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float() if "duration" in form:
            return _duration(value)
        case int() if "a size" in form:
            return format_size(value)
        case _:
            return str(value)


def _duration(seconds: float) -> str:
    """In the largest unit of which it is a multiple: `90m`, `2h`."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def main() -> None:
    """Entry point of the console script."""
    reduce_garbage_collection()
    import_structlog_without_rich()
    sys.exit(run_command(launch_agent, "launch-agent"))


if __name__ == "__main__":
    main()
