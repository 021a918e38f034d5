"""Packs a code directory for submission: the same bytes for the same files, wherever they lie.

Names are sorted; times, owners and groups are zero; of the mode only the executable bit
stays. History, caches and environments (`agent.model.tree.EXCLUDED_NAMES`) and a top-level
`wandb/` are left out. Links within the directory stay links.
"""

import gzip
import hashlib
import os
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agent.model.errors import InvalidInputError
from agent.model.tree import leaving_link, walk

_LEVEL: Final = 6


@dataclass(frozen=True, slots=True)
class Packed:
    """An archive that was written."""

    #: `sha256:<hex>` of the archive.
    digest: str
    #: Bytes of the archive.
    size: int
    #: Files and links in it.
    files: int
    #: Bytes of the files themselves.
    content_size: int


def pack(directory: Path, out: BinaryIO) -> Packed:
    """Write a `.tar.gz` of the directory; memory stays bounded whatever its size. Blocks.

    Raises:
        InvalidInputError: names the file that cannot be packed and why: a link out of the
            directory, a socket, pipe or device, something unreadable, a file that changes
            meanwhile.
    """
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise InvalidInputError(
            f"Code directory «{directory}» {what}.", hint="Name a directory that holds your code."
        )
    hashing = _Hashing(out)
    counts = _Counts()
    with (
        gzip.GzipFile("", "wb", _LEVEL, hashing, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in _entries(directory):
            _add(tar, directory, entry, counts)
    return Packed(f"sha256:{hashing.hexdigest}", hashing.size, counts.files, counts.content)


class _Hashing:
    """Passes bytes on and hashes them."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._out.write(data)

    def flush(self) -> None:
        self._out.flush()


@dataclass
class _Counts:
    files: int = 0
    content: int = 0


def _entries(directory: Path) -> "list[os.DirEntry[str]]":
    try:
        return list(walk(directory))
    except OSError as error:
        raise InvalidInputError(
            f"Code directory: «{error.filename}» cannot be read ({error.strerror})."
        ) from None


def _add(tar: tarfile.TarFile, directory: Path, entry: "os.DirEntry[str]", counts: _Counts) -> None:
    name = os.path.relpath(entry.path, directory)
    member = tarfile.TarInfo(name)
    if entry.is_symlink():
        _add_link(tar, directory, Path(entry), member)
    elif entry.is_dir(follow_symlinks=False):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
        return
    else:
        _add_file(tar, Path(entry), member, counts)
    counts.files += 1


def _add_link(tar: tarfile.TarFile, directory: Path, link: Path, member: tarfile.TarInfo) -> None:
    target = leaving_link(directory, link)
    if target is not None:
        raise InvalidInputError(
            f"Code directory: «{member.name}» is a link out of it (to «{target}»).",
            hint="Replace it by the file itself, or by a relative link within the directory.",
        )
    member.type, member.mode = tarfile.SYMTYPE, 0o777
    member.linkname = str(link.readlink())
    tar.addfile(member)


def _add_file(tar: tarfile.TarFile, path: Path, member: tarfile.TarInfo, counts: _Counts) -> None:
    try:
        # Looked at before it is opened: a pipe would wait for its other end.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise InvalidInputError(
                f"Code directory: «{member.name}» is a socket, pipe or device.",
                hint="Remove it, or submit a directory without it.",
            )
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            member.size = facts.st_size
            member.mode = 0o755 if facts.st_mode & stat.S_IXUSR else 0o644
            tar.addfile(member, file)
    except OSError as error:
        reason = error.strerror or "it became shorter while it was packed"
        raise InvalidInputError(
            f"Code directory: «{member.name}» cannot be packed: {reason}."
        ) from None
    counts.content += member.size
