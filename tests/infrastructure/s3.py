"""An S3-compatible object store on loopback: s3s-fs, which keeps its objects in a folder."""

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import paths
from .errors import ServiceError
from .process import Daemon, accepts, free_port, run
from .state import S3Facts

_VERSION = "0.14.1"
_START_SECONDS = 60
BUCKET = "launch"


@dataclass(frozen=True)
class S3Server:
    """One server with one bucket; tests that break one start their own."""

    directory: Path
    port: int
    key: str

    @property
    def daemon(self) -> Daemon:
        """Its process."""
        return Daemon("s3s-fs", self.directory)

    @property
    def facts(self) -> S3Facts:
        """How clients reach it."""
        return S3Facts(f"s3://{BUCKET}", f"http://127.0.0.1:{self.port}", self.key)

    def start(self) -> None:
        """Start it with the objects that are there."""
        (self.directory / "objects" / BUCKET).mkdir(parents=True, exist_ok=True)
        identifier, _, secret = self.key.partition(":")
        listening = ["--host=127.0.0.1", f"--port={self.port}"]
        keys = [f"--access-key={identifier}", f"--secret-key={secret}"]
        self.daemon.start([_program(), *listening, *keys, self.directory / "objects"])
        self.daemon.wait_ready(lambda: accepts(self.port), _START_SECONDS)


def server(directory: Path, port: int = 0) -> S3Server:
    """Return a server that is not started, with a key of its own."""
    key = f"{secrets.token_hex(8)}:{secrets.token_hex(16)}"
    return S3Server(directory, free_port(port), key)


def up(recorded: S3Facts | None) -> S3Facts:
    """Start it unless it runs."""
    if recorded and alive(recorded):
        return recorded
    _compile()
    down(recorded)
    made = server(_directory())
    made.start()
    return made.facts


def down(recorded: S3Facts | None) -> None:
    """Stop it and remove its objects; the program stays."""
    del recorded
    Daemon("s3s-fs", _directory()).stop()
    shutil.rmtree(_directory(), ignore_errors=True)


def alive(recorded: S3Facts) -> bool:
    """Tell whether it runs and takes connections."""
    port = int(recorded.endpoint.rpartition(":")[2])
    return Daemon("s3s-fs", _directory()).pid() is not None and accepts(port)


def _directory() -> Path:
    return paths.data_directory("s3")


def _program() -> Path:
    return paths.cache_directory() / f"s3s-fs-{_VERSION}" / "bin" / "s3s-fs"


def _compile() -> None:
    """Build the program once, at low priority: Debian has neither it nor a Rust of its age."""
    if _program().exists():
        return
    cargo = shutil.which("cargo") or shutil.which("cargo", path=Path.home() / ".cargo" / "bin")
    if cargo is None:
        message = "s3s-fs is compiled with Rust 1.92 or newer; install its `cargo` and try again"
        raise ServiceError(message)
    root = _program().parents[1]
    objects = root.with_name(f"{root.name}-objects")
    package = ["s3s-fs", f"--version={_VERSION}", "--features=binary", "--locked"]
    try:
        # Lower than that of the tests, which run meanwhile; 6 minutes of processor time.
        run(["nice", "-n", "10", cargo, "install", *package, "--root", root,
             "--target-dir", objects])  # fmt: skip
    finally:
        shutil.rmtree(objects, ignore_errors=True)
