"""Kubernetes' commands as one program, compiled once from Go modules locked by `go.sum`.

One program instead of six shares the link step and most of the size. The published go.mod of
Kubernetes replaces its staging modules by folders that are not in the module, so it cannot be
installed by `go install`; `kubernetes_source/go.mod` names their published versions instead.
"""

import hashlib
import platform
import re
import shutil
import tempfile
from pathlib import Path

from . import paths
from .go_programs import go, settings
from .process import run

_SOURCE = Path(__file__).with_name("kubernetes_source")
_STAMP = "k8s.io/component-base/version"
_COMMANDS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "coredns",
    "kwok",
)


def _version() -> str:
    found = re.search(r"k8s\.io/kubernetes (v[0-9.]+)", (_SOURCE / "go.mod").read_text())
    assert found is not None
    return found[1]


VERSION = _version()


class Program:
    """The compiled program in the cache, by the digest of its sources."""

    @property
    def path(self) -> Path:
        """Where it is kept."""
        digest = hashlib.sha256()
        for name in ("go.mod", "go.sum", "main.go"):
            digest.update((_SOURCE / name).read_bytes())
        name = f"kubernetes-{VERSION}-{platform.machine()}-{digest.hexdigest()[:12]}"
        return paths.cache_directory() / name

    def ensure(self) -> Path:
        """Compile it unless it is there: 6 to 12 minutes of two cores.

        Raises ServiceError with the compiler's last words.
        """
        made = self.path
        if not made.exists():
            made.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="kubernetes-", dir=made.parent) as folder:
                _compile(Path(folder)).replace(made)
        return made

    def link(self, folder: Path) -> None:
        """Make one link for each command: the program looks at its own name."""
        folder.mkdir(parents=True, exist_ok=True)
        for command in _COMMANDS:
            link = folder / command
            link.unlink(missing_ok=True)
            link.symlink_to(self.path)

    def kubectl(self) -> Path:
        """`kubectl` beside the cached program."""
        self.ensure()
        folder = self.path.with_name(f"{self.path.name}-bin")
        self.link(folder)
        return folder / "kubectl"


def _compile(folder: Path) -> Path:
    for name in ("go.mod", "go.sum", "main.go"):
        shutil.copy(_SOURCE / name, folder / name)
    major, minor, _ = VERSION.removeprefix("v").split(".")
    # Without the stamp the servers report a placeholder, and the node its age by it.
    stamp = f"-X {_STAMP}.gitVersion={VERSION} -X {_STAMP}.gitMajor={major}"
    flags = f"-ldflags=-s -w {stamp} -X {_STAMP}.gitMinor={minor}"
    output = folder / "kube"
    environment = settings(folder / "go") | {"GOFLAGS": "-modcacherw -mod=readonly"}
    # The tests that need nothing run beside it.
    run(
        ["nice", "-n", "10", go(), "build", "-trimpath", flags, "-o", output, "."],
        env=environment,
        cwd=folder,
    )
    return output


PROGRAM = Program()
