"""What an entity has stored is counted with its rows, limited, and freed with them."""

import asyncio

import pytest

from agent.control.retention import remove_old_rows
from agent.control.services.runs import RunChange
from agent.control.services.stored_bytes import QuotaExceededError
from agent.control.store.contents import ContentRecord
from agent.control.store.log_chunks import LogChunk
from agent.model.cause import Cause
from agent.model.errors import NotFoundError
from agent.model.phase import Phase
from tests.contract.store.test_artifacts import all_are_old, entries, forgotten, store, wanted
from tests.contract.store.world import World


async def counted(world: World) -> dict[tuple[str, str], int]:
    return {(row.entity, row.kind): row.bytes for row in await world.plane.stored.every()}


def limit(world: World, size: int) -> None:
    object.__setattr__(world.plane.config, "max_stored", size)


async def arrives(world: World, size: int, entity: str = "ann") -> None:
    async with world.plane.stored.arriving(entity) as arrival:
        arrival.add(size)


async def breaks(world: World, size: int) -> None:
    async with world.plane.stored.arriving("ann") as arrival:
        arrival.add(size)
        raise ConnectionError


async def test_a_content_counts_once_however_often_it_arrives(world: World) -> None:
    files = entries("one", "three")
    news = [
        ContentRecord("ann", one.md5, f"{n}{one.md5}", one.size) for n in range(4) for one in files
    ]
    await asyncio.gather(*(world.plane.contents.record(new) for new in news))
    await world.plane.contents.record_all(news)
    assert await counted(world) == {("ann", "contents"): len("one" + "three")}


async def test_contents_that_retention_removes_are_free_again(world: World) -> None:
    await store(world, entries("gone", "gone a"))
    limit(world, 10)
    with pytest.raises(QuotaExceededError, match=r"'ann' may store 10 B.*control.max_stored"):
        await arrives(world, 1)
    assert sorted(await forgotten(world, await all_are_old(world))) == ["gone", "gone a"]
    assert await counted(world) == {("ann", "contents"): 0}
    await arrives(world, 10)


async def test_uploads_at_once_share_what_is_left(world: World) -> None:
    """Bytes count from their arrival on, so that no number of slow uploads exceeds the limit."""
    limit(world, 100)
    async with world.plane.stored.arriving("ann") as first:
        first.add(60)
        async with world.plane.stored.arriving("ann") as second:
            second.add(40)
            with pytest.raises(QuotaExceededError):
                first.add(1)
        with pytest.raises(QuotaExceededError):
            await arrives(world, 41)
    await world.plane.accounts.create_team(world.me, "team")
    await arrives(world, 100, "team")


async def test_an_upload_that_failed_leaves_its_room(world: World) -> None:
    limit(world, 100)
    with pytest.raises(QuotaExceededError):
        await arrives(world, 101)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await breaks(world, 99)
    await arrives(world, 100)


async def test_an_upload_is_refused_before_it_is_sent(world: World) -> None:
    files = entries("x", "y")
    artifact = await world.plane.uploads.create(world.me, wanted("c", files))
    md5s = [file.md5 for file in files if file.md5]
    await store(world, files[:1])
    limit(world, 1)
    with pytest.raises(QuotaExceededError):
        await world.plane.uploads.find_stored(world.me, artifact.id, md5s)
    _, stored = await world.plane.uploads.find_stored(world.me, artifact.id, md5s[:1])
    assert stored == set(md5s[:1])


async def test_logs_count_and_are_freed_with_their_item(world: World) -> None:
    agent = await world.agent()
    await world.submit()
    claim = await agent.claim_one()
    await agent.start(claim)
    logs = world.plane.logs
    for channel, first, end in (("setup", 0, 5), ("job", 0, 20), ("job", 20, 70), ("job", 20, 30)):
        chunk = LogChunk(first, end, data=b"x" * (end - first))
        await logs.append(world.me, claim.lease, channel, chunk)
    assert await counted(world) == {("ann", "logs"): 75}
    await agent.finish(claim, Phase.FAILED, Cause.RUN_EXIT_CODE, "1", 1)
    await world.submit()
    await agent.claim_one()
    await world.pass_time(91 * 86400)
    keep = world.plane.config.keep_items
    await world.plane.database.write(lambda tx: remove_old_rows(tx, keep))
    assert await counted(world) == {("ann", "logs"): 0}


async def test_files_of_a_run_count_as_they_are_now(world: World) -> None:
    run, _ = await world.plane.runs.upsert(world.me, RunChange(), project="demo", name="r")
    stored = world.plane.stored
    for name, size in (("a", 10), ("b", 5), ("a", 3), ("b", 6)):
        await stored.save_run_file("ann", run.id, name, size)
    assert await counted(world) == {("ann", "run_files"): 9}
    await world.plane.runs.delete(world.me, run.id)
    assert await counted(world) == {("ann", "run_files"): 0}
    with pytest.raises(NotFoundError):
        await stored.save_run_file("ann", run.id, "a", 1)
