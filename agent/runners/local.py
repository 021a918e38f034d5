"""What the runners on the agent's own machine share: exclusive use of a name, and files by path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent.model.errors import FencedError
from agent.model.work import LABEL_ATTEMPT, LABEL_CONTROL_PLANE, LABEL_ITEM, Lease
from agent.ports.runner import RunRequest, Workload, WorkloadState

_ATTEMPT_LABELS: Final = (LABEL_CONTROL_PLANE, LABEL_ITEM, LABEL_ATTEMPT)


def same_attempt(found: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether two sets of labels name the same attempt; epochs may differ."""
    return all(label in found and found[label] == wanted.get(label) for label in _ATTEMPT_LABELS)


def is_outdated(found: Workload, wanted: Lease) -> bool:
    """Whether it was created under an earlier lease of the attempt and never started.

    1. A lease expires before the permit; its container stays behind. 2. The item is leased
    again, perhaps from another queue. 3. The old container would run with a token that is no
    longer valid, on devices that belong to another job by now.

    Raises:
        FencedError: it was created under a later lease; do not use or remove it.
    """
    if found.lease.epoch > wanted.epoch:
        message = f"'{found.name}' was created under a later lease of the same attempt."
        raise FencedError(message)
    return found.state is WorkloadState.CREATED and found.lease.epoch < wanted.epoch


def files_folder(request: RunRequest) -> Path:
    """The folder of the request's files."""
    return request.folder / "files"


def file_paths(request: RunRequest) -> dict[str, Path]:
    """Where `write_files` puts each of the request's files, by its path in the job."""
    folder = files_folder(request)
    return {target: folder / f"{i}" for i, target in enumerate(request.files)}


def write_files(request: RunRequest) -> None:
    """Write the request's files below the attempt's folder. Blocks.

    The folder keeps other users of the machine out; each file can be read by whichever user the
    job has, and written by none.
    """
    for target, path in file_paths(request).items():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(request.files[target])
        path.chmod(0o444)
