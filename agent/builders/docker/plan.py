"""What is sent to BuildKit for one request: Dockerfile, contexts, parameters."""

import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from agent.builders.context import check_paths
from agent.builders.docker.dockerfile import Recipe, dockerfile, dockerignore
from agent.builders.docker.reference import parse_reference
from agent.builders.requirements import LocalPackage, Requirements, find_requirements
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.tree import EXCLUDED_AT_TOP, EXCLUDED_NAMES
from agent.ports.builder import BuildRequest

_PYTHON: Final = re.compile(r"(\d+\.\d+)(?:\.\d+)?")
_FROM: Final = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Generated:
    """A Dockerfile of ours, and what it mounts."""

    text: str
    ignore: str
    requirements: Requirements | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything but the files of the context themselves."""

    context: Path
    #: The job's own Dockerfile, or
    own: Path | None
    #: one that we write.
    generated: Generated | None
    #: Images that the result stands on, as far as they can be told.
    bases: tuple[str, ...]

    @property
    def shown_dockerfile(self) -> str | None:
        """Path of the job's own Dockerfile for messages."""
        return None if self.own is None else os.path.relpath(self.own, self.context)


def make_plan(request: BuildRequest, config: BuilderConfig) -> Plan:
    """Decide; reads the source, hence blocks.

    Raises:
        JobError: `SOURCE_INVALID`, naming what cannot be used.
    """
    check_paths(request)
    if request.dockerfile is not None:
        text = request.dockerfile.read_text(encoding="utf-8", errors="replace")
        bases = tuple(name for name in _FROM.findall(text) if parse_reference(name))
        return Plan(request.context, request.dockerfile, None, bases)
    base = _base_image(request, config)
    requirements = find_requirements(request.context, request.root)
    local = requirements.local if requirements else ()
    recipe = Recipe(
        base_image=base,
        user_id=request.user_id,
        command=request.command,
        local=tuple(_local_words(each, request.context) for each in local),
    )
    ignore = dockerignore(
        _own_ignore(request.context), tuple(EXCLUDED_NAMES), tuple(EXCLUDED_AT_TOP)
    )
    return Plan(request.context, None, Generated(dockerfile(recipe), ignore, requirements), (base,))


def launch_context(generated: Generated) -> dict[str, str]:
    """Files of the second build context, besides uv: the script and the requirements."""
    script = resources.files("agent.builders.docker").joinpath("install.sh")
    requirements = generated.requirements or Requirements("")
    return {
        "install.sh": script.read_text(encoding="utf-8"),
        "requirements.txt": requirements.packages,
        "constraints.txt": requirements.constraints,
    }


def _base_image(request: BuildRequest, config: BuilderConfig) -> str:
    given = request.base_image or config.base_image
    if given is None and config.accelerator is not None:
        given = config.accelerator.base_image
    if given is None:
        return f"python:{_python(request.python or config.python)}-slim"
    if parse_reference(given) is None:
        raise JobError(Cause.SOURCE_INVALID, f"Base image «{given}» is not an image reference.")
    return given


def _python(version: str) -> str:
    match = _PYTHON.fullmatch(version.strip())
    if match is None:
        raise JobError(
            Cause.SOURCE_INVALID,
            f"Python version «{version}» cannot be read.",
            hint="Write it as 3.11 or 3.11.4.",
        )
    return match[1]


def _local_words(package: LocalPackage, context: Path) -> tuple[str, ...]:
    """As uv takes it, in the folder that the context is copied to."""
    root = context.resolve()
    if not package.path.is_relative_to(root):
        raise JobError(
            Cause.SOURCE_INVALID,
            f"Local package «{package.path.name}» lies outside the build context.",
            hint="Choose a build context that holds it.",
        )
    path = package.path.relative_to(root).as_posix()
    word = f"./{path if path != '.' else ''}{package.extras}"
    return ("-e", word) if package.editable else (word,)


def _own_ignore(context: Path) -> str:
    file = context / ".dockerignore"
    if not file.is_file() or not file.resolve().is_relative_to(context.resolve()):
        return ""
    return file.read_text(encoding="utf-8", errors="replace")
