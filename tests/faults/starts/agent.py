"""The agent's half of the model: an attempt's stages, their journal, and recovery.

The decision of recovery is the real rule. A call whose answer does not come is repeated, but a
start: it is sent once, and then looked for.
"""

from collections.abc import Iterator
from typing import Any

from agent.daemon.recovery import RecoveryAction
from agent.model.phase import HELD, TERMINAL, Phase
from agent.model.protocol import LeaseStatus
from agent.ports.runner import WorkloadState
from tests.faults.starts import engine, server
from tests.faults.starts.decisions import is_removed, resumption
from tests.faults.starts.engine import container, place
from tests.faults.starts.world import Agent, End, Entry, Message, Next, Setup, Step, World, put

CREATED, RUNNING, EXITED = WorkloadState.CREATED, WorkloadState.RUNNING, WorkloadState.EXITED
_CALLS = {Step.CREATE: "create", Step.PERMIT: "permit", Step.SEND: "start", Step.FINISH: "finish"}
#: Where a renewal that is answered by `fenced` ends the attempt at once.
_LEARNS = frozenset({Step.CREATE, Step.PERMIT, Step.WATCH, Step.FINISH})
_FREE: dict[str, Any] = {"attempt": 0, "epoch": 0, "fresh": False, "outcome": None}


