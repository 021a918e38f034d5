"""The chart library is shipped as its package has it."""

import hashlib
from importlib.resources import files

import pytest

#: Of `uplot-1.6.32.tgz`, whose integrity at npm is sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6I…
DIGESTS = {
    "uPlot.LICENSE.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_its_files_are_unchanged(name: str) -> None:
    content = (files("agent.control.web") / "static" / name).read_bytes()

    assert hashlib.sha256(content).hexdigest() == DIGESTS[name]
