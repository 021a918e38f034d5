"""Jobs as pages show them: pure, and without a trace of markup."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from agent.control.files.links import Links
from agent.control.services.job_inputs import CONFIG_KEY, standard
from agent.control.store.artifact_records import (
    ArtifactRecord,
    EntryRecord,
    JobRecord,
    JobVersion,
)
from agent.control.store.records import ItemRecord, Page
from agent.control.web.present import pretty
from agent.model.errors import InvalidInputError
from agent.model.job.names import version_of
from agent.model.job.reference import JobReference, parse_reference
from agent.model.spec import Json

#: Kinds of source as stored → as people call them.
SOURCES: Final = {"repo": "git", "artifact": "code", "image": "image"}
_NAMES: Final = {
    "remote": "Repository",
    "commit": "Commit",
    "submodules": "Submodules",
    "lfs": "Git LFS",
    "artifact": "Code artifact",
    "image": "Image",
    "entrypoint": "Entry point",
    "args": "Arguments",
    "build_context": "Build context",
    "dockerfile": "Dockerfile",
    "base_image": "Base image",
    "notebook": "Notebook",
}


@dataclass(frozen=True, slots=True)
class Files:
    """The first files of an artifact, each with the address of its bytes if they are kept here."""

    rows: tuple[tuple[EntryRecord, str | None], ...]
    #: How many there are beyond these.
    more: int


def listed(artifact: ArtifactRecord, page: Page[EntryRecord], links: Links) -> Files:
    """Files to show; the addresses are good for a while."""
    entity = artifact.collection.entity
    rows = tuple(
        (each, links.content("read", entity, each.md5, each.path) if each.md5 else None)
        for each in page.rows
    )
    return Files(rows, page.total - len(rows))


def job_address(entity: str, project: str, name: str | None = None) -> str:
    """The address of a project's jobs, or of one of them."""
    parts = (entity, project) if name is None else (entity, project, name)
    return "/launch/jobs/" + "/".join(quote(part, safe="") for part in parts)


def job_of(item: ItemRecord) -> tuple[str, str] | None:
    """The job that an item was submitted with: its reference and its page's address."""
    given = item.run_spec.get("job")
    if not isinstance(given, str):
        return None
    try:
        found = parse_reference(given)
    except InvalidInputError:
        return None
    return str(found), version_address(found)


def version_address(reference: JobReference) -> str:
    """The page of the version that a reference names."""
    address = job_address(reference.entity, reference.project, reference.name)
    return f"{address}?version={quote(reference.alias, safe='')}"


def source_word(version: JobVersion | None) -> str:
    """`git`, `code` or `image`; empty when the job file cannot be read."""
    kind = version.source_type if version else None
    return SOURCES.get(kind or "", kind or "")


def described(version: JobVersion) -> tuple[tuple[str, str], ...]:
    """What `launch job describe` tells of a version, name and value."""
    job = version.artifact.job_file or {}
    source = job.get("source")
    known = source if isinstance(source, dict) else {}
    if version.code is not None:
        # An id tells people nothing.
        known = known | {"artifact": version.summary}
    told = _flat(known)
    rows = [("Source", source_word(version)), *told, ("Python", str(job.get("runtime") or ""))]
    services = job.get("services")
    rows += [("Services", _text(services))] if services else []
    return tuple((name, value) for name, value in rows if value)


def _flat(source: Json) -> list[tuple[str, str]]:
    git = source.get("git")
    values = (git if isinstance(git, dict) else {}) | source
    return [
        (_NAMES[key], _text(values[key]))
        for key in _NAMES
        if values.get(key) not in (None, "", [], False)
    ]


def _text(value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, list):
        return " ".join(str(each) for each in value)
    return value if isinstance(value, str) else pretty(value)


def schema_of(version: JobVersion) -> Json:
    """The JSON schema of the run's configuration; empty when the job has none."""
    return _object(standard(version.input_schemas.get(CONFIG_KEY)))


def types_of(version: JobVersion) -> Json:
    """The type tree of the run's configuration: of the metadata, else of the job file."""
    declared = _object(version.artifact.metadata.get("input_types"))
    job = version.artifact.job_file or {}
    return _object(declared.get(CONFIG_KEY)) or declared or _object(job.get("input_types"))


def last_config(item: ItemRecord | None) -> Json:
    """The configuration that was launched last."""
    overrides = _object(item.run_spec.get("overrides")) if item else {}
    return _object(overrides.get("run_config"))


def free_aliases(version: JobVersion) -> tuple[str, ...]:
    """Aliases beside the version's own number."""
    return tuple(alias for alias in version.artifact.aliases if version_of(alias) is None)


def by_name(jobs: Iterable[JobRecord]) -> tuple[JobRecord, ...]:
    """Jobs in the order of their names, capitals among the others."""
    named = sorted(jobs, key=lambda job: (job.collection.name.casefold(), job.collection.name))
    return tuple(named)


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