class Actor:
    """One agent in one state of the world; `steps` are its next ones."""

    def __init__(self, setup: Setup, world: World, index: int) -> None:
        self.setup = setup
        self.world = world
        self.index = index
        self.me = world.agents[index]
        self.engine = setup.engine_of(index)
        self.engine_up = world.engines[self.engine].up

    def steps(self) -> Iterator[Next]:
        """Everything that it may do next, and what may happen to it."""
        yield from getattr(self, f"_{self.me.step.name.lower()}")()
        if self.me.unsaved is not None:
            yield Next("the journal is written", self._change(**_flushed(self.me)))
        if self.me.step in _LEARNS:
            yield from self._renew()
        if self.world.faults:
            for what, changed in self._faults():
                yield Next(what, changed, is_fault=True)

    # -------------------------------------------------------------------- stages of an attempt

    def _down(self) -> Iterator[Next]:
        registered = server.register(self.setup, self.world, self.index)
        item = registered.item
        if item.holder == self.index and item.phase in HELD:
            changes = {"step": Step.RECOVER, "attempt": item.attempt, "epoch": item.epoch}
            yield Next("an agent registers and holds the item", self._change(registered, **changes))
            return
        journal = tuple(one and one._replace(over=True) for one in self.me.journal)
        free = self._change(registered, step=Step.IDLE, journal=journal)
        yield Next("an agent registers", free)

    def _recover(self) -> Iterator[Next]:
        if not self.engine_up:
            return
        found = container(self.world, self.engine, self.me.attempt)
        entry = self.me.journal[self.me.attempt - 1]
        match resumption(self.setup, self.world.item, self.me, entry, found):
            case RecoveryAction.PREPARE:
                yield Next("recovery: prepare", self._open(self.world, Step.CREATE))
            case RecoveryAction.START:
                yield Next("recovery: start", self._change(step=Step.PERMIT, fresh=False))
            case RecoveryAction.SETTLE:
                yield Next("recovery: settle", self._change(step=Step.FIND))
            case RecoveryAction.FOLLOW:
                yield Next("recovery: follow", self._watching(self.world))
            case RecoveryAction.DELIVER if entry is not None:
                changes = {"step": Step.FINISH, "outcome": entry.outcome}
                yield Next("recovery: deliver", self._change(**changes))
            case _:
                yield self._ends("recovery: lost", End.LOST)

    def _idle(self) -> Iterator[Next]:
        if not self.engine_up:
            return
        if self.world.item.phase is Phase.QUEUED:
            claimed = server.claim(self.world, self.index)
            changes = {"attempt": claimed.item.attempt, "epoch": claimed.item.epoch}
            leased = self._change(claimed, **changes)
            yield Next("an agent claims", self._open(leased, Step.CREATE))
        for index, found in enumerate(self.world.engines[self.engine].containers):
            ended = self.world.item.attempt > index + 1 or self.world.item.phase in TERMINAL
            entry = self.me.journal[index]
            if found is not None and is_removed(entry, found, is_over=ended):
                stopped = engine.stop(self.world, self.engine, index + 1)
                removed = place(stopped, self.engine, index + 1, None)
                yield Next("an agent removes what is over", removed)

    def _create(self) -> Iterator[Next]:
        if self.setup.errors:
            yield self._ends("a source is wrong", End.NEVER)
        if not self.engine_up:
            yield Next("an agent releases the item", self._leave(self._sent("release")))
            return
        found = container(self.world, self.engine, self.me.attempt)
        if found is not None and found.epoch > self.me.epoch:
            yield Next("another lease's workload", self._leave(self.world))
            return
        if found is not None and found.state is CREATED and found.epoch < self.me.epoch:
            void = place(self.world, self.engine, self.me.attempt, None)
            yield Next("an agent replaces a void workload", void)
            return
        created = engine.create(self.world, self.engine, self._call("create"))
        yield Next("create", self._change(created, step=Step.PERMIT, fresh=found is None))

    def _permit(self) -> Iterator[Next]:
        try:
            world, status = server.answer(self.setup, self.world, self._call("permit"))
        except server.RefusedError:
            yield self._ends("the permit is refused", End.NEVER)
            return
        match status:
            case LeaseStatus.HELD:
                yield Next("permit", self._change(world, step=Step.NOTE))
            case LeaseStatus.STOP:
                yield self._ends("a permit is answered by stop", End.UNSTARTED)
            case _:
                yield Next("a permit is answered by fenced", self._leave(world))

    def _note(self) -> Iterator[Next]:
        noted = self._save(start_sent=True)
        yield Next("an agent notes its start", self._change(noted, step=Step.SEND))

    def _send(self) -> Iterator[Next]:
        found = container(self.world, self.engine, self.me.attempt)
        if not self.engine_up:
            # Nothing was sent; after a while it gives up.
            yield self._ends("an engine is away", End.NEVER if self.me.fresh else End.LOST)
        elif found is None:
            yield self._ends("the workload is gone", End.LOST)
        elif not self.me.fresh and found.state is not CREATED:
            yield Next("it was started before", self._watching(self.world))
        else:
            yield self._ends("a start is refused", End.NEVER)
            started = engine.start(self.world, self.engine, self._start_of(found.epoch))
            yield Next("start", self._watching(started))

    def _find(self) -> Iterator[Next]:
        if not self.engine_up:
            return
        found = container(self.world, self.engine, self.me.attempt)
        if found is not None and found.state is not CREATED:
            yield Next("a start is found", self._watching(self.world))
        elif found is not None and self.setup.repeats_start:
            yield Next("a start is repeated", self._change(step=Step.SEND))
        else:
            yield self._ends("no start is found", End.LOST)

    def _watch(self) -> Iterator[Next]:
        if not self.engine_up:
            return
        found = container(self.world, self.engine, self.me.attempt)
        if found is None or found.state is CREATED:
            yield self._ends("the workload is gone", End.LOST)
        elif found.state is EXITED:
            alive = found.boot == self.world.engines[self.engine].boot
            counts = alive or self.setup.trusts_every_exit_code or found.end is End.STOPPED
            yield self._ends("an agent reads the end", found.end if counts else End.LOST)
        elif self.world.item.stop_requested:
            stopped = engine.stop(self.world, self.engine, self.me.attempt)
            yield Next("an agent stops the job", stopped)

    def _outcome(self) -> Iterator[Next]:
        saved = self._save(outcome=self.me.outcome)
        yield Next("an agent notes the outcome", self._change(saved, step=Step.FINISH))

    def _finish(self) -> Iterator[Next]:
        try:
            world, status = server.answer(self.setup, self.world, self._call("finish"))
        except server.RefusedError:
            yield Next("an outcome is refused", self._change(step=Step.IDLE, **_FREE))
            return
        if status is LeaseStatus.FENCED:
            yield Next("an outcome is fenced", self._leave(world))
        else:
            yield Next("finish", self._change(world, step=Step.DESTROY))

    def _destroy(self) -> Iterator[Next]:
        # An engine that is away keeps it until the next pruning.
        removed = place(self.world, self.engine, self.me.attempt, None)
        yield Next("destroy", self._leave(removed if self.engine_up else self.world))

    def _renew(self) -> Iterator[Next]:
        item = self.world.item
        held = (item.holder, item.attempt, item.epoch)
        if held != (self.index, self.me.attempt, self.me.epoch) or item.phase not in HELD:
            yield Next("a renewal is answered by fenced", self._leave(self.world))
        elif item.silent:
            heard = self.world._replace(item=item._replace(silent=False))
            yield Next("a renewal arrives again", heard)

    # ------------------------------------------------------------------------------- faults

    def _faults(self) -> Iterator[tuple[str, World]]:
        world, me = self.world, self.me
        if me.step is Step.DOWN:
            if any(me.journal):
                lost: Any = (None,) * len(me.journal)
                yield "a journal is lost", self._change(journal=lost)
            return
        call = self._pending()
        if me.step is Step.SEND and call is not None:
            for dead in engine.killed_in_start(world, self.engine, call):
                yield "an engine is killed in a start", self._change(dead, step=Step.FIND)
        dies = {"step": Step.DOWN, "unsaved": None, **_FREE}
        yield "an agent dies", self._change(**dies)
        if call is not None:
            late = world._replace(messages=world.messages | {call})
            yield "an agent dies, its request is on its way", self._change(late, **dies)
            waits = self._change(late, step=Step.FIND) if me.step is Step.SEND else late
            yield "an answer is late", waits

    def _pending(self) -> Message | None:
        """The request that it waits for."""
        name = _CALLS.get(self.me.step)
        if name is None or (name in {"create", "start"} and not self.engine_up):
            return None
        if name == "start":
            found = container(self.world, self.engine, self.me.attempt)
            return self._start_of(found.epoch) if found is not None else None
        return self._call(name)

    # ------------------------------------------------------------------------- its own state

    def _call(self, name: str) -> Message:
        outcome = self.me.outcome if name == "finish" else None
        return Message(name, self.index, self.me.attempt, self.me.epoch, outcome)

    def _start_of(self, container_id: int) -> Message:
        return Message("start", self.index, self.me.attempt, container_id)

    def _sent(self, name: str) -> World:
        return self.world._replace(messages=self.world.messages | {self._call(name)})

    def _change(self, world: World | None = None, **changes: Any) -> World:
        world = self.world if world is None else world
        changed = world.agents[self.index]._replace(**changes)
        return world._replace(agents=put(world.agents, self.index, changed))

    def _watching(self, world: World) -> World:
        told = world._replace(messages=world.messages | {self._call("started")})
        return self._change(told, step=Step.WATCH, fresh=False)

    def _ends(self, what: str, outcome: End | None) -> Next:
        return Next(what, self._change(step=Step.OUTCOME, outcome=outcome, fresh=False))

    def _open(self, world: World, step: Step) -> World:
        """A journal entry anew, not durable yet."""
        me = world.agents[self.index]
        flushed = me._replace(**_flushed(me))
        opened = (me.attempt, Entry(me.epoch))
        return self._change(world, step=step, journal=flushed.journal, unsaved=opened)

    def _save(self, **changes: Any) -> World:
        """Make a change of the entry durable, with what was pending."""
        me = self.me._replace(**_flushed(self.me))
        entry = me.journal[me.attempt - 1] or Entry(me.epoch)
        saved = entry._replace(epoch=me.epoch, **changes)
        return self._change(journal=put(me.journal, me.attempt - 1, saved), unsaved=None)

    def _leave(self, world: World) -> World:
        """The attempt is over for this agent; the entry is closed, which is not durable yet."""
        me = world.agents[self.index]
        me = me._replace(**_flushed(me))
        entry = me.journal[me.attempt - 1] or Entry(me.epoch)
        closed = (me.attempt, entry._replace(epoch=me.epoch, over=True))
        return self._change(world, step=Step.IDLE, journal=me.journal, unsaved=closed, **_FREE)


def _flushed(me: Agent) -> dict[str, Any]:
    if me.unsaved is None:
        return {}
    attempt, entry = me.unsaved
    return {"journal": put(me.journal, attempt - 1, entry), "unsaved": None}


def arrive(setup: Setup, world: World, call: Message) -> World:
    """A request arrives whose sender does not wait for it."""
    world = world._replace(messages=world.messages - {call})
    number = setup.engine_of(call.agent)
    if call.call in {"create", "start"}:
        effect = engine.create if call.call == "create" else engine.start
        return effect(world, number, call) if world.engines[number].up else world
    try:
        return server.answer(setup, world, call)[0]
    except server.RefusedError:
        return world
