"""Source trees: which entries are excluded, and which links lead out.

One set of rules for uploading, downloading, checking out and hashing.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

#: Excluded at any depth: history, caches and environments.
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
#: Excluded directly below the root only: where W&B's library writes its runs.
EXCLUDED_AT_ROOT: Final = frozenset({"wandb"})
#: Files and folders that usually hold credentials: neither stored with a job nor sent to a build,
#: unless a `!` rule of the job's `.dockerignore` includes them.
SECRET_NAMES: Final = (
    ".env", ".env.local", ".netrc", "_netrc", ".pypirc", ".git-credentials", ".ssh", ".aws",
    "id_rsa", "id_ecdsa", "id_ed25519",
)  # fmt: skip


def is_excluded(name: str, *, at_root: bool, directory: bool) -> bool:
    """Whether an entry is excluded; `at_root` means directly below the tree's root."""
    return name in EXCLUDED_NAMES or (at_root and directory and name in EXCLUDED_AT_ROOT)


def is_secret(path: str) -> bool:
    """Whether a relative path (`/` between parts) is, or is below, one of `SECRET_NAMES`."""
    return not set(path.split("/")).isdisjoint(SECRET_NAMES)


def walk(
    root: Path,
    *,
    everything: bool = False,
    skips: Callable[[os.DirEntry[str]], bool] = lambda _: False,
) -> Iterator[os.DirEntry[str]]:
    """Every entry below `root`, folders before their content, in the order of names.

    Never follows a link. Excluded entries are left out unless `everything`; a folder that is
    `skips` chooses comes without its content.

    Raises:
        OSError: a folder cannot be read.
    """
    pending = [iter(_entries(root, at_root=True, everything=everything))]
    while pending:
        entry = next(pending[-1], None)
        if entry is None:
            pending.pop()
            continue
        yield entry
        if entry.is_dir(follow_symlinks=False) and not skips(entry):
            pending.append(iter(_entries(Path(entry), at_root=False, everything=everything)))


def leaving_link(root: Path, link: Path) -> str | None:
    """The target of a link that leads out of the tree; `None` when it stays inside.

    An absolute target leads out, since the tree is moved. Relative ones are followed to the
    end of the chain, which decides.
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


def _entries(folder: Path, *, at_root: bool, everything: bool) -> list[os.DirEntry[str]]:
    def excluded(entry: os.DirEntry[str]) -> bool:
        directory = entry.is_dir(follow_symlinks=False)
        return not everything and is_excluded(entry.name, at_root=at_root, directory=directory)

    with os.scandir(folder) as found:
        kept = [entry for entry in found if not excluded(entry)]
    return sorted(kept, key=lambda entry: entry.name)
