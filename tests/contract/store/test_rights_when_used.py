"""Rights count when they are used: at grant, retry and token use, not only when an item is made."""

import pytest

from agent.control.auth.policy import Principal
from agent.control.services.artifact_uploads import NewArtifact
from agent.control.services.artifacts import ArtifactChange, held_by_others
from agent.control.services.run_streams import RunName
from agent.control.services.runs import RunChange, storage_id
from agent.control.store.accounts import Role
from agent.control.store.artifacts import ArtifactRecord
from agent.control.store.items import ClaimRecord, Submission
from agent.control.store.tx import Tx
from agent.model.cause import Cause
from agent.model.errors import AuthenticationError, NotFoundError, PermissionDeniedError
from agent.model.job.digest import manifest_digest
from agent.model.phase import Phase
from tests.contract.store.world import IMAGE, World

REFUSED = (PermissionDeniedError, NotFoundError)


async def sign_in(world: World, name: str) -> Principal:
    await world.plane.accounts.create_user(world.me, name)
    return await renewed(world, name)


async def renewed(world: World, name: str) -> Principal:
    key = await world.plane.accounts.create_key(world.me, "k", user=name)
    return await world.plane.accounts.authenticate(key.secret)


@pytest.fixture
async def bob(world: World) -> Principal:
    """A member of the teams `a`, whose queue runs his items, and `b`, where they write."""
    await sign_in(world, "bob")
    for team in ("a", "b"):
        await world.plane.accounts.create_team(world.me, team)
        await world.plane.accounts.set_member(world.me, team, "bob", Role.MEMBER)
    await world.plane.queues.save(world.me, "a", "q", resource="local-container")
    return await renewed(world, "bob")


async def submitted(world: World, bob: Principal, **spec: object) -> str:
    submission = Submission("a", "p", "q", {**IMAGE, "entity": "b", **spec})
    return (await world.plane.items.submit(bob, submission)).id


async def test_an_item_whose_author_left_is_refused_at_the_grant(
    world: World, bob: Principal
) -> None:
    agent = await world.agent(entity="a", queues=("q",))
    gone = await submitted(world, bob)
    await world.plane.accounts.set_member(world.me, "b", "bob", None)
    mine = await world.plane.items.submit(world.me, Submission("a", "p", "q", IMAGE))
    claim = await agent.claim_one()
    assert claim.lease.item_id == mine.id, "the refused one does not keep the next from running"
    item = await world.item(gone)
    assert (item.phase, item.cause) == (Phase.REFUSED, Cause.POLICY_RIGHTS)
    assert item.message == "bob, who submitted it, may no longer write to 'b'."


async def test_an_agent_of_wandb_gets_no_item_of_an_author_without_rights(
    world: World, bob: Principal
) -> None:
    gone = await submitted(world, bob)
    await world.plane.accounts.set_member(world.me, "a", "bob", Role.VIEWER)
    assert await world.plane.wandb.pop(world.me, "a", "q", None) is None
    item = await world.item(gone)
    assert (item.phase, item.cause) == (Phase.REFUSED, Cause.POLICY_RIGHTS)
    assert item.message == "bob, who submitted it, may no longer submit items in 'a'."


async def test_a_disabled_author_is_refused_and_enabled_runs_again(
    world: World, bob: Principal
) -> None:
    agent = await world.agent(entity="a", queues=("q",))
    first = await submitted(world, bob)
    await world.plane.accounts.disable_user(world.me, "bob")
    assert await agent.claim() == ()
    assert (await world.item(first)).cause is Cause.POLICY_RIGHTS
    with pytest.raises(PermissionDeniedError, match="no user of this server"):
        await world.plane.items.retry(world.me, first)
    await world.plane.accounts.enable_user(world.me, "bob")
    await world.plane.items.retry(world.me, first)
    assert (await agent.claim_one()).lease.item_id == first


async def test_a_retry_by_an_administrator_gives_no_token_of_an_author_who_left(
    world: World, bob: Principal
) -> None:
    agent = await world.agent(entity="a", queues=("q",))
    item = await submitted(world, bob)
    claim = await agent.claim_one()
    await agent.start(claim)
    await agent.finish(claim, Phase.FAILED, Cause.RUN_EXIT_CODE, "1", 1)
    await world.plane.accounts.set_member(world.me, "b", "bob", Role.VIEWER)
    with pytest.raises(PermissionDeniedError, match="may no longer write to 'b'"):
        await world.plane.items.retry(world.me, item)
    assert (await world.item(item)).attempt == 1


async def test_a_retry_by_policy_is_refused_at_its_grant(world: World, bob: Principal) -> None:
    agent = await world.agent(entity="a", queues=("q",))
    item = await submitted(world, bob, retries=2)
    claim = await agent.claim_one()
    await agent.finish(claim, Phase.ERRORED, Cause.INTERNAL, "x")
    await world.plane.accounts.set_member(world.me, "b", "bob", None)
    await world.pass_time(10)
    assert await agent.claim() == ()
    assert (await world.item(item)).cause is Cause.POLICY_RIGHTS


