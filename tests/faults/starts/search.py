"""Breadth-first search over all interleavings; finds the shortest way to a violation."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass

from agent.model.phase import HELD, MAY_RUN, TERMINAL, UNSTARTED_HELD, Phase
from tests.faults.starts import engine, server
from tests.faults.starts.agent import Actor, arrive
from tests.faults.starts.world import End, Next, Setup, World

#: What may be told about an attempt, by how its job ended in truth; `None`: it runs, or never ran.
_NEVER_RAN = {End.UNSTARTED, End.NEVER}


@dataclass(frozen=True)
class Searched:
    """Number of states, and the first violation with the steps that lead to it."""

    states: int
    violation: str | None
    way: tuple[str, ...] = ()


def search(setup: Setup) -> Searched:
    """Visit every state that can be reached; check each, then that each comes to its end."""
    # Nothing here is a cycle, and looking for some takes half of the time.
    gc.disable()
    try:
        return _search(setup)
    finally:
        gc.enable()


def _search(setup: Setup) -> Searched:
    first = setup.first()
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    before: dict[World, list[World]] = {}
    frontier = [first]
    for world in frontier:  # it grows
        for step in successors(setup, world):
            if step.world not in came_from:
                came_from[step.world] = (world, step.what)
                frontier.append(step.world)
                if (wrong := violation(step.world)) is not None:
                    return Searched(len(came_from), wrong, _way(came_from, step.world))
            if not step.is_fault:
                before.setdefault(step.world, []).append(world)
    stuck = _stuck(frontier, before)
    if stuck is not None:
        return Searched(len(came_from), "the item never comes to its end", _way(came_from, stuck))
    return Searched(len(came_from), None)


def successors(setup: Setup, world: World) -> Iterator[Next]:
    """Everything that can happen next, within the number of faults."""
    for what, after, is_fault in _steps(setup, world):
        if is_fault and not world.faults:
            continue
        counted = after._replace(faults=world.faults - 1) if is_fault else after
        yield Next(what, _without_fenced(counted) if after.messages else counted, is_fault)


def _without_fenced(world: World) -> World:
    """Without requests that have no effect whenever they arrive."""
    held = (world.item.attempt, world.item.epoch)
    kept = [
        call
        for call in world.messages
        if call.call in {"create", "start"} or (call.attempt, call.epoch) == held
    ]
    return world._replace(messages=frozenset(kept))


def _steps(setup: Setup, world: World) -> Iterator[Next]:
    for index in range(len(world.agents)):
        yield from Actor(setup, world, index).steps()
    for index in range(len(world.engines)):
        yield from engine.steps(world, index)
    for call in world.messages:  # each may also never arrive
        yield Next(f"{call.call} arrives late", arrive(setup, world, call))
    yield from _control_plane(setup, world)


def violation(world: World) -> str | None:
    """What must never be, in this state."""
    for number, attempt in enumerate(world.attempts, 1):
        if attempt.starts > 1:
            return f"attempt {number} was started {attempt.starts} times"
        if attempt.told in _NEVER_RAN and attempt.starts:
            return f"attempt {number} was started and told as '{attempt.told}'"
        if attempt.told is End.ENGINE:
            return f"attempt {number} was told with an exit code of the engine"
        if attempt.told is End.OWN and attempt.end is not End.OWN:
            return f"attempt {number} was told to have ended by itself"
    held = world.item.phase in UNSTARTED_HELD or world.item.phase is Phase.QUEUED
    if held and world.attempts[world.item.attempt - 1].starts:
        return f"attempt {world.item.attempt} was started and is queued again"
    return None


def _control_plane(setup: Setup, world: World) -> Iterator[Next]:
    item = world.item
    if setup.stops and not item.stop_requested and item.phase not in TERMINAL:
        # Counted as a fault: the item must come to its end without it.
        yield Next("a user asks for a stop", server.request_stop(world), is_fault=True)
    if item.phase not in HELD or item.holder is None:
        return
    holder = world.agents[item.holder]
    renewed = (holder.attempt, holder.epoch) == (item.attempt, item.epoch)
    if not renewed or (item.silent and item.phase in MAY_RUN):
        yield Next("a lease expires", server.expire(setup, world))
    else:
        yield Next("a lease of a silent agent expires", server.expire(setup, world), is_fault=True)


def _is_final(world: World) -> bool:
    left = any(one for each in world.engines for one in each.containers)
    return world.item.phase in TERMINAL and not left


def _stuck(worlds: list[World], before: dict[World, list[World]]) -> World | None:
    """The first state from which no final one can be reached without a further fault."""
    reaching = {world for world in worlds if _is_final(world)}
    pending = list(reaching)
    while pending:
        for world in before.get(pending.pop(), ()):
            if world not in reaching:
                reaching.add(world)
                pending.append(world)
    return next((world for world in worlds if world not in reaching), None)


def _way(came_from: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    steps: list[str] = []
    while (origin := came_from[world]) is not None:
        world, what = origin
        steps.append(what)
    return tuple(reversed(steps))
