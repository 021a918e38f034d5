"""A PostgreSQL server on loopback, or the one that DATABASE_URL names."""

import os
import pwd
import re
import secrets
import shutil
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

from . import debian, paths
from .errors import ServiceError
from .process import Argv, Daemon, accepts, free_port, run, succeeds
from .state import PostgresFacts

_START_SECONDS = 60
_STOP_SECONDS = 30
_POLL_SECONDS = 0.05
_ROLE = "launch"
_DEFAULT_PORT = 5432


def up(recorded: PostgresFacts | None) -> PostgresFacts:
    """Start a server with an empty cluster unless one is given or runs."""
    given = os.environ.get("DATABASE_URL")
    if given and not (recorded and recorded.started_here and recorded.url == given):
        _check_given(given)
        return PostgresFacts(url=given, started_here=False)
    if recorded and recorded.started_here and alive(recorded):
        return recorded
    programs = programs_directory()
    if recorded and recorded.started_here and _cluster().exists():
        # It was killed, or the machine restarted: the same data at the same address.
        _clear_after_kill()
        _start(programs, _port(recorded.url))
        return recorded
    down(recorded)
    port = free_port()
    password = secrets.token_hex(16)
    _make_cluster(programs, password)
    _start(programs, port)
    url = f"postgresql://{_ROLE}:{password}@127.0.0.1:{port}/postgres"
    return PostgresFacts(url=url, started_here=True)


def down(recorded: PostgresFacts | None) -> None:
    """Stop the server if it was started here, and remove its data."""
    del recorded
    # SIGINT closes the sessions and shuts down in order; SIGTERM would wait for the clients.
    daemon().stop(signal.SIGINT, timeout=_STOP_SECONDS)
    shutil.rmtree(paths.data_directory("postgres"), ignore_errors=True)


def alive(recorded: PostgresFacts) -> bool:
    """Tell whether the server accepts connections."""
    ours = not recorded.started_here or daemon().pid() is not None
    return ours and accepts(_port(recorded.url), _host(recorded.url))


def _make_cluster(programs: Path, password: str) -> None:
    home = paths.data_directory("postgres")
    home.mkdir(parents=True, mode=0o700)
    secret = home / "password"
    secret.touch(mode=0o600)
    secret.write_text(f"{password}\n")
    user = _user()
    for path in (home, secret):
        shutil.chown(path, user or os.geteuid(), None)
    authentication: Argv = ["--auth=scram-sha-256", f"--pwfile={secret}"]
    locale = ["--encoding=UTF8", "--locale=C.UTF-8"]
    command: Argv = [programs / "initdb", f"--username={_ROLE}", *authentication, *locale]
    run([*command, "-D", _cluster()], user=user, cwd=home)
    secret.unlink()


def _clear_after_kill() -> None:
    """Remove the lock of a killed server once the processes that it had are gone.

    The server would take a dead process that nobody has reaped yet for the lock's living owner.
    """
    deadline = time.monotonic() + _STOP_SECONDS
    while _workers():
        if time.monotonic() > deadline:
            message = f"processes of a killed PostgreSQL still run in {_cluster()}"
            raise ServiceError(message)
        time.sleep(_POLL_SECONDS)
    (_cluster() / "postmaster.pid").unlink(missing_ok=True)


def _workers() -> list[int]:
    """Return the pids of the processes that work in the cluster's directory."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == _cluster():
                found.append(int(process.name))
        except OSError:  # it is gone, a zombie, or another user's
            continue
    return found


def _start(programs: Path, port: int) -> None:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 200,
        # Tests kill the server, so what it says is committed must be on disk; a torn page
        # needs a power cut.
        "full_page_writes": "off",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    daemon().start([programs / "postgres", "-D", _cluster(), *options], user=_user())
    ready: Argv = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    daemon().wait_ready(lambda: succeeds(ready), _START_SECONDS)


def programs_directory() -> Path:
    """Return the directory of the newest server's programs; install Debian's if there is none."""
    found = _installed()
    if not found:
        debian.install("postgresql")
        found = _installed()
    if not found:
        message = "PostgreSQL's initdb is not under /usr/lib/postgresql after the installation"
        raise ServiceError(message)
    return found


def _installed() -> Path | None:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    if not found and on_path:
        return Path(on_path).resolve().parent
    return max(found, key=_version, default=None)


def _version(programs: Path) -> float:
    """Return the version that the directory /usr/lib/postgresql/VERSION/bin names."""
    return float(re.sub(r"[^0-9.]", "", programs.parent.name) or 0)


def _user() -> str | None:
    """Return the user that the server runs as: it refuses root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _check_given(url: str) -> None:
    if not accepts(_port(url), _host(url)):
        place = f"{_host(url)}:{_port(url)}"
        message = f"DATABASE_URL names {place}, where nothing answers; start it, or unset it"
        raise ServiceError(message)


def _cluster() -> Path:
    return paths.data_directory("postgres") / "data"


def _host(url: str) -> str:
    return urlsplit(url).hostname or "127.0.0.1"


def _port(url: str) -> int:
    return urlsplit(url).port or _DEFAULT_PORT


def daemon() -> Daemon:
    """Return the server's process; a test that kills it brings it back with `up`."""
    return Daemon("postgres", paths.data_directory("postgres"))
