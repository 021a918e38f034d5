"""One process of W&B's client for all comparisons."""

from collections.abc import Iterator

import pytest

from tests.contract.wandb_client.environment import WandbClient, running_client


@pytest.fixture(scope="session")
def wandb_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WandbClient]:
    with running_client(tmp_path_factory.mktemp("wandb-client")) as client:
        yield client
