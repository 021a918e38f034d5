"""Keys that expire, disabled users, invitations, and the log of who changed them."""

from dataclasses import replace

import pytest
from sqlalchemy import text

from agent.control.auth.policy import Principal
from agent.control.store.accounts import Role
from agent.model.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from tests.contract.store.test_rights_when_used import renewed, sign_in
from tests.contract.store.world import World


async def test_a_key_expires_when_it_was_asked_to(world: World) -> None:
    accounts = world.plane.accounts
    made = await accounts.create_key(world.me, "short", expires_seconds=90.0)
    agent = await accounts.create_agent_key(world.me, "ann", "robot", None, expires_seconds=90.0)
    assert made.record.expires_at is not None
    for key in (made, agent):
        await accounts.authenticate(key.secret)
    session = await accounts.sign_in(await accounts.authenticate(made.secret))
    await world.pass_time(91, reap=False)
    accounts.clear_cache()
    for key in (made, agent):
        with pytest.raises(AuthenticationError):
            await accounts.authenticate(key.secret)
    with pytest.raises(AuthenticationError):
        await accounts.resume(session)
    for seconds in (0.0, -1.0, 1e12, float("nan")):
        with pytest.raises(InvalidInputError):
            await accounts.create_key(world.me, "never", expires_seconds=seconds)


async def test_administrators_list_and_revoke_keys_of_others(world: World) -> None:
    accounts = world.plane.accounts
    bob = await sign_in(world, "bob")
    (listed,) = await accounts.keys(world.me, user="bob")
    assert listed.id == bob.key_id
    assert {key.user for key in await accounts.keys(world.me, everybody=True)} == {"ann", "bob"}
    for ask in (accounts.keys(bob, user="ann"), accounts.keys(bob, everybody=True)):
        with pytest.raises(PermissionDeniedError):
            await ask
    await accounts.revoke_key(world.me, listed.id)
    assert (await accounts.keys(bob))[0].revoked_at is not None


async def test_a_disabled_user_is_out_at_once_and_comes_back(world: World) -> None:
    accounts = world.plane.accounts
    await accounts.create_user(world.me, "bob")
    made = await accounts.create_key(world.me, "k", user="bob")
    bob = await accounts.authenticate(made.secret)
    session = await accounts.sign_in(bob)
    with pytest.raises(PermissionDeniedError):
        await accounts.disable_user(bob, "ann")
    with pytest.raises(ConflictError):
        await accounts.disable_user(world.me, "ann")
    assert (await accounts.disable_user(world.me, "bob")).disabled_at is not None
    for ask in (accounts.authenticate(made.secret), accounts.resume(session)):
        with pytest.raises(AuthenticationError):
            await ask
    assert [user.name for user in await accounts.users(world.me) if user.disabled_at] == ["bob"]
    await accounts.enable_user(world.me, "bob")
    assert (await accounts.authenticate(made.secret)).name == "bob"
    await accounts.resume(session)


async def test_a_session_that_is_not_fresh_gives_no_lasting_access(world: World) -> None:
    """A stolen cookie cannot make itself a key, a user, or a member."""
    accounts = world.plane.accounts
    await sign_in(world, "bob")
    await accounts.create_team(world.me, "team")
    fresh = await accounts.resume(await accounts.sign_in(world.me))
    await accounts.create_key(fresh, "fresh")
    assert fresh.signed_in_at is not None
    old = replace(fresh, signed_in_at=fresh.signed_in_at - 601)
    for ask in (
        accounts.create_key(old, "x"),
        accounts.create_agent_key(old, "team", "x", None),
        accounts.create_user(old, "eve"),
        accounts.enable_user(old, "bob"),
        accounts.set_member(old, "team", "bob", Role.ADMIN),
    ):
        with pytest.raises(PermissionDeniedError, match="sign-in of the last 10 minutes"):
            await ask
    await accounts.set_member(old, "team", "bob", None)
    await accounts.revoke_key(old, (await accounts.keys(old))[-1].id)


