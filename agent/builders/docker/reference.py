"""Image references: `[host[:port]/]name[:tag][@sha256:…]`, read and put together."""

import re
from dataclasses import dataclass
from typing import Final

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN: Final = rf"(?:{_LABEL}\.)*{_LABEL}(?::[0-9]{{1,5}})?"
_REFERENCE: Final = re.compile(
    rf"(?P<repository>(?:{_DOMAIN}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_IMAGE_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST: Final = 512

#: First part of the names of images built here. The top-level domain is reserved and never
#: resolves, so no pull can bring an image that passes for one of ours.
NAMESPACE: Final = "launch.invalid/"


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference, taken apart."""

    repository: str
    tag: str | None
    digest: str | None

    @property
    def pulled_as(self) -> str:
        """Tag or digest to ask a registry for."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        """The reference with everything that was given, and `latest` where nothing was."""
        tag = f":{self.tag}" if self.tag else ("" if self.digest else ":latest")
        return f"{self.repository}{tag}{f'@{self.digest}' if self.digest else ''}"

    @property
    def local(self) -> str:
        """As the engine is asked for it: by digest alone where there is one."""
        return f"{self.repository}@{self.digest}" if self.digest else str(self)

    @property
    def familiar(self) -> str:
        """The repository as the engine shows it: Docker Hub's own name left out."""
        name = self.repository
        for prefix in ("docker.io/library/", "index.docker.io/library/", "docker.io/"):
            if name.startswith(prefix):
                return name.removeprefix(prefix)
        return name.removeprefix("library/")


def parse_reference(text: str) -> Reference | None:
    """Read a reference; `None` when it is none."""
    match = _REFERENCE.fullmatch(text)
    if match is None or len(text) > _LONGEST or _IMAGE_ID.fullmatch(text):
        return None
    first = match["repository"].partition("/")[0]
    if first != first.lower() and not set(first) & set(".:"):
        return None  # the engine would take `Org/name` for a host called Org
    return Reference(match["repository"], match["tag"], match["digest"])


def what_is_wrong(text: str) -> str:
    """Why a text is no reference, for a message."""
    if text.startswith("-"):
        return "it starts with `-`"
    if re.search(r"\s", text):
        return "it holds a space"
    path = text.partition("@")[0].rpartition("/")[2].partition(":")[0]
    if path != path.lower() or re.fullmatch(r"[^/]*[A-Z][^/]*/.*", text.partition(":")[0]):
        return "names of images are lower-case"
    return "write it as `[host[:port]/]name[:tag]` or `name@sha256:…`"
