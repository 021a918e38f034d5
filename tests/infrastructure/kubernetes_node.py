"""The one node: its network, containerd, kubelet and kube-proxy."""

import contextlib
import json
import os
import shutil
from pathlib import Path

from . import debian, shell_image
from . import kubernetes_control_plane as control_plane
from .errors import ServiceError
from .kubernetes_layout import (
    API_ADDRESS,
    BRIDGE,
    DNS_DOMAIN,
    NODE,
    POD_NETWORK,
    Layout,
)
from .mounts import unmount_below
from .process import Daemon, run, succeeds

_START_SECONDS = 120
_PAUSE_IMAGE = "localhost/pause:test"
_PLUGINS = Path("/usr/lib/cni")
_NAMESPACE = ["-n", "k8s.io"]
#: Docker drops what is forwarded; pods' packets to one another are forwarded, too. Each rule is
#: a table, a chain and a match with its target.
_RULES = (
    ("filter", "FORWARD", ("-i", BRIDGE, "-j", "ACCEPT")),
    ("filter", "FORWARD", ("-o", BRIDGE, "-j", "ACCEPT")),
    ("nat", "POSTROUTING", ("-s", POD_NETWORK, "!", "-o", BRIDGE, "-j", "MASQUERADE")),
)
#: A chain that `kube-proxy --cleanup` leaves, and what leads to it.
_PROXY_CHAIN = "KUBE-FIREWALL"
_LEFT_BY_PROXY = tuple(("filter", chain, ("-j", _PROXY_CHAIN)) for chain in ("INPUT", "OUTPUT"))


def require() -> None:
    """Raise ServiceError unless the user is root: a node makes namespaces and cgroups."""
    if os.geteuid() != 0:
        message = (
            "a Kubernetes node must be started by root; use sudo, or set KUBECONFIG to a cluster "
            "for tests"
        )
        raise ServiceError(message)


def install() -> None:
    """Install Debian's containerd, runc and network plugins."""
    packages = ["containernetworking-plugins", "busybox-static", "iptables", "iproute2"]
    missing = [name for name in ("containerd", "runc") if not shutil.which(name)]
    debian.install(*packages, *missing)


