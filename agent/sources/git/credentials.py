"""Configured credentials: from the configuration to git, past argv, URL and environment.

git asks the program named in `GIT_ASKPASS`. Ours prints one of two files that only the
agent's user can read, in a folder that exists while the one command runs.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agent.config.execution import GitConfig, GitCredential
from agent.sources.git.remote import Remote

_PREFIX: Final = "askpass-"
_SCRIPT: Final = """#!/bin/sh
case "$1" in
Username*) exec cat "${0%/*}/username" ;;
*) exec cat "${0%/*}/password" ;;
esac
"""


def matching(config: GitConfig, remote: Remote) -> GitCredential | None:
    """The credential with the longest prefix of the remote's URL; HTTP(S) only."""
    if remote.protocol not in {"http", "https"}:
        return None
    found = [each for each in config.credentials if _covers(each.url, remote)]
    return max(found, key=lambda each: len(each.url), default=None)


@contextmanager
def askpass(
    credential: GitCredential, environ: Mapping[str, str], folder: Path
) -> Iterator[dict[str, str]]:
    """Variables that make git use the credential, while the context lasts.

    Raises:
        ConfigError: the secret's variable or file is not there.
    """
    password = credential.password.read(environ).get_secret_value()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        _write(private / "username", credential.username, 0o600)
        _write(private / "password", password, 0o600)
        _write(private / "askpass", _SCRIPT, 0o700)
        yield {"GIT_ASKPASS": str(private / "askpass")}
    finally:
        shutil.rmtree(private, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed agent left; call before the first fetch."""
    for private in folder.glob(f"{_PREFIX}*"):
        shutil.rmtree(private, ignore_errors=True)


def _covers(prefix: str, remote: Remote) -> bool:
    """Same protocol, host and port, and a path that is the same or below."""
    parts = urlsplit(prefix)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    same = (parts.scheme, (parts.hostname or "").lower(), port)
    if same != (remote.protocol, remote.host, remote.port):
        return False
    base = parts.path.rstrip("/")
    return base in {"", remote.path} or remote.path.startswith(f"{base}/")


def _write(path: Path, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