async def test_who_is_added_to_a_team_has_to_agree(world: World) -> None:
    accounts = world.plane.accounts
    boss, bob = await sign_in(world, "boss"), await sign_in(world, "bob")
    await accounts.create_team(boss, "team")
    boss = await renewed(world, "boss")
    await accounts.set_member(boss, "team", "bob", Role.MEMBER)
    bob = await renewed(world, "bob")
    assert bob.roles == {"bob": Role.ADMIN}
    with pytest.raises(NotFoundError):
        await accounts.entity(bob, "team")
    assert [(one.entity, one.role) for one in await accounts.invitations(bob)] == [
        ("team", Role.MEMBER)
    ]
    listed = {one.user: one.accepted for one in await accounts.members(boss, "team")}
    assert listed == {"bob": False, "boss": True}
    # An invited administrator is none: the team keeps its own.
    await accounts.set_member(boss, "team", "bob", Role.ADMIN)
    with pytest.raises(ConflictError, match="last administrator"):
        await accounts.set_member(boss, "team", "boss", None)
    await accounts.set_member(boss, "team", "bob", Role.MEMBER)
    with pytest.raises(NotFoundError):
        await accounts.answer_invitation(bob, "ann", accept=True)
    await accounts.answer_invitation(bob, "team", accept=True)
    bob = await renewed(world, "bob")
    assert bob.roles["team"] is Role.MEMBER
    await accounts.set_member(boss, "team", "bob", Role.VIEWER)
    assert (await renewed(world, "bob")).roles["team"] is Role.VIEWER, "a member stays one"
    await accounts.answer_invitation(bob, "team", accept=False)
    assert "team" not in (await renewed(world, "bob")).roles
    with pytest.raises(ConflictError):
        await accounts.answer_invitation(boss, "team", accept=False)


async def test_a_user_makes_no_more_teams_than_the_limit(world: World, monkeypatch) -> None:
    bob = await sign_in(world, "bob")
    limit = world.plane.config.teams_per_user
    for number in range(limit):
        await world.plane.accounts.create_team(bob, f"team-{number}")
    with pytest.raises(ConflictError, match=f"administers {limit} teams"):
        await world.plane.accounts.create_team(bob, "one-more")
    await world.plane.accounts.create_team(world.me, "of-an-administrator")


async def test_changes_and_refusals_are_recorded(world: World) -> None:
    accounts, audit = world.plane.accounts, world.plane.audit
    bob = replace(await sign_in(world, "bob"), address="192.0.2.7")
    await accounts.create_team(bob, "team")
    bob = replace(await renewed(world, "bob"), address="192.0.2.7")
    before = (await audit.list(world.me)).total
    await accounts.create_agent_key(bob, "team", "robot", None)
    await accounts.set_member(bob, "team", "ann", Role.VIEWER)
    await world.plane.queues.save(bob, "team", "q", resource="local-container")
    await world.plane.queues.pause(bob, "team", "q", paused=True)
    await world.plane.queues.delete(bob, "team", "q")
    with pytest.raises(PermissionDeniedError):
        await accounts.create_user(bob, "eve")
    with pytest.raises(NotFoundError):
        await accounts.revoke_key(bob, "not-mine")
    await accounts.sign_in(bob)
    found = await audit.list(world.me, first=found_count(before, await audit.list(world.me)))
    shown = [(one.action, one.entity, one.result) for one in reversed(found.rows)]
    assert shown == [
        ("key.create-agent", "team", "done"),
        ("member.set", "team", "done"),
        ("queue.save", "team", "done"),
        ("queue.pause", "team", "done"),
        ("queue.delete", "team", "done"),
        ("user.create", None, "FORBIDDEN"),
        ("key.revoke", None, "NOT_FOUND"),
        ("session.begin", "bob", "done"),
    ]
    assert {(one.actor, one.key_id, one.address) for one in found.rows} == {
        ("bob", bob.key_id, "192.0.2.7")
    }
    details = {one.action: one.details for one in found.rows}
    assert details["member.set"] == {"user": "ann", "role": "viewer"}
    assert details["queue.pause"] == {"name": "q", "paused": True}
    await _who_reads_it(world, bob)


