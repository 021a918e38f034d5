"""`embedded.json`: how commands on the same machine find a running embedded control plane."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

FILE_NAME: Final = "embedded.json"
#: Of the last plane that ended in good order.
_LAST: Final = "embedded.last.json"


@dataclass(frozen=True, slots=True)
class EmbeddedPlane:
    """A control plane inside a `launch-agent` of this user."""

    url: str
    api_key: str
    #: Of the process that holds it.
    pid: int
    entity: str

    def __repr__(self) -> str:
        return f"EmbeddedPlane(url={self.url!r}, pid={self.pid}, entity={self.entity!r})"


def write_embedded(state_dir: Path, plane: EmbeddedPlane) -> None:
    """Write the file for its owner's eyes only; readers see the old file or the new one."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=state_dir, prefix=f".{FILE_NAME}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(plane), file, indent=2)
    Path(temporary).replace(state_dir / FILE_NAME)


def read_embedded(state_dir: Path) -> EmbeddedPlane | None:
    """What the file says, as long as the process that wrote it lives."""
    plane = _read(state_dir / FILE_NAME)
    return plane if plane and _lives(plane.pid) else None


def remembered_key(state_dir: Path) -> str | None:
    """The key of an earlier start, so that browsers and exported variables stay valid."""
    plane = _read(state_dir / FILE_NAME) or _read(state_dir / _LAST)
    return plane.api_key if plane else None


def remove_embedded(state_dir: Path, pid: int) -> None:
    """Take the file away if it is this process's; another's stays."""
    plane = read_embedded(state_dir)
    if plane is not None and plane.pid == pid:
        (state_dir / FILE_NAME).replace(state_dir / _LAST)


def _read(file: Path) -> EmbeddedPlane | None:
    try:
        return EmbeddedPlane(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
