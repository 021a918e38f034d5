"""The launch spec: what a submitter asks for one run, in the form that W&B's clients write.

Keys of W&B's `runSpec` keep their names and places; ours are `source`, `build`, `timeout`,
`retries`, `on_lost` and `resources`. Keys that we do not know are kept, since newer clients
send more.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from agent.model.capacity import Demand
from agent.model.errors import InvalidInputError
from agent.model.redact import Redactor, has_credential
from agent.model.units import parse_duration, parse_size

Json = dict[str, Any]

#: More than any machine has.
_MAX_CPUS: Final = 1e6
_MAX_MEMORY_BYTES: Final = 2**60
_COUNT: Final = re.compile("[0-9]{1,9}")
_MAX_GPUS: Final = 10_000
_ARGUMENT_ALIASES: Final = {
    "cpu": "cpus",
    "e": "env",
    "h": "hostname",
    "m": "memory",
    "net": "network",
    "u": "user",
    "v": "volume",
    "w": "workdir",
}


def _seconds(value: object) -> object:
    return _read(parse_duration, value) if isinstance(value, str) else value


def _bytes(value: object) -> object:
    return _read(parse_size, value) if isinstance(value, str) else value


def _read(parse: Callable[[str], float], text: str) -> float:
    """Pydantic reports the path of a `ValueError` only."""
    try:
        return parse(text)
    except InvalidInputError as error:
        raise ValueError(str(error)) from None


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class GitSource(_Value):
    """A repository at a reference; pinned to a commit when the agent resolves it."""

    type: Literal["git"] = "git"
    url: str
    #: Branch, tag or commit; `None` means the default branch.
    ref: str | None = None
    submodules: bool = False
    #: Contents of files in Git LFS instead of pointers to them.
    lfs: bool = False

    @field_validator("url")
    @classmethod
    def _without_credential(cls, url: str) -> str:
        if has_credential(url):
            raise ValueError(
                "the URL contains a password or token, which would be stored and shown; leave it "
                "out: the agent's credential helper or configuration has it"
            )
        return url


class ImageSource(_Value):
    """A ready image; resolved to a digest by the agent."""

    type: Literal["image"] = "image"
    image: str


class ArtifactSource(_Value):
    """A directory, stored as an artifact of type `code`; W&B's own form of it."""

    type: Literal["artifact"] = "artifact"
    #: `wandb-artifact://_id/<id>`, or a full name behind the scheme.
    artifact: str


Source = Annotated[GitSource | ArtifactSource | ImageSource, Field(discriminator="type")]


class BuildSpec(_Value):
    """How to turn a source into an image; all paths are relative to the source's root."""

    build_context: str | None = None
    #: Relative to the build context.
    dockerfile: str | None = None
    base_image: str | None = None
    #: `3.11`; `None` takes the builder's default.
    python: str | None = None


class Resources(_Value):
    """What the job asks for, whatever the runner."""

    cpus: Annotated[float, Field(gt=0)] | None = None
    memory: Bytes | None = None
    gpus: Annotated[int, Field(ge=0)] = 0


class DockerSpec(_Lenient):
    """W&B's `docker` object."""

    docker_image: str | None = None
    user_id: int | None = None


class Overrides(_Lenient):
    """W&B's `overrides` object."""

    args: list[str] = []
    run_config: Json = {}
    entry_point: list[str] = []
    dockerfile: str | None = None
    artifacts: Json = {}
    files: dict[str, Json] = {}


class SideService(_Lenient):
    """An element of W&B's `additional_services`: an object that runs beside the job."""

    name: str = ""
    config: Json


