"""Artifacts as the services hand them out: frozen, without a trace of SQL."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from agent.control.store.items import ItemRecord
from agent.model.spec import Json


class ArtifactState(StrEnum):
    """PENDING: being uploaded, no version yet. COMMITTED: whole. DELETED: only its row is left."""

    PENDING = "PENDING"
    COMMITTED = "COMMITTED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class CollectionRecord:
    """A named series of versions of one type: W&B's artifact sequence."""

    id: str
    entity: str
    project: str
    #: Number of the project, which clients show as its id.
    project_number: int
    name: str
    type: str
    description: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def place(self) -> str:
        """`entity/project/name`."""
        return f"{self.entity}/{self.project}/{self.name}"


@dataclass(frozen=True, slots=True)
class ArtifactRecord:
    """One version, or what is on its way to become one."""

    id: str
    collection: CollectionRecord
    state: ArtifactState
    #: `None` until it is committed.
    version: int | None
    digest: str
    digest_algorithm: str
    description: str | None
    metadata: Json
    tags: tuple[str, ...]
    #: Free aliases, oldest first; `v<N>` is not among them.
    aliases: tuple[str, ...]
    size: int
    file_count: int
    ttl_seconds: int
    history_step: int | None
    user: str | None
    run_name: str | None
    job_file: Json | None
    job_problem: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def reference(self) -> str:
        """`entity/project/name:v<N>`; for committed ones."""
        return f"{self.collection.place}:v{self.version}"


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """The list of an artifact's files, itself a file; `digest` is empty before it is known."""

    id: str
    artifact_id: str
    entity: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """One file of an artifact."""

    path: str
    #: As the manifest writes it: base64 of the MD5; of references whatever the client wrote.
    digest: str
    #: Hexadecimal; `None` for references.
    md5: str | None
    size: int
    ref: str | None = None


@dataclass(frozen=True, slots=True)
class ContentRecord:
    """Bytes that are stored."""

    entity: str
    md5: str
    #: Their name in the object store.
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """W&B's `createArtifact`."""

    entity: str | None
    project: str
    type: str
    name: str
    digest: str
    digest_algorithm: str = "MANIFEST_MD5"
    description: str | None = None
    metadata: Json | None = None
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    ttl_seconds: int = 0
    history_step: int | None = None
    run_name: str | None = None
    #: The same id gives the same artifact back.
    client_id: str | None = None
    #: A committed version with the same digest is given back instead of a new one.
    deduplicate: bool = False


@dataclass(frozen=True, slots=True)
class ArtifactChange:
    """W&B's `updateArtifact`; `None` leaves a field as it is."""

    description: str | None = None
    metadata: Json | None = None
    ttl_seconds: int | None = None
    tags_to_add: tuple[str, ...] = ()
    tags_to_delete: tuple[str, ...] = ()
    #: All free aliases that it shall have.
    aliases: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class JobVersion:
    """One version of a job."""

    artifact: ArtifactRecord
    #: `repo`, `artifact` or `image`; `None` when the job file cannot be read.
    source_type: str | None
    #: The source in a few words, for people.
    summary: str
    #: The artifact that a code job's files are in; `None` for other jobs, and where it is hidden.
    code: ArtifactRecord | None = None

    @property
    def reference(self) -> str:
        """`entity/project/name:v<N>`."""
        return self.artifact.reference

    @property
    def input_schemas(self) -> Json:
        """JSON schemas by `@wandb.config` and `files`."""
        schemas = self.artifact.metadata.get("input_schemas")
        return schemas if isinstance(schemas, dict) else {}


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job whatever its version."""

    collection: CollectionRecord
    version_count: int
    latest: JobVersion | None
    #: The item that was submitted last with any version.
    last_item: ItemRecord | None
