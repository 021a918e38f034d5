"""Source trees: which entries are excluded, and which links lead out.

One set of rules for uploading, downloading, checking out and hashing.
"""

import os
import re
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
#: Where W&B's library writes its runs. Directly below the root any folder of this name.
_CLIENT_FOLDER: Final = "wandb"
_CLIENT_ENTRIES: Final = re.compile(r"(offline-)?run-.+|latest-run|debug(-\w+)?\.log|logs")
#: Files and folders that usually hold credentials: neither stored with a job nor sent to a build,
#: unless a `!` rule of the job's `.dockerignore` includes them.
SECRET_NAMES: Final = (
    ".env", ".env.local", ".netrc", "_netrc", ".pypirc", ".git-credentials", ".ssh", ".aws",
    "id_rsa", "id_ecdsa", "id_ed25519",
)  # fmt: skip


def is_excluded(name: str, *, at_root: bool, directory: bool) -> bool:
    """Whether an entry is excluded by its name; `at_root`: directly below the tree's root."""
    return name in EXCLUDED_NAMES or (at_root and directory and name == _CLIENT_FOLDER)


def left_behind(root: Path) -> list[str]:
    """Paths of the folders that are excluded for what they contain, not for their names. Blocks.

    Raises:
        OSError: a folder cannot be read.
    """
    found: list[str] = []
    pending = [root]
    while pending:
        folder = pending.pop()
        with os.scandir(folder) as entries:
            inner = [each for each in entries if each.is_dir(follow_symlinks=False)]
        for entry in inner:
            if not is_excluded_folder(Path(entry), at_root=folder == root):
                pending.append(Path(entry))
            elif entry.name not in EXCLUDED_NAMES:
                found.append(os.path.relpath(entry.path, root))
    return sorted(found)


def is_excluded_folder(folder: Path, *, at_root: bool) -> bool:
    """Whether a folder is excluded, for its name or its content. Blocks."""
    return folder.name in EXCLUDED_NAMES or _is_by_content(folder, at_root=at_root)


def _is_by_content(folder: Path, *, at_root: bool) -> bool:
    """A virtual environment, of conda too, or the runs that W&B's library writes."""
    if (folder / "pyvenv.cfg").is_file() or (folder / "conda-meta" / "history").is_file():
        return True
    if folder.name != _CLIENT_FOLDER or (folder / "__init__.py").exists():
        return False
    return at_root or any(_CLIENT_ENTRIES.fullmatch(each.name) for each in folder.iterdir())


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


def _entries(folder: Path, *, at_root: bool, everything: bool) -> list[os.DirEntry[str]]:
    def excluded(entry: os.DirEntry[str]) -> bool:
        if everything:
            return False
        if not entry.is_dir(follow_symlinks=False):
            return entry.name in EXCLUDED_NAMES
        return is_excluded_folder(Path(entry), at_root=at_root)

    with os.scandir(folder) as found:
        kept = [entry for entry in found if not excluded(entry)]
    return sorted(kept, key=lambda entry: entry.name)