def make_network() -> None:
    """Make the bridge, whose address is the node's, before anything binds to it."""
    if not succeeds(["ip", "link", "show", BRIDGE]):
        run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    size = POD_NETWORK.rpartition("/")[2]
    run(["ip", "address", "replace", f"{API_ADDRESS}/{size}", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")
    for table, chain, rule in _RULES:
        if not succeeds(["iptables", "-w", "-t", table, "-C", chain, *rule]):
            # Before Docker's own rules.
            run(["iptables", "-w", "-t", table, "-I", chain, *rule])


def remove_network(layout: Layout) -> None:
    """Remove bridge and rules, also those of kube-proxy."""
    if not shutil.which("iptables"):
        return
    proxy = layout.programs / "kube-proxy"
    if proxy.exists():
        succeeds([proxy, "--cleanup"])
    for table, chain, rule in (*_RULES, *_LEFT_BY_PROXY):
        while succeeds(["iptables", "-w", "-t", table, "-D", chain, *rule]):
            pass
    for act in ("-F", "-X"):
        succeeds(["iptables", "-w", act, _PROXY_CHAIN])
    succeeds(["ip", "link", "delete", BRIDGE])


def start(layout: Layout) -> None:
    """Start the node; returns when it is ready for pods."""
    _write_network_configuration(layout)
    containerd = daemon(layout, "containerd")
    containerd.start(["containerd", "--config", _containerd_configuration(layout)])
    containerd.wait_ready(lambda: succeeds(_ctr(layout, "version")), _START_SECONDS)
    _import_pause_image(layout)
    kubelet, proxy = daemon(layout, "kubelet"), daemon(layout, "kube-proxy")
    kubelet.start(_kubelet_command(layout))
    proxy.start(_proxy_command(layout))
    kubelet.wait_ready(lambda: _is_ready(layout), _START_SECONDS)


def stop(layout: Layout) -> None:
    """Stop pods and node."""
    for name in ("kubelet", "kube-proxy"):
        daemon(layout, name).stop()
    if daemon(layout, "containerd").pid() is not None:
        # Shims outlive containerd by design.
        _kill_containers(layout)
    daemon(layout, "containerd").stop()
    unmount_below(layout.root)
    for hierarchy in Path("/sys/fs/cgroup").glob("*/kubepods"):
        _remove_cgroup(hierarchy)
    _remove_cgroup(Path("/sys/fs/cgroup/kubepods"))


def is_running(layout: Layout) -> bool:
    """Whether kubelet and containerd live."""
    return all(daemon(layout, name).pid() is not None for name in ("kubelet", "containerd"))


def daemon(layout: Layout, name: str) -> Daemon:
    """The process of a part of the node, for tests that stop one: a lost node is no kubelet."""
    return Daemon(name, layout.root)


def restart_kubelet(layout: Layout) -> None:
    """Start the kubelet again."""
    daemon(layout, "kubelet").start(_kubelet_command(layout))
    daemon(layout, "kubelet").wait_ready(lambda: _is_ready(layout), _START_SECONDS)


def _is_ready(layout: Layout) -> bool:
    path = '-o=jsonpath={.status.conditions[?(@.type=="Ready")].status}'
    try:
        return control_plane.kubectl(layout, "get", "node", NODE, path) == "True"
    except ServiceError:
        return False


def _ctr(layout: Layout, *arguments: str | Path) -> list[str | Path]:
    return ["ctr", f"--address={_socket(layout)}", *_NAMESPACE, *arguments]


def _socket(layout: Layout) -> Path:
    return layout.root / "containerd.sock"


def _kill_containers(layout: Layout) -> None:
    with contextlib.suppress(ServiceError):
        for task in run(_ctr(layout, "tasks", "ls", "-q")).split():
            succeeds(_ctr(layout, "tasks", "rm", "-f", task))


def _remove_cgroup(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            if child.is_dir():
                _remove_cgroup(child)
        with contextlib.suppress(OSError):
            path.rmdir()


def _write_network_configuration(layout: Layout) -> None:
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        # One rule of ours instead: a chain for each pod stays behind when a node is killed.
        "ipMasq": False,
        "hairpinMode": True,
        "mtu": 1400,
        "ipam": {
            "type": "host-local",
            "dataDir": str(layout.root / "ipam"),
            "ranges": [
                [{"subnet": POD_NETWORK, "rangeStart": "10.200.0.10", "gateway": API_ADDRESS}]
            ],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    document = {"cniVersion": "1.0.0", "name": "tests", "plugins": [bridge, portmap]}
    folder = layout.root / "cni"
    folder.mkdir()
    (folder / "10-tests.conflist").write_text(json.dumps(document))


def _containerd_configuration(layout: Layout) -> Path:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    path = layout.root / "containerd.toml"
    path.write_text(
        f'version = 2\nroot = "{layout.root}/containerd"\nstate = "{layout.root}/run"\n'
        f'[grpc]\n  address = "{_socket(layout)}"\n'
        f'[ttrpc]\n  address = "{_socket(layout)}.ttrpc"\n'
        f'[{cri}]\n  sandbox_image = "{_PAUSE_IMAGE}"\n'
        # The kubelet lowers the score of the sandbox, which needs a capability that virtual
        # machines may not have.
        "  restrict_oom_score_adj = true\n"
        # So that they are found, and removed, with the folder.
        "  netns_mounts_under_state_dir = true\n"
        f'[{cri}.containerd]\n  snapshotter = "overlayfs"\n  default_runtime_name = "runc"\n'
        f'[{cri}.containerd.runtimes.runc]\n  runtime_type = "io.containerd.runc.v2"\n'
        f"[{cri}.containerd.runtimes.runc.options]\n  SystemdCgroup = false\n"
        f'[{cri}.cni]\n  bin_dir = "{_PLUGINS}"\n  conf_dir = "{layout.root}/cni"\n'
    )
    return path


def _kubelet_command(layout: Layout) -> list[str | Path]:
    keys = layout.certificates
    configuration = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": f"unix://{_socket(layout)}",
        "address": API_ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(keys / "ca.pem")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(keys / "kubelet.pem"),
        "tlsPrivateKeyFile": str(keys / "kubelet.key"),
        "podLogsDir": str(layout.root / "pod-logs"),
        "clusterDNS": [API_ADDRESS],
        "clusterDomain": DNS_DOMAIN,
        "failSwapOn": False,
        "serializeImagePulls": False,
        "enforceNodeAllocatable": ["pods"],
        # The defaults evict pods from a disk that is 85 % full.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": False,
    }
    path = layout.root / "kubelet.json"
    path.write_text(json.dumps(configuration, indent=2))
    return [
        layout.programs / "kubelet",
        f"--config={path}",
        f"--kubeconfig={layout.kubeconfig(NODE)}",
        f"--root-dir={layout.root / 'kubelet'}",
        f"--hostname-override={NODE}",
        f"--node-ip={API_ADDRESS}",
    ]


def _proxy_command(layout: Layout) -> list[str | Path]:
    configuration = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "bindAddress": API_ADDRESS,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "hostnameOverride": NODE,
        "clusterCIDR": POD_NETWORK,
        "clientConnection": {"kubeconfig": str(layout.kubeconfig("kube-proxy"))},
        # The kernel's table of connections belongs to the whole machine.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }
    path = layout.root / "kube-proxy.json"
    path.write_text(json.dumps(configuration, indent=2))
    return [layout.programs / "kube-proxy", f"--config={path}"]


def _import_pause_image(layout: Layout) -> None:
    """The image of a pod's sandbox: busybox that sleeps."""
    archive = layout.root / "pause.tar"
    shell_image.write_archive(archive, _PAUSE_IMAGE, ["/bin/sleep", "2147483647"])
    run(_ctr(layout, "images", "import", archive))
    label = "io.cri-containerd.pinned=pinned"
    run(_ctr(layout, "images", "label", _PAUSE_IMAGE, label))
    archive.unlink()
