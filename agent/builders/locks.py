"""Lock files as lists of requirements: uv's by its own export, Poetry's by reading it.

Nothing of the source is run: uv reads the lock as it stands (`--frozen`), without network,
cache or configuration. `pylock.toml` is handed on whole, since uv installs from it.
"""

import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.builders.uv import uv_program

UV_LOCK: Final = "uv.lock"
PYLOCK: Final = "pylock.toml"
POETRY_LOCK: Final = "poetry.lock"

_DEADLINE: Final = 60.0
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_SOURCES: Final = {"git": "git+", "url": "", "file": "", "directory": ""}


class LockError(Exception):
    """The lock cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Locked:
    """What a lock means for an installer, as texts of requirement files."""

    packages: str
    constraints: str = ""
    #: The list is complete: nothing needs to be resolved.
    exact: bool = False


def from_uv(folder: Path) -> Locked:
    """The project's own dependencies of a `uv.lock`, with hashes. Blocks.

    Raises:
        LockError: uv cannot read it.
    """
    argv = [
        str(uv_program()), "export", "--frozen", "--offline", "--no-cache", "--no-config",
        "--no-python-downloads", "--no-dev", "--no-emit-project", "--no-header", "--no-annotate",
        "--format", "requirements-txt", "--project", str(folder),
    ]  # fmt: skip
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            argv, cwd=folder, env=env, capture_output=True, text=True, check=False,
            timeout=_DEADLINE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LockError(f"uv did not read it within {_DEADLINE:g} s") from None
    if done.returncode != 0:
        reason = " ".join(done.stderr.split())[:400].removeprefix("error: ")
        raise LockError(reason.rstrip(".") or "uv cannot read it")
    return Locked(done.stdout, exact=True)


def from_poetry(text: str, pyproject: str | None) -> Locked:
    """What a `poetry.lock` pins.

    The project's direct dependencies are installed, everything pinned; a lock without its
    project, or one that says itself what belongs to the main group, is installed as it is.

    Raises:
        LockError: it is not TOML, or an entry is malformed.
    """
    packages = [each for each in _table(text).get("package", []) if not each.get("optional")]
    pins = {str(each.get("name")): _pin(each) for each in packages}
    grouped = [each for each in packages if "groups" in each]
    if grouped:
        main = [each for each in grouped if "main" in each["groups"]]
        return Locked(as_text(_pin(each) + _markers(each) for each in main), exact=True)
    direct = [] if pyproject is None else list(_direct(_table(pyproject)))
    if not direct:
        unmarked = [each for each in packages if each.get("category", "main") == "main"]
        return Locked(as_text(_pin(each) for each in unmarked), exact=True)
    asked = [_with_pin(name, extras, pins) for name, extras in direct]
    constraints = (pin for name, pin in pins.items() if "==" in pin and name)
    return Locked(as_text(asked), as_text(constraints))


def _table(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise LockError(f"it is not TOML: {error}") from None


def _pin(package: dict[str, Any]) -> str:
    name, version = str(package.get("name")), str(package.get("version"))
    if not _NAME.fullmatch(name) or not re.fullmatch(r"[A-Za-z0-9.!+_-]+", version):
        raise LockError(f"'{name[:80]} {version[:80]}' is no package with a version")
    source = package.get("source") or {}
    kind, url = source.get("type"), str(source.get("url", ""))
    if kind not in _SOURCES:
        return f"{name}=={version}"
    if re.search(r"\s", url):
        raise LockError(f"'{url[:80]}' is no address of {name}")
    if kind in {"directory", "file"}:
        return f"./{url}" if not url.startswith((".", "/")) else url
    commit = source.get("resolved_reference")
    return f"{name} @ {_SOURCES[kind]}{url}" + (f"@{commit}" if commit else "")


def _markers(package: dict[str, Any]) -> str:
    markers = package.get("markers")
    if isinstance(markers, dict):
        markers = markers.get("main")
    if not isinstance(markers, str) or "\n" in markers:
        return ""
    return f" ; {markers}"


def _direct(project: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and extras of what the project itself asks for, in either form."""
    listed = (project.get("project") or {}).get("dependencies") or []
    for text in listed:
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(\[[^\]]*\])?(?:[^;]*)(;.*)?", str(text))
        if match is not None:
            yield match[1], (match[2] or "") + (f" {match[3]}" if match[3] else "")
    poetry = ((project.get("tool") or {}).get("poetry") or {}).get("dependencies") or {}
    for name, wish in poetry.items():
        detail = wish if isinstance(wish, dict) else {}
        if name.lower() == "python" or detail.get("optional"):
            continue
        extras = ",".join(str(each) for each in detail.get("extras") or ())
        marker = detail.get("markers")
        yield name, (f"[{extras}]" if extras else "") + (f" ; {marker}" if marker else "")


def _with_pin(name: str, more: str, pins: dict[str, str]) -> str:
    pin = pins.get(re.sub(r"[-_.]+", "-", name).lower(), pins.get(name, ""))
    return pin if pin and "==" not in pin else f"{name}{more}"


def as_text(lines: Iterable[str]) -> str:
    """The text of a requirements file with these lines."""
    return "".join(f"{line}\n" for line in lines)
