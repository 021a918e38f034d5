"""A control plane in memory, for tests of everything that uses a queue.

`FakePlane` is the control plane and outlives agents; `FakeQueue` is one agent's connection to
it, so that a second one with the same identity is the agent after a restart. Leases, epochs,
permits and guarded writes work as in the control plane; time passes only when a test says
so (`lapse`). Faults are scripted per call name: `register`, `claim`, `renew`, `adopt`,
`commands`, `advance`, `permit`, `finish`, `release`, `append_log`, `log_end`, `standing`.
"""

import asyncio
from collections import Counter, defaultdict
from contextlib import AbstractContextManager
from typing import Any, Final, Literal

from agent.model.capacity import Demand, allocate, fits, minus
from agent.model.errors import FencedError, UnreachableError
from agent.model.phase import HELD, TERMINAL, UNSTARTED_HELD, Outcome, Phase
from agent.model.protocol import (
    MAX_CLAIMED,
    AgentRegistration,
    AttemptStatus,
    ClaimRequest,
    Condition,
    Heartbeat,
    HeartbeatReply,
    LeaseStatus,
    RegisteredAgent,
)
from agent.model.spec import Json, parse_spec
from agent.model.work import Claim, Lease
from agent.ports.queue import Channel
from tests.infrastructure.fake_item import FakeItem
from tests.infrastructure.gates import Gate, Gates

CONTROL_PLANE: Final = "fake0plane"


