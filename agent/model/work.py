"""The values of an attempt (Claim → Resolved → Image → Outcome), and names of its workload."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.model.capacity import Allocation
from agent.model.errors import InvalidInputError
from agent.model.phase import Phase
from agent.model.spec import Json, LaunchSpec

LABEL_PREFIX: Final = "launch-agent"
LABEL_CONTROL_PLANE: Final = f"{LABEL_PREFIX}.control-plane"
LABEL_ITEM: Final = f"{LABEL_PREFIX}.item"
LABEL_ATTEMPT: Final = f"{LABEL_PREFIX}.attempt"
LABEL_EPOCH: Final = f"{LABEL_PREFIX}.epoch"
#: Of a container: id of the engine marker that existed when it was created (see the glossary).
LABEL_ENGINE_MARKER: Final = f"{LABEL_PREFIX}.engine-marker"
LABEL_BUILD_KEY: Final = f"{LABEL_PREFIX}.build-key"
#: `network`, `image`, `container`: what a pruner may remove.
LABEL_KIND: Final = f"{LABEL_PREFIX}.kind"

#: Lost leases after which an item is a suspect; the control plane quarantines at the third.
_SUSPECT_LOSSES: Final = 2
_ID: Final = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def checked_id(text: str, what: str) -> str:
    """An id that a server gave, which can stand in paths, names and URLs.

    Raises:
        InvalidInputError
    """
    if not _ID.fullmatch(text):
        raise InvalidInputError(f"'{text[:80]}' cannot be the id of {what}.")
    return text


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write about one attempt; every write names item, attempt and epoch."""

    item_id: str
    attempt: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Claim:
    """One item, leased to this agent."""

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
    #: The queue's resource: `local-container`, `local-process`, …
    resource: str
    spec: LaunchSpec
    #: `queue`, `job`, `submitter`: what each layer sets; from W&B's servers all is the submitter's.
    layers: dict[str, Json]
    allocation: Allocation
    #: API key of the job itself.
    run_token: str = field(repr=False)
    stop_requested: bool
    #: Leases of it that were lost in a row before its start.
    lease_losses: int = 0

    @property
    def is_suspect(self) -> bool:
        """Whether its preparation may kill agents: one more lost lease quarantines it.

        An agent prepares it alone, so that its own death counts against no other item.
        """
        return self.lease_losses >= _SUSPECT_LOSSES


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """One version of a code artifact."""

    #: `entity/project/name:v3`.
    reference: str
    #: SHA-256 over paths, digests and sizes of its files, in hexadecimal digits.
    digest: str


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A pinned source, unpacked; the folder belongs to the attempt."""

    root: Path
    #: `git+https://host/org/repo.git@<commit>` or `code@sha256:…`: shown and recorded.
    identity: str
    #: Commit, where the source has one.
    commit: str | None = None
    #: Where the source is a code artifact.
    code: CodeVersion | None = None


@dataclass(frozen=True, slots=True)
class MountedCode:
    """Code that its backend fetches and mounts into the job's base image: nothing is built."""

    version: CodeVersion
    #: Folder of the code that the job sees, relative to its root.
    context: str
    #: Uid of the job, as in generated images.
    user_id: int


@dataclass(frozen=True, slots=True)
class Resolved:
    """All that is needed to build and run; nothing is left to look up."""

    claim: Claim
    #: `None` when the source is an image.
    tree: SourceTree | None
    #: Image reference as given, when the source is an image or its code is mounted into one.
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
    #: To show: `source`, and `commit` and `job` where there are any.
    facts: dict[str, str] = field(default_factory=dict)
    #: The base image is an accelerator's, and may bring no Python.
    accelerated: bool = False
    #: `image` is the base image, and nothing is built.
    mounted_code: MountedCode | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """What will be run: a container image, or a prepared environment for a process."""

    #: `name@sha256:…` by digest, or `sha256:…` image id, or a folder for processes.
    reference: str
    #: `digest`, `image-id`, `tag` or `environment`: what kind of reference it is.
    pinned_by: str
    #: Whether it existed already.
    reused: bool
    #: Name to show.
    name: str = ""
    #: Only its registry has it, and the engine that runs it must pull it first.
    needs_pull: bool = False
    #: Builder to show; empty when it was found.
    built_by: str = ""
    #: Processes only: folder of the environment whose `bin` goes first on the path.
    environment: Path | None = None
    #: Of its build, for the item.
    warnings: tuple[str, ...] = ()


def workload_name(control_plane_id: str, item_id: str, attempt: int) -> str:
    """`launch-<control plane>-<item>-<attempt>`; valid for Docker, DNS labels and folders.

    The same for every try to create it, so that a second creation is seen.
    """
    return f"{workload_prefix(control_plane_id)}{item_id}-{attempt}".lower()


def workload_prefix(control_plane_id: str) -> str:
    """What the names of a control plane's workloads begin with."""
    return f"launch-{control_plane_id[:8]}-".lower()


def workload_labels(control_plane_id: str, lease: Lease) -> dict[str, str]:
    """What identifies a workload as one attempt's."""
    return {
        LABEL_CONTROL_PLANE: control_plane_id,
        LABEL_ITEM: lease.item_id,
        LABEL_ATTEMPT: str(lease.attempt),
        LABEL_EPOCH: str(lease.epoch),
    }


def lease_from_labels(labels: dict[str, str]) -> Lease | None:
    """The attempt that labels name; `None` when they are not ours or malformed."""
    try:
        item = checked_id(labels[LABEL_ITEM], "an item")
        return Lease(item, int(labels[LABEL_ATTEMPT]), int(labels[LABEL_EPOCH]))
    except (KeyError, ValueError, InvalidInputError):
        return None
