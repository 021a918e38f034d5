"""What commands make jobs with: the session that is open, and this machine's access to git."""

import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.jobs.create import Workbench
    from agent.jobs.repository import Repositories
    from agent.remote.console import Console

_THREADS: Final = 4


@asynccontextmanager
async def open_workbench(
    console: "Console", environment: Mapping[str, str] = os.environ
) -> AsyncIterator["Workbench"]:
    """A workbench on the console's control plane.

    Repositories are fetched as an agent of this user would: with the same configuration, the
    same credentials and, on one machine, the same mirrors.
    """
    from agent.jobs.create import Workbench
    from agent.remote.artifacts.transfers import Transfers

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="work") as threads:
        client, repositories = console.client, partial(_repositories, environment, threads)
        async with Transfers(client.endpoint.ca_bundle, proxied=client.proxied) as transfers:
            yield Workbench(client, transfers, repositories)


def _repositories(environment: Mapping[str, str], threads: ThreadPoolExecutor) -> "Repositories":
    from agent.config.load import load
    from agent.jobs.repository import Repositories

    config = load(environment).config
    cache = config.state_dir / "cache" / "git"
    return Repositories(config.sources.git, cache, environment, threads)
