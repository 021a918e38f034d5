"""Programs that Debian does not have, built once from the Go module that they are published as."""

import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import debian, paths
from .process import run

# Its package brings no `go` on the path, and is in no older suite: it comes with its own source.
_DEBIAN_PACKAGE = "golang-1.24-go"
_DEBIAN_GO = Path("/usr/lib/go-1.24/bin/go")


@dataclass(frozen=True)
class GoProgram:
    """One command of a Go module at one version."""

    package: str
    version: str
    version_variable: str
    """The variable of the program that its own build sets to the version."""

    @property
    def name(self) -> str:
        """What the program is called."""
        return self.package.rpartition("/")[2]

    def path(self) -> Path:
        """Return where the program is kept once it is built."""
        return paths.cache_directory() / f"{self.name}-{self.version}-{platform.machine()}"

    def ensure(self) -> Path:
        """Build the program unless it is there; modules and objects are removed again.

        Raises ServiceError with the compiler's last words.
        """
        made = self.path()
        if not made.exists():
            made.parent.mkdir(parents=True, exist_ok=True)
            # Beside its place, so that it gets there whole or not at all.
            with tempfile.TemporaryDirectory(prefix=f"{self.name}-", dir=made.parent) as folder:
                self._build(Path(folder)).replace(made)
        return made

    def _build(self, folder: Path) -> Path:
        command = [
            go(),
            "install",
            "-trimpath",
            f"-ldflags=-s -w -X {self.version_variable}={self.version}",
            f"{self.package}@{self.version}",
        ]
        # Elsewhere `@version` would be read in the light of a module that happens to lie there.
        run(command, env=settings(folder), cwd=folder)
        return folder / "bin" / self.name


def settings(folder: Path) -> dict[str, str]:
    """Environment of a build that keeps modules and objects below the folder."""
    places = {"GOPATH": "path", "GOCACHE": "objects", "GOTMPDIR": "tmp", "GOBIN": "bin"}
    (folder / "tmp").mkdir(parents=True)
    return {
        **{name: str(folder / place) for name, place in places.items()},
        # Modules are read-only otherwise, and could not be removed.
        "GOFLAGS": "-modcacherw",
        # An older compiler fetches the version that a module asks for through the module proxy.
        "GOTOOLCHAIN": "auto",
        # A fifth less time: the compiler's memory is collected less often.
        "GOGC": "400",
        "CGO_ENABLED": "0",
    }


def go() -> Path:
    """The Go compiler of the path, else Debian's."""
    found = shutil.which("go")
    if found:
        return Path(os.path.realpath(found))
    debian.install(_DEBIAN_PACKAGE)
    return _DEBIAN_GO
