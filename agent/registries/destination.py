"""Where images are pushed to: `builder.destination`, or W&B's older `registry` block.

Patterns as W&B documents them, each with an optional `https://`; a tag is never part of it:

- Google: `<region>-docker.pkg.dev/<project>/<repository>/<image>`
- Azure: `<name>.azurecr.io/<repository>`
- Amazon: `<account>.dkr.ecr.<region>.amazonaws.com/<repository>`
- anything else is a plain OCI registry.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from agent.model.errors import ConfigError, InvalidInputError
from agent.model.job.image_reference import parse_image

RegistryKind = Literal["oci", "ecr", "google", "acr"]

_ECR: Final = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
)
_GOOGLE: Final = re.compile(r"(?P<region>[a-z0-9-]+)-docker\.pkg\.dev")
_ACR: Final = re.compile(r"[\w-]+\.azurecr\.io")
_GOOGLE_PARTS: Final = 3
#: W&B's `registry.type` to ours.
_TYPES: Final[Mapping[str, RegistryKind]] = {"ecr": "ecr", "gcr": "google", "acr": "acr"}
_WHERE: Final = "builder.destination"


@dataclass(frozen=True, slots=True)
class Destination:
    """A repository, and the kind of its registry."""

    kind: RegistryKind
    #: With its host, without scheme, tag and digest.
    repository: str
    host: str
    #: Amazon's and Google's; empty elsewhere.
    region: str = ""


def read_destination(text: str, where: str = _WHERE) -> Destination:
    """Read a destination; `where` names the key in messages.

    Raises:
        ConfigError: it is no repository, or not as its cloud has them.
    """
    bare = text.strip().removeprefix("https://").rstrip("/")
    try:
        reference = parse_image(bare)
    except InvalidInputError as error:
        raise ConfigError(f"`{where}`: {error.message}", hint=error.hint) from None
    if reference.tag or reference.digest:
        message = f"`{where}`: '{text}' has a tag or digest, and the agent gives its own."
        raise ConfigError(message, hint=f"Write `{reference.repository}`.")
    host = reference.host or ""
    if match := _ECR.fullmatch(host):
        return Destination("ecr", reference.repository, host, match["region"])
    if match := _GOOGLE.fullmatch(host):
        if reference.path.count("/") + 1 != _GOOGLE_PARTS:
            form = "<region>-docker.pkg.dev/<project>/<repository>/<image>"
            raise _wrong_form(where, text, "Google's Artifact Registry", form)
        return Destination("google", reference.repository, host, match["region"])
    if _ACR.fullmatch(host):
        if "/" in reference.path:
            form = "<name>.azurecr.io/<repository>"
            raise _wrong_form(where, text, "Azure's Container Registry", form)
        return Destination("acr", reference.repository, host)
    return Destination("oci", reference.repository, host or "docker.io")


def read_registry(
    block: Mapping[str, Any], environment: Mapping[str, Any] | None
) -> Destination | None:
    """W&B's `registry` block; `None` for `local`, which pushes nowhere.

    Raises:
        ConfigError: an unknown type, missing keys, or a URI of another type.
    """
    named = block.get("type") or "local"
    if named == "local":
        return None
    kind = _TYPES.get(str(named))
    if kind is None:
        message = f"`registry.type`: '{named}' is not known."
        raise ConfigError(message, hint="Known are ecr, gcr, acr and local.")
    uri = block.get("uri") or _joined(kind, block, environment or {})
    found = read_destination(str(uri), "registry.uri")
    if found.kind != kind:
        message = f"`registry.uri`: '{uri}' is no address of a registry of type {named}."
        raise ConfigError(message, hint="Correct `registry.type`, or use `builder.destination`.")
    return found


def _joined(kind: RegistryKind, block: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    region = block.get("region") or environment.get("region")
    match kind:
        case "ecr":
            account = _needed(block, "account_id")
            name = block.get("repo_name") or _needed(block, "repository")
            return f"{account}.dkr.ecr.{_region(region)}.amazonaws.com/{name}"
        case "google":
            project, repository = _needed(block, "project"), _needed(block, "repository")
            image = _needed(block, "image-name")
            return f"{_region(region)}-docker.pkg.dev/{project}/{repository}/{image}"
        case _:
            return _needed(block, "uri")


def _needed(block: Mapping[str, Any], key: str) -> str:
    if not block.get(key):
        named = "`uri`" if key == "uri" else f"neither `uri` nor `{key}`"
        message = f"`registry`: {named} is {'not ' if key == 'uri' else ''}given."
        raise ConfigError(message, hint="Use `builder.destination` instead of this block.")
    return str(block[key])


def _region(region: object) -> str:
    if not region:
        message = "`registry`: no `region` is given, neither here nor in `environment`."
        raise ConfigError(message, hint="Use `builder.destination` instead of this block.")
    return str(region)


def _wrong_form(where: str, text: str, service: str, form: str) -> ConfigError:
    return ConfigError(
        f"`{where}`: '{text}' does not have the form of {service}.", hint=f"Write `{form}`."
    )
