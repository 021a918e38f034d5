"""Files of a source that name packages and that no installer here reads, with their remedy."""

import re
from pathlib import Path
from typing import Final

from agent.model.errors import InvalidInputError
from agent.model.job.pyproject import PyProject, read_pyproject
from agent.model.job.requirements import decode, read_source_file

_COMPILE: Final = "uv pip compile {} -o requirements.txt"
#: Files that only their own tools can read, with the command that exports a list.
_EXPORTS: Final = {
    "poetry.lock": "poetry export -f requirements.txt -o requirements.txt",
    "Pipfile.lock": "pipenv requirements > requirements.txt",
    "Pipfile": "pipenv lock && pipenv requirements > requirements.txt",
    "pdm.lock": "pdm export -o requirements.txt",
    "pixi.toml": "pip list --format=freeze > requirements.txt",
}
_CONDA: Final = re.compile(
    r"(conda-)?env(ironment)?s?[\w.-]*\.ya?ml|conda[\w.-]*\.ya?ml", re.IGNORECASE
)
_LISTS: Final = re.compile(r"[\w.-]*req(uirement)?s?[\w.-]*\.(txt|in|lock|pip)", re.IGNORECASE)
#: Folders that hold such lists: by habit, and for Binder.
_FOLDERS: Final = frozenset({"requirements", "reqs", "binder", ".binder"})
_SCRIPT: Final = re.compile(r"^# /// script\s*$", re.MULTILINE)


def unread_dependencies(folder: Path, script: Path | None, root: Path) -> list[str]:
    """Remarks on files that are not read, for a folder without a list that is read. Blocks.

    `script` is the job's own, whose header may name packages.
    """
    found = [_remark_within(entry, root) for entry in _entries(folder)]
    if script is not None and _SCRIPT.search(_text(script, root)):
        name = script.relative_to(root).as_posix()
        remedy = f"uv export --script {name} -o requirements.txt"
        found.append(
            f"The list in the header of {name} is not read; to install from it: `{remedy}`"
        )
    return [remark for remark in found if remark]


def unread_locks(folder: Path, root: Path) -> list[str]:
    """Remarks on locks beside a list that is read. Blocks."""
    locks = (folder / name for name in _EXPORTS if name.endswith(".lock"))
    found = (_remark_within(lock, root) for lock in locks if lock.is_file())
    return [remark for remark in found if remark]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError:
        return []


def _remark_within(entry: Path, root: Path) -> str | None:
    """None for links out of the source, and for what cannot be read."""
    try:
        within = entry.resolve().is_relative_to(root.resolve())
        return _remark(entry, entry.relative_to(root).as_posix()) if within else None
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        return None


def _remark(entry: Path, name: str) -> str | None:
    if entry.is_dir():
        known = entry.name.lower() in _FOLDERS
        listed = [each for each in sorted(entry.iterdir()) if _LISTS.fullmatch(each.name)]
        listed = (listed or sorted(entry.glob("*.txt"))) if known else []
        return _listed(f"{name}/{listed[0].name}") if listed else None
    if entry.name == "pyproject.toml":
        return _of_project(_text(entry, entry.parent), name)
    if entry.name == "apt.txt":
        return f"{name} is not read; packages of the system are for a Dockerfile or base image"
    command = _command(entry)
    if command is not None:
        return f"{name} is not read; to install from it: `{command}`"
    read = entry.name == "requirements.frozen.txt"
    return _listed(name) if _LISTS.fullmatch(entry.name) and not read else None


def _command(file: Path) -> str | None:
    """The command that makes a list of a file that names packages."""
    if file.name in {"setup.py", "setup.cfg"}:
        listed = "install_requires" in _text(file, file.parent)
        return _COMPILE.format(file.name) if listed else None
    if _CONDA.fullmatch(file.name):
        return "pip list --format=freeze > requirements.txt"
    return _EXPORTS.get(file.name)


def _of_project(text: str, name: str) -> str | None:
    try:
        project = read_pyproject(text, name)
    except InvalidInputError:
        return None
    table = _table(project)
    remedy = f"to install from it: `{_COMPILE.format(name)}`"
    return f"`{table}` of {name} is not read; {remedy}" if table else None


def _table(pyproject: PyProject) -> str | None:
    """The first table that names packages in another way than `project.dependencies`."""
    tool = pyproject.whole.get("tool")
    tools = tool if isinstance(tool, dict) else {}
    for name, key in (("poetry", "dependencies"), ("pixi", "dependencies")):
        table = tools.get(name)
        packages = table.get(key) if isinstance(table, dict) else None
        if isinstance(packages, dict) and packages.keys() - {"python"}:
            return f"[tool.{name}.{key}]"
    dynamic = pyproject.project.get("dynamic")
    if isinstance(dynamic, list) and "dependencies" in dynamic:
        return "dynamic dependencies"
    if pyproject.project.get("optional-dependencies"):
        return "[project.optional-dependencies]"
    return "[dependency-groups]" if pyproject.whole.get("dependency-groups") else None


def _listed(name: str) -> str:
    return f"{name} is not read; to install from it, write `-r {name}` into requirements.txt"


def _text(file: Path, root: Path) -> str:
    """The text of a file; empty where it cannot be read."""
    try:
        return decode(read_source_file(file, root), file.name)
    except InvalidInputError:
        return ""
