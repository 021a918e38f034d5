"""Notifications, against a fake NOTIFY_SOCKET; the unit file, against systemd's own checker."""

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.system.systemd import READY, ServiceManager, forget_manager

UNIT = Path(__file__).parents[3] / "deploy" / "launch-agent.service"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver


def test_lines_arrive_in_one_datagram(listener: socket.socket) -> None:
    manager = ServiceManager.of({"NOTIFY_SOCKET": listener.getsockname()}, os.getpid())
    assert manager.notify(READY, "STATUS=polling")
    assert listener.recv(4096) == b"READY=1\nSTATUS=polling"


def test_abstract_sockets_are_spoken_to() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0launch-test-{os.getpid()}")
        receiver.settimeout(5)
        manager = ServiceManager(f"@launch-test-{os.getpid()}")
        assert manager.status("fine")
        assert receiver.recv(4096) == b"STATUS=fine"


def test_nobody_listening_harms_nothing(tmp_path: Path) -> None:
    assert not ServiceManager.of({}, 1).notify(READY)
    assert not ServiceManager(str(tmp_path / "gone")).notify(READY)


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_counts_only_when_it_is_meant_for_us(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert ServiceManager.of(environ, 7).watchdog == seconds


def test_children_cannot_speak_in_our_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/somewhere")
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    forget_manager(os.environ)
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(os.environ)


async def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """With the program's path replaced by one that exists here, and units that it orders by."""
    text = UNIT.read_text().replace("/opt/launch-agent/bin/launch-agent", "/bin/true")
    (tmp_path / "launch-agent.service").write_text(text.replace("User=launch-agent", "User=root"))
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    checker = shutil.which("systemd-analyze")
    assert checker, "install systemd: it brings systemd-analyze"
    process = await asyncio.create_subprocess_exec(
        checker,
        "verify",
        "--man=no",
        str(tmp_path / "launch-agent.service"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "launch-agent.service" not in output.decode()


def test_the_unit_keeps_jobs_alive_and_is_told_when_we_are_ready() -> None:
    lines = UNIT.read_text().splitlines()
    for promise in ("Type=notify", "KillMode=process", "OOMPolicy=continue", "WatchdogSec=60"):
        assert promise in lines
