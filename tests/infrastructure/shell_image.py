"""`launch-test/sh`: static busybox in an image of a few megabytes, for tests that need no Python."""

import io
import os
import tarfile
import tempfile
from pathlib import Path

from . import debian
from .engine import docker
from .process import run, succeeds

NAME = "launch-test/sh:latest"
FOREIGN_NAME = "launch-test/foreign:latest"

_BUSYBOX = Path("/bin/busybox")
_FOREIGN = {"x86_64": "linux/arm64", "aarch64": "linux/amd64"}


def ensure(host: str) -> None:
    """Make both images unless the engine has them."""
    probe = ["docker", "--host", host, "image", "inspect"]
    if succeeds([*probe, NAME, FOREIGN_NAME]):
        return
    debian.install("busybox-static")
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "sh.tar"
        _pack(archive)
        changes = ["--change=ENV PATH=/bin", '--change=CMD ["/bin/sh"]']
        docker(host, "import", *changes, archive, NAME)
        foreign = _FOREIGN.get(os.uname().machine, "linux/amd64")
        docker(host, "import", *changes, f"--platform={foreign}", archive, FOREIGN_NAME)


def _pack(target: Path) -> None:
    with tarfile.open(target, "w") as archive:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            _add(archive, name, kind=tarfile.DIRTYPE, mode=mode)
        _add(archive, "bin/busybox", content=_BUSYBOX.read_bytes(), mode=0o755)
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