class FakePlane:
    """Items, agents, and what goes wrong."""

    def __init__(self) -> None:
        self.items: dict[str, FakeItem] = {}
        #: Current session by identity.
        self.sessions: dict[str, str] = {}
        #: Every call that arrived: name, item or "".
        self.calls: list[tuple[str, str]] = []
        #: Statuses of beats, in order.
        self.statuses: list[str] = []
        #: Conditions of the last beat.
        self.conditions: tuple[Condition, ...] = ()
        #: Told to every beat.
        self.agent_stop: Literal["DRAIN", "STOP"] | None = None
        #: Every claim request that arrived.
        self.requests: list[ClaimRequest] = []
        self.registrations: list[AgentRegistration] = []
        #: Items that a lost agent of the same backend has left running.
        self.abandoned: list[FakeItem] = []
        #: Ids that `standing` does not know.
        self.hidden: set[str] = set()
        self.heartbeat_seconds = 10.0
        #: What servers had not always; without, a claim's resources count for nothing.
        self._away = False
        self._cuts: Counter[str] = Counter()
        self._failures: defaultdict[str, list[Exception]] = defaultdict(list)
        self._gates = Gates()
        self._changed = asyncio.Event()

    # ------------------------------------------------------------ for tests: the world

    def submit(
        self,
        spec: Json,
        *,
        resource: str = "local-container",
        queue: str = "default",
        layers: dict[str, Json] | None = None,
    ) -> FakeItem:
        """Put an item on a queue."""
        item = FakeItem(f"item{len(self.items):08d}", spec, resource, queue, layers or {})
        self.items[item.id] = item
        self.ring()
        return item

    def request_stop(self, item: FakeItem) -> None:
        """Somebody stops it."""
        item.stop_requested = True
        self.ring()

    def ask_to_leave(self, mode: Literal["DRAIN", "STOP"]) -> None:
        """An operator asks every agent."""
        self.agent_stop = mode
        self.ring()

    def lapse(self, item: FakeItem) -> None:
        """Its lease runs out: before the permit it is queued again, later it is kept."""
        if item.phase in UNSTARTED_HELD:
            item.move(Phase.QUEUED)
            item.holder = None
        self.ring()

    def take_over(self, item: FakeItem) -> None:
        """Somebody else owns it from now on."""
        item.epoch += 1
        item.holder = "somebody else"
        self.ring()

    def abandon(self, item: FakeItem) -> None:
        """Its agent, on the same backend, is gone; the job runs."""
        item.holder = "somebody else"
        self.abandoned.append(item)
        self.ring()

    async def until_phase(self, item: FakeItem, *phases: Phase) -> None:
        """Wait until it was in one of the phases; any outcome by default."""
        wanted = set(phases) or TERMINAL
        while not wanted & set(item.history):
            await self.changed()

    async def until_called(self, name: str, times: int = 1) -> None:
        """Wait until a call of that name arrived so often."""
        while sum(call == name for call, _ in self.calls) < times:
            await self.changed()

    async def changed(self) -> None:
        """Wait until anything happens here."""
        await self._changed.wait()

    def ring(self) -> None:
        """Something happened."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # ------------------------------------------------------------ for tests: the faults

    def go_away(self) -> None:
        """LeaseStatus nothing; nothing takes effect."""
        self._away = True
        self.ring()

    def come_back(self) -> None:
        """LeaseStatus again."""
        self._away = False
        self.ring()

    def cut_next(self, call: str, times: int = 1) -> None:
        """The next calls take effect and their answers are lost."""
        self._cuts[call] += times

    def fail_next(self, call: str, error: Exception) -> None:
        """The next call raises, without effect."""
        self._failures[call].append(error)

    def hold(self, call: str) -> AbstractContextManager[Gate]:
        """Hold calls of one kind back before they take effect."""
        return self._gates.hold(call)

    async def arrive(self, call: str, item: str = "") -> None:
        """A call arrives."""
        self._check_away()
        self.calls.append((call, item))
        self.ring()
        await self._gates.passed(call)
        self._check_away()
        if self._failures[call]:
            raise self._failures[call].pop(0)

    def leave(self, call: str) -> None:
        """Its answer leaves."""
        self.ring()
        if self._cuts[call] > 0:
            self._cuts[call] -= 1
            raise UnreachableError(f"The answer to {call} was cut.")

    def _check_away(self) -> None:
        if self._away:
            raise UnreachableError("The fake plane is away.")

    # ------------------------------------------------------------ the rules

    def held_by(self, identity: str) -> list[FakeItem]:
        """What an identity holds."""
        return [i for i in self.items.values() if i.holder == identity and i.phase in HELD]

    def owned(self, lease: Lease, identity: str) -> FakeItem | None:
        """The item, if the lease is good."""
        item = self.items.get(lease.item_id)
        good = item is not None and item.lease == lease and item.phase in HELD
        return item if good and item is not None and item.holder == identity else None

    def asked_for(self, resource: str, request: ClaimRequest) -> bool:
        """Whether a claim is about that resource."""
        return request.resources is None or resource in request.resources

    def mark(self, identity: str, session: str) -> str:
        """The commands that a renewal would return to that session."""
        stops = [item.id for item in self.held_by(identity) if item.stop_requested]
        return repr((self.sessions.get(identity) == session, self.agent_stop, stops))

    def grant(self, request: ClaimRequest, identity: str) -> list[FakeItem]:
        """What the request gets: the same again if it was answered before."""
        assert 1 <= request.max_items <= MAX_CLAIMED
        again = [i for i in self.held_by(identity) if i.request_id == request.request_id]
        if again:
            return again
        free = request.free
        given: list[FakeItem] = []
        waiting = [i for i in self.items.values() if i.phase is Phase.QUEUED]
        for item in waiting:
            demand = parse_spec(item.spec).demand(item.resource)
            if item.resource in request.self_scheduled:
                demand = Demand()
            wanted = item.queue in request.queues and len(given) < request.max_items
            wanted = wanted and self.asked_for(item.resource, request)
            if not wanted or not fits(demand, free):
                continue
            item.allocation = allocate(demand, free)
            free = minus(free, item.allocation)
            item.move(Phase.LEASED)
            item.epoch += 1
            item.holder, item.request_id = identity, request.request_id
            given.append(item)
        return given


class FakeQueue:
    """`QueuePort` on a fake plane."""

    def __init__(self, plane: FakePlane) -> None:
        self._plane = plane
        self._identity = ""
        self._session = ""

    async def register(self, registration: AgentRegistration) -> RegisteredAgent:
        """See the port."""
        plane = self._plane
        await plane.arrive("register")
        plane.registrations.append(registration)
        self._identity, self._session = registration.identity, registration.session
        plane.sessions[registration.identity] = registration.session
        held = plane.held_by(registration.identity)
        for item in held:
            item.epoch += 1
            item.request_id = None
            item.lease_losses += item.phase in UNSTARTED_HELD
        plane.leave("register")
        return RegisteredAgent(
            agent_id=f"agent-{registration.identity}",
            agent_name=registration.name,
            entity=registration.entity or "people",
            control_plane_id=CONTROL_PLANE,
            heartbeat_seconds=plane.heartbeat_seconds,
            lease_seconds=45.0,
            held=tuple(_claim(item) for item in held),
        )

    async def claim(self, request: ClaimRequest) -> tuple[Claim, ...]:
        """See the port; waits for as long as a test takes, if it may wait at all."""
        plane = self._plane
        plane.requests.append(request)
        await plane.arrive("claim")
        while not (given := plane.grant(request, self._identity)) and request.wait_seconds:
            await plane.changed()
            plane._check_away()
        plane.leave("claim")
        return tuple(_claim(item) for item in given)

    async def renew(self, beat: Heartbeat) -> HeartbeatReply:
        """See the port."""
        plane = self._plane
        await plane.arrive("renew")
        plane.statuses.append(beat.status)
        plane.conditions = beat.conditions
        answers = {lease.item_id: self._answer(lease) for lease in beat.leases}
        current = plane.sessions.get(self._identity) == beat.session
        plane.leave("renew")
        return HeartbeatReply(answers, current, plane.agent_stop, bool(plane.abandoned))

    async def adopt(self, agent_id: str, session: str) -> tuple[Claim, ...]:
        """See the port."""
        plane = self._plane
        await plane.arrive("adopt")
        given = [*plane.abandoned]
        plane.abandoned.clear()
        for item in given:
            item.epoch += 1
            item.holder = self._identity
        plane.leave("adopt")
        return tuple(_claim(item) for item in given)

    async def commands(
        self,
        agent_id: str,
        session: str,
        seen: str | None,
        wait_seconds: float,
    ) -> str:
        """See the port; waits for as long as a test takes."""
        plane = self._plane
        await plane.arrive("commands")
        while (mark := plane.mark(self._identity, session)) == seen:
            await plane.changed()
            plane._check_away()
        plane.leave("commands")
        return mark

    async def advance(
        self,
        lease: Lease,
        *,
        phase: Phase | None = None,
        activity: str | None = None,
        facts: dict[str, Any] | None = None,
        warning: str | None = None,
    ) -> LeaseStatus:
        """See the port."""
        await self._plane.arrive("advance", lease.item_id)
        item = self._plane.owned(lease, self._identity)
        if item is not None:
            behind = phase is Phase.PREPARING and item.phase is not Phase.LEASED
            if phase is not None and not behind:
                item.move(phase)
            item.activity = activity or item.activity
            item.facts |= facts or {}
            item.warnings += [warning] if warning else []
        self._plane.leave("advance")
        return self._answer(lease)

    async def permit(self, lease: Lease) -> LeaseStatus:
        """See the port."""
        await self._plane.arrive("permit", lease.item_id)
        answer, item = self._answer(lease), self._plane.owned(lease, self._identity)
        if answer is LeaseStatus.HELD and item is not None and item.phase is not Phase.PERMITTED:
            if item.phase is Phase.LEASED:
                item.move(Phase.PREPARING)
            item.move(Phase.PERMITTED)
            item.lease_losses = 0
        self._plane.leave("permit")
        return answer

    async def finish(self, lease: Lease, outcome: Outcome, facts: dict[str, Any]) -> LeaseStatus:
        """See the port."""
        await self._plane.arrive("finish", lease.item_id)
        item = self._plane.owned(lease, self._identity)
        known = self._plane.items.get(lease.item_id)
        answer = LeaseStatus.FENCED
        if item is not None:
            item.move(outcome.phase)
            item.outcome = outcome
            item.facts |= facts
            answer = LeaseStatus.HELD
        elif known is not None and (known.lease, known.outcome) == (lease, outcome):
            answer = LeaseStatus.HELD
        self._plane.leave("finish")
        return answer

    async def release(self, lease: Lease, reason: str, delay: float = 0.0) -> LeaseStatus:
        """See the port; time does not pass here, so a delay is only recorded."""
        await self._plane.arrive("release", lease.item_id)
        item = self._plane.owned(lease, self._identity)
        if item is not None:
            item.move(Phase.QUEUED)
            item.holder = None
            item.releases.append((reason, delay))
        self._plane.leave("release")
        return LeaseStatus.FENCED if item is None else LeaseStatus.HELD

    async def append_log(self, lease: Lease, channel: Channel, offset: int, data: bytes) -> int:
        """See the port."""
        await self._plane.arrive("append_log", lease.item_id)
        known = self._plane.items[lease.item_id]
        if known.lease != lease:
            raise FencedError(f"{lease.item_id} is somebody else's.")
        stored = known.logs[channel]
        if offset <= len(stored):
            stored += data[len(stored) - offset :]
        self._plane.leave("append_log")
        return len(stored)

    async def log_end(self, lease: Lease, channel: Channel) -> int:
        """See the port."""
        await self._plane.arrive("log_end", lease.item_id)
        return len(self._plane.items[lease.item_id].logs[channel])

    async def attempt_status(self, lease: Lease) -> AttemptStatus:
        """See the port."""
        await self._plane.arrive("standing", lease.item_id)
        item = self._plane.items.get(lease.item_id)
        if item is None or item.id in self._plane.hidden:
            return AttemptStatus.UNKNOWN
        over = item.attempt > lease.attempt or item.phase in TERMINAL
        return AttemptStatus.ENDED if over else AttemptStatus.ACTIVE

    def _answer(self, lease: Lease) -> LeaseStatus:
        item = self._plane.owned(lease, self._identity)
        if item is None:
            return LeaseStatus.FENCED
        return LeaseStatus.STOP if item.stop_requested else LeaseStatus.HELD


def _claim(item: FakeItem) -> Claim:
    return Claim(
        lease=item.lease,
        phase=item.phase,
        entity="people",
        project="things",
        queue=item.queue,
        run_name=f"run{item.id[-5:]}",
        name=item.spec.get("name"),
        author="ann",
        resource=item.resource,
        spec=parse_spec(item.spec),
        layers=item.layers,
        allocation=item.allocation,
        run_token="launchrun-token",
        lease_losses=item.lease_losses,
        stop_requested=item.stop_requested,
    )
