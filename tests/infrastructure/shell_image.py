"""`launch-test/sh`: static busybox in a small image, for tests that need no Python."""

import hashlib
import io
import json
import os
import struct
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .engine import docker
from .errors import ServiceError
from .process import run

NAME = "launch-test/sh:latest"
FOREIGN_NAME = "launch-test/foreign:latest"

_BUSYBOX = Path("/bin/busybox")
_RECIPE = "1"
"""Changes when the contents below change, so that older images are made again."""
_LABEL = "launch-agent-tests.recipe"


@dataclass(frozen=True)
class _Foreign:
    """An architecture that is not this machine's: Docker's name, and ELF's number for it."""

    platform: str
    elf_machine: int


_FOREIGN = (
    _Foreign("linux/amd64", 62) if os.uname().machine == "aarch64" else _Foreign("linux/arm64", 183)
)


def ensure(host: str) -> None:
    """Make both images unless the engine has them."""
    if all(_current(host, name) for name in (NAME, FOREIGN_NAME)):
        return
    debian.install("busybox-static")
    program = _BUSYBOX.read_bytes()
    _load(host, NAME, program)
    _load(host, FOREIGN_NAME, _as_foreign(program), f"--platform={_FOREIGN.platform}")


def write_archive(target: Path, name: str, command: list[str]) -> None:
    """Write the shell image as an archive that engines load, with a command of its own."""
    debian.install("busybox-static")
    with tempfile.TemporaryDirectory() as scratch:
        layer = Path(scratch) / "layer.tar"
        _pack(layer, _BUSYBOX.read_bytes())
        digest = hashlib.sha256(layer.read_bytes()).hexdigest()
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
        settings = {"Cmd": command, "Env": ["PATH=/bin"]}
        layers = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
        config = {"architecture": architecture, "os": "linux", "config": settings, "rootfs": layers}
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [layer.name]}]
        with tarfile.open(target, "w") as archive:
            archive.add(layer, layer.name)
            _add(archive, "config.json", content=json.dumps(config).encode())
            _add(archive, "manifest.json", content=json.dumps(manifest).encode())


def _current(host: str, name: str) -> bool:
    template = f'{{{{index .Config.Labels "{_LABEL}"}}}}'
    try:
        return docker(host, "image", "inspect", "--format", template, name) == _RECIPE
    except ServiceError:
        return False


def _load(host: str, name: str, program: bytes, *options: str) -> None:
    changes = [
        "--change=ENV PATH=/bin",
        '--change=CMD ["/bin/sh"]',
        f"--change=LABEL {_LABEL}={_RECIPE}",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "rootfs.tar"
        _pack(archive, program)
        docker(host, "import", *changes, *options, archive, name)


def _as_foreign(program: bytes) -> bytes:
    """Return the program with another machine in its ELF header: the kernel refuses to run it."""
    at = 18
    return program[:at] + struct.pack("<H", _FOREIGN.elf_machine) + program[at + 2 :]


def _pack(target: Path, program: bytes) -> None:
    with tarfile.open(target, "w") as archive:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            _add(archive, name, kind=tarfile.DIRTYPE, mode=mode)
        _add(archive, "bin/busybox", content=program, mode=0o755)
        _add(archive, "etc/passwd", content=b"root:x:0:0::/root:/bin/sh\n")
        _add(archive, "etc/group", content=b"root:x:0:\n")
        for applet in run([_BUSYBOX, "--list"]).split():
            if applet != "busybox":
                _add(archive, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")


def _add(
    archive: tarfile.TarFile,
    name: str,
    *,
    kind: bytes = tarfile.REGTYPE,
    content: bytes = b"",
    mode: int = 0o644,
    link: str = "",
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.size = kind, mode, link, len(content)
    archive.addfile(member, io.BytesIO(content))
