"""The command line: `up`, `down`, `status` and `env`."""

import argparse
import fcntl
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import browser, buildkit, docker, git, kubernetes, paths, postgres, registry, s3, state
from .errors import ServiceError

_SERVER_PROGRAMS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True)
class Service:
    """What the command can do with one service; each function takes its recorded facts."""

    up: Callable[[Any], state.Service]
    down: Callable[[Any], None]
    alive: Callable[[Any], bool]


SERVICES = {
    "docker": Service(docker.up, docker.down, docker.alive),
    "registry": Service(registry.up, registry.down, registry.alive),
    "postgres": Service(postgres.up, postgres.down, postgres.alive),
    "git": Service(git.up, git.down, git.alive),
    "browser": Service(browser.up, browser.down, browser.alive),
    "buildkit": Service(buildkit.up, buildkit.down, buildkit.alive),
    "s3": Service(s3.up, s3.down, s3.alive),
    "kubernetes": Service(kubernetes.up, kubernetes.down, kubernetes.alive),
}


def main(arguments: Sequence[str]) -> int:
    """Do what the arguments say and return the exit status."""
    chosen = _parser().parse_args(arguments)
    wanted = chosen.names or SERVICES
    names = [name for name in SERVICES if name in wanted]
    # Servers live where the path of an ordinary user does not lead.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SERVER_PROGRAMS])
    commands = {"up": _up, "down": _down, "status": _status, "env": _env}
    try:
        return commands[chosen.command](names)
    except ServiceError as error:
        print(f"tests/services: {error}", file=sys.stderr)
        return 1


def _up(names: Sequence[str]) -> int:
    """Bring the services up side by side; the others go on when one fails."""
    began, recording = time.monotonic(), threading.Lock()

    def bring_up(name: str) -> bool:
        try:
            facts = SERVICES[name].up(getattr(state.load(), name))
        except ServiceError as error:
            _say(f"tests/services: {name}: {error}")
            return False
        with recording:
            state.record(name, facts)
        _say(f"{name}: up after {time.monotonic() - began:.1f} s")
        return True

    with _lock(), ThreadPoolExecutor(len(SERVICES)) as threads:
        return 0 if all(list(threads.map(bring_up, names))) else 1


def _down(names: Sequence[str]) -> int:
    with _lock():
        for name in reversed(names):
            SERVICES[name].down(getattr(state.load(), name))
            state.record(name, None)
            _say(f"{name}: down")
    return 0


def _status(names: Sequence[str]) -> int:
    facts = state.load()
    answers = {name: _answer(name, getattr(facts, name)) for name in names}
    for name, answer in answers.items():
        print(f"{name}: {answer}")
    return 0 if set(answers.values()) == {"up"} else 1


def _answer(name: str, recorded: state.Service | None) -> str:
    if recorded is None:
        return "down"
    return "up" if SERVICES[name].alive(recorded) else "recorded, but does not answer"


def _env(names: Sequence[str]) -> int:
    # `tests/services env | head` ends quietly.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    facts = state.load()
    shown = state.Facts(**{name: getattr(facts, name) for name in names})
    for name, value in sorted(state.environment(shown).items()):
        print(f"{name}={shlex.quote(value)}")
    return 0


@contextmanager
def _lock() -> Iterator[None]:
    """Let one `up` or `down` run at a time; others wait for it."""
    path = paths.lock_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/services", description="Bring up and take down what the tests need."
    )
    parser.add_argument("command", choices=["up", "down", "status", "env"])
    parser.add_argument("names", nargs="*", type=_name, metavar="service")
    return parser


def _name(text: str) -> str:
    if text not in SERVICES:
        message = f"no service is called {text!r}; there are {', '.join(SERVICES)}"
        raise argparse.ArgumentTypeError(message)
    return text
