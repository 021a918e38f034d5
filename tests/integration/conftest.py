import pytest

from agent.registries.logins import DockerLogins
from agent.registries.oci import OciRegistry


@pytest.fixture
async def registry(threads):
    """Opens one for an environment; all are closed."""
    opened = []

    def make(environment):
        opened.append(OciRegistry([DockerLogins(environment, threads)], environment))
        return opened[-1]

    yield make
    for each in opened:
        await each.close()
