"""The image `python:3.11-slim`, made from Debian packages: no public registry is needed.

Making the root file system takes most of a minute, so its archive stays in the cache, keyed by
what it is made from. The machine's certificate authorities are added at import, as they may
differ between machines that share a cache.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from . import debian, paths
from .engine import docker
from .errors import ServiceError
from .mounts import unmount_below
from .process import run

NAME = "python:3.11-slim"

_SUITE = "bookworm"
"""The suite whose python3 is 3.11."""
_PACKAGES = ("python3", "python3-pip", "python3-venv", "ca-certificates", "git")
_RECIPE = "1"
"""Changes when the steps below change, so that older archives and images are made again."""
_LABEL = "launch-agent-tests.recipe"
_BUNDLE = Path("etc/ssl/certs/ca-certificates.crt")
_UNUSED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info")
_EMPTIED = ("var/cache/apt/archives", "var/lib/apt/lists", "var/log")


def ensure(host: str) -> None:
    """Make the image unless the engine has one of this name that is current or not ours."""
    bundle = Path("/") / _BUNDLE
    if not bundle.exists():
        debian.install("ca-certificates")
    label = _digest(_key(), bundle.read_text())
    if _present(host, label):
        return
    archive = _archive()
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "rootfs.tar"
        run(["sh", "-c", 'exec gzip -dc "$1" > "$2"', "sh", archive, whole])
        _append_bundle(whole, bundle, Path(scratch))
        docker(host, "import", *_changes(label), whole, NAME)


def _present(host: str, label: str) -> bool:
    template = f'{{{{index .Config.Labels "{_LABEL}"}}}}'
    try:
        found = docker(host, "image", "inspect", "--format", template, NAME)
    except ServiceError:
        return False
    return found in {"", "<no value>", label}


def _changes(label: str) -> list[str]:
    bundle = f"/{_BUNDLE}"
    # Programs that bring authorities of their own (uv, requests, Node) look here instead.
    names = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
    authorities = " ".join(f"{name}={bundle}" for name in names)
    instructions = (
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8",
        f"ENV {authorities}",
        f"LABEL {_LABEL}={label}",
        'CMD ["python3"]',
    )
    return [f"--change={line}" for line in instructions]


def _append_bundle(archive: Path, bundle: Path, scratch: Path) -> None:
    """Add the machine's bundle; the archive has none, as the engine refuses equal names."""
    copy = scratch / "overlay" / _BUNDLE
    copy.parent.mkdir(parents=True)
    shutil.copyfile(bundle, copy)
    copy.chmod(0o644)
    overlay = scratch / "overlay"
    run(["tar", "--append", "-f", archive, "-C", overlay, "--owner=0", "--group=0", _BUNDLE])


def _archive() -> Path:
    target = paths.cache_directory() / f"python-base-{_key()}.tar.gz"
    if target.exists():
        return target
    debian.require(f"to make the image {NAME} (or load one of that name into the engine)")
    debian.install("debootstrap")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the services' data: /tmp may forbid device nodes or be too small.
    scratch = paths.data_directory("base-image")
    _remove(scratch)
    root = scratch / "root"
    root.mkdir(parents=True)
    try:
        _bootstrap(root)
        partial = target.with_suffix(f".{os.getpid()}")
        (root / _BUNDLE).unlink()
        packed = 'tar -C "$1" --numeric-owner -c . | gzip -1 > "$2"'
        run(["sh", "-c", packed, "sh", root, partial])
        partial.replace(target)
    finally:
        _remove(scratch)
    return target


def _remove(scratch: Path) -> None:
    """Remove the directory, and first what a debootstrap that was killed left mounted in it."""
    unmount_below(scratch)
    shutil.rmtree(scratch, ignore_errors=True)


def _bootstrap(root: Path) -> None:
    include = f"--include={','.join(_PACKAGES)}"
    run(["debootstrap", "--variant=minbase", include, _SUITE, root, debian.mirror()])
    for name in _UNUSED:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in _EMPTIED:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    (root / "usr/bin/python").symlink_to("python3")
    for marker in (root / "usr/lib").glob("python3*/EXTERNALLY-MANAGED"):
        marker.unlink()
    for machine in ("etc/resolv.conf", "etc/hostname"):
        (root / machine).unlink(missing_ok=True)


def _key() -> str:
    machine = os.uname().machine
    return _digest(_RECIPE, _SUITE, machine, *_PACKAGES)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
