"""Jobs under random faults: one start for each attempt, true outcomes, whole logs, nothing left."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.campaign.campaign import Size, run
from tests.faults.campaign.database import empty_database
from tests.faults.campaign.installation import Plan

#: Store, runner, seed.
KINDS = [
    pytest.param("sqlite", "process", 1, id="sqlite-process"),
    pytest.param("sqlite", "docker", 2, id="sqlite-docker", marks=pytest.mark.docker),
    pytest.param("postgres", "process", 3, id="postgres-process", marks=pytest.mark.postgres),
]


@pytest.fixture
def short_path() -> Iterator[Path]:
    """For sockets: their paths may have 104 characters at most."""
    folder = Path(tempfile.mkdtemp(prefix="lc-"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "seconds", [pytest.param(8, id="short"), pytest.param(90, id="long", marks=pytest.mark.long)]
)
@pytest.mark.parametrize(("store", "runner", "seed"), KINDS)
async def test_a_storm_of_faults_breaks_no_promise(
    store: str, runner: str, seed: int, seconds: int, short_path: Path
) -> None:
    async with empty_database(store) as url:
        plan = Plan(runner, url, agents=2)
        verdict = await run(short_path, plan, seed, Size(seconds=seconds))
    assert verdict.finished.total() > 0
    assert not verdict.violations, "\n".join([f"seed {seed}", *verdict.lines()])
