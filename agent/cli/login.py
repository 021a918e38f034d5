"""`launch login` keeps a key; `launch open` signs a browser in."""

import os
import sys

import click

from agent.cli.connect import Target, json_option, on_server
from agent.cli.output import print_json
from agent.model.errors import InvalidInputError


@click.command("login")
@click.argument("url")
def login(url: str) -> None:
    """Keep the API key for the control plane at URL.

    The key is read from the terminal, or from standard input; it is tried before it is kept.
    """
    import asyncio

    from pydantic import SecretStr

    from agent.config.credentials import save_key

    key = _read_key(url)
    name = asyncio.run(_try(url, key))
    file = save_key(os.environ, url, SecretStr(key))
    print(f"Signed in to {url} as {name}; the key is kept in {file}.")
    print(f"Commands use it when this server is named: export LAUNCH_SERVER={url}")


@click.command("open")
@on_server
@json_option
def open_page(target: Target, *, as_json: bool) -> None:
    """Print a link that signs a browser in; it works once, within an hour."""
    link = target.call(lambda console: console.sign_in_link())
    if as_json:
        print_json({"url": link})
    else:
        print(link)


def _read_key(url: str) -> str:
    if sys.stdin.isatty():
        key = str(click.prompt(f"API key for {url}", hide_input=True))
    else:
        key = sys.stdin.readline()
    if not key.strip():
        message = "No API key was given."
        raise InvalidInputError(message, hint="Paste it, or pipe it in: launch login URL < file.")
    return key.strip()


async def _try(url: str, key: str) -> str:
    from agent.remote.client import Endpoint, GraphQLClient
    from agent.remote.console import Console

    async with GraphQLClient(Endpoint(url, key)) as client:
        viewer = await Console(client).viewer()
    return str(viewer.get("username") or viewer.get("name"))
