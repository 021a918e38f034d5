from collections.abc import AsyncIterator

import pytest

from agent.remote.client import ControlPlaneClient, Endpoint, RetryPolicy
from tests.unit.remote.far_end import FarEnd, far_end

KEY = "launch-" + "k" * 40


@pytest.fixture
async def end() -> AsyncIterator[FarEnd]:
    async with far_end() as made:
        yield made


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
async def client(end: FarEnd, slept: list[float]) -> AsyncIterator[ControlPlaneClient]:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    made = ControlPlaneClient(
        Endpoint(end.url, KEY),
        user_agent="launch-agent/test",
        retry_policy=RetryPolicy(),
        sleep=sleep,
    )
    async with made:
        yield made
