"""Configured credentials: from the configuration to git, past argv, URL and environment.

git asks a helper that is set for one host, so that no other host ever gets the answer, also
not from `git lfs`, whose server may send it elsewhere. The helper prints a file that only the
agent's user can read, in a folder that exists while the one command runs.
"""

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agent.config.execution import GitConfig, GitCredential
from agent.sources.git.remote import Remote

_PREFIX: Final = "credential-"


def matching(config: GitConfig, remote: Remote) -> GitCredential | None:
    """The credential with the longest prefix of the remote's URL; HTTP(S) only."""
    if remote.protocol not in {"http", "https"}:
        return None
    found = [each for each in config.credentials if _covers(each.url, remote)]
    return max(found, key=lambda each: len(each.url), default=None)


@contextmanager
def helper(
    credential: GitCredential, environ: Mapping[str, str], folder: Path
) -> Iterator[tuple[tuple[str, str], ...]]:
    """Settings that make git use the credential for its host, while the context lasts.

    Raises:
        ConfigError: the secret's variable or file is not there.
    """
    password = credential.password.read(environ).get_secret_value()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        answer = private / "answer"
        _write(answer, f"username={credential.username}\npassword={password}\n")
        parts = urlsplit(credential.url)
        program = f'!f() {{ test "$1" != get || cat {shlex.quote(str(answer))}; }}; f'
        # An empty helper forgets the user's own: the administrator's choice counts.
        yield (
            ("credential.helper", ""),
            (f"credential.{parts.scheme}://{parts.netloc.rpartition('@')[2]}.helper", program),
        )
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


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
