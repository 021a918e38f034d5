"""Yesterday's backup is restored: agents reconnect, and nothing starts by itself."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from agent.config.control import ControlConfig
from agent.control.services.assembly import DATABASE_FILE
from agent.control.services.restore import Restored, after_restore
from agent.model.cause import Cause
from agent.model.phase import Phase
from agent.model.protocol import LeaseStatus
from tests.contract.store.world import Agent, World, open_world
from tests.infrastructure.postgres import programs_directory
from tests.infrastructure.process import run


def _restored(
    config: ControlConfig, folder: Path, new_database: Callable[[], str]
) -> ControlConfig:
    """A copy of the data, by the commands of docs/operations.md."""
    folder.mkdir()
    (folder / "signing.keys").write_bytes((config.data_dir / "signing.keys").read_bytes())
    if config.database_url is None:
        with (
            closing(sqlite3.connect(config.data_dir / DATABASE_FILE)) as live,
            closing(sqlite3.connect(folder / DATABASE_FILE)) as copy,
        ):
            live.backup(copy)
        return ControlConfig(data_dir=folder)
    dump, url = folder / "launch.dump", new_database()
    source = config.database_url.get_secret_value()
    run([programs_directory() / "pg_dump", "--format=custom", f"--file={dump}", source])
    run([programs_directory() / "pg_restore", "--no-owner", f"--dbname={url}", dump])
    return ControlConfig(data_dir=folder, database_url=SecretStr(url))


@pytest.fixture
def new_database(request: pytest.FixtureRequest, store_config: ControlConfig) -> Callable[[], str]:
    if store_config.database_url is None:
        return str
    make: Callable[[], str] = request.getfixturevalue("make_postgres_database")
    return make


async def test_nothing_of_a_backup_starts_by_itself(
    world: World, store_config: ControlConfig, tmp_path: Path, new_database: Callable[[], str]
) -> None:
    agent = await world.agent()
    running = await world.submit({"on_lost": "retry"})
    ran = await agent.claim_one()
    await agent.start(ran)
    prepared = await world.submit()
    preparing = await agent.claim_one()
    waiting = await world.submit()
    await world.queue("other")
    second = await world.agent("second", queues=("other",))
    over = await world.submit(queue="other")
    ended = await second.claim_one()
    await second.start(ended)
    await second.finish(ended, Phase.FAILED, Cause.RUN_EXIT_CODE, exit_code=1)
    backup = await asyncio.to_thread(_restored, store_config, tmp_path / "b", new_database)

    # Since the backup: what was over is retried, all three ran, one runs still.
    await world.plane.items.retry(world.me, over.id)
    retried = await second.claim_one()
    await agent.finish(ran)
    claimed = await agent.claim_one()
    for claim in (preparing, claimed):
        await agent.start(claim)
    await agent.finish(claimed)
    lost = await world.submit()

    async with open_world(backup) as restored:
        found = await restored.plane.database.write(after_restore)
        assert found == Restored(queues=2, waiting=3, lost=1)
        # The agent's process goes on: it must touch nothing that it holds.
        old = Agent(restored, agent.welcome, agent.session)
        for claim in (ran, preparing, claimed):
            assert await old.permit(claim) is LeaseStatus.FENCED
            assert await old.finish(claim) is LeaseStatus.FENCED
        # It is restarted, and others come: nothing is there to be claimed or adopted.
        new = await restored.agent()
        assert new.welcome.held == ()
        assert await old.claim(most=10) == ()
        assert await new.claim(most=10) == ()
        listed = await restored.plane.items.list(restored.me)
        phases = {one.id: one.phase for one in listed.rows}
        queued = dict.fromkeys((running.id, prepared.id, waiting.id), Phase.QUEUED)
        assert phases == {**queued, over.id: Phase.FAILED}
        assert Phase.LOST in await restored.history(running)
        assert lost.id not in phases

        # Somebody looks, stops what ran since, and resumes the queue.
        for item in (running, prepared):
            await restored.plane.items.stop(restored.me, item.id)
        await restored.plane.queues.pause(restored.me, "ann", "default", paused=False)
        again = await new.claim(most=10)
        assert [one.lease.item_id for one in again] == [waiting.id]
        assert again[0].lease.epoch > claimed.lease.epoch
        assert await old.permit(claimed) is LeaseStatus.FENCED

        # What was over is retried again, and comes to the same agent: an old report is of no use.
        await restored.plane.items.retry(restored.me, over.id)
        await restored.plane.queues.pause(restored.me, "ann", "other", paused=False)
        holder = Agent(restored, second.welcome, second.session)
        anew = await holder.claim_one()
        assert anew.lease.attempt == retried.lease.attempt
        assert await holder.finish(retried) is LeaseStatus.FENCED
