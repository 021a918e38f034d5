"""Homes for the end-to-end tests; each is torn down with everything that ran in it."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness.home import Home
from tests.e2e.harness.jobs import Backend, Containers, Processes
from tests.infrastructure.process import free_port
from tests.infrastructure.state import Facts

#: Patience of test daemons: everything as in production, a twentieth of the time.
QUICK: dict[str, Any] = {
    "control": {
        "heartbeat": "500ms",
        "lease": "3s",
        "agent_timeout": "3s",
        "lost_contact": "6s",
    },
    "stopped_run_timeout": "5s",
}


def quick(**more: Any) -> dict[str, Any]:
    """Quick settings with a port of their own, which a restarted control plane keeps."""
    return QUICK | {"control": QUICK["control"] | {"port": free_port()}} | more


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for engines: containerd refuses socket paths of more than 104 characters."""
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    home = Home(tmp_path)
    home.configure(quick())
    yield home
    await home.close()


@pytest.fixture(params=[pytest.param("container", marks=pytest.mark.docker), "process"])
async def backend(
    request: pytest.FixtureRequest, services: Facts, home: Home
) -> AsyncIterator[Backend]:
    """Gated jobs of both kinds; the home's configuration is written to match."""
    if request.param == "container":
        assert services.docker is not None
        host, image = services.docker.host, services.docker.shell_image
        async with Containers(host, image, home.root / "events") as containers:
            yield containers
    else:
        processes = Processes.make(home.root)
        home.configure(quick(**processes.settings))
        yield processes
