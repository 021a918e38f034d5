"""Browser sessions and sign-in links are in the store, and so is their end."""

from pathlib import Path

import pytest

from agent.config.control import ControlConfig
from agent.control.services.assembly import open_services
from agent.control.store import sign_ins
from agent.control.store.sign_ins import session as stored_session
from agent.model.errors import AuthenticationError
from tests.contract.store.world import World


async def test_a_session_is_its_keys_owner_until_it_is_signed_out(world: World) -> None:
    accounts = world.plane.accounts
    token = await accounts.sign_in(world.me)
    found = await accounts.resume(token)
    assert (found.name, found.key_id, found.admin) == ("ann", world.me.key_id, True)
    assert found.signed_in_at is not None
    assert world.me.signed_in_at is None
    await accounts.sign_out(token)
    await accounts.sign_out(token)
    for wrong in (token, "nonsense", "", world.key):
        with pytest.raises(AuthenticationError):
            await accounts.resume(wrong)
    with pytest.raises(AuthenticationError):
        await accounts.authenticate(token)


async def test_a_link_signs_in_once_and_is_no_session(world: World) -> None:
    accounts = world.plane.accounts
    link = await accounts.create_link(world.me)
    with pytest.raises(AuthenticationError):
        await accounts.resume(link)
    session = await accounts.follow_link(link)
    assert session is not None
    assert (await accounts.resume(session)).name == "ann"
    assert await accounts.follow_link(link) is None
    assert await accounts.follow_link(session) is None


async def test_sessions_and_links_end_by_time_and_are_removed(world: World) -> None:
    accounts = world.plane.accounts
    link, session = [await make(world.me) for make in (accounts.create_link, accounts.sign_in)]
    await world.pass_time(3601, reap=False)
    assert await accounts.follow_link(link) is None
    await accounts.resume(session)
    await world.pass_time(7 * 86400, reap=False)
    accounts.clear_cache()
    with pytest.raises(AuthenticationError):
        await accounts.resume(session)
    assert await world.plane.database.write(sign_ins.remove_expired) == 2


async def test_a_session_ends_with_its_key(world: World) -> None:
    accounts = world.plane.accounts
    made = await accounts.create_key(world.me, "laptop")
    session = await accounts.sign_in(await accounts.authenticate(made.secret))
    await accounts.revoke_key(world.me, made.record.id)
    with pytest.raises(AuthenticationError):
        await accounts.resume(session)


async def test_another_replica_knows_sessions_and_their_end(
    world: World, store_config: ControlConfig, tmp_path: Path
) -> None:
    """Over SQLite, which one process owns, the next start stands for the replica."""
    first = world.plane.accounts
    token, ended = await first.sign_in(world.me), await first.sign_in(world.me)
    link = await first.create_link(world.me)
    await first.follow_link(link)
    await first.sign_out(ended)
    if store_config.database_url is None:
        found = [
            await world.plane.database.read(lambda tx, one=one: stored_session(tx, one))
            for one in map(_hash, (token, ended))
        ]
        assert [each is not None for each in found] == [True, False]
        return
    async with open_services(store_config) as other:
        assert (await other.accounts.resume(token)).name == "ann"
        assert await other.accounts.follow_link(link) is None
        with pytest.raises(AuthenticationError):
            await other.accounts.resume(ended)


def _hash(token: str) -> bytes:
    from agent.control.auth.keys import hash_key

    return hash_key(token)