async def test_a_job_that_its_author_may_no_longer_read_is_not_run(
    world: World, bob: Principal
) -> None:
    await world.plane.accounts.create_team(world.me, "c")
    await world.plane.accounts.set_member(world.me, "c", "bob", Role.VIEWER)
    content = {"_version": "v0", "source_type": "image", "source": {"image": "x"}, "runtime": ""}
    made = await world.plane.uploads.create(
        world.me, NewArtifact("c", "p", "job", "train", manifest_digest({}))
    )
    await world.plane.uploads.commit(world.me, made.id, [], (content, None))
    agent = await world.agent(entity="a", queues=("q",))
    bob = await renewed(world, "bob")
    spec = {"job": "c/p/train:latest", "entity": "b"}
    item = await world.plane.items.submit(bob, Submission("a", "p", "q", spec))
    await world.plane.accounts.set_member(world.me, "c", "bob", None)
    assert await agent.claim() == ()
    found = await world.item(item)
    assert found.message == "bob, who submitted it, may no longer read its job in 'c'."


async def test_a_run_token_ends_with_its_authors_right_to_write(
    world: World, bob: Principal
) -> None:
    agent = await world.agent(entity="a", queues=("q",))
    await submitted(world, bob)
    claim = await agent.claim_one()
    accounts = world.plane.accounts
    assert (await accounts.authenticate(claim.run_token)).default_entity == "b"
    for take, give in (
        (accounts.set_member(world.me, "b", "bob", Role.VIEWER),
         accounts.set_member(world.me, "b", "bob", Role.MEMBER)),
        (accounts.disable_user(world.me, "bob"), accounts.enable_user(world.me, "bob")),
    ):  # fmt: skip
        await take
        with pytest.raises(AuthenticationError):
            await accounts.authenticate(claim.run_token)
        await give
        await accounts.authenticate(claim.run_token)


async def test_a_token_of_an_attempt_that_waits_again_is_dead(world: World) -> None:
    agent = await world.agent()
    await world.submit()
    claim = await agent.claim_one()
    await world.plane.accounts.authenticate(claim.run_token)
    await agent.release(claim)
    world.plane.accounts.clear_cache()
    with pytest.raises(AuthenticationError):
        await world.plane.accounts.authenticate(claim.run_token)


# ------------------------------------------------------------------ what a run token may do


async def artifact(
    world: World, who: Principal, name: str, *, project: str = "p", kind: str = "dataset",
    run: str | None = None, aliases: tuple[str, ...] = (), text: str = "0",
) -> ArtifactRecord:  # fmt: skip
    """A new version; `text` makes its digest another one."""
    digest = text.zfill(32)
    uploads = world.plane.uploads
    wanted = NewArtifact(
        None, project, kind, name, digest, digest_algorithm="MANIFEST_XXH128",
        aliases=aliases, run_name=run,
    )  # fmt: skip
    made = await uploads.create(who, wanted)
    return await uploads.commit(who, made.id, [])


@pytest.fixture
async def claim(world: World) -> ClaimRecord:
    agent = await world.agent()
    await world.submit({"project": "p"})
    return await agent.claim_one()


@pytest.fixture
async def job(world: World, claim: ClaimRecord) -> Principal:
    return await world.plane.accounts.authenticate(claim.run_token)


async def test_a_run_token_writes_its_own_run_only(
    world: World, claim: ClaimRecord, job: Principal
) -> None:
    runs = world.plane.runs
    other, _ = await runs.upsert(world.me, RunChange(), project="p", name="other")
    own, _ = await runs.upsert(job, RunChange(notes="n"), project="p", name=claim.run_name)
    for ask in (
        runs.upsert(job, RunChange(), project="p", name="other"),
        runs.upsert(job, RunChange(), project="p", name="fresh"),
        runs.upsert(job, RunChange(), project="p"),
        runs.upsert(job, RunChange(), project="q", name=claim.run_name),
        runs.upsert(job, RunChange(), run_id=other.id),
        runs.stop(job, other.id),
        runs.set_state(job, storage_id(other), "failed"),
        runs.delete(job, other.id),
        world.plane.run_streams.heartbeat(job, RunName("ann", "p", "other")),
        world.run_ended(job, "ann", "p", "other", 0),
        world.plane.projects.upsert(job, None, "new-project"),
        world.plane.accounts.create_key(job, "x"),
    ):
        with pytest.raises(REFUSED):
            await ask
    assert await world.plane.projects.get(world.me, None, "new-project") is None
    assert (await runs.get(job, None, "p", "other")) is not None, "it reads its project"
    assert await runs.get(job, None, "default", "x") is None
    await world.run_ended(job, "ann", "p", claim.run_name, 0)
    assert (await runs.get(world.me, None, "p", own.name)) is not None


