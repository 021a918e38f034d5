"""References to container images, by the grammar of the OCI distribution specification.

    reference = [ host [ ":" port ] "/" ] path [ ":" tag ] [ "@" digest ]

The first part is a host when it holds a dot or a colon, is `localhost`, or has an upper-case
letter; that is how every engine reads it.
"""

import re
from dataclasses import dataclass
from typing import Final, NoReturn

from agent.model.errors import InvalidInputError

_LABEL: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_KNOWN_DIGESTS: Final = {
    "sha256": re.compile(r"sha256:[0-9a-f]{64}"),
    "sha512": re.compile(r"sha512:[0-9a-f]{128}"),
}
_IDENTIFIER: Final = re.compile(r"[0-9a-f]{64}")
_IMAGE_ID: Final = _KNOWN_DIGESTS["sha256"]
_MAX_NAME: Final = 255
#: Name, tag and the longest digest together stay below it.
_MAX_TEXT: Final = 600
_MAX_PORT: Final = 65535
_FORM: Final = "The form is `[host[:port]/]path[:tag][@digest]`, for example `org/app:1.2`."


@dataclass(frozen=True, slots=True)
class ImageReference:
    """An image's parts, as they were written."""

    #: With its port; `None` means the engine's default registry.
    host: str | None
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def repository(self) -> str:
        """Host and path: everything but tag and digest."""
        return f"{self.host}/{self.path}" if self.host else self.path

    @property
    def on_docker_hub(self) -> bool:
        """Whether it is an image of Docker Hub, as one without a host is."""
        return is_docker_hub(self.host)

    @property
    def pulled_as(self) -> str:
        """What a registry is asked for; a tag beside a digest is only informative."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository}{tag}{digest}"


def is_docker_hub(host: str | None) -> bool:
    """Whether a reference's host means Docker Hub, as one without a host does."""
    return host in {None, "docker.io", "index.docker.io"}


def parse_image(text: str) -> ImageReference:
    """Take a reference apart.

    Raises:
        InvalidInputError: names the part that is wrong, and what to write instead if known.
    """
    _no_foreign_text(text)
    named, at, digest = text.partition("@")
    if at:
        _check_digest(text, digest)
    host, rest = _host(named)
    path, colon, tag = rest.partition(":")
    if host is not None:
        _check_host(text, host)
    _check_path(text, host, path, named)
    # The engine takes the beginning of an id for an image, too: `sha256:0c9b`.
    a_digest = is_docker_hub(host) and path.removeprefix("library/") in _KNOWN_DIGESTS
    if _IMAGE_ID.fullmatch(text) or a_digest:
        _refuse(text, "it is an image's id, not its name")
    if colon and not _TAG.fullmatch(tag):
        reason = f"the tag '{tag}' is not valid: 1 to 128 letters, digits, `_`, `.`, `-`"
        _refuse(text, f"{reason}, not beginning with `.` or `-`")
    return ImageReference(host, path, tag or None, digest or None)


def _no_foreign_text(text: str) -> None:
    if not text.strip():
        raise InvalidInputError("The image reference is empty.", hint=_FORM)
    if any(character.isspace() or not character.isprintable() for character in text):
        _refuse(text, "it holds white space or control characters")
    if len(text) > _MAX_TEXT:
        _refuse(text, f"it is longer than {_MAX_TEXT} characters")
    scheme, separator, rest = text.partition("://")
    if separator:
        _refuse(text, f"it begins with `{scheme}://`", f"Write `{rest}`.")


def _host(named: str) -> tuple[str | None, str]:
    first, slash, rest = named.partition("/")
    known = first == "localhost" or any(c in ".:" for c in first) or first != first.lower()
    return (first, rest) if slash and known else (None, named)


def _check_host(text: str, host: str) -> None:
    if "." not in host and ":" not in host and host != host.lower() and host.isalnum():
        # The grammar reads it as a host without a dot; a mistyped repository is likelier.
        _upper_case(text)
    if not _HOST.fullmatch(host):
        _refuse(text, f"'{host}' is not the host of a registry")
    port = host.rpartition("]")[2].partition(":")[2]
    if port and not 0 < int(port) <= _MAX_PORT:
        _refuse(text, f"'{port}' is not a port")


def _check_path(text: str, host: str | None, path: str, named: str) -> None:
    if path != path.lower():
        _upper_case(text)
    if not _PATH.fullmatch(path):
        reason = f"'{path}' is not the path of a repository" if path else "it names no repository"
        _refuse(text, f"{reason}: lower-case letters and digits, between them `.`, `_`, `-`, `/`")
    if host is None and _IDENTIFIER.fullmatch(path):
        _refuse(text, "64 hexadecimal digits are an image's id, not its name")
    repository = named.partition(":")[0] if host is None else f"{host}/{path}"
    if len(repository) > _MAX_NAME:
        _refuse(text, f"its name is longer than {_MAX_NAME} characters")


def _check_digest(text: str, digest: str) -> None:
    known = _KNOWN_DIGESTS.get(digest.partition(":")[0].lower())
    if not (known or _DIGEST).fullmatch(digest):
        _refuse(
            text, f"'{digest}' is not a digest", "For example: `sha256:` and 64 digits 0-9, a-f."
        )


def _upper_case(text: str) -> NoReturn:
    named, at, digest = text.partition("@")
    head, slash, last = named.rpartition("/")
    name, colon, tag = last.partition(":")
    lowered = f"{head.lower()}{slash}{name.lower()}{colon}{tag}{at}{digest}"
    _refuse(text, "a repository has no upper-case letters", f"Did you mean `{lowered}`?")


def _refuse(text: str, reason: str, hint: str = _FORM) -> NoReturn:
    shown = text if len(text) <= _MAX_NAME else f"{text[:_MAX_NAME]}…"
    raise InvalidInputError(f"'{shown}' is not an image reference: {reason}.", hint=hint)
