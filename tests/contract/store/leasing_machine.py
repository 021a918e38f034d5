"""Agents, users and the clock act in any order; the invariants of leasing hold after each step."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import text

from agent.config.control import ControlConfig
from agent.control.store.items import ClaimRecord, ItemRecord
from agent.model.cause import Cause
from agent.model.errors import ConflictError
from agent.model.phase import HELD, MAY_RUN, TERMINAL, Phase
from agent.model.protocol import LeaseStatus
from tests.contract.store.world import Agent, World, open_world

OUTCOMES = [
    (Phase.SUCCEEDED, Cause.SUCCEEDED, 0),
    (Phase.FAILED, Cause.RUN_EXIT_CODE, 1),
    (Phase.STOPPED, Cause.STOPPED_BY_USER, None),
    (Phase.LOST, Cause.LOST_WORKLOAD, None),
    (Phase.ERRORED, Cause.IMAGE_UNAVAILABLE, None),
    (Phase.REFUSED, Cause.POLICY_RESOURCE, None),
]
_EMPTIED = ("events", "attempts", "items", "agent_queues", "agents", "idempotency_keys")
_ANY = st.integers(min_value=0, max_value=10_000)


class LeasingMachine(RuleBasedStateMachine):
    """One control plane; two installations of agents; items; all leases ever allocation."""

    runner: ClassVar[asyncio.Runner]
    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.agents: dict[str, Agent] = {}
        self.items: list[str] = []
        self.keys: dict[str, str] = {}
        self.allocation: list[tuple[Agent, ClaimRecord]] = []
        self.requests: list[tuple[Agent, str, tuple[ClaimRecord, ...]]] = []
        self.permits: dict[tuple[str, int], set[int]] = {}
        self.adopted: set[tuple[str, int, int]] = set()
        self.epochs: dict[str, int] = {}
        #: Seconds since an agent was heard of; `None` once it said goodbye.
        self.silence: dict[str, int | None] = {}

    def run(self, awaitable: Any) -> Any:
        return self.runner.run(awaitable)

    @initialize()
    def begin(self) -> None:
        def work(tx: Any) -> None:
            for table in _EMPTIED:
                tx.run(text(f"DELETE FROM {table}"))  # noqa: S608

        self.run(self.world.plane.database.write(work))
        for name in ("alpha", "beta"):
            self.register(name)

    def register(self, name: str) -> None:
        before = {item.id: item for item in self.all_items()}
        agent = self.run(self.world.agent(name, backend="engine"))
        self.agents[name] = agent
        self.silence[name] = 0
        for claim in agent.welcome.held:
            holder = before[claim.lease.item_id].agent_name
            silent = self.silence[str(holder)]
            assert holder == name or silent is None or silent > 45
            self.note_grant(agent, claim)
            lease = claim.lease
            self.adopted.add((lease.item_id, lease.attempt, lease.epoch))

    def note_grant(self, agent: Agent, claim: ClaimRecord) -> None:
        """Every grant and every adoption has an epoch that no earlier one had."""
        assert claim.lease.epoch > self.epochs.get(claim.lease.item_id, 0)
        self.epochs[claim.lease.item_id] = claim.lease.epoch
        self.allocation.append((agent, claim))

    # What people do.

    @rule(
        key=st.none() | st.sampled_from(["k1", "k2"]),
        priority=st.integers(0, 3),
        retries=st.integers(0, 1),
        on_lost=st.sampled_from(["fail", "retry"]),
    )
    def submit(self, key: str | None, priority: int, retries: int, on_lost: str) -> None:
        if key in self.keys:
            return
        spec = {"retries": retries, "on_lost": on_lost}
        item = self.run(self.world.submit(spec, key=key, priority=priority))
        self.items.append(item.id)
        if key is not None:
            self.keys[key] = item.id
            again = self.run(self.world.submit(spec, key=key, priority=priority))
            assert again.id == item.id

    @precondition(lambda self: self.items)
    @rule(which=_ANY)
    def stop(self, which: int) -> None:
        before = self.item(which)
        after = self.run(self.world.plane.items.stop(self.world.me, before.id))
        if before.phase is Phase.QUEUED:
            assert after.phase is Phase.STOPPED
        elif before.phase in HELD:
            assert after.stop_requested

    @precondition(lambda self: self.items)
    @rule(which=_ANY)
    def retry(self, which: int) -> None:
        before = self.item(which)
        try:
            after = self.run(self.world.plane.items.retry(self.world.me, before.id))
        except ConflictError:
            assert before.phase not in TERMINAL - {Phase.SUCCEEDED}
        else:
            assert (after.phase, after.attempt) == (Phase.QUEUED, before.attempt + 1)

    # What agents do.

    @rule(name=st.sampled_from(["alpha", "beta"]), most=st.integers(1, 3))
    def claim(self, name: str, most: int) -> None:
        agent = self.agents[name]
        request = f"request-{len(self.requests)}"
        claims = self.run(agent.claim(request, most=most))
        self.requests.append((agent, request, claims))
        for claim in claims:
            self.note_grant(agent, claim)

    @precondition(lambda self: self.requests)
    @rule(which=_ANY)
    def claim_again(self, which: int) -> None:
        place = which % len(self.requests)
        agent, request, before = self.requests[place]
        if agent is not self.agents[agent.welcome.agent.name]:
            return
        held = [claim for claim in before if self.is_held(agent, claim)]
        again = self.run(agent.claim(request, most=3))
        if held:
            assert [claim.lease for claim in again] == [claim.lease for claim in held]
            assert [claim.run_token for claim in again] == [claim.run_token for claim in held]
        else:
            self.requests[place] = (agent, request, again)
            for claim in again:
                self.note_grant(agent, claim)

    @precondition(lambda self: self.allocation)
    @rule(which=_ANY)
    def permit(self, which: int) -> None:
        agent, claim = self.lease(which)
        before, current = self.before(agent, claim)
        try:
            status = self.run(agent.permit(claim))
        except ConflictError:
            assert before.phase is Phase.STARTED
            return
        self.check(before, current, status)
        if status is LeaseStatus.HELD:
            lease = claim.lease
            assert not before.stop_requested
            self.permits.setdefault((lease.item_id, lease.attempt), set()).add(lease.epoch)

    @precondition(lambda self: self.allocation)
    @rule(which=_ANY, phase=st.sampled_from([None, Phase.PREPARING, Phase.STARTED]))
    def advance(self, which: int, phase: Phase | None) -> None:
        agent, claim = self.lease(which)
        before, current = self.before(agent, claim)
        try:
            status = self.run(agent.advance(claim, phase, activity="busy"))
        except ConflictError:
            assert phase is Phase.STARTED
            assert before.phase in {Phase.LEASED, Phase.PREPARING}
            return
        self.check(before, current, status)

    @precondition(lambda self: self.allocation)
    @rule(which=_ANY, outcome=st.sampled_from(OUTCOMES), twice=st.booleans())
    def finish(self, which: int, outcome: tuple[Phase, Cause, int | None], twice: bool) -> None:
        agent, claim = self.lease(which)
        before, current = self.before(agent, claim)
        phase, cause, code = outcome
        try:
            status = self.run(agent.finish(claim, phase, cause, "over", code))
        except ConflictError:
            assert current
            assert phase in {Phase.SUCCEEDED, Phase.FAILED, Phase.REFUSED}
            return
        if current:
            assert status is LeaseStatus.HELD
        elif status is LeaseStatus.HELD:  # a replay
            assert self.run(self.world.item(before.id)) == before
        if twice and status is LeaseStatus.HELD:
            settled = self.run(self.world.item(before.id))
            assert self.run(agent.finish(claim, phase, cause, "over", code)) is LeaseStatus.HELD
            assert self.run(self.world.item(before.id)) == settled

    @precondition(lambda self: self.allocation)
    @rule(which=_ANY)
    def release(self, which: int) -> None:
        agent, claim = self.lease(which)
        before, current = self.before(agent, claim)
        try:
            status = self.run(agent.release(claim))
        except ConflictError:
            assert before.phase in {Phase.PERMITTED, Phase.STARTED}
            return
        if not current:
            assert self.run(self.world.item(before.id)) == before
        else:
            assert status is LeaseStatus.HELD

    @rule(name=st.sampled_from(["alpha", "beta"]), status=st.sampled_from(["RUNNING", "KILLED"]))
    def beat(self, name: str, status: str) -> None:
        agent = self.agents[name]
        mine = [claim for owner, claim in self.allocation if owner.id == agent.id]
        expected = {claim.lease.item_id: self.is_held(agent, claim) for claim in mine}
        newest = {claim.lease.item_id: claim for claim in mine}
        answer = self.run(agent.beat(*newest.values(), status=status))
        # A session that has shut down does not come back.
        if self.silence[name] is not None:
            self.silence[name] = None if status == "KILLED" else 0
        for item_id, claim in newest.items():
            held = expected[item_id] if claim is mine[-1] else None
            status = answer.statuses[item_id]
            if held is False:
                assert status is LeaseStatus.FENCED

    @rule(name=st.sampled_from(["alpha", "beta"]))
    def restart(self, name: str) -> None:
        self.register(name)

    @rule(seconds=st.sampled_from([5, 46, 601]))
    def wait(self, seconds: int) -> None:
        self.silence = {
            name: None if silent is None else silent + seconds
            for name, silent in self.silence.items()
        }
        before = {item.id: item for item in self.all_items()}
        self.run(self.world.pass_time(seconds))
        for item in self.all_items():
            if before[item.id].phase in MAY_RUN and item.phase is Phase.QUEUED:
                assert (item.on_lost, item.attempt) == ("retry", before[item.id].attempt + 1)

    # What holds always.

    @invariant()
    def every_submission_is_there_with_a_true_history(self) -> None:
        found = {item.id: item for item in self.all_items()}
        assert set(found) == set(self.items)
        for item in found.values():
            path = self.run(self.world.history(item))
            assert path[-1] is item.phase
            assert (item.agent_id is not None) or item.phase not in HELD
            assert (item.finished_at is not None) == (item.phase in TERMINAL)

    @invariant()
    def a_second_permit_of_an_attempt_goes_to_an_adopter_only(self) -> None:
        for (item_id, attempt), epochs in self.permits.items():
            for epoch in sorted(epochs)[1:]:
                assert (item_id, attempt, epoch) in self.adopted

    def all_items(self) -> tuple[ItemRecord, ...]:
        page = self.run(self.world.plane.items.list(self.world.me, first=1000))
        return tuple(page.rows)

    def item(self, which: int) -> ItemRecord:
        return self.run(self.world.item(self.items[which % len(self.items)]))

    def lease(self, which: int) -> tuple[Agent, ClaimRecord]:
        """One of all leases ever allocation; more often one that is held."""
        items = {item.id: item for item in self.all_items()}
        held = [
            (agent, claim)
            for agent, claim in self.allocation
            if self._holds(agent, claim, items[claim.lease.item_id])
        ]
        choice = held if held and which % 2 else self.allocation
        return choice[which // 2 % len(choice)]

    def before(self, agent: Agent, claim: ClaimRecord) -> tuple[ItemRecord, bool]:
        item = self.run(self.world.item(claim.lease.item_id))
        return item, self._holds(agent, claim, item)

    def is_held(self, agent: Agent, claim: ClaimRecord) -> bool:
        return self.before(agent, claim)[1]

    @staticmethod
    def _holds(agent: Agent, claim: ClaimRecord, item: ItemRecord) -> bool:
        lease = claim.lease
        named = (item.agent_id, item.attempt, item.epoch)
        return named == (agent.id, lease.attempt, lease.epoch) and item.phase in HELD

    def check(self, before: ItemRecord, current: bool, status: LeaseStatus) -> None:
        if current:
            assert status is (LeaseStatus.STOP if before.stop_requested else LeaseStatus.HELD)
        else:
            assert status is LeaseStatus.FENCED
            assert self.run(self.world.item(before.id)) == before


class Campaign:
    """Opens the control plane that all examples of one run share."""

    def __init__(self, config: ControlConfig) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._runner = asyncio.Runner()

    def __enter__(self) -> type[LeasingMachine]:
        world = self._runner.run(self._stack.enter_async_context(open_world(self._config)))
        return type("Machine", (LeasingMachine,), {"runner": self._runner, "world": world})

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()
