"""Unpacks a code archive that nobody vouches for.

Own walk over the members: regular files, folders and links that stay inside, nothing else.
The target is an empty folder that only we write to, so what was made here is all there is:
a member may only lie in folders that this walk made, hence never behind a link. Links are
made last, and each is followed to its end before it counts as harmless.
"""

import gzip
import os
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.tree import leaving_link
from agent.model.units import format_size
from agent.sources.forward import ForwardReader, LimitError
from agent.system.disk import is_full
from agent.system.threads import Stop

_COPY: Final = 256 * 1024
_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 4000
_DEEPEST: Final = 200
#: Headers and padding of members, over what the members hold.
_OVERHEAD_PER_FILE: Final = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may unpack to."""

    max_bytes: int
    max_files: int
    #: Unpacked bytes for each packed one; applies beyond `free_bytes`.
    max_ratio: int = 200
    free_bytes: int = 256 * 1024**2

    def for_archive(self, packed: int) -> int:
        """Bytes that an archive of this size may unpack to."""
        return min(self.max_bytes, max(self.free_bytes, packed * self.max_ratio))


def unpack(archive: BinaryIO, into: Path, limits: Limits, stop: Stop) -> int:
    """Unpack a `.tar.gz` into an empty folder; return the number of entries.

    Raises:
        JobError: `SOURCE_INVALID` naming the member, `DISK_FULL`.
        StoppedError: nobody waits for it any more.
    """
    allowed = limits.for_archive(os.fstat(archive.fileno()).st_size)
    walk = _Walk(into, allowed, limits.max_files, stop)
    try:
        with gzip.GzipFile(fileobj=archive, mode="rb") as plain:
            reader = ForwardReader(plain, allowed + limits.max_files * _OVERHEAD_PER_FILE)
            walk.members(reader)
        walk.make_links()
    except LimitError as error:
        raise _invalid(f"{error}") from None
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise _invalid(f"it is not a complete .tar.gz archive ({error})") from None
    except OSError as error:
        raise _disk_error(error) from None
    return walk.count


@dataclass
class _Walk:
    into: Path
    left: int
    max_files: int
    stop: Stop
    count: int = 0
    folders: set[str] = field(default_factory=lambda: {""})
    others: set[str] = field(default_factory=set)
    links: list[tuple[str, str]] = field(default_factory=list)

    def members(self, reader: ForwardReader) -> None:
        with tarfile.open(fileobj=reader, mode="r:") as tar:
            while (member := tar.next()) is not None:
                self.stop.check()
                self._one(tar, member)
                tar.members = []  # type: ignore[attr-defined]  # it keeps every header

    def _one(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self.count += 1
        if self.count > self.max_files:
            raise _invalid(f"it holds more than {self.max_files} entries")
        path = self._path(member.name)
        if member.isdir():
            self._folder(path)
        elif path == "" or path in self.others or path in self.folders:
            raise _invalid(f"`{member.name}` occurs twice")
        elif member.issym():
            self._later(path, member.linkname)
        elif member.isreg() and not member.issparse():
            self._file(tar, member, path)
        else:
            raise _invalid(f"`{member.name}` is {_kind(member)}; only files, folders and links")

    def _path(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise _invalid(f"`{name}` points out of the folder")
        too_long = len(os.fsencode(name)) > _LONGEST_PATH or len(parts) > _DEEPEST
        if too_long or any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
            raise _invalid(f"`{name[:80]}…` is too long")
        return "/".join(parts)

    def _folder(self, path: str) -> None:
        if path in self.folders:
            return
        if path in self.others:
            raise _invalid(f"`{path}` occurs as a folder and as something else")
        self._folder(path.rpartition("/")[0])
        target = self.into / path
        target.mkdir()
        target.chmod(0o755)
        self.folders.add(path)

    def _later(self, path: str, target: str) -> None:
        self._folder(path.rpartition("/")[0])
        self.others.add(path)
        self.links.append((path, target))

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        if member.size > self.left:
            raise _invalid(
                f"`{path}` would take it beyond what is allowed "
                f"({format_size(member.size)}, {format_size(self.left)} left)"
            )
        self.left -= member.size
        self._folder(path.rpartition("/")[0])
        self.others.add(path)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.into / path, flags, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            self._copy(tar, member, out)
            os.fchmod(out.fileno(), 0o755 if member.mode & 0o111 else 0o644)

    def _copy(self, tar: tarfile.TarFile, member: tarfile.TarInfo, out: BinaryIO) -> None:
        content = tar.extractfile(member)
        while content is not None and (data := content.read(_COPY)):
            self.stop.check()
            out.write(data)

    def make_links(self) -> None:
        for path, target in self.links:
            if not target or "\0" in target:
                raise _invalid(f"`{path}` is a link to nothing")
            (self.into / path).symlink_to(target)
        for path, target in self.links:
            if leaving_link(self.into, self.into / path) is not None:
                raise _invalid(f"`{path}` is a link out of the folder (to `{target}`)")


def _kind(member: tarfile.TarInfo) -> str:
    kinds = {
        tarfile.LNKTYPE: "a hard link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
        tarfile.GNUTYPE_SPARSE: "a sparse file",
    }
    return kinds.get(member.type, "of an unknown kind")


def _invalid(what: str) -> JobError:
    return JobError(
        Cause.SOURCE_INVALID,
        f"The code archive cannot be unpacked: {what}.",
        hint="Submit the directory again with `launch submit`.",
    )


def _disk_error(error: OSError) -> JobError:
    if is_full(error):
        return JobError(Cause.DISK_FULL, f"No space is left to unpack the code ({error.strerror}).")
    return _invalid(f"{error.strerror or error}")
