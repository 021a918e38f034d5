"""`launch server`: the control plane by itself, for a team."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from agent.cli.lean import import_lean
from agent.config.document import KeyPath
from agent.config.load import ConfigValue, load

_FLAGS: Final[dict[str, tuple[str, KeyPath]]] = {
    "listen": ("--listen", ("control", "listen")),
    "port": ("--port", ("control", "port")),
    "data_dir": ("--data-dir", ("control", "data_dir")),
    "external_url": ("--external-url", ("control", "external_url")),
    "log_format": ("--log-format", ("log", "format")),
    "log_file": ("--log-file", ("log", "file")),
}


@click.command("server")
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Configuration file; its section `control` counts.",
)
@click.option("--listen", metavar="ADDRESS", help="127.0.0.1 by default.")
@click.option("--port", type=click.IntRange(0, 65535), help="8450 by default; 0 is any free one.")
@click.option("--data-dir", type=click.Path(), help="SQLite database, logs, code.")
@click.option("--external-url", metavar="URL", help="How clients reach it.")
@click.option("-l", "--log-file", help="Destination of the log; `-` is standard error.")
@click.option("--log-format", type=click.Choice(["auto", "console", "json"]))
def server(*, config_file: Path | None, **flags: Any) -> int:
    """Serve the control plane until SIGTERM.

    With LAUNCH_DATABASE_URL=postgresql://… (or `control.database_url`) it keeps its data in
    PostgreSQL, else in SQLite. The first start makes an administrator and keeps the key where
    commands on this machine find it; `launch user create` and `launch key create` make more.
    """
    import_lean()
    loaded = load(os.environ, file=config_file, flags=_settings(flags))
    from agent.cli.greeting import greet
    from agent.compose.control_plane import run_server

    return run_server(loaded, greet)


def _settings(flags: dict[str, Any]) -> Iterator[ConfigValue]:
    for name, value in flags.items():
        if value is not None:
            shown, path = _FLAGS[name]
            yield ConfigValue(path, value, shown)
