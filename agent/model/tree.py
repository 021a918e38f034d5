"""What a source tree may hold: links that stay inside, and nothing that is left out.

One set of rules for packing, unpacking, checking out and hashing.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

#: Never part of a job's code, at any depth: history, caches and environments.
EXCLUDED_NAMES: Final = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        "__pycache__",
        ".venv",
        ".tox",
        ".nox",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".ipynb_checkpoints",
        ".DS_Store",
    }
)
#: Left out at the top only: where W&B's library writes its runs.
EXCLUDED_AT_TOP: Final = frozenset({"wandb"})


def is_excluded(name: str, *, top: bool, directory: bool) -> bool:
    """Whether an entry is left out; `top` means directly below the tree's root."""
    return name in EXCLUDED_NAMES or (top and directory and name in EXCLUDED_AT_TOP)


def walk(
    root: Path,
    *,
    everything: bool = False,
    closed: Callable[[os.DirEntry[str]], bool] = lambda _: False,
) -> Iterator[os.DirEntry[str]]:
    """Every entry below `root`, folders before their content, in the order of names.

    Never follows a link. Excluded entries are left out unless `everything`; a folder that is
    `closed` comes without its content.

    Raises:
        OSError: a folder cannot be read.
    """
    pending = [iter(_entries(root, top=True, everything=everything))]
    while pending:
        entry = next(pending[-1], None)
        if entry is None:
            pending.pop()
            continue
        yield entry
        if entry.is_dir(follow_symlinks=False) and not closed(entry):
            pending.append(iter(_entries(Path(entry), top=False, everything=everything)))


def leaving_link(root: Path, link: Path) -> str | None:
    """The target of a link that leads out of the tree; `None` when it stays inside.

    An absolute target leaves, since the tree moves. Others are followed to their end: a
    chain of links that each look harmless counts by where it arrives.
    """
    target = os.readlink(link)  # noqa: PTH115 -- a str as it stands, not normalised
    if os.path.isabs(target):  # noqa: PTH117
        return target
    real_root = os.path.realpath(root)
    arrived = os.path.realpath(link)
    inside = arrived == real_root or arrived.startswith(real_root + os.sep)
    return None if inside else target


def first_leaving_link(root: Path) -> tuple[str, str] | None:
    """Path below the root and target of the first link that leads out of the tree."""
    for entry in walk(root, everything=True):
        if not entry.is_symlink():
            continue
        target = leaving_link(root, Path(entry))
        if target is not None:
            return os.path.relpath(entry.path, root), target
    return None


def _entries(folder: Path, *, top: bool, everything: bool) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        kept = [
            entry
            for entry in found
            if everything
            or not is_excluded(entry.name, top=top, directory=entry.is_dir(follow_symlinks=False))
        ]
    return sorted(kept, key=lambda entry: entry.name)
