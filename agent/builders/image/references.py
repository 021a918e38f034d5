"""Image references: reading them, and finding what they stand for now."""

from dataclasses import replace
from typing import Final, Protocol

from agent.docker.images import EngineImages
from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError
from agent.model.job.image_reference import ImageReference, parse_image
from agent.ports.registry import RegistryPort
from agent.ports.url import UrlPort

#: First part of the names of images built here. The top-level domain is reserved and never
#: resolves, so no pull can bring an image of such a name.
NAMESPACE: Final = "launch.invalid/"
#: For an image that cannot be found.
UNKNOWN: Final = "unknown"


class ReferenceResolver(Protocol):
    """Finds the content that a reference stands for now: a part of every content key."""

    async def content(self, reference: str) -> str:
        """A digest or image id; the same text for everything that cannot be found."""


class EngineResolver:
    """`ReferenceResolver` that asks the engine first.

    The registry's digest where one is known, else the image's id in the engine. Digests are the
    same on every machine, so that agents with one destination find each other's images. Without
    a `registry` nothing leaves this machine, and none is asked.
    """

    def __init__(self, images: EngineImages, registry: RegistryPort | None) -> None:
        self._images = images
        self._registry = None if registry is None else RegistryResolver(registry)

    async def content(self, reference: str) -> str:
        """See `ReferenceResolver`.

        Raises:
            EngineError: the engine failed.
        """
        found = await self._images.inspect(reference)
        if found is None:
            return await self._registry.content(reference) if self._registry else UNKNOWN
        prefix = f"{familiar(read_reference(reference))}@"
        pulled = (name for name in found.digests if name.startswith(prefix))
        return next((name.removeprefix(prefix) for name in pulled), found.id)


class RegistryResolver:
    """`ReferenceResolver` that needs no engine."""

    def __init__(self, registry: RegistryPort) -> None:
        self._registry = registry

    async def content(self, reference: str) -> str:
        """See `ReferenceResolver`. A registry that fails is left to BuildKit, which says why."""
        try:
            return await self._registry.exists(reference) or UNKNOWN
        except JobError:
            return UNKNOWN


def read_reference(text: str) -> ImageReference:
    """A reference with everything that was given, and `latest` where nothing was.

    Raises:
        JobError: `SOURCE_INVALID`: it is none.
    """
    try:
        image = parse_image(text)
    except InvalidInputError as error:
        raise JobError(Cause.SOURCE_INVALID, error.message, hint=error.hint) from None
    return image if image.digest else replace(image, tag=image.pulled_as)


async def check_registry(image: ImageReference, urls: UrlPort | None) -> None:
    """Refuse a registry that the address policy does not allow.

    Raises:
        PolicyError: `POLICY_SOURCE`.
    """
    if urls is not None and not image.on_docker_hub:
        await urls.check(f"https://{image.host}/")


async def verified(image: ImageReference, registry: RegistryPort) -> str:
    """The digest of an image that its registry shows to this agent.

    Raises:
        JobError: `IMAGE_NOT_FOUND`, `IMAGE_AUTH`, `IMAGE_UNAVAILABLE`.
    """
    digest = await registry.exists(str(image))
    if digest is None:
        raise JobError(
            Cause.IMAGE_NOT_FOUND,
            f"Image '{image}' cannot be used: its registry does not show it to this agent.",
            hint="For images that only the agent's engine has, the administrator can set "
            "`runners.local-container.pull: missing`.",
        )
    return digest


def is_reference(text: str) -> bool:
    """Whether a text is an image reference at all."""
    try:
        parse_image(text)
    except InvalidInputError:
        return False
    return True


def local_name(image: ImageReference) -> str:
    """As the engine is asked for it: by digest alone where there is one."""
    return str(replace(image, tag=None) if image.digest else image)


def familiar(image: ImageReference) -> str:
    """The repository as the engine shows it: Docker Hub's own name left out."""
    for prefix in ("docker.io/library/", "index.docker.io/library/", "docker.io/"):
        if image.repository.startswith(prefix):
            return image.repository.removeprefix(prefix)
    return image.repository.removeprefix("library/")
