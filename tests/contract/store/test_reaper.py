"""What the passing of time does: expired leases, lost agents, retention."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from agent.config.control import ControlConfig
from agent.control.retention import remove_old_rows
from agent.control.services import reaper
from agent.control.services.transitions import move
from agent.control.store import items
from agent.control.store.tables import items as items_table
from agent.control.store.write_batches import OverloadedError
from agent.model.cause import Cause
from agent.model.errors import AuthenticationError, ConflictError, NotFoundError, UnreachableError
from agent.model.phase import Phase
from agent.model.protocol import LeaseStatus
from tests.contract.store.world import World, open_world


async def test_an_expired_lease_before_the_permit_goes_back_to_its_queue(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    await agent.advance(claim, Phase.PREPARING)
    assert (await world.pass_time(44)).requeued == 0
    assert (await world.pass_time(2)).requeued == 1
    again = await world.item(item)
    assert (again.phase, again.agent_id, again.lease_losses) == (Phase.QUEUED, None, 1)
    assert await world.history(item) == [
        Phase.QUEUED,
        Phase.LEASED,
        Phase.PREPARING,
        Phase.QUEUED,
    ]


async def test_renewal_keeps_a_lease(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    for _ in range(5):
        await world.pass_time(30)
        assert (await agent.beat(claim)).statuses == {item.id: LeaseStatus.HELD}
    assert (await world.item(item)).phase is Phase.LEASED


async def test_three_lost_leases_in_a_row_withdraw_an_item(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"retries": 3})
    for _ in range(2):
        await agent.claim_one()
        await world.pass_time(46)
    await agent.claim_one()
    assert (await world.pass_time(46)).quarantined == 1
    ended = await world.item(item)
    assert (ended.phase, ended.cause) == (Phase.ERRORED, Cause.QUARANTINED)


async def test_a_stop_request_outlives_the_holder(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    await agent.claim_one()
    await world.plane.items.stop(world.me, item.id)
    await world.pass_time(46)
    assert (await world.item(item)).phase is Phase.STOPPED


async def test_a_permitted_item_of_a_silent_agent_is_shown_and_then_lost(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    await agent.start(claim)
    assert (await world.pass_time(46)).lost_contact == 1
    silent = await world.item(item)
    assert (silent.phase, silent.lost_contact) == (Phase.STARTED, True)
    assert (await world.pass_time(570)).lost == 0
    assert (await world.pass_time(31)).lost == 1
    ended = await world.item(item)
    assert (ended.phase, ended.cause, ended.lost_contact) == (
        Phase.LOST,
        Cause.LOST_AGENT,
        False,
    )
    assert await agent.finish(claim) is LeaseStatus.FENCED


async def test_on_lost_retry_opens_new_attempts_within_bounds(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"on_lost": "retry"})
    for attempt in range(1, 7):
        claim = await agent.claim_one()
        assert claim.lease.attempt == attempt
        await agent.start(claim)
        await world.pass_time(46)
        await world.pass_time(601)
    assert (await world.item(item)).phase is Phase.LOST
    await world.history(item)


async def test_tries_after_an_error_wait_longer_each_time(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"retries": 8})
    for wait in (5, 10, 20, 40, 80, 160, 300, 300):
        await agent.finish(
            await agent.claim_one(), Phase.ERRORED, Cause.IMAGE_UNAVAILABLE, "refused"
        )
        await world.pass_time(wait - 1)
        assert await agent.claim() == ()
        await world.pass_time(1)
    await agent.claim_one()
    told = [event.text for event in await world.plane.items.events(world.me, item.id)]
    assert "automatic retry 2, after 10 s" in told


async def test_an_item_that_waits_holds_up_nobody(world: World) -> None:
    agent = await world.agent()
    waiting = await world.submit({"retries": 1}, priority=0)
    await agent.finish(await agent.claim_one(), Phase.ERRORED, Cause.DISK_FULL, "full")
    other = await world.submit()
    explained = await world.plane.items.explain(world.me, other.id)
    assert not [line for line in explained.details if "come first" in line]
    assert (await agent.claim_one()).lease.item_id == other.id
    explained = await world.plane.items.explain(world.me, waiting.id)
    assert explained.cause is Cause.SCHEDULE_BACKOFF
    assert "It can be claimed from" in explained.details[-1]


async def test_a_claim_that_waits_is_woken_when_the_wait_of_an_item_is_over(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"retries": 1})
    await agent.finish(await agent.claim_one(), Phase.ERRORED, Cause.START_FAILED, "no")
    claiming = asyncio.create_task(agent.claim(wait=30))
    await world.somebody_waits()
    await world.pass_time(5)
    (claim,) = await claiming
    assert (claim.lease.item_id, claim.lease.attempt) == (item.id, 2)


async def test_a_person_need_not_wait(world: World) -> None:
    agent = await world.agent()
    item = await world.submit({"retries": 1})
    await agent.finish(await agent.claim_one(), Phase.ERRORED, Cause.START_FAILED, "no")
    await world.plane.items.stop(world.me, item.id)
    await world.plane.items.retry(world.me, item.id)
    assert (await agent.claim_one()).lease.attempt == 3


async def test_contact_regained_ends_the_countdown(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    await agent.start(claim)
    await world.pass_time(300)
    assert (await agent.beat(claim)).statuses == {item.id: LeaseStatus.HELD}
    assert not (await world.item(item)).lost_contact
    await world.pass_time(44)
    assert not (await world.item(item)).lost_contact


async def test_an_agent_is_lost_after_its_silence_and_not_after_its_goodbye(world: World) -> None:
    silent, leaving = await world.agent("silent"), await world.agent("leaving")
    await leaving.beat(status="KILLED")
    await world.pass_time(46)
    shown = {one.name: one for one in await world.plane.agents.list(world.me)}
    assert (shown["silent"].lost, shown["leaving"].lost) == (True, False)
    assert not shown["leaving"].live
    await silent.beat()
    found = await world.plane.agents.get(world.me, silent.id)
    assert found is not None
    assert found.live


async def test_a_goodbye_hands_back_at_once_what_was_not_started(world: World) -> None:
    agent = await world.agent()
    waiting, running = await world.submit(priority=3), await world.submit(priority=0)
    started, prepared = await agent.claim(most=2)
    assert started.lease.item_id == running.id
    await agent.start(started)
    await agent.beat(started, prepared, status="KILLED")
    assert (await world.item(waiting)).phase is Phase.QUEUED
    assert (await world.item(waiting)).lease_losses == 0
    assert (await world.item(running)).phase is Phase.STARTED


async def test_a_restart_of_the_control_plane_makes_nobody_late(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    await agent.claim_one()
    await world.pass_time(3600, reap=False)
    await world.plane.reaper.start()
    assert (await world.plane.reaper.reap_once()).requeued == 0
    assert (await world.item(item)).phase is Phase.LEASED


async def test_a_clock_that_jumps_makes_nobody_late(world: World, monkeypatch) -> None:
    agent = await world.agent()
    item = await world.submit()
    await agent.claim_one()
    await world.plane.reaper.reap_once()
    # An hour between the two clocks, and everything stored is an hour too old.
    world.plane.reaper._offset -= 3600
    await world.pass_time(3600)
    assert (await world.item(item)).phase is Phase.LEASED
    found = await world.plane.agents.get(world.me, agent.id)
    assert found is not None
    assert not found.lost


async def test_leases_are_extended_after_a_stall_however_often_that_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await world.agent()
    item = await world.submit()
    await agent.claim_one()
    plane = world.plane.reaper
    await plane.reap_once()
    await world.pass_time(60, reap=False)
    assert plane._round_at is not None
    plane._round_at -= 60

    def refused(tx, expires_at) -> None:
        raise OverloadedError

    with monkeypatch.context() as patched:
        patched.setattr(items, "extend_all_leases", refused)
        for _ in range(2):
            with pytest.raises(OverloadedError):
                await plane.reap_once()
    assert await plane.reap_once() == reaper.Reaped()
    kept = await world.item(item)
    assert (kept.phase, kept.lease_losses) == (Phase.LEASED, 0)


async def _remove_old_rows(world: World) -> int:
    await world.pass_time(91 * 86400)
    keep = world.plane.config.keep_items
    return await world.plane.database.write(lambda tx: remove_old_rows(tx, keep))


async def test_old_things_are_removed(world: World) -> None:
    agent = await world.agent()
    item = await world.submit(key="once")
    claim = await agent.claim_one()
    await agent.start(claim)
    await agent.finish(claim)
    kept = await world.submit()
    assert await _remove_old_rows(world) >= 3
    with pytest.raises(NotFoundError):
        await world.item(item)
    assert (await world.item(kept)).phase is Phase.QUEUED
    assert await world.plane.agents.list(world.me) == ()
    assert (await world.submit(key="once")).id != item.id


async def test_reaping_goes_on_after_a_round_that_failed(world: World, monkeypatch) -> None:
    rounds: list[int] = []
    done = asyncio.Event()

    async def reap_once() -> reaper.Reaped:
        rounds.append(1)
        if len(rounds) == 1:
            raise UnreachableError("away")
        if len(rounds) == 2:
            raise ZeroDivisionError
        if len(rounds) == 4:
            done.set()
        return reaper.Reaped(requeued=int(len(rounds) == 3))

    monkeypatch.setattr(reaper, "INTERVAL", 0)
    monkeypatch.setattr(world.plane.reaper, "reap_once", reap_once)
    with capture_logs() as logged:
        loop = asyncio.create_task(world.plane.reaper.run())
        async with asyncio.timeout(20):
            await done.wait()
        loop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loop
    finished = [entry for entry in logged if entry["event"] == "leases or runs expired"]
    assert [entry["requeued"] for entry in finished] == [1]


async def test_a_step_on_what_has_changed_meanwhile_changes_nothing(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    seen = await world.plane.database.read(lambda tx: items.require(tx, item.id))
    await agent.claim_one()
    before = await world.item(item)
    with pytest.raises(ConflictError, match="changed meanwhile"):
        await world.plane.database.write(lambda tx: move(tx, seen, Phase.STOPPED))
    assert await world.item(item) == before


async def test_a_goodbye_leaves_running_jobs_to_be_adopted(world: World) -> None:
    agent = await world.agent(identity="i")
    item = await world.submit()
    claim = await agent.claim_one()
    await agent.start(claim)
    await agent.beat(claim, status="KILLED")
    # One that was sent before, and arrives after it.
    await agent.beat(claim, status="DRAINING")
    (gone,) = await world.plane.agents.list(world.me)
    assert gone.status == "KILLED"
    back = await world.agent(identity="i")
    assert [one.lease.item_id for one in back.welcome.held] == [item.id]


async def test_a_run_token_never_becomes_another_attempts(world: World) -> None:
    """SQLite gives the highest number of a table again once its row is gone."""
    agent = await world.agent()
    item = await world.submit()
    old = await agent.claim_one()
    await agent.start(old)
    await agent.finish(old)
    assert await _remove_old_rows(world)
    agent = await world.agent()
    await world.submit()
    new = await agent.claim_one()
    assert new.lease.item_id != item.id
    assert new.run_token != old.run_token
    with pytest.raises(AuthenticationError):
        await world.plane.accounts.authenticate(old.run_token)


async def _round(world: World) -> reaper.Reaped:
    """A round that is not late, however busy the machine of the test is."""
    world.plane.reaper._round_at = None
    return await world.plane.reaper.reap_once()


async def _expire_item_leases(world: World) -> None:
    expired = update(items_table).values(lease_expires_at=items_table.c.lease_expires_at - 100)
    await world.plane.database.write(lambda tx: tx.run(expired))


@pytest.fixture
async def replicas(
    new_postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[World, World]]:
    """Two over one database."""
    monkeypatch.setattr(reaper, "_LEASE", 60.0)
    config = ControlConfig(data_dir=tmp_path, database_url=new_postgres_database)
    async with open_world(config) as one, open_world(config) as other:
        yield one, other


@pytest.mark.postgres
async def test_one_of_two_replicas_reaps_and_the_other_takes_over(
    replicas: tuple[World, World],
) -> None:
    first, second = replicas
    agent = await first.agent()
    item = await first.submit()
    await _round(first)
    await agent.claim_one()
    await _expire_item_leases(first)
    assert await _round(second) == reaper.Reaped()
    assert (await _round(first)).requeued == 1
    await agent.claim_one()
    # The first one is killed.
    await second.pass_time(100, reap=False)
    assert (await _round(second)).requeued == 1
    await agent.claim_one()
    await _expire_item_leases(first)
    assert await _round(first) == reaper.Reaped()
    # The second one stops in order: nobody waits for its lease to expire.
    await second.plane.reaper.stop()
    assert (await _round(first)).quarantined == 1
    assert (await first.item(item)).cause is Cause.QUARANTINED


@pytest.mark.postgres
async def test_a_replica_that_stalled_alone_extends_no_lease(replicas: tuple[World, World]) -> None:
    """The other one went on expiring them; without it, agents could not have renewed."""
    stalled, other = replicas
    agent = await stalled.agent()
    item = await stalled.submit()
    await stalled.plane.reaper.reap_once()
    await other.pass_time(100, reap=False)
    await _round(other)
    await agent.claim_one()
    assert stalled.plane.reaper._round_at is not None
    stalled.plane.reaper._round_at -= 3600

    async def expiry() -> float:
        row = await other.plane.database.read(lambda tx: items.require(tx, item.id))
        return float(row.lease_expires_at)

    before = await expiry()
    await stalled.plane.reaper.reap_once()
    assert await expiry() == before


@pytest.mark.postgres
async def test_a_stand_by_that_takes_over_after_a_stall_extends_the_leases(
    replicas: tuple[World, World],
) -> None:
    """The database was away, and the leader died before it had extended them."""
    leader, stand_by = replicas
    agent = await leader.agent()
    item = await leader.submit()
    await agent.claim_one()
    await leader.plane.reaper.reap_once()
    await stand_by.plane.reaper.reap_once()
    await _expire_item_leases(leader)
    assert stand_by.plane.reaper._round_at is not None
    stand_by.plane.reaper._round_at -= 60
    assert await stand_by.plane.reaper.reap_once() == reaper.Reaped()
    await leader.plane.reaper.stop()
    assert await stand_by.plane.reaper.reap_once() == reaper.Reaped()
    assert (await stand_by.item(item)).phase is Phase.LEASED
