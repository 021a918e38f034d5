"""Packages from Debian, without upgrading or starting anything that was not asked for."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .apt_sources import Source, machine_sources
from .errors import ServiceError
from .process import run, succeeds

# The packages that bookworm has too old or not at all come from the suite after it.
_NEXT_SUITE = {"bookworm": "trixie"}
_FROM_NEXT_SUITE = (
    "docker.io",
    "docker-cli",
    "docker-buildx",
    "docker-compose",
    "containerd",
    "etcd-server",
)

_APT = Path("/var/cache/launch-agent-tests/apt")
_POLICY = Path("/usr/sbin/policy-rc.d")
_LISTS_MAX_AGE_SECONDS = 12 * 3600
# Services come up side by side, and apt takes one command at a time.
_ONE_AT_A_TIME = threading.Lock()


def install(*packages: str) -> None:
    """Install those of the packages that are missing; start none of their services.

    Raises ServiceError when the machine is not Debian, the user not root, or apt fails.
    """
    missing = [name for name in packages if not _installed(name)]
    if not missing:
        return
    require(f"to install {', '.join(missing)}")
    with _ONE_AT_A_TIME, _no_service_starts():
        _install_missing(missing, _configure())


def require(purpose: str) -> None:
    """Raise ServiceError unless this is Debian and the user is root."""
    if _release().get("ID") != "debian":
        message = f"{purpose} this must be a Debian machine; provide it yourself and try again"
        raise ServiceError(message)
    if os.geteuid() != 0:
        message = f"{purpose} this must run as root; use sudo, or provide it yourself"
        raise ServiceError(message)


def mirror() -> str:
    """Return the address of the Debian archive that the machine itself uses."""
    return _archive(_codename()).uri


def _installed(package: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    try:
        return run(query) == "installed"
    except ServiceError:  # dpkg has never heard of it, or there is no dpkg
        return False


def _install_missing(missing: Sequence[str], options: Sequence[str]) -> None:
    lists = _APT / "lists"
    stamp = _APT / "updated"
    command = ["apt-get", *options, "install", "--yes", "--no-install-recommends", *missing]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    fresh = stamp.exists() and time.time() - stamp.stat().st_mtime < _LISTS_MAX_AGE_SECONDS
    if fresh and succeeds([*command, "--download-only"]):
        run(command, env=quiet)
        return
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    run(["apt-get", *options, "update"])
    stamp.touch()
    run(command, env=quiet)


def _configure() -> list[str]:
    """Write apt's configuration of our own: the machine's Debian sources and the next suite."""
    codename = _codename()
    entries = [source.text for source in machine_sources() if source.suite_of(codename)]
    following = _NEXT_SUITE.get(codename)
    pins = ""
    if following:
        entries.append(_archive(codename).moved_to(following))
        pins = _pins(following)
    for name, text in (("sources/debian.sources", "\n".join(entries)), ("preferences/pins", pins)):
        path = _APT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": _APT / "sources",
        "Dir::Etc::preferencesparts": _APT / "preferences",
        "Dir::State::lists": _APT / "lists",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::Retries": "3",
        "DPkg::Lock::Timeout": "300",
    }
    return [f"-o{name}={value}" for name, value in settings.items()]


def _pins(following: str) -> str:
    """Return preferences that let only the named packages come from the next suite.

    Priority 90 is below that of any installed version, so that nothing else is upgraded; a
    dependency that the machine's own suite cannot satisfy may still come from there.
    """
    chosen = " ".join(_FROM_NEXT_SUITE)
    return (
        f"Package: *\nPin: release n={following}\nPin-Priority: 90\n\n"
        f"Package: {chosen}\nPin: release n={following}\nPin-Priority: 990\n"
    )


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Refuse service starts by package scripts meanwhile; a policy already there stays."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _archive(codename: str) -> Source:
    for source in machine_sources():
        if codename in source.suites:
            return source
    message = f"no source under /etc/apt names the suite {codename}; add Debian's main archive"
    raise ServiceError(message)


def _codename() -> str:
    codename = _release().get("VERSION_CODENAME", "")
    if not codename:
        message = "/etc/os-release has no VERSION_CODENAME, so Debian's suite is unknown"
        raise ServiceError(message)
    return codename


def _release() -> dict[str, str]:
    path = Path("/etc/os-release")
    lines = path.read_text().splitlines() if path.exists() else []
    pairs = (line.partition("=") for line in lines)
    return {key: value.strip('"') for key, _, value in pairs}
