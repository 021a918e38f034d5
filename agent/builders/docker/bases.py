"""Which content a base image's name stands for just now: a part of every key."""

from agent.builders.docker.pushing import ImageRepository
from agent.builders.docker.reference import familiar, read_reference
from agent.docker.images import EngineImages
from agent.model.errors import JobError


async def base_content(images: EngineImages, repository: ImageRepository | None, base: str) -> str:
    """Its registry's digest where one is known, else its id in the engine.

    Digests are the same on every machine, so that agents who share a destination find each
    other's images. Without a destination nothing leaves this machine, and no registry is asked.

    Raises:
        EngineUnavailableError: the engine went away.
    """
    facts = await images.inspect(base)
    if facts is None:
        return await _far(repository, base) or "not here"
    prefix = f"{familiar(read_reference(base))}@"
    pulled = (name for name in facts.digests if name.startswith(prefix))
    return next((name.removeprefix(prefix) for name in pulled), facts.id)


async def _far(repository: ImageRepository | None, base: str) -> str | None:
    """A registry that does not tell stops no build: BuildKit may know better, or says why."""
    if repository is None:
        return None
    try:
        return await repository.registry.exists(base)
    except JobError:
        return None
