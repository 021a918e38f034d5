"""The frozen values on the line: Claim → Resolved → Image → Outcome."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from agent.model.capacity import Allocation
from agent.model.phase import Phase
from agent.model.spec import Json, LaunchSpec


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write about one attempt; every write names all three."""

    item_id: str
    attempt: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Claim:
    """One item as it was handed to this agent."""

    lease: Lease
    phase: Phase
    entity: str
    project: str
    queue: str
    #: Run id of W&B's: names the run that the job will write.
    run_name: str
    #: Display name, if the submitter gave one.
    name: str | None
    author: str | None
    priority: int
    #: Runner name: `local-container`, `local-process`, …
    resource: str
    spec: LaunchSpec
    #: `queue`, `job`, `submitter`: who set what; from W&B's servers all is the submitter's.
    layers: dict[str, Json]
    allocation: Allocation
    #: Credential for the job itself.
    run_token: str = field(repr=False)
    stop_requested: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A pinned source, unpacked; the folder belongs to the attempt."""

    root: Path
    #: `git+https://host/org/repo.git@<commit>` or `code@sha256:…`: shown and recorded.
    identity: str
    #: Commit, where the source has one.
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Resolved:
    """All that is needed to build and run, with nothing left to look up."""

    claim: Claim
    #: `None` when the source is an image.
    tree: SourceTree | None
    #: Image reference as given, when the source is an image.
    image: str | None
    #: Empty means the image's own entry point.
    command: tuple[str, ...]
    args: tuple[str, ...]
    #: Relative to the tree's root; `.` is the root.
    build_context: str
    dockerfile: str | None
    base_image: str | None
    python: str | None
    environment: dict[str, str] = field(repr=False)
    #: Facts for people: commit, digest, ref.
    facts: dict[str, str] = field(default_factory=dict)
    #: The base image is an accelerator's, and may bring no Python.
    accelerated: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """What will be run: a container image, or a prepared environment for a process."""

    #: `name@sha256:…` by digest, or `sha256:…` image id, or a folder for processes.
    reference: str
    #: `digest`, `image-id` or `environment`: how the reference is pinned.
    pinned_by: str
    #: Whether it existed already.
    reused: bool
    #: What people call it.
    name: str = ""
    #: Whether it is where it will run; otherwise its registry has it.
    here: bool = True
    #: What built it, for people; empty where it was found.
    built_by: str = ""
    #: Processes only: folder of the environment whose `bin` goes first on the path.
    environment: Path | None = None
