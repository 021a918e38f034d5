"""`launch doctor`: weaknesses of this installation, each with its remedy."""

import asyncio
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.options import example, json_option
from agent.cli.output import print_json
from agent.cli.terminal import escape_control_characters
from agent.model.errors import ConfigError

if TYPE_CHECKING:
    from agent.compose.doctor import Finding


@click.command("doctor", epilog=example("launch doctor --json"))
@click.option(
    "-c", "--config", "config_file", type=click.Path(path_type=Path),
    help="Configuration file of the agent or the server; as for `launch-agent`.",
)  # fmt: skip
@json_option
def doctor(config_file: Path | None, *, as_json: bool) -> int:
    """Look for weaknesses of this installation: run it as the agent's user, on its machine.

    Versions with known holes, modes of files, addresses that jobs can reach, and what the
    configuration gives to jobs. On a Kubernetes cluster also the account's rights, those on the
    kinds that the templates of the agent's queues name included, and whether nodes reach the
    registry: a pod that cannot start is created and removed, one that fetches code (`code_image`),
    and where pods build images, one of those. Nothing else is changed. The exit code is 1 if there
    is a problem.
    """
    from agent.compose.cluster_checks import examine_cluster
    from agent.compose.doctor import HOLES_AS_OF, examine
    from agent.config.choose_server import ServerFlags, choose_for_agent, choose_for_commands
    from agent.config.load import load

    loaded = load(os.environ, file=config_file)
    choice = choose_for_agent(os.environ, loaded, ServerFlags())

    async def look() -> "list[Finding]":
        found = await examine(loaded.config, choice, loaded.file, os.environ)
        server = None
        with suppress(ConfigError):  # an embedded control plane that does not run
            server = choose_for_commands(os.environ, loaded, ServerFlags())
        return found + await examine_cluster(loaded.config, server, os.environ)

    findings = asyncio.run(look())
    problems = sum(each.level == "problem" for each in findings)
    if as_json:
        print_json({"holes_as_of": HOLES_AS_OF, "findings": [asdict(each) for each in findings]})
        return 1 if problems else 0
    for each in findings:
        print(escape_control_characters(f"{each.level:<8} {each.subject}: {each.message}"))
        if each.remedy:
            print(escape_control_characters(f"         {each.remedy}"))
    print(f"\n{problems or 'No'} problem{'' if problems == 1 else 's'} found.")
    return 1 if problems else 0