class LaunchSpec(_Lenient):
    """One run to be launched."""

    entity: str | None = None
    project: str | None = None
    name: str | None = None
    author: str | None = None
    run_id: str | None = None
    sweep_id: str | None = None
    #: W&B's reference to a job, `entity/project/name:alias`.
    job: str | None = None
    docker: DockerSpec = DockerSpec()
    resource: str | None = None
    resource_args: dict[str, Json] = {}
    overrides: Overrides = Overrides()
    additional_services: Annotated[list[SideService], Field(max_length=20)] = []
    source: Source | None = None
    build: BuildSpec = BuildSpec()
    resources: Resources = Resources()
    #: Seconds from start to stop; `None` means no limit.
    timeout: Seconds | None = None
    #: New attempts for causes that are not the job's own.
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    on_lost: Literal["fail", "retry"] = "fail"

    def effective_source(self) -> Source | None:
        """Where the code comes from: `source`, else W&B's `docker.docker_image`."""
        if self.source is not None:
            return self.source
        if self.docker.docker_image:
            return ImageSource(image=self.docker.docker_image)
        return None

    def args_for(self, resource: str) -> Json:
        """The resource arguments of one runner."""
        return self.resource_args.get(resource) or {}

    def demand(self, resource: str) -> Demand:
        """What must be free: `resources`, else what the runner's arguments ask for.

        Raises:
            InvalidInputError: `memory`, `cpus` or `gpus` cannot be read, or no machine has it.
        """
        args = {argument_name(name): value for name, value in self.args_for(resource).items()}
        cpus = self.resources.cpus or _cores(args)
        memory = self.resources.memory or _memory(args)
        gpus = self.resources.gpus or _gpus(args)
        _check_demand("cpus", cpus or 0, _MAX_CPUS)
        _check_demand("memory", memory or 0, _MAX_MEMORY_BYTES)
        _check_demand("gpus", gpus, _MAX_GPUS)
        return Demand(cpus=cpus, memory=memory, gpus=gpus)


def argument_name(written: str) -> str:
    """The canonical name of a resource argument: one for all spellings and short forms."""
    plain = written.strip().lstrip("-").replace("_", "-").lower()
    return _ARGUMENT_ALIASES.get(plain, plain)


def parse_spec(raw: Json) -> LaunchSpec:
    """Read a spec.

    Raises:
        InvalidInputError: names the first path that is wrong, what stood there, the rule.
    """
    cleaned = {key: value for key, value in raw.items() if value is not None}
    try:
        return LaunchSpec.model_validate(cleaned)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"]) or "spec"
        seen = first.get("input")
        message = f"Launch spec: `{path}`: {_reason(first['msg'])} (seen: {_shown(seen)})."
        if first["type"] == "string_type" and isinstance(seen, int | float):
            hint = "Put the value in quotes: as a number, 3.10 is 3.1."
            raise InvalidInputError(message, hint=hint) from None
        raise InvalidInputError(message, hint="See docs/launch-spec.md for its keys.") from None


def _reason(text: str) -> str:
    return text.removeprefix("Value error, ").removesuffix(".")


def _shown(value: object) -> str:
    text = Redactor().text(repr(value))
    return text if len(text) <= 80 else text[:77] + "…"  # noqa: PLR2004


def _check_demand(name: str, seen: float, most: float) -> None:
    """A negative demand, or NaN, would add capacity that does not exist."""
    if not 0 <= seen <= most:
        message = f"A job cannot ask for {_shown(seen)} `{name}`."
        raise InvalidInputError(message, hint=f"Ask for 0 to {most:g}.")


def _cores(args: Json) -> float | None:
    value = args.get("cpus")
    try:
        return float(value) if value else None
    except (TypeError, ValueError):
        message = f"Resource argument `cpus`: {value!r} is not a number of cores."
        raise InvalidInputError(message) from None


def _memory(args: Json) -> int | None:
    value = args.get("memory")
    return parse_size(str(value)) if value else None


def _gpus(args: Json) -> int:
    """Docker's forms: a count, `all` (at least one), `device=0,1`."""
    value = str(args.get("gpus") or "0").strip('"')
    if value == "all":
        return 1
    if value.startswith("device="):
        return len(value.removeprefix("device=").split(","))
    if _COUNT.fullmatch(value):
        return int(value)
    message = f"Resource argument `gpus`: '{value}' is neither a count, `all` nor `device=…`."
    raise InvalidInputError(message)
