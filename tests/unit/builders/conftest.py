import tempfile
from pathlib import Path

import pytest

from agent.docker.client import Engine
from tests.unit.builders.fake_engine import serving


@pytest.fixture
async def fake():
    # Paths of sockets are short.
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder)) as made:
            yield made


@pytest.fixture
async def engine(fake):
    async with Engine(fake.host, {}) as made:
        yield made
