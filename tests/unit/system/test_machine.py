"""What the machine has."""

import os
import stat
from pathlib import Path

import pytest

from agent.system import machine

LISTING = b"""GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-1)
GPU 3: NVIDIA T4 (x) (UUID: GPU-77)
"""


def test_devices_are_numbered_as_the_driver_numbers_them() -> None:
    assert machine.gpu_ids(LISTING) == ("0", "3")
    assert machine.gpu_ids(b"No devices found.\n") == ()


async def test_the_driver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ntest \"$1\" = -L && printf '%s' '{LISTING.decode()}'\n")
    program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert await machine.gpus() == ("0", "3")


async def test_without_the_driver_there_are_no_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await machine.gpus() == ()


def test_cores_and_memory_are_plausible() -> None:
    assert 0 < machine.cores() <= (os.cpu_count() or 1)
    assert machine.memory() > 2**20


def test_the_user_names_an_entity(monkeypatch: pytest.MonkeyPatch) -> None:
    for user, entity in (("ada", "ada"), ("Ada.L", "ada-l"), ("--", "local")):
        monkeypatch.setenv("LOGNAME", user)
        assert machine.user_name() == entity
