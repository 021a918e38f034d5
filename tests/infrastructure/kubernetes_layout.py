"""Addresses, ports and folders of the cluster."""

from dataclasses import dataclass
from pathlib import Path

from . import paths

#: The node, its API server, and this machine as pods see it. The endpoint of the API server's
#: Service may not be a loopback address, so the bridge's own address serves.
API_ADDRESS = "10.200.0.1"
API_PORT = 6443
POD_NETWORK = "10.200.0.0/24"
SERVICE_NETWORK = "10.201.0.0/24"
SERVICE_ADDRESS = "10.201.0.1"
DNS_DOMAIN = "cluster.local"
BRIDGE = "launchkube0"
NODE = "node1"


@dataclass(frozen=True)
class Layout:
    """The cluster's folder. Its path is short: containerd's sockets are below it."""

    root: Path

    @property
    def programs(self) -> Path:
        """Links to the compiled program, one for each command."""
        return self.root / "bin"

    @property
    def certificates(self) -> Path:
        """Keys and certificates."""
        return self.root / "pki"

    @property
    def admin_kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "admin.conf"

    def kubeconfig(self, component: str) -> Path:
        """The kubeconfig of one component."""
        return self.root / f"{component}.conf"


def current() -> Layout:
    """The layout below the services' data."""
    return Layout(paths.data_directory("kubernetes"))
