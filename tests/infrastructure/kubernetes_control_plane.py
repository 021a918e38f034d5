"""etcd, API server, controllers, scheduler and DNS, each a process of this machine."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from . import certificates, debian
from .kubernetes_layout import (
    API_ADDRESS,
    API_PORT,
    DNS_DOMAIN,
    NODE,
    SERVICE_ADDRESS,
    SERVICE_NETWORK,
    Layout,
)
from .process import Daemon, free_port, run

_START_SECONDS = 120
_SERVER = f"https://{API_ADDRESS}:{API_PORT}"
_OK = 200
#: In the order in which they start; they stop in the reverse order.
_COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")
#: Kubeconfig → user and group that its certificate names.
_CLIENTS = {
    "admin": "/O=system:masters/CN=kubernetes-admin",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
    NODE: f"/O=system:nodes/CN=system:node:{NODE}",
}


def install() -> None:
    """Install etcd; Kubernetes 1.36 needs 3.4.31 or newer, which the next suite has."""
    debian.install("etcd-server")


def start(layout: Layout) -> None:
    """Start all of it; returns when the API server is ready and has its first account."""
    layout.certificates.mkdir(parents=True)
    _make_certificates(layout)
    etcd = _start_etcd(layout)
    _start(layout, "kube-apiserver", _api_server_options(layout, etcd))
    daemon(layout, "kube-apiserver").wait_ready(lambda: is_ready(layout), _START_SECONDS)
    for component in ("kube-controller-manager", "kube-scheduler"):
        _start(layout, component, _controller_options(layout, component))
    _start_dns(layout)
    # Until the controller has made it, no pod can be created.
    daemon(layout, "kube-controller-manager").wait_ready(
        lambda: _exists(layout, "serviceaccount", "default"), _START_SECONDS
    )


def stop(layout: Layout) -> None:
    """Stop what runs; etcd's data goes with the folder."""
    for component in reversed(_COMPONENTS):
        daemon(layout, component).stop()


def is_ready(layout: Layout) -> bool:
    """Whether the API server says that it is ready."""
    authority = layout.certificates / "ca.pem"
    if daemon(layout, "kube-apiserver").pid() is None or not authority.exists():
        return False
    try:
        context = ssl.create_default_context(cafile=authority)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(f"{_SERVER}/readyz", timeout=5) as response:
            return bool(response.status == _OK)
    except OSError:
        return False


def daemon(layout: Layout, component: str) -> Daemon:
    """The process of a component, for tests that stop and start one."""
    return Daemon(component, layout.root)


def restart(layout: Layout, component: str) -> None:
    """Start a component that was killed, with the command line that it had."""
    argv = json.loads((layout.root / f"{component}.argv").read_text())
    daemon(layout, component).start(argv)
    if component == "kube-apiserver":
        daemon(layout, component).wait_ready(lambda: is_ready(layout), _START_SECONDS)


def kubectl(layout: Layout, *arguments: str, stdin: str = "") -> str:
    """Run kubectl as the administrator and return its output."""
    config = f"--kubeconfig={layout.admin_kubeconfig}"
    return run([layout.programs / "kubectl", config, *arguments], stdin=stdin)


def _exists(layout: Layout, kind: str, name: str) -> bool:
    return bool(kubectl(layout, "get", kind, name, "--ignore-not-found", "-o", "name"))


def _start(layout: Layout, component: str, options: Mapping[str, str | Path]) -> None:
    program = str(layout.programs / component)
    argv = [program, *(f"--{name}={value}" for name, value in options.items())]
    (layout.root / f"{component}.argv").write_text(json.dumps(argv))
    daemon(layout, component).start(argv)


def _start_etcd(layout: Layout) -> str:
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    options = {
        "data-dir": layout.root / "etcd",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
        "quota-backend-bytes": "4294967296",
    }
    argv = ["etcd", "--unsafe-no-fsync", *(f"--{name}={value}" for name, value in options.items())]
    (layout.root / "etcd.argv").write_text(json.dumps(argv))
    daemon(layout, "etcd").start(argv)
    return client


