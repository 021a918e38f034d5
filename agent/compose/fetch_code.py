"""Fetches a job's code in a pod, before the job's own container starts.

`python3 -m agent.compose.fetch_code REFERENCE DIGEST CONTEXT TARGET`, with the run's own credential
in `WANDB_BASE_URL` and `WANDB_API_KEY`. Leaves the folder CONTEXT of the code artifact as
`TARGET/home/src`, every file compared with its digest, the list of all with DIGEST
(`agent.model.work.CodeVersion`). What goes wrong is one line of standard error, which the pod's
status shows, and exit code 1. Without arguments nothing is fetched: `launch doctor` learns so that
an image has this program.
"""

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from agent.config.execution import CodeConfig
from agent.model.cause import Cause
from agent.model.errors import JobError, LaunchError
from agent.model.job.names import parse_reference
from agent.model.job.paths import resolve_inside
from agent.model.spec import ArtifactSource
from agent.model.work import CodeVersion
from agent.remote.artifacts.reader import RemoteArtifacts
from agent.remote.artifacts.transfers import Transfers
from agent.remote.client import ControlPlaneClient, Endpoint
from agent.remote.retry_policy import RetryPolicy
from agent.sources.artifact import ArtifactFetcher

#: Seconds: the job is started, and must not end because the control plane is restarted.
RETRIES: Final = RetryPolicy(total=300.0)
#: The agent has applied its own limits to the same version.
_UNLIMITED: Final = CodeConfig(max_size=sys.maxsize, max_files=sys.maxsize)
_THREADS: Final = 4


class _NoLog:
    """A `LogSink`: only what goes wrong is told."""

    async def write(self, data: bytes) -> None:
        """Drop it."""


async def fetch_code(
    endpoint: Endpoint, version: CodeVersion, context: str, target: Path, retries: RetryPolicy
) -> None:
    """Fetch a version into the folder `target`, which an interrupted fetch may have used.

    Raises:
        LaunchError: the version cannot be had, or is not the one that was started.
    """
    home, fetched, cache = target / "home", target / "fetched", target / "cache"
    reference = parse_reference(version.reference)
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch"))
        for left in (home, fetched, cache):
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        fetched.mkdir(parents=True)
        client = await stack.enter_async_context(ControlPlaneClient(endpoint, retry_policy=retries))
        transfers = await stack.enter_async_context(
            Transfers(proxied=client.proxied, retry_policy=retries)
        )
        artifacts = RemoteArtifacts(client, transfers)
        fetcher = ArtifactFetcher(artifacts, _UNLIMITED, cache, threads)
        source = ArtifactSource(artifact=f"wandb-artifact://{reference}")
        tree = await fetcher.fetch(source, reference.entity, fetched, _NoLog())
    if tree.code != version:
        message = f"{version.reference} is not the version that the agent has read."
        raise JobError(Cause.SOURCE_INVALID, message, hint="Submit the job again.")
    home.mkdir()
    shutil.move(resolve_inside(fetched, context, "build context"), home / "src")
    for left in (fetched, cache):
        await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The program; gives the line for standard error if it fails."""
    if not arguments:
        return None
    try:
        reference, digest, context, target = arguments
        endpoint = Endpoint(environment["WANDB_BASE_URL"], environment["WANDB_API_KEY"])
    except (ValueError, KeyError) as error:
        return f"this program is for agents of its own version ({error})"
    fetching = fetch_code(endpoint, CodeVersion(reference, digest), context, Path(target), RETRIES)
    try:
        asyncio.run(fetching)
    except LaunchError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 -- a line is all that the pod's status shows
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