async def test_a_run_token_moves_aliases_of_data(
    world: World, claim: ClaimRecord, job: Principal
) -> None:
    first = await artifact(world, world.me, "data", aliases=("production",))
    made = await artifact(world, job, "data", aliases=("latest", "production", "mine"), text="1")
    assert (made.version, made.run_name) == (1, claim.run_name)
    assert set(made.aliases) == {"latest", "mine", "production"}
    before = await world.plane.artifacts.get(world.me, first.id)
    assert before is not None
    assert before.aliases == ()
    assert (await world.item(claim.lease.item_id)).warnings == ()


async def test_a_run_token_moves_no_alias_of_a_job(world: World, job: Principal) -> None:
    first = await artifact(world, world.me, "train", kind="job", aliases=("production",))
    second = await artifact(world, world.me, "train", kind="job", text="1", aliases=("next",))

    def moved(tx: Tx) -> list[str]:
        return held_by_others(tx, job, second, ("latest", "production", "next", "new"))

    assert await world.plane.database.read(moved) == ["production"]
    assert (await world.plane.artifacts.get(world.me, first.id)) is not None


async def test_a_run_token_changes_nothing_that_its_run_has_not_made(
    world: World, claim: ClaimRecord, job: Principal
) -> None:
    theirs = await artifact(world, world.me, "data")
    artifacts, uploads = world.plane.artifacts, world.plane.uploads
    pending = await uploads.create(
        world.me, NewArtifact(None, "p", "dataset", "data", "f" * 32, client_id="c")
    )
    own = await artifact(world, job, "data", text="1")
    for ask in (
        artifacts.update(job, theirs.id, ArtifactChange(description="x")),
        artifacts.add_aliases(job, theirs.id, ["x"]),
        artifacts.delete_aliases(job, theirs.id, ["latest"]),
        artifacts.delete(job, theirs.id, with_aliases=True),
        uploads.save_manifest(job, pending.id, "m", ""),
        uploads.find_stored(job, pending.id, []),
        uploads.commit(job, pending.id, []),
        artifact(world, job, "data", run="another-run", text="2"),
        artifact(world, job, "train", kind="job"),
        artifact(world, job, "data", project="q"),
        artifacts.use(job, theirs.id, entity=None, project="p", run_name="another-run"),
    ):
        with pytest.raises(REFUSED):
            await ask
    found = await artifacts.get(world.me, theirs.id)
    assert found is not None
    assert (found.aliases, found.description) == ((), None), "its own version has `latest`"
    await artifacts.update(job, own.id, ArtifactChange(description="mine"))
    await artifacts.delete(job, own.id, with_aliases=True)


async def test_a_run_token_reads_its_project_and_its_declared_inputs(world: World) -> None:
    named = await artifact(world, world.me, "named", project="elsewhere")
    by_id = await artifact(world, world.me, "by-id", project="elsewhere")
    code = await artifact(world, world.me, "code", project="elsewhere")
    secret = await artifact(world, world.me, "secret", project="elsewhere")
    near = await artifact(world, world.me, "near", project="p")
    await world.plane.accounts.create_user(world.me, "eve")
    eve = await renewed(world, "eve")
    hers = await artifact(world, eve, "hers")
    await world.plane.accounts.set_member(world.me, "eve", "ann", Role.VIEWER)
    agent = await world.agent()
    overrides = {
        "artifacts": {"data": "ann/elsewhere/named:v0", "hers": "eve/p/hers:latest"},
        "run_config": {"input": {"_type": "artifactVersion", "id": by_id.id}},
    }
    source = {"type": "artifact", "artifact": f"wandb-artifact://_id/{code.id}"}
    spec = {"project": "p", "docker": {}, "source": source, "overrides": overrides}
    await world.submit(spec)
    claim = await agent.claim_one()
    job = await world.plane.accounts.authenticate(claim.run_token)
    artifacts = world.plane.artifacts
    for one in (named, by_id, code, near, hers):
        assert await artifacts.get(job, one.id) == one
        place = one.collection
        assert await artifacts.by_name(job, place.entity, place.project, place.name) == one
        assert await world.plane.projects.get(job, place.entity, place.project) is not None
        await artifacts.use(job, one.id, entity=None, project="p", run_name=claim.run_name)
    assert await artifacts.get(job, secret.id) is None
    with pytest.raises(NotFoundError):
        await artifacts.collections(job, None, "elsewhere")
    assert await world.plane.runs.get(job, None, "elsewhere", "x") is None


async def test_an_input_of_an_entity_that_the_author_cannot_read_stays_hidden(
    world: World, bob: Principal
) -> None:
    secret = await artifact(world, world.me, "secret")
    agent = await world.agent(entity="a", queues=("q",))
    overrides = {"artifacts": {"data": "ann/p/secret:v0"}}
    await submitted(world, bob, overrides=overrides)
    claim = await agent.claim_one()
    job = await world.plane.accounts.authenticate(claim.run_token)
    assert await world.plane.artifacts.get(job, secret.id) is None
    assert await world.plane.projects.get(job, "ann", "p") is None