def _api_server_options(layout: Layout, etcd: str) -> dict[str, str | Path]:
    keys = layout.certificates
    return {
        "etcd-servers": etcd,
        "bind-address": API_ADDRESS,
        "advertise-address": API_ADDRESS,
        "secure-port": str(API_PORT),
        "tls-cert-file": keys / "apiserver.pem",
        "tls-private-key-file": keys / "apiserver.key",
        "client-ca-file": keys / "ca.pem",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "service-account-issuer": f"https://kubernetes.default.svc.{DNS_DOMAIN}",
        "service-account-signing-key-file": keys / "accounts.key",
        "service-account-key-file": keys / "accounts.key",
        "kubelet-client-certificate": keys / "admin.pem",
        "kubelet-client-key": keys / "admin.key",
        "kubelet-certificate-authority": keys / "ca.pem",
        "kubelet-preferred-address-types": "InternalIP",
        "allow-privileged": "true",
        "service-cluster-ip-range": SERVICE_NETWORK,
        # A pod of a node that is lost is evicted after seconds: the tests wait for it.
        "default-not-ready-toleration-seconds": "10",
        "default-unreachable-toleration-seconds": "10",
    }


def _controller_options(layout: Layout, component: str) -> dict[str, str | Path]:
    options: dict[str, str | Path] = {
        "kubeconfig": layout.kubeconfig(component),
        "authentication-kubeconfig": layout.kubeconfig(component),
        "authorization-kubeconfig": layout.kubeconfig(component),
        "bind-address": "127.0.0.1",
        # A leader election costs seconds at the start.
        "leader-elect": "false",
        # The default of 20 requests a second would be the limit of thousands of jobs.
        "kube-api-qps": "500",
        "kube-api-burst": "1000",
    }
    if component == "kube-controller-manager":
        keys = layout.certificates
        options |= {
            "use-service-account-credentials": "true",
            "root-ca-file": keys / "ca.pem",
            "service-account-private-key-file": keys / "accounts.key",
            "node-monitor-grace-period": "20s",
        }
    return options


def _start_dns(layout: Layout) -> None:
    """CoreDNS on the node's address; names that are not the cluster's go to this machine's DNS."""
    configuration = layout.root / "Corefile"
    configuration.write_text(
        f".:53 {{\n  bind {API_ADDRESS}\n  errors\n"
        f"  kubernetes {DNS_DOMAIN} in-addr.arpa {{\n"
        f"    kubeconfig {layout.admin_kubeconfig}\n  }}\n"
        "  forward . /etc/resolv.conf\n  cache 5\n}\n"
    )
    argv = [str(layout.programs / "coredns"), "-conf", str(configuration)]
    (layout.root / "coredns.argv").write_text(json.dumps(argv))
    daemon(layout, "coredns").start(argv)


def _make_certificates(layout: Layout) -> None:
    keys = layout.certificates
    names = ",".join(
        (
            f"IP:{API_ADDRESS}",
            f"IP:{SERVICE_ADDRESS}",
            "IP:127.0.0.1",
            "DNS:kubernetes",
            "DNS:kubernetes.default",
            "DNS:kubernetes.default.svc",
            f"DNS:kubernetes.default.svc.{DNS_DOMAIN}",
        )
    )
    with certificates.authority(keys) as authority:
        authority.sign("apiserver", subject="/CN=kube-apiserver", names=names)
        authority.sign("kubelet", subject=_CLIENTS[NODE], names=f"IP:{API_ADDRESS},DNS:{NODE}")
        for client, subject in _CLIENTS.items():
            made = authority.sign(client, subject=subject, usage="clientAuth")
            _write_kubeconfig(layout.kubeconfig(client), client, made)
    accounts = keys / "accounts.key"
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", accounts])


def _write_kubeconfig(path: Path, user: str, certificate: certificates.Certificate) -> None:
    cluster = {"server": _SERVER, "certificate-authority": str(certificate.authority)}
    login = {
        "client-certificate": str(certificate.chain),
        "client-key": str(certificate.key),
    }
    context = {"cluster": "tests", "user": user}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": user, "user": login}],
        "contexts": [{"name": "tests", "context": context}],
        "current-context": "tests",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=2))
