"""A directory of code as the contents of an artifact: which files, and their digests.

A link within the directory is stored as the file it points at, since artifacts have no links.
What `agent.model.tree` excludes is left out, what looks like a secret unless the job's rules
include it, and what is no file: links that lead out or to nothing, sockets, pipes, devices.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from agent.model.errors import InvalidInputError
from agent.model.job.digest import encoded
from agent.model.tree import is_excluded_folder, is_secret, leaving_link, left_behind, walk
from agent.remote.artifacts.contents import Content

#: More files than this are data or an environment, not code.
MAX_FILES: Final = 100_000
_PIECE: Final = 256 * 1024
_THREADS: Final = 4
#: Files that a thread hashes per task.
_BATCH: Final = 64
#: Links to folders within each other.
_DEEPEST_LINK: Final = 40


class CodeContents(NamedTuple):
    """The files of a directory that are stored."""

    stored: list[Content]
    #: Paths of files that look like secrets, and are not stored.
    withheld: list[str]
    #: What else is not stored: path and what it is.
    left_out: list[str]


class _Found(NamedTuple):
    path: str
    file: str
    #: Path of the file itself below the directory: another one than `path` behind a link.
    origin: str
    #: What it is, when it is no file that can be stored.
    problem: str = ""


def code_contents(
    directory: Path,
    includes: Callable[[str], bool] = lambda _: False,
    max_files: int = MAX_FILES,
) -> CodeContents:
    """Every file of a directory with its digest, in the order of paths. Blocks.

    A file that looks like a secret, by its own path or that of a link to it, is left out unless
    `includes` is true of that path.

    Raises:
        InvalidInputError: names the file that cannot be read; or there are too many files, or
            none.
    """
    withheld: list[str] = []
    left_out: list[str] = []

    def is_stored(each: _Found) -> bool:
        if each.problem:
            left_out.append(f"{each.path} ({each.problem})")
            return False
        if any(is_secret(path) and not includes(path) for path in (each.path, each.origin)):
            withheld.append(each.path)
            return False
        return True

    found = list(islice(filter(is_stored, _files(directory, directory)), max_files + 1))
    if len(found) > max_files:
        raise _too_many(directory, found, max_files)
    if not found:
        but = f" but {withheld[0]}, which looks like a secret" if withheld else ""
        message = f"Code directory: '{directory}' holds no file{but}."
        raise InvalidInputError(message, hint="Name the directory that your code is in.")
    batches = (found[start : start + _BATCH] for start in range(0, len(found), _BATCH))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="digest") as threads:
        hashed = [content for batch in threads.map(_hash_all, batches) for content in batch]
    stored = sorted(hashed, key=lambda content: content.path)
    left_out += [f"{path}/ (a virtual environment or W&B's runs)" for path in _folders(directory)]
    return CodeContents(stored, sorted(withheld), sorted(left_out))


def content_of(path: str, raw: bytes) -> Content:
    """A small file that is held in memory."""
    digest = encoded(hashlib.md5(raw, usedforsecurity=False).digest())
    return Content(path, digest, len(raw), raw)


def _folders(directory: Path) -> list[str]:
    """Folders that are left out for their content; W&B's own at the root goes without saying."""
    return [path for path in left_behind(directory) if path != "wandb"]


def _files(
    root: Path, folder: Path, prefix: str = "", origin: str = "", depth: int = 0
) -> Iterator[_Found]:
    try:
        for entry in walk(folder):
            below = os.path.relpath(entry.path, folder)
            path = prefix + below
            if entry.is_symlink():
                yield from _linked(root, Path(entry), path, depth)
            elif entry.is_file(follow_symlinks=False):
                yield _Found(path, entry.path, origin + below)
            elif not entry.is_dir(follow_symlinks=False):
                yield _Found(path, entry.path, origin + below, "a socket, pipe or device")
    except OSError as error:
        message = f"Code directory: '{error.filename}' cannot be read ({error.strerror})."
        raise InvalidInputError(message) from None


def _linked(root: Path, link: Path, path: str, depth: int) -> Iterator[_Found]:
    resolved = link.resolve()
    origin = os.path.relpath(resolved, root.resolve())
    target = leaving_link(root, link)
    if target is not None:
        yield _Found(path, str(link), path, f"a link out of the directory, to {target}")
    elif not link.exists():
        yield _Found(path, str(link), path, f"a link to nothing, to {link.readlink()}")
    elif not resolved.is_dir():
        problem = "" if resolved.is_file() else "a link to a socket, pipe or device"
        yield _Found(path, str(resolved), origin, problem)
    elif depth >= _DEEPEST_LINK or link.parent.resolve().is_relative_to(resolved):
        yield _Found(path, str(link), path, "a link to a folder that contains it")
    elif is_excluded_folder(resolved, at_root=resolved.parent == root.resolve()):
        yield _Found(path, str(link), path, f"a link to {origin}/, which is not stored")
    else:
        yield from _files(root, resolved, f"{path}/", f"{origin}/", depth + 1)


def _hash_all(batch: Iterable[_Found]) -> list[Content]:
    buffer = memoryview(bytearray(_PIECE))
    return [_hashed(each, buffer) for each in batch]


def _hashed(found: _Found, buffer: memoryview) -> Content:
    try:
        total = hashlib.md5(usedforsecurity=False)
        size = 0
        with Path(found.file).open("rb", buffering=0) as opened:
            while count := opened.readinto(buffer):
                total.update(buffer[:count])
                size += count
    except OSError as error:
        message = f"Code directory: '{found.path}' cannot be read: {error.strerror}."
        raise InvalidInputError(message) from None
    return Content(_shown(found.path), encoded(total.digest()), size, found.file)


def _shown(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode(errors="surrogateescape").decode(errors="replace")
        message = f"Code directory: the name '{shown}' is not UTF-8."
        raise InvalidInputError(message, hint="Rename it.") from None
    return path


def _too_many(directory: Path, found: list[_Found], max_files: int) -> InvalidInputError:
    counts: dict[str, int] = {}
    for each in found:
        top = each.path.partition("/")[0]
        counts[top] = counts.get(top, 0) + 1
    largest = max(counts, key=lambda top: counts[top])
    message = (
        f"Code directory: '{directory}' holds more than {max_files} files, of them at least "
        f"{counts[largest]} in '{largest}'."
    )
    hint = "Name the directory of the code alone; data belongs elsewhere."
    return InvalidInputError(message, hint=hint)
