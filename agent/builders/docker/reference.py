"""Image references as the engine knows them; `agent.model.job.image_reference` reads them."""

from dataclasses import replace
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, JobError
from agent.model.job.image_reference import ImageReference, parse_image

#: First part of the names of images built here. The top-level domain is reserved and never
#: resolves, so no pull can bring an image that passes for one of ours.
NAMESPACE: Final = "launch.invalid/"


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
