"""What is sent to BuildKit for one request: Dockerfile, contexts, parameters."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from agent.builders.image.dockerfile import adds_remote_content, named_images
from agent.builders.image.ignore import ignore_text, own_ignore, withheld
from agent.builders.image.references import is_reference, read_reference
from agent.builders.image.source_policy import frontends
from agent.builders.requirements import NONE, Requirements, find_requirements
from agent.builders.uv import no_python_version
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.tree import left_behind
from agent.ports.builder import BuildRequest

#: Name of the build context that has uv, the installing script and the requirements.
LAUNCH_CONTEXT: Final = "launch"
#: Where the code is copied to and the job starts.
WORKDIR: Final = "/home/launch/src"
#: Ids of build secrets.
INDEX_URL: Final = "launch_index_url"
EXTRA_INDEX_URLS: Final = "launch_extra_index_urls"
CA_BUNDLE: Final = "launch_ca"
#: Part of the names of the steps that install packages.
INSTALL_STEP: Final = "/run/launch/install.sh"

_MOUNTS: Final = " \\\n    ".join(
    (
        f"--mount=type=bind,from={LAUNCH_CONTEXT},target=/run/launch",
        "--mount=type=cache,id=launch-uv,target=/root/.cache/uv",
        f"--mount=type=secret,id={INDEX_URL}",
        f"--mount=type=secret,id={EXTRA_INDEX_URLS}",
        f"--mount=type=secret,id={CA_BUNDLE}",
    )
)
_PYTHON: Final = re.compile(r"(\d+\.\d+)(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Plan:
    """The build as decided: Dockerfile, ignore rules, requirements and base images.

    The files of the context are read later.
    """

    context: Path
    #: The job's own Dockerfile; `None` when it is generated.
    job_dockerfile: Path | None
    #: What a generated Dockerfile installs; `NONE` for the job's own.
    requirements: Requirements
    #: Images that the result is based on, as far as they can be told.
    bases: tuple[str, ...]
    #: Text of the Dockerfile, own or generated.
    text: str
    #: Text of the ignore file beside it.
    ignore: str
    #: Names of secret files in the context that are not sent.
    withheld: tuple[str, ...] = ()
    #: Images of the Dockerfile's frontends.
    frontends: tuple[str, ...] = ()
    #: Something is fetched of which only BuildKit can say whether it has changed.
    remote: bool = False

    @property
    def shown_dockerfile(self) -> str | None:
        """Path of the job's own Dockerfile for messages."""
        return (
            None
            if self.job_dockerfile is None
            else os.path.relpath(self.job_dockerfile, self.context)
        )


def make_plan(
    request: BuildRequest, config: BuilderConfig, requirements: Requirements | None = None
) -> Plan:
    """The plan of a request. Reads the source, hence blocks.

    `requirements`: if they were found already; else they are looked for. They are ignored if the
    job has its own Dockerfile.

    Raises:
        JobError: `SOURCE_INVALID`, naming what cannot be used.
    """
    folders = left_behind(request.context)
    ignore = ignore_text(own_ignore(request.context, request.dockerfile), folders)
    kept_back = withheld(request.context, ignore)
    if request.dockerfile is not None:
        text = request.dockerfile.read_text(encoding="utf-8", errors="replace")
        bases = tuple(filter(is_reference, named_images(text, config.platform)))
        return Plan(
            request.context, request.dockerfile, NONE, bases, text, ignore, kept_back,
            frontends(text, config), adds_remote_content(text),
        )  # fmt: skip
    base, accelerated = _base_image(request, config)
    found = (
        find_requirements(request.context, request.root, request.command)
        if requirements is None
        else requirements
    )
    _check_local(found, request.context)
    text = dockerfile(
        base,
        request.user_id,
        request.command,
        local=found.local,
        python=_python(request.python or config.python) if accelerated else None,
    )
    return Plan(request.context, None, found, (base,), text, ignore, kept_back)


def dockerfile(
    base_image: str,
    user_id: int,
    command: tuple[str, ...],
    *,
    local: bool = False,
    python: str | None = None,
) -> str:
    """Text of a generated Dockerfile.

    Packages are installed before the code is copied, so that a change of code reuses their
    layer; with `local`, those that are in the code afterwards. `python` is put into an
    accelerator's image that has none. No secret is written into it: indexes and certificates
    are secret mounts.
    """
    user = f"{user_id}:{user_id}"
    lines = [
        f"FROM {base_image}",
        "USER 0:0",
        "ENV PYTHONUNBUFFERED=1",
        *([_step("python", python)] if python else []),
        _step("base", str(user_id)),
        f"WORKDIR {WORKDIR}",
        f"COPY --chown={user} . .",
        *([_step("local")] if local else []),
        f"USER {user}",
    ]
    if command:
        lines.append(f"ENTRYPOINT {json.dumps(list(command))}")
    return "\n".join(lines) + "\n"


def launch_context(plan: Plan) -> Mapping[str, str]:
    """Text files of the second build context: the script and the requirements.

    Empty for the job's own Dockerfile.
    """
    if plan.job_dockerfile is not None:
        return {}
    script = resources.files("agent.builders.image").joinpath("install.sh")
    found = plan.requirements
    variants = (f"{name} {line}\n" for name, lines in found.variants for line in lines)
    return {
        "install.sh": script.read_text(encoding="utf-8"),
        "mode": found.mode,
        "options": " ".join(found.options),
        "variants.txt": "".join(variants),
        **found.files(plan.context, Path(WORKDIR)),
    }


def _step(*words: str) -> str:
    """One run of the script, with its mounts."""
    return f"RUN {_MOUNTS} \\\n    sh {INSTALL_STEP} {' '.join(words)}"


def _base_image(request: BuildRequest, config: BuilderConfig) -> tuple[str, bool]:
    """The image, and whether it is an accelerator's.

    In this order: the request's (of job and queue: `pipeline.resolve.base_image_of`),
    `builder.base_image`, the accelerator's, `python:<version>-slim`.
    """
    given, accelerated = request.base_image, request.accelerated
    if not given:
        given, accelerated = config.base_image, False
    if given is None and config.accelerator is not None:
        given, accelerated = config.accelerator.base_image, True
    if given is None:
        return f"python:{_python(request.python or config.python)}-slim", False
    read_reference(given)
    return given, accelerated


def _python(version: str) -> str:
    match = _PYTHON.fullmatch(version.strip())
    if match is None:
        raise no_python_version(version)
    return match[1]


def _check_local(found: Requirements, context: Path) -> None:
    for line in (*found.lines, *found.constraints):
        if line.path is not None and not line.path.is_relative_to(context.resolve()):
            raise JobError(
                Cause.SOURCE_INVALID,
                f"{line.where}: '{line.path.name}' lies outside the build context.",
                hint="Choose a build context that holds it.",
            )
