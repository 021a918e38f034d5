import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infrastructure import process
from tests.infrastructure.errors import ServiceError
from tests.infrastructure.process import Daemon

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    time.sleep(60)
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon("sample", tmp_path)
    yield made
    made.stop(signal.SIGKILL)


def _reap(pid: int) -> None:
    os.waitpid(pid, 0)


def test_a_daemon_is_known_until_it_is_stopped(daemon: Daemon) -> None:
    daemon.start(["sleep", "600"])
    pid = daemon.pid()
    assert pid is not None
    assert daemon.stop()
    assert daemon.pid() is None
    assert not daemon.pid_file.exists()
    _reap(pid)


def test_a_daemon_that_ignores_the_signal_is_killed(daemon: Daemon) -> None:
    daemon.start([sys.executable, "-c", STUBBORN])
    daemon.wait_ready(lambda: "ready" in daemon.tail(), 30)
    pid = daemon.pid()
    assert pid is not None
    assert daemon.stop(timeout=0.05)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def test_a_process_that_only_has_the_recorded_pid_is_left_alone(daemon: Daemon) -> None:
    recorded = {"pid": os.getpid(), "identity": "another boot/1"}
    daemon.pid_file.write_text(json.dumps(recorded))
    assert daemon.pid() is None
    assert daemon.stop() is False


def test_a_dead_process_that_nobody_reaped_is_not_alive(daemon: Daemon) -> None:
    daemon.start(["sleep", "600"])
    pid = daemon.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert daemon.pid() is None
    _reap(pid)


def test_a_daemon_that_ends_at_once_is_not_alive(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = process._state_and_start

    def read_after_its_end(pid: int) -> tuple[str, str]:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return read(pid)

    monkeypatch.setattr(process, "_state_and_start", read_after_its_end)
    daemon.start(["true"])
    assert daemon.pid() is None
    _reap(json.loads(daemon.pid_file.read_text())["pid"])


def test_a_daemon_that_ends_while_starting_is_reported_with_its_log(daemon: Daemon) -> None:
    daemon.start(["sh", "-c", "echo the port is taken; exit 3"])
    recorded = json.loads(daemon.pid_file.read_text())
    with pytest.raises(ServiceError, match=r"sample ended while starting.*\nthe port is taken"):
        daemon.wait_ready(lambda: False, 60)
    _reap(recorded["pid"])
