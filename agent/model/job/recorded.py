"""A job made from what a run recorded: its metadata, requirements, code and changes.

The rules are those of W&B's client, which has its own job creation switched off by default:
Git remote and commit, else logged code, else the image that `WANDB_DOCKER` names.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from agent.model.errors import InvalidInputError
from agent.model.job.entry_point import check_words
from agent.model.job.image_reference import parse_image
from agent.model.job.job_file import (
    Git,
    JobArtifactSource,
    JobFile,
    JobImageSource,
    JobRepoSource,
    JobSource,
    Json,
    job_contents,
    job_file,
    type_tree,
)
from agent.model.job.names import (
    CodeReference,
    aliases_of,
    checked_name,
    git_job_name,
    image_job_name,
    is_remote,
    safe_name,
    stored_remote,
)
from agent.model.job.requirements import frozen_text
from agent.model.job.runtime import repaired_runtime

METADATA_NAME: Final = "wandb-metadata.json"
REQUIREMENTS_NAME: Final = "requirements.txt"

_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SETTINGS: Final = frozenset({"job_name", "job_source", "disable_job_creation"})
_LITERALS: Final[Mapping[str, bool]] = {"True": True, "False": False}
_LONGEST_LITERAL: Final = 300
_OPENING: Final = frozenset("([{")
_CLOSING: Final = frozenset(")]}")


@dataclass(frozen=True, slots=True)
class RecordedCode:
    """The `code` artifact that a run logged last."""

    id: str
    name: str
    #: Those of `program_paths` that it has.
    paths: frozenset[str]


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """What a run left behind; texts are those of its files."""

    metadata: Json
    requirements: str | None = None
    #: Values by key.
    config: Json | None = None
    summary: Json | None = None
    code: RecordedCode | None = None
    #: Uncommitted changes of its checkout.
    diff: bytes | None = None
    #: The program itself, where the client saved it.
    program: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedJob:
    """A job that can be stored."""

    name: str
    aliases: tuple[str, ...]
    #: The files of its artifact.
    contents: Mapping[str, bytes]


class NoJobError(InvalidInputError):
    """A run from which no job can be made; says what is missing."""

    code = "NO_JOB"


def program_paths(metadata: Json) -> tuple[str, ...]:
    """Where the program may lie in logged code: as seen from the working folder, or the root."""
    named = (metadata.get("codePathLocal"), metadata.get("codePath"))
    return tuple(dict.fromkeys(path for path in named if isinstance(path, str) and path))


def recorded_job(run: RecordedRun) -> RecordedJob:
    """The job that a run becomes.

    Raises:
        NoJobError: something is missing, or the program says that it wants none.
        InvalidInputError: what is recorded cannot be the description of a job.
    """
    said = stated_settings(run.program or "")
    if said.get("disable_job_creation") is True:
        raise NoJobError("Its program sets `disable_job_creation`.")
    if run.requirements is None or not isinstance(run.metadata.get("python"), str):
        raise NoJobError(f"It recorded no `{REQUIREMENTS_NAME}`, or no version of Python.")
    wanted = said.get("job_source")
    makers = {"repo": _repository, "artifact": _code, "image": _image}
    tried = [makers[str(wanted)]] if wanted in makers else list(makers.values())
    found = next(filter(None, (make(run) for make in tried)), None)
    if found is None:
        sources = f"the source `{wanted}`" if wanted in makers else "Git commit, code or image"
        raise NoJobError(f"It recorded nothing of {sources} that a job can be made from.")
    name, image_alias, source = found
    chosen = said.get("job_name")
    file = _file(run, source)
    diff = run.diff if isinstance(source, JobRepoSource) else None
    return RecordedJob(
        name=checked_name(chosen) if isinstance(chosen, str) and chosen else name,
        aliases=tuple(aliases_of((), image_alias)),
        contents=job_contents(file, frozen_text(run.requirements), diff),
    )


_Found = tuple[str, str | None, JobSource]


def _repository(run: RecordedRun) -> _Found | None:
    git, program = run.metadata.get("git"), run.metadata.get("codePath")
    remote, commit = (git.get("remote"), git.get("commit")) if isinstance(git, dict) else ("", "")
    if not isinstance(remote, str) or not is_remote(remote) or not isinstance(program, str):
        return None
    if not program or not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        return None
    source = JobRepoSource(
        git=Git(remote=stored_remote(remote), commit=commit), **_run(run, program)
    )
    return git_job_name(remote, program), None, source


def _code(run: RecordedRun) -> _Found | None:
    code = run.code
    if code is None:
        return None
    program = next((path for path in program_paths(run.metadata) if path in code.paths), None)
    if program is None:
        return None
    artifact = str(CodeReference(id=code.id))
    return (
        safe_name(f"job-{code.name}"),
        None,
        JobArtifactSource(artifact=artifact, **_run(run, program)),
    )


def _image(run: RecordedRun) -> _Found | None:
    image = run.metadata.get("docker")
    if not isinstance(image, str) or not image:
        return None
    parse_image(image)
    named = image_job_name(image)
    return named.job, named.alias, JobImageSource(image=image)


def _run(run: RecordedRun, program: str) -> dict[str, Any]:
    """How source code is run: `python3.11 train.py`, by the interpreter that ran it."""
    words = [f"python{repaired_runtime(run.metadata['python'])}", program]
    check_words(words)
    return {"entrypoint": words, "notebook": program.endswith(".ipynb")}


def _file(run: RecordedRun, source: JobSource) -> JobFile:
    has_code = not isinstance(source, JobImageSource)
    runtime = repaired_runtime(run.metadata["python"]) if has_code else None
    types = {
        "input_types": type_tree(run.config or {}),
        "output_types": type_tree(run.summary or {}),
    }
    return job_file(source, runtime=runtime).model_copy(update=types)


# ------------------------------------------------------------------ what the program states


def stated_settings(program: str) -> dict[str, str | bool]:
    """What a program's own text gives to `Settings(…)` about jobs, as far as it is literal.

    Clients record these settings nowhere. Of two calls that disagree, neither counts. Tokens
    are read, not parsed: any text can come here.
    """
    found: dict[str, set[str | bool]] = {}
    try:
        for name, value in _keywords(program):
            found.setdefault(name, set()).add(value)
    except (tokenize.TokenError, SyntaxError, ValueError):
        pass
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def _keywords(program: str) -> Iterator[tuple[str, str | bool]]:
    """Keywords of `_SETTINGS` in calls of `Settings`, with literal values."""
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(program).readline)
        if token.type in {tokenize.NAME, tokenize.OP, tokenize.STRING}
    ]
    depth, inside = 0, 0
    for index, (token, following) in enumerate(pairwise(tokens)):
        if token.string == "Settings" and following.string == "(":
            inside = depth + 1
        if token.string in _OPENING:
            depth += 1
        elif token.string in _CLOSING:
            depth -= 1
            inside = inside if depth >= inside else 0
        elif inside and depth == inside and token.string in _SETTINGS and following.string == "=":
            value = _literal(tokens[index + 2 : index + 4])
            if value is not None:
                yield token.string, value


def _literal(tokens: list[tokenize.TokenInfo]) -> str | bool | None:
    """The value of one token that stands alone; `None` for an expression."""
    match tokens:
        case [value, end] if end.string in {",", ")"}:
            if value.type == tokenize.NAME:
                return _LITERALS.get(value.string)
            if value.type == tokenize.STRING and len(value.string) <= _LONGEST_LITERAL:
                text = ast.literal_eval(value.string) if value.string[0] in "\"'" else None
                return text if isinstance(text, str) else None
    return None
