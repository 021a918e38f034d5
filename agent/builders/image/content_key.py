"""Content keys: digests over everything that decides the result of a build.

Paths, kinds, the executable bit, targets of links and contents count; times and owners do
not, since they differ between two checkouts of the same commit. What else counts: `key` in
`builders/docker.py` and in `builders/virtualenv.py`.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import Any, Final

from agent.builders.image.ignore import Ignore
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.tree import walk
from agent.system.tasks import Stop

_EXECUTABLE: Final = 0o111


def tree_digest(folder: Path, *, everything: bool, stop: Stop, ignore: Ignore | None = None) -> str:
    """SHA-256 over a folder's content; what is never sent is included only with `everything`.

    With `ignore`, exactly the files that its rules include count.

    Raises:
        JobError: `SOURCE_INVALID`: a file that cannot be read, or is no file.
    """
    total = hashlib.sha256()
    start = len(os.fspath(folder)) + 1

    def skips(entry: os.DirEntry[str]) -> bool:
        return ignore is not None and ignore.prunes(entry.path[start:])

    for entry in walk(folder, everything=everything or ignore is not None, skips=skips):
        stop.check()
        path = entry.path[start:]
        if ignore is not None and ignore.excludes(path):
            continue
        try:
            line = _describe(entry)
        except OSError as error:
            raise _invalid(f"'{path}' cannot be read ({error.strerror})") from None
        if line is None:
            raise _invalid(f"'{path}' is neither file, folder nor link")
        total.update(os.fsencode(path) + b"\0" + line.encode() + b"\n")
    return total.hexdigest()


def content_key(parts: dict[str, Any]) -> str:
    """One key from everything that decides; the order of `parts` does not count."""
    total = hashlib.sha256()
    for name, value in sorted(parts.items()):
        total.update(f"{name}={value!r}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _describe(entry: os.DirEntry[str]) -> str | None:
    if entry.is_symlink():
        return f"link {os.fsencode(Path(entry).readlink()).hex()}"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    mode = entry.stat(follow_symlinks=False).st_mode
    if not stat.S_ISREG(mode):
        return None
    return f"file {'x' if mode & _EXECUTABLE else '-'} {_file_digest(Path(entry))}"


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _invalid(what: str) -> JobError:
    return JobError(
        Cause.SOURCE_INVALID, f"{what}.", hint="Correct the path or the file, and submit again."
    )
