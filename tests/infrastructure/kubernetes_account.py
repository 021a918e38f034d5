"""Namespaces of the test cluster, and accounts with the rights that we document."""

import base64
import json
from pathlib import Path
from typing import Any

import yaml

from .process import run
from .state import KubernetesFacts

MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes.yaml"
_NAMESPACE = "launch-jobs"
"""As the manifest calls it."""


def kubectl(cluster: KubernetesFacts, *arguments: str, stdin: str = "") -> str:
    """Run kubectl as the cluster's administrator."""
    return run([cluster.kubectl, f"--kubeconfig={cluster.kubeconfig}", *arguments], stdin=stdin)


def make_account(cluster: KubernetesFacts, namespace: str) -> None:
    """Apply `deploy/kubernetes.yaml` under another namespace."""
    text = MANIFEST.read_text().replace(_NAMESPACE, namespace)
    kubectl(cluster, "apply", "-f", "-", stdin=text)


def token_of(cluster: KubernetesFacts, namespace: str) -> str:
    """A new token of the account."""
    return kubectl(cluster, "-n", namespace, "create", "token", "launch-agent").strip()


def write_kubeconfig(
    cluster: KubernetesFacts, namespace: str, target: Path, *, token: str | None = None
) -> Path:
    """A kubeconfig of the account, whose context has the namespace."""
    user = {"token": token or token_of(cluster, namespace)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "jobs",
        "clusters": [{"name": "tests", "cluster": _cluster(cluster)}],
        "users": [{"name": "agent", "user": user}],
        "contexts": [
            {
                "name": "jobs",
                "context": {"cluster": "tests", "user": "agent", "namespace": namespace},
            }
        ],
    }
    target.write_text(json.dumps(document))
    return target


def authority_of(cluster: KubernetesFacts) -> bytes:
    """The certificate of the cluster's authority, in PEM."""
    found = _cluster(cluster)
    if "certificate-authority" in found:
        return Path(found["certificate-authority"]).read_bytes()
    return base64.b64decode(found["certificate-authority-data"])


def server_of(cluster: KubernetesFacts) -> str:
    """Address of the API server."""
    return str(_cluster(cluster)["server"])


def _cluster(cluster: KubernetesFacts) -> dict[str, Any]:
    config = yaml.safe_load(kubectl(cluster, "config", "view", "--raw", "--minify"))
    found: dict[str, Any] = config["clusters"][0]["cluster"]
    return found
