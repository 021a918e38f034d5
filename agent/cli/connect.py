"""From a command's options to a console on the right control plane."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent import __version__

if TYPE_CHECKING:
    from agent.config.server import RemoteServer
    from agent.remote.console import Console

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Target:
    """Which control plane, and whose things on it."""

    server: str | None
    api_key_file: Path | None
    entity: str | None

    def call(self, work: Callable[["Console"], Awaitable[Result]]) -> Result:
        """Run one piece of work on an open console.

        Raises:
            LaunchError: the server cannot be chosen, reached or used.
        """
        return asyncio.run(self._call(work))

    async def _call(self, work: Callable[["Console"], Awaitable[Result]]) -> Result:
        from agent.remote.client import Endpoint, GraphQLClient
        from agent.remote.console import Console

        remote = self.remote()
        endpoint = Endpoint(remote.url, remote.api_key.get_secret_value(), remote.ca_bundle)
        async with GraphQLClient(endpoint, user_agent=f"launch/{__version__}") as client:
            return await work(Console(client, self.entity))

    def remote(self) -> "RemoteServer":
        """Address and key, from one place."""
        from agent.config.load import load
        from agent.config.server import ServerFlags, choose_for_commands

        flags = ServerFlags(self.server, self.api_key_file)
        return choose_for_commands(os.environ, load(os.environ), flags)


def on_server(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose a server; it receives `target`."""

    def with_target(
        *args: Any, server: str | None, api_key_file: Path | None, entity: str | None, **rest: Any
    ) -> Any:
        return command(*args, target=Target(server, api_key_file, entity), **rest)

    options = (
        click.option("--server", metavar="URL", help="The control plane's address."),
        click.option(
            "--api-key-file",
            type=click.Path(path_type=Path),
            help="A file with the key for --server.",
        ),
        click.option(
            "-e", "--entity", envvar=["LAUNCH_ENTITY", "WANDB_ENTITY"],
            help="Whose queues; yours by default.",
        ),
    )  # fmt: skip
    wrapped = update_wrapper(with_target, command)
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
