from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def threads():
    with ThreadPoolExecutor(4) as pool:
        yield pool
