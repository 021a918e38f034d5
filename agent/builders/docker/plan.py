"""What is sent to BuildKit for one request: Dockerfile, contexts, parameters."""

import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from agent.builders.context import check_paths
from agent.builders.docker.dockerfile import Recipe, dockerfile
from agent.builders.docker.reference import is_reference, read_reference
from agent.builders.ignore import whole_text, withheld
from agent.builders.pythons import no_version
from agent.builders.requirements import LocalPackage, Requirements, find_requirements
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.ports.builder import BuildRequest

_PYTHON: Final = re.compile(r"(\d+\.\d+)(?:\.\d+)?")
_FROM: Final = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Generated:
    """A Dockerfile of ours, and what it mounts."""

    text: str
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
    #: The Dockerfile that is used, own or generated.
    text: str
    #: The ignore file beside it.
    ignore: str
    #: Secrets of the context that stay behind.
    withheld: tuple[str, ...] = ()

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
        bases = tuple(name for name in _FROM.findall(text) if is_reference(name))
        ignore = whole_text(_own_ignore(request.context, request.dockerfile))
        kept_back = withheld(request.context, ignore)
        return Plan(request.context, request.dockerfile, None, bases, text, ignore, kept_back)
    base, accelerated = _base_image(request, config)
    requirements = find_requirements(request.context, request.root)
    local = requirements.local if requirements else ()
    recipe = Recipe(
        base_image=base,
        user_id=request.user_id,
        command=request.command,
        local=tuple(_local_words(each, request.context) for each in local),
        python=_python(request.python or config.python) if accelerated else None,
    )
    text = dockerfile(recipe)
    ignore = whole_text(_own_ignore(request.context, None))
    generated = Generated(text, requirements)
    kept_back = withheld(request.context, ignore)
    return Plan(request.context, None, generated, (base,), text, ignore, kept_back)


def launch_context(generated: Generated) -> dict[str, str]:
    """Files of the second build context, besides uv: the script and the requirements."""
    script = resources.files("agent.builders.docker").joinpath("install.sh")
    requirements = generated.requirements or Requirements("")
    lines = (f"{name} {line}\n" for name, found in requirements.variants for line in found)
    return {
        "install.sh": script.read_text(encoding="utf-8"),
        "constraints.txt": requirements.constraints,
        "mode": requirements.mode,
        "variants.txt": "".join(lines),
        requirements.file_name: requirements.packages,
    }


def _base_image(request: BuildRequest, config: BuilderConfig) -> tuple[str, bool]:
    """The image, and whether it is an accelerator's."""
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
        raise no_version(version)
    return match[1]


def _local_words(package: LocalPackage, context: Path) -> tuple[str, ...]:
    """As uv takes it, in the folder that the context is copied to."""
    root = context.resolve()
    if not package.path.is_relative_to(root):
        raise JobError(
            Cause.SOURCE_INVALID,
            f"Local package '{package.path.name}' lies outside the build context.",
            hint="Choose a build context that holds it.",
        )
    path = package.path.relative_to(root).as_posix()
    word = f"./{path if path != '.' else ''}{package.extras}"
    return ("-e", word) if package.editable else (word,)


def _own_ignore(context: Path, own: Path | None) -> str:
    """The job's rules: those beside its Dockerfile come before those of the context."""
    beside = [] if own is None else [own.with_name(f"{own.name}.dockerignore")]
    for file in (*beside, context / ".dockerignore"):
        if file.is_file() and file.resolve().is_relative_to(context.resolve()):
            return file.read_text(encoding="utf-8", errors="replace")
    return ""
