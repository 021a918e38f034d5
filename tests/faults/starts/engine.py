"""The engine's half of the model, as Docker behaves at its worst.

Starting an exited container runs it again. An engine that is killed in the middle of a start may
have run the job or not, and afterwards says `created` or `exited`.
"""

from collections.abc import Iterator

from agent.ports.runner import WorkloadState
from tests.faults.starts.world import Container, End, Message, Next, World, put

CREATED, RUNNING, EXITED = WorkloadState.CREATED, WorkloadState.RUNNING, WorkloadState.EXITED


def container(world: World, engine: int, attempt: int) -> Container | None:
    """What the engine has under the attempt's name."""
    return world.engines[engine].containers[attempt - 1]


def place(world: World, engine: int, attempt: int, found: Container | None) -> World:
    """Put a container under the attempt's name, or nothing."""
    one = world.engines[engine]
    changed = one._replace(containers=put(one.containers, attempt - 1, found))
    return world._replace(engines=put(world.engines, engine, changed))


def create(world: World, engine: int, call: Message) -> World:
    """Create the container unless the name is taken."""
    if container(world, engine, call.attempt) is not None:
        return world
    return place(world, engine, call.attempt, Container(call.epoch))


def start(world: World, engine: int, call: Message) -> World:
    """Start the container of that id unless it runs."""
    found = container(world, engine, call.attempt)
    if found is None or found.epoch != call.epoch or found.state is RUNNING:
        return world
    boot = world.engines[engine].boot
    return place(
        _ran(world, call.attempt), engine, call.attempt, Container(call.epoch, RUNNING, boot=boot)
    )


def stop(world: World, engine: int, attempt: int) -> World:
    """End a running container on request."""
    found = container(world, engine, attempt)
    if found is None or found.state is not RUNNING:
        return world
    return place(_ended(world, attempt, End.STOPPED), engine, attempt, _exited(found, End.STOPPED))


def steps(world: World, engine: int) -> Iterator[Next]:
    """What an engine and its jobs do by themselves."""
    one = world.engines[engine]
    for index, found in enumerate(one.containers):
        if found is not None and found.state is RUNNING:
            ended = _ended(world, index + 1, End.OWN)
            # A job that outlives its engine is seen by the next one.
            yield Next("a job ends", place(ended, engine, index + 1, _exited(found, End.OWN)))
    if not one.up:
        back = one._replace(up=True, boot=one.boot + 1)
        yield Next("an engine comes back", world._replace(engines=put(world.engines, engine, back)))
    elif world.faults:
        for what, died in _deaths(world, engine):
            yield Next(what, died, is_fault=True)


def killed_in_start(world: World, engine: int, call: Message) -> Iterator[World]:
    """The engine is killed while it starts a container: what may be found afterwards."""
    found = container(world, engine, call.attempt)
    if found is None or found.epoch != call.epoch or found.state is not CREATED:
        return
    dead = down(world, engine)
    yield dead
    ran = _ended(_ran(dead, call.attempt), call.attempt, End.ENGINE)
    yield ran
    boot = world.engines[engine].boot
    yield place(ran, engine, call.attempt, Container(call.epoch, EXITED, End.ENGINE, boot))


def down(world: World, engine: int) -> World:
    """The engine's process is gone, and with it every request on its way."""
    dead = world.engines[engine]._replace(up=False)
    kept = {one for one in world.messages if one.call not in {"create", "start"}}
    return world._replace(
        engines=put(world.engines, engine, dead),
        messages=frozenset(kept),
    )


def _deaths(world: World, engine: int) -> Iterator[tuple[str, World]]:
    for call in world.messages:
        if call.call == "start":
            for dead in killed_in_start(world, engine, call):
                yield "an engine is killed in a start", dead
    dead = down(world, engine)
    yield "an engine dies; its jobs go on", dead
    running = [
        (index + 1, found)
        for index, found in enumerate(world.engines[engine].containers)
        if found is not None and found.state is RUNNING
    ]
    for attempt, found in running:
        killed = _ended(dead, attempt, End.ENGINE)
        yield (
            "an engine dies with its job",
            place(killed, engine, attempt, _exited(found, End.ENGINE)),
        )
        created = Container(found.epoch)
        yield "an engine dies and forgets a start", place(killed, engine, attempt, created)


def _exited(found: Container, end: End) -> Container:
    return found._replace(state=EXITED, end=end)


def _ran(world: World, attempt: int) -> World:
    one = world.attempts[attempt - 1]
    changed = one._replace(starts=one.starts + 1)
    return world._replace(attempts=put(world.attempts, attempt - 1, changed))


def _ended(world: World, attempt: int, end: End) -> World:
    changed = world.attempts[attempt - 1]._replace(end=end)
    return world._replace(attempts=put(world.attempts, attempt - 1, changed))
