"""Keys, roles, and who may do what to whose things."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from agent.control.auth.policy import CredentialKind, Principal
from agent.control.services.logs import LogKey
from agent.control.services.runs import RunChange
from agent.control.store.accounts import Role
from agent.control.store.items import Submission
from agent.model.errors import (
    AlreadyExistsError,
    AuthenticationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from agent.model.phase import Phase
from tests.contract.store.world import IMAGE, World


async def sign_in(world: World, name: str, **how) -> Principal:
    await world.plane.accounts.create_user(world.me, name, **how)
    key = await world.plane.accounts.create_key(world.me, "laptop", user=name)
    return await world.plane.accounts.authenticate(key.secret)


@dataclass
class Team:
    admin: Principal
    member: Principal
    viewer: Principal
    stranger: Principal


@pytest.fixture
async def team(world: World) -> Team:
    people = {name: await sign_in(world, name) for name in ("boss", "worker", "guest", "stranger")}
    accounts = world.plane.accounts
    await accounts.create_team(people["boss"], "team")
    await accounts.set_member(world.me, "team", "worker", Role.MEMBER)
    await accounts.set_member(world.me, "team", "guest", Role.VIEWER)
    key = {
        name: await accounts.authenticate(
            (await accounts.create_key(world.me, "again", user=name)).secret
        )
        for name in people
    }
    await world.plane.queues.save(key["boss"], "team", "shared", resource="local-container")
    return Team(key["boss"], key["worker"], key["guest"], key["stranger"])


def wanted(entity: str = "team", queue: str = "shared") -> Submission:
    return Submission(entity=entity, project=None, queue=queue, run_spec=IMAGE)


async def test_a_key_is_stored_as_a_hash_and_shown_once(world: World) -> None:
    made = await world.plane.accounts.create_key(world.me, "laptop")
    assert made.secret.startswith("launch-")
    assert len(made.secret) == len("launch-") + 40
    assert made.secret not in repr(made)
    (listed,) = [k for k in await world.plane.accounts.keys(world.me) if k.name == "laptop"]
    assert (listed.hint, listed.user) == (made.secret[-4:], "ann")


async def test_an_unknown_and_a_revoked_key_are_refused(world: World) -> None:
    accounts = world.plane.accounts
    made = await accounts.create_key(world.me, "laptop")
    principal = await accounts.authenticate(made.secret)
    assert (principal.name, principal.kind) == ("ann", CredentialKind.USER)
    await accounts.revoke_key(world.me, made.record.id)
    for key in (made.secret, "launch-nonsense", "", "launchrun-nonsense"):
        with pytest.raises(AuthenticationError):
            await accounts.authenticate(key)
    (record,) = [one for one in await accounts.keys(world.me) if one.name == "laptop"]
    assert record.revoked_at is not None


async def test_the_local_account_keeps_a_good_key_and_replaces_a_bad_one(world: World) -> None:
    accounts = world.plane.accounts
    assert (await accounts.bootstrap_local("ann", world.key)).api_key == world.key
    fresh = await accounts.bootstrap_local("ann", "launch-unknown")
    assert fresh.api_key != world.key
    assert fresh.api_key not in repr(fresh)
    with pytest.raises(AuthenticationError):
        await accounts.authenticate(world.key)
    viewer = await accounts.viewer(await accounts.authenticate(fresh.api_key))
    assert viewer is not None
    assert (viewer.name, viewer.entity, viewer.admin) == ("ann", "ann", True)


async def test_replicas_have_the_configured_administrator_s_key(world: World) -> None:
    """Each would otherwise end the key that the other one made."""
    accounts = world.plane.accounts
    first, second = SecretStr("a" * 40), SecretStr("b" * 40)
    starts = (accounts.bootstrap_local("eve", None, first) for _ in range(3))
    assert {one.api_key for one in await asyncio.gather(*starts)} == {"a" * 40}
    assert (await accounts.authenticate("a" * 40)).admin
    assert (await accounts.bootstrap_local("eve", "a" * 40, second)).api_key == "b" * 40
    with pytest.raises(AuthenticationError):
        await accounts.authenticate("a" * 40)
    with pytest.raises(AlreadyExistsError):
        await accounts.bootstrap_local("eve", None, first)
    with pytest.raises(InvalidInputError, match="API key cannot be used"):
        await accounts.bootstrap_local("eve", None, SecretStr("short"))


async def test_names_are_unique_and_fit_for_addresses(world: World) -> None:
    await sign_in(world, "bob")
    with pytest.raises(AlreadyExistsError):
        await world.plane.accounts.create_user(world.me, "bob")
    with pytest.raises(AlreadyExistsError):
        await world.plane.accounts.create_team(world.me, "bob")
    for name in ("", "A", "a b", "../a"):
        with pytest.raises(InvalidInputError):
            await world.plane.accounts.create_user(world.me, name)


async def test_only_administrators_make_users_and_keys_for_others(world: World) -> None:
    bob = await sign_in(world, "bob")
    accounts = world.plane.accounts
    with pytest.raises(PermissionDeniedError):
        await accounts.create_user(bob, "eve")
    with pytest.raises(PermissionDeniedError):
        await accounts.create_key(bob, "x", user="ann")
    with pytest.raises(NotFoundError):
        await accounts.create_key(world.me, "x", user="nobody")
    assert (await accounts.create_key(bob, "x")).record.user == "bob"


async def test_entities_that_may_not_be_read_do_not_exist(world: World, team: Team) -> None:
    accounts = world.plane.accounts
    for name in ("team", "ann", "nobody"):
        with pytest.raises(NotFoundError, match=f"no entity '{name}'"):
            await accounts.entity(team.stranger, name)
    with pytest.raises(NotFoundError):
        await accounts.entity(world.me, "nobody")
    names = [one.name for one in await accounts.entities(team.member)]
    assert names == ["team", "worker"]
    assert len(await accounts.entities(world.me)) == 6
    assert (await accounts.entity(team.member)).name == "worker"


async def test_foreign_things_do_not_exist(world: World, team: Team) -> None:
    plane = world.plane
    item = await plane.items.submit(team.member, wanted())
    agent = await world.agent(entity="team", queues=("shared",))
    queue = await plane.queues.get(team.admin, "team", "shared")
    other = team.stranger
    for ask in (
        plane.items.get(other, item.id),
        plane.items.events(other, item.id),
        plane.items.attempts(other, item.id),
        plane.items.explain(other, item.id),
        plane.items.stop(other, item.id),
        plane.items.retry(other, item.id),
        plane.items.list(other, "team"),
        plane.items.held_by(other, agent.id),
        plane.queues.by_id(other, queue.id),
        plane.queues.list(other, "team"),
        plane.queues.counts(other, [queue.id]),
        plane.agents.stop(other, agent.id, "STOP"),
        plane.agents.list(other, "team"),
        plane.projects.list(other, "team", after=None, first=1),
        plane.logs.state(other, LogKey(item.id, 1, "job")),
        plane.leases.permit(other, agent.id, (await agent.claim_one()).lease),
    ):
        with pytest.raises(NotFoundError):
            await ask
    assert await plane.agents.get(other, agent.id) is None
    assert await plane.wandb.poll(other, agent.id) is None
    assert not await plane.wandb.acknowledge(other, item.id, "r")
    assert await plane.runs.get(other, "team", "default", "r") is None
    assert await plane.projects.resource_config(other, "team", "x") is None


async def test_viewers_look_members_submit_administrators_manage(world: World, team: Team) -> None:
    plane = world.plane
    mine = await plane.items.submit(team.member, wanted())
    other = await plane.items.submit(team.admin, wanted())
    assert (await plane.items.get(team.viewer, mine.id)).author == "worker"
    with pytest.raises(PermissionDeniedError, match="guest may not submit items in 'team'"):
        await plane.items.submit(team.viewer, wanted())
    with pytest.raises(PermissionDeniedError):
        await plane.items.stop(team.viewer, mine.id)
    with pytest.raises(PermissionDeniedError):
        await plane.items.stop(team.member, other.id)
    with pytest.raises(PermissionDeniedError):
        await plane.queues.pause(team.member, "team", "shared", paused=True)
    with pytest.raises(PermissionDeniedError):
        await plane.accounts.set_member(team.member, "team", "guest", Role.ADMIN)
    assert (await plane.items.stop(team.member, mine.id)).phase is Phase.STOPPED
    assert (await plane.items.stop(team.admin, other.id)).phase is Phase.STOPPED
    members = {one.user: one.role for one in await plane.accounts.members(team.viewer, "team")}
    assert members == {"boss": Role.ADMIN, "worker": Role.MEMBER, "guest": Role.VIEWER}


async def test_stopping_a_run_takes_the_right_to_stop_its_item(world: World, team: Team) -> None:
    """Every member writes runs of the team; stopping what others run is for administrators."""
    plane = world.plane
    robot = await world.agent(entity="team", queues=("shared",))
    theirs = await plane.items.submit(team.admin, wanted())
    first = await robot.claim_one()
    mine = await plane.items.submit(team.member, wanted())
    second = await robot.claim_one()
    runs = [
        (await plane.runs.upsert(team.member, RunChange(), entity="team", project="default",
                                 name=claim.run_name))[0]
        for claim in (first, second)
    ]  # fmt: skip
    job = await plane.accounts.authenticate(second.run_token)
    for caller in (team.member, job):
        with pytest.raises(PermissionDeniedError):
            await plane.runs.stop(caller, runs[0].id)
        found = await plane.runs.get(team.member, "team", "default", runs[0].name)
        assert found is not None
        assert not found.stopped
    assert not (await plane.items.get(team.member, theirs.id)).stop_requested
    assert await plane.runs.stop(job, runs[1].id)
    assert await plane.runs.stop(team.member, runs[1].id)
    assert (await plane.items.get(team.member, mine.id)).stop_requested
    assert await plane.runs.stop(team.admin, runs[0].id)


async def test_an_entity_keeps_an_administrator(world: World, team: Team) -> None:
    accounts = world.plane.accounts
    with pytest.raises(ConflictError, match="last administrator"):
        await accounts.set_member(team.admin, "team", "boss", None)
    with pytest.raises(ConflictError, match="personal entity"):
        await accounts.set_member(world.me, "boss", "boss", Role.VIEWER)
    with pytest.raises(NotFoundError):
        await accounts.set_member(team.admin, "team", "nobody", Role.MEMBER)
    await accounts.set_member(team.admin, "team", "worker", Role.ADMIN)
    await accounts.set_member(team.admin, "team", "boss", None)
    assert "boss" not in {one.user for one in await accounts.members(world.me, "team")}


async def test_in_a_team_agents_run_with_an_agent_key(world: World, team: Team) -> None:
    accounts = world.plane.accounts
    world.me, ann = team.admin, world.me
    with pytest.raises(PermissionDeniedError, match="agent key"):
        await world.agent(entity="team", queues=("shared",))
    with pytest.raises(NotFoundError):
        await accounts.create_agent_key(team.admin, "team", "robot", ("unknown",))
    made = await accounts.create_agent_key(team.admin, "team", "robot", ("shared",))
    world.me = robot = await accounts.authenticate(made.secret)
    assert (robot.kind, robot.queues, await accounts.viewer(robot)) == (
        CredentialKind.AGENT,
        ("shared",),
        None,
    )
    agent = await world.agent(queues=("shared",))
    item = await world.plane.items.submit(team.member, wanted())
    claim = await agent.claim_one()
    await agent.start(claim)
    await agent.finish(claim, exit_code=0)
    assert (await world.plane.items.get(team.viewer, item.id)).phase is Phase.SUCCEEDED
    with pytest.raises(PermissionDeniedError, match="does not serve"):
        await world.agent("beta", queues=("default",))
    with pytest.raises(PermissionDeniedError):
        await world.plane.items.submit(robot, wanted())
    with pytest.raises(PermissionDeniedError):
        await accounts.create_team(robot, "robots")
    with pytest.raises(PermissionDeniedError):
        await accounts.create_key(robot, "x")
    with pytest.raises(NotFoundError):
        await accounts.revoke_key(robot, made.record.id)
    other = await accounts.create_agent_key(team.admin, "team", "other", None)
    world.me = await accounts.authenticate(other.secret)
    with pytest.raises(PermissionDeniedError, match="another key"):
        await agent.claim()
    (listed,) = [k for k in await accounts.keys(team.admin, "team") if k.name == "robot"]
    assert (listed.kind, listed.entity, listed.queues) == ("agent", "team", ("shared",))
    with pytest.raises(NotFoundError):
        await accounts.revoke_key(team.stranger, listed.id)
    await accounts.revoke_key(team.admin, listed.id)
    with pytest.raises(AuthenticationError):
        await accounts.authenticate(made.secret)
    world.me = ann


async def test_a_key_that_is_revoked_while_its_claim_waits_gets_nothing(
    world: World, team: Team
) -> None:
    accounts = world.plane.accounts
    made = await accounts.create_agent_key(team.admin, "team", "robot", None)
    world.me = await accounts.authenticate(made.secret)
    agent = await world.agent(entity="team", queues=("shared",))
    waiting = asyncio.create_task(agent.claim(wait=25.0))
    while not world.plane.notifications._subscriptions:
        await asyncio.sleep(0.01)
    await accounts.revoke_key(team.admin, made.record.id)
    item = await world.plane.items.submit(team.member, wanted())
    with pytest.raises(AuthenticationError):
        await waiting
    found = await world.plane.items.get(team.member, item.id)
    assert (found.phase, found.epoch) == (Phase.QUEUED, 0)


async def test_a_bound_key_adopts_from_its_own_queues_only(world: World, team: Team) -> None:
    """Whatever identity and backend it names: specs and run tokens of other queues stay away."""
    accounts, ann = world.plane.accounts, world.me
    await world.plane.queues.save(team.admin, "team", "private", resource="local-container")
    both = await world.agent(entity="team", queues=("private", "shared"), backend="engine")
    for queue in ("private", "shared"):
        await world.plane.items.submit(team.member, wanted(queue=queue))
        await both.start(await both.claim_one())
    made = await accounts.create_agent_key(team.admin, "team", "robot", ("shared",))
    world.me = await accounts.authenticate(made.secret)
    await world.pass_time(46)
    beside = await world.agent("beta", entity="team", queues=("shared",), backend="engine")
    assert [claim.queue for claim in beside.welcome.held] == ["shared"]
    with pytest.raises(PermissionDeniedError, match="registered with another key"):
        await world.agent(entity="team", queues=("shared",))
    world.me = ann
    again = await world.agent(entity="team", queues=("private", "shared"))
    assert [claim.queue for claim in again.welcome.held] == ["private"]


async def test_a_run_token_holds_while_its_attempt_lives_and_a_grace_more(world: World) -> None:
    agent = await world.agent()
    item = await world.submit()
    claim = await agent.claim_one()
    accounts = world.plane.accounts
    run = await accounts.authenticate(claim.run_token)
    assert (run.kind, run.default_entity, run.run.item_id) == (CredentialKind.RUN, "ann", item.id)
    assert (await accounts.entity(run)).name == "ann"
    for ask in (
        world.plane.items.submit(run, wanted("ann", "default")),
        world.plane.items.stop(run, item.id),
        world.plane.items.get(run, item.id),
        world.plane.items.list(run),
        world.plane.queues.list(run),
        world.plane.agents.list(run),
        world.plane.logs.state(run, LogKey(item.id, 1, "job")),
        world.plane.leases.permit(run, agent.id, claim.lease),
        accounts.create_key(run, "x"),
        accounts.create_team(run, "x"),
        accounts.members(run, "ann"),
    ):
        with pytest.raises((PermissionDeniedError, NotFoundError)):
            await ask
    await agent.start(claim)
    await agent.finish(claim)
    await world.pass_time(59)
    await _forgotten(world)
    await accounts.authenticate(claim.run_token)
    await world.pass_time(2)
    await _forgotten(world)
    with pytest.raises(AuthenticationError):
        await accounts.authenticate(claim.run_token)


async def test_the_token_of_a_grant_that_was_lost_is_dead(world: World) -> None:
    agent = await world.agent()
    await world.submit()
    stale = await agent.claim_one()
    await world.pass_time(46)
    fresh = await agent.claim_one()
    assert stale.run_token != fresh.run_token
    with pytest.raises(AuthenticationError):
        await world.plane.accounts.authenticate(stale.run_token)
    forged = fresh.run_token[:-1] + ("A" if fresh.run_token[-1] != "A" else "B")
    with pytest.raises(AuthenticationError):
        await world.plane.accounts.authenticate(forged)


async def test_a_submitter_writes_runs_only_where_they_may(world: World, team: Team) -> None:
    elsewhere = Submission(
        entity="team", project=None, queue="shared", run_spec={**IMAGE, "entity": "worker"}
    )
    item = await world.plane.items.submit(team.member, elsewhere)
    assert (item.entity, item.run_spec["entity"]) == ("team", "worker")
    with pytest.raises(NotFoundError):
        await world.plane.items.submit(team.admin, elsewhere)


async def test_principals_are_cached_briefly(world: World, monkeypatch) -> None:
    accounts = world.plane.accounts
    monkeypatch.setattr("agent.control.auth.authentication._CACHE_SIZE", 1)
    made = await accounts.create_key(world.me, "laptop")
    both = await asyncio.gather(*(accounts.authenticate(made.secret) for _ in range(3)))
    assert len(set(map(id, both))) <= 3
    assert await accounts.authenticate(made.secret) is await accounts.authenticate(made.secret)
    await accounts.authenticate(world.key)
    assert len(accounts._cache) == 1


async def test_a_key_that_is_none_is_looked_up_once_a_second(world: World, monkeypatch) -> None:
    """A flood with one costs the store nothing; it counts as soon as it is made here."""
    monkeypatch.setattr("agent.control.auth.authentication._CACHE_SECONDS", 600.0)
    accounts, key = world.plane.accounts, "chosen-" + "k" * 40
    database, read, reads = world.plane.database, world.plane.database.read, []

    async def counted(work: Any) -> Any:
        reads.append(work)
        return await read(work)

    monkeypatch.setattr(database, "read", counted)
    for _ in range(5):
        with pytest.raises(AuthenticationError):
            await accounts.authenticate(key)
    assert len(reads) == 1
    await accounts.provision_user(world.me, "carl", api_key=SecretStr(key))
    assert (await accounts.authenticate(key, "192.0.2.1")).address == "192.0.2.1"
    assert (await accounts.authenticate(key, "192.0.2.2")).address == "192.0.2.2"


async def _forgotten(world: World) -> None:
    """As if a second had passed since the last look."""
    world.plane.accounts.clear_cache()
