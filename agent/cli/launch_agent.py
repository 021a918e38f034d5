"""`launch-agent`: takes jobs off queues and runs them on this machine."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from agent import __version__
from agent.cli.lean import collect_rarely, import_lean
from agent.cli.top import debug_option, run_command
from agent.config.document import KeyPath
from agent.config.load import ConfigValue, load
from agent.config.server import ServerFlags, choose_for_agent
from agent.model.errors import InvalidInputError

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
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("-q", "--queue", "queues", multiple=True, help="Queue to serve; may be repeated.")
@click.option("-e", "--entity", help="Whose queues; the key's owner by default.")
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
@click.option("--embedded", is_flag=True, help="Bring a control plane, whatever names a server.")
@click.option("--server", metavar="URL", help="Control plane to serve.")
@click.option(
    "--api-key-file", type=click.Path(path_type=Path), help="A file with the key for --server."
)
@click.option(
    "--listen", metavar="ADDRESS", help="Embedded control plane: address; 127.0.0.1 by default."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Embedded control plane: port; 0 is any free."
)
@click.option("--state-dir", type=click.Path(), help="Journal, caches, folders of jobs.")
@click.option("--data-dir", type=click.Path(), help="Embedded control plane: database, logs, code.")
@click.option(
    "--on-stop",
    type=click.Choice(["auto", "wait", "detach"]),
    help="What the first SIGTERM means for running jobs; auto waits if embedded, else detaches.",
)
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]))
@click.option("--check-config", is_flag=True, help="Print what would count, and from where; exit.")
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

    Without a server it brings its own control plane: SQLite and a folder, on loopback. The
    first SIGTERM or Ctrl-C stops claiming and leaves in good order; the second stops the jobs.
    """
    if wandb_url is not None:
        message = "-u/--url is gone, as in W&B's agent."
        raise InvalidInputError(message, hint="Use --queue, and --server for the address.")
    loaded = load(os.environ, file=config_file, flags=_settings(flags))
    choice = choose_for_agent(os.environ, loaded, ServerFlags(server, api_key_file, embedded))
    if check_config:
        from agent.cli.check_config import print_config

        print_config(loaded, choice)
        return 0
    if not loaded.config.queues:
        message = "launch-agent needs at least one queue to serve."
        raise InvalidInputError(message, hint="Add --queue default, or `queues:` to the file.")
    from agent.cli.greeting import greet
    from agent.compose.agent import run_agent

    return run_agent(loaded, choice, greet)


def _settings(flags: dict[str, Any]) -> Iterator[ConfigValue]:
    for name, value in flags.items():
        shown, path = _FLAGS[name]
        if value not in {None, (), 0} or (value == 0 and name in {"port", "max_jobs"}):
            given = list(value) if isinstance(value, tuple) else value
            yield ConfigValue(path, given, shown)


def main() -> None:
    """Entry point of the console script."""
    collect_rarely()
    import_lean()
    sys.exit(run_command(launch_agent, "launch-agent"))


if __name__ == "__main__":
    main()
