"""`launch server`: the control plane of a team; what daemons print when they start."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.import_cost import import_structlog_without_rich
from agent.cli.options import example
from agent.config.document import KeyPath
from agent.config.load import flag_values, load
from agent.model.names import CONTAINERS, KUBERNETES, PROCESSES

if TYPE_CHECKING:
    from agent.compose.control_plane import Announcement

_FLAGS: Final[dict[str, tuple[str, KeyPath]]] = {
    "listen": ("--listen", ("control", "listen")),
    "port": ("--port", ("control", "port")),
    "data_dir": ("--data-dir", ("control", "data_dir")),
    "external_url": ("--external-url", ("control", "external_url")),
    "log_format": ("--log-format", ("log", "format")),
    "log_file": ("--log-file", ("log", "file")),
}


_RESOURCES: Final = {
    CONTAINERS: "in containers",
    PROCESSES: "as processes of this machine",
    KUBERNETES: "on a Kubernetes cluster",
}


@click.command(
    "server", epilog=example("LAUNCH_DATABASE_URL=postgresql://user@host/launch launch server")
)
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Configuration file; its section `control` is used.",
)
@click.option("--listen", metavar="ADDRESS", help="127.0.0.1 by default.")
@click.option("--port", type=click.IntRange(0, 65535), help="8450 by default; 0 is any free one.")
@click.option("--data-dir", type=click.Path(), help="Folder of SQLite database, logs and code.")
@click.option("--external-url", metavar="URL", help="Address by which clients reach it.")
@click.option(
    "--rotate-signing-key",
    is_flag=True,
    help="Sign with a new key from now on; the earlier one stays valid until the next rotation.",
)
@click.option(
    "--after-restore",
    is_flag=True,
    help="The database was restored from a backup: pause all queues and fence all agents first.",
)
@click.option("-l", "--log-file", help="Destination of the log; `-` is standard error.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    help="Form of the log; auto: console on a terminal, else JSON.",
)
def server(
    *, config_file: Path | None, rotate_signing_key: bool, after_restore: bool, **flags: Any
) -> int:
    """Serve the control plane until SIGTERM.

    With LAUNCH_DATABASE_URL=postgresql://… (or `control.database_url`) the data is in
    PostgreSQL, else in SQLite. The first start creates an administrator, and stores the key where
    commands on this machine find it; `launch user create` and `launch key create` create more.
    """
    import_structlog_without_rich()
    loaded = load(os.environ, file=config_file, flags=flag_values(flags, _FLAGS))
    from agent.compose.control_plane import run_server

    serving = run_server(
        loaded.config, print_announcement, new_key=rotate_signing_key, restored=after_restore
    )
    return asyncio.run(serving)


def print_announcement(announcement: "Announcement") -> None:
    """Print on standard output, at the start: address, how to sign in, what jobs run on."""
    print(f"Control plane  {announcement.url}  ({announcement.origin})")
    if announcement.sign_in is not None:
        # The link is a credential: it is printed on a terminal only, not into files and journals.
        how = announcement.sign_in if sys.stdout.isatty() else "`launch open` prints a link"
        print(f"Sign in        {how}")
    if announcement.key_file is not None:
        print(f"API key        of the administrator: {announcement.key_file}")
    if announcement.resources:
        where = " or ".join(_RESOURCES.get(each, each) for each in announcement.resources)
        print(f"Jobs run       {where}; a new queue takes {announcement.resources[0]}")
    for warning in announcement.warnings:
        print(f"Note           {warning}")
    sys.stdout.flush()