def found_count(before: int, page) -> int:
    return page.total - before


async def _who_reads_it(world: World, bob: Principal) -> None:
    audit = world.plane.audit
    own = await audit.list(bob, "team")
    assert {one.entity for one in own.rows} == {"team"}
    for ask in (audit.list(bob), audit.list(bob, "ann"), audit.first_changed(bob)):
        with pytest.raises((PermissionDeniedError, NotFoundError)):
            await ask
    eve = await sign_in(world, "eve")
    with pytest.raises(NotFoundError):
        await audit.list(eve, "team")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_log SET actor = 'eve' WHERE action = 'user.create'",
        "DELETE FROM audit_log WHERE action = 'user.create'",
    ],
)
async def test_a_change_of_the_log_is_found(world: World, change: str) -> None:
    await sign_in(world, "bob")
    await world.plane.accounts.create_team(world.me, "team")
    assert await world.plane.audit.first_changed(world.me) is None
    await world.plane.database.write(lambda tx: tx.run(text(change)))
    assert await world.plane.audit.first_changed(world.me) is not None


async def test_who_knows_an_identity_does_not_get_its_agent(world: World) -> None:
    accounts, ann = world.plane.accounts, world.me
    await world.queue("default")
    keys = [await accounts.create_agent_key(ann, "ann", name, None) for name in "xy"]
    first, second = [await accounts.authenticate(key.secret) for key in keys]
    world.me = ann
    await world.submit()
    world.me = first
    agent = await world.agent()
    claim = await agent.claim_one()
    world.me = second
    with pytest.raises(PermissionDeniedError, match="registered with another key"):
        await world.agent()
    world.me = first
    again = await world.agent()
    assert [one.lease.item_id for one in again.welcome.held] == [claim.lease.item_id]
    # A new key replaces one that was revoked.
    await accounts.revoke_key(ann, keys[0].record.id)
    world.me = second
    renewed_agent = await world.agent()
    assert renewed_agent.id == agent.id
    world.me = ann


async def test_a_request_that_is_sent_again_changes_nothing_and_gets_the_same_result(
    world: World,
) -> None:
    accounts, queues = world.plane.accounts, world.plane.queues
    once, again = (replace(world.me, idempotency_key=key) for key in ("first", "second"))
    config = {"resource_args": {"local-process": {"env": {"A": "1"}}}}

    async def everything(caller: Principal) -> list[object]:
        how = {"resource": "local-process", "config": config}
        made = await queues.save(caller, None, "gpu", mode="CREATE", **how)
        return [
            made,
            await queues.delete(caller, None, "gpu"),
            await accounts.create_user(caller, "bob", email="bob@example.com"),
            await accounts.create_team(caller, "team"),
        ]

    first = await everything(once)
    assert await everything(once) == first
    entries = (await world.plane.audit.list(world.me)).rows
    done = [entry.action for entry in entries]
    for action in ("queue.save", "queue.delete", "user.create", "team.create"):
        assert done.count(action) == 1
    for caller in (again, world.me):
        with pytest.raises(AlreadyExistsError):
            await accounts.create_team(caller, "team")
    with pytest.raises(AlreadyExistsError):
        await accounts.create_user(once, "bob", admin=True)


async def test_the_key_of_a_request_is_its_callers_own(world: World) -> None:
    accounts = world.plane.accounts
    bob = replace(await sign_in(world, "bob"), idempotency_key="same")
    await accounts.create_team(replace(world.me, idempotency_key="same"), "team")
    with pytest.raises(AlreadyExistsError):
        await accounts.create_team(bob, "team")
