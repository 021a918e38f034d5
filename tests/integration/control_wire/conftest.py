import pytest

from tests.integration.control_wire.wire import open_wire


@pytest.fixture
async def wire(tmp_path):
    async with open_wire(tmp_path / "data") as opened:
        yield opened
