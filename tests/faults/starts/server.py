"""The control plane's half of the model: the calls of `agent.control.services.leases`.

Transitions and retries are the real rules.
"""

from types import SimpleNamespace
from typing import Any, cast

from agent.control.services.retries import may_retry
from agent.model.cause import Cause
from agent.model.phase import HELD, MAY_RUN, UNSTARTED_HELD, Phase, may_follow
from agent.model.protocol import LeaseStatus
from tests.faults.starts.world import Attempt, End, Message, Setup, World, put

_ENDS = {
    End.OWN: (Phase.SUCCEEDED, Cause.SUCCEEDED),
    End.ENGINE: (Phase.FAILED, Cause.RUN_EXIT_CODE),
    End.STOPPED: (Phase.STOPPED, Cause.STOPPED_BY_USER),
    End.UNSTARTED: (Phase.STOPPED, Cause.STOPPED_BY_USER),
    End.NEVER: (Phase.ERRORED, Cause.START_FAILED),
    End.LOST: (Phase.LOST, Cause.LOST_ENGINE),
}


class RefusedError(Exception):
    """The transition table does not allow it."""


def _move(world: World, phase: Phase, **changes: Any) -> World:
    if not may_follow(world.item.phase, phase):
        raise RefusedError(f"{world.item.phase} → {phase}")
    return world._replace(item=world.item._replace(phase=phase, **changes))


def _is_held(world: World, call: Message) -> bool:
    item = world.item
    held = (item.holder, item.attempt, item.epoch)
    return held == (call.agent, call.attempt, call.epoch) and item.phase in HELD


def answer(setup: Setup, world: World, call: Message) -> tuple[World, LeaseStatus]:
    """The effect and the answer of one call."""
    if not _is_held(world, call):
        told = world.attempts[call.attempt - 1].told
        repeated = call.call == "finish" and told is call.outcome
        return world, LeaseStatus.HELD if repeated else LeaseStatus.FENCED
    match call.call:
        case "permit":
            return _permit(world)
        case "started":
            return _started(world), LeaseStatus.HELD
        case "release":
            return _release(world), LeaseStatus.HELD
        case "finish" if call.outcome is not None:
            return end(setup, world, call.outcome), LeaseStatus.HELD
    raise AssertionError(call)


def _permit(world: World) -> tuple[World, LeaseStatus]:
    if world.item.stop_requested:
        return world, LeaseStatus.STOP
    if world.item.phase is Phase.STARTED:
        raise RefusedError("it has been started already")
    if world.item.phase is not Phase.PERMITTED:
        world = _move(_move(world, Phase.PREPARING), Phase.PERMITTED)
    return world, LeaseStatus.HELD


def _started(world: World) -> World:
    return world if world.item.phase is Phase.STARTED else _move(world, Phase.STARTED)


def _release(world: World) -> World:
    if world.item.phase not in UNSTARTED_HELD:
        raise RefusedError("it was permitted")
    return requeue(world)


def requeue(world: World) -> World:
    """Back to the queue, under the same attempt."""
    if world.item.stop_requested:
        return _tell(_move(world, Phase.STOPPED, holder=None), End.UNSTARTED)
    return _move(world, Phase.QUEUED, holder=None)


def end(setup: Setup, world: World, outcome: End) -> World:
    """Store an outcome; policy may open another attempt."""
    phase, cause = _ENDS[outcome]
    world = _tell(_move(world, phase, silent=False), outcome)
    item = world.item
    row = SimpleNamespace(
        stop_requested=item.stop_requested,
        queue_id="queue",
        retries=0,
        on_lost=setup.on_lost,
        retried=item.retried,
    )
    if not may_retry(cast("Any", row), phase, cause):
        return world
    again = {"attempt": item.attempt + 1, "retried": item.retried + 1, "holder": None}
    return _open(_move(world, Phase.QUEUED, **again))


def _tell(world: World, outcome: End) -> World:
    index = world.item.attempt - 1
    told = world.attempts[index]._replace(told=outcome)
    return world._replace(attempts=put(world.attempts, index, told))


def _open(world: World) -> World:
    """Room for what is kept by attempt."""
    return world._replace(
        attempts=(*world.attempts, Attempt()),
        engines=tuple(one._replace(containers=(*one.containers, None)) for one in world.engines),
        agents=tuple(one._replace(journal=(*one.journal, None)) for one in world.agents),
    )


def claim(world: World, agent: int) -> World:
    """Lease the queued item to an agent."""
    epoch = world.item.epoch + 1
    return _move(world, Phase.LEASED, epoch=epoch, holder=agent, silent=False)


def register(setup: Setup, world: World, agent: int) -> World:
    """A new session gets what its agent held, and what a silent agent of its backend may run."""
    item = world.item
    if item.phase not in HELD:
        return world
    from_other = setup.shared_engine and item.silent and item.phase in MAY_RUN
    if item.holder != agent and not from_other:
        return world
    adopted = item._replace(epoch=item.epoch + 1, holder=agent, silent=False)
    return world._replace(item=adopted)


def expire(setup: Setup, world: World) -> World:
    """The lease runs out: requeue, or lose contact, or, after that, lose it."""
    item = world.item
    if item.phase in UNSTARTED_HELD:
        return requeue(world)
    if not item.silent:
        return world._replace(item=item._replace(silent=True))
    return end(setup, world, End.LOST)


def request_stop(world: World) -> World:
    """A user asks for a stop."""
    item = world.item._replace(stop_requested=True)
    if item.phase is Phase.QUEUED:
        return _tell(_move(world, Phase.STOPPED, stop_requested=True), End.UNSTARTED)
    return world._replace(item=item)
