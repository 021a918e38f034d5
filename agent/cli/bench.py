"""What commands make jobs with: the session that is open, and this machine's access to git."""

import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from agent.config.load import load

if TYPE_CHECKING:
    from agent.jobs.create import Workbench
    from agent.remote.console import Console

_THREADS: Final = 4


@asynccontextmanager
async def open_bench(
    console: "Console", environment: Mapping[str, str] = os.environ
) -> AsyncIterator["Workbench"]:
    """A workbench on the console's control plane.

    Repositories are fetched as an agent of this user would: with the same configuration, the
    same credentials and, on one machine, the same mirrors.
    """
    from agent.jobs.create import Workbench
    from agent.jobs.repository import Repositories
    from agent.remote.artifacts.transfers import Transfers

    config = load(environment).config
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="work") as threads:
        repositories = Repositories(
            config.sources.git, config.state_dir / "cache" / "git", environment, threads
        )
        client = console.client
        async with Transfers(client.endpoint.ca_bundle, proxied=client.proxied) as transfers:
            yield Workbench(client, transfers, repositories)
