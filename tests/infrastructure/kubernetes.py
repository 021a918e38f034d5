"""A Kubernetes cluster of one real node, or the one that KUBECONFIG names.

The servers are Kubernetes' own, compiled from the published Go modules (`kubernetes_source/`);
etcd, containerd, runc and the CNI plugins are Debian's. Nothing listens but on loopback and on the
address of a bridge made for the cluster.
"""

import os
import shutil
from pathlib import Path

from . import helm
from . import kubernetes_control_plane as control_plane
from . import kubernetes_node as node
from .errors import ServiceError
from .kubernetes_layout import API_ADDRESS, Layout, current
from .kubernetes_program import PROGRAM, VERSION
from .process import run
from .state import KubernetesFacts


def up(recorded: KubernetesFacts | None) -> KubernetesFacts:
    """Use the given cluster if it answers, else start one of our own unless it runs."""
    layout = current()
    given = os.environ.get("KUBECONFIG")
    if given and Path(given) != layout.admin_kubeconfig:
        return _given(given)
    if recorded and recorded.started_here and alive(recorded):
        return recorded
    node.require()
    control_plane.install()
    node.install()
    PROGRAM.ensure()
    helm.PROGRAM.ensure()
    # What a stopped machine or a killed run has left.
    _stop(layout)
    layout.root.mkdir(parents=True)
    PROGRAM.link(layout.programs)
    node.make_network()
    control_plane.start(layout)
    node.start(layout)
    return KubernetesFacts(
        kubeconfig=str(layout.admin_kubeconfig),
        started_here=True,
        version=VERSION,
        host_address=API_ADDRESS,
        kubectl=str(layout.programs / "kubectl"),
    )


def down(recorded: KubernetesFacts | None) -> None:
    """Stop the cluster if it was started here and remove all of it but the compiled program."""
    del recorded
    _stop(current())


def alive(recorded: KubernetesFacts) -> bool:
    """Tell whether the API server is ready."""
    if recorded.started_here:
        return control_plane.is_ready(current()) and node.is_running(current())
    return _version(recorded.kubectl, recorded.kubeconfig) is not None


def _given(kubeconfig: str) -> KubernetesFacts:
    helm.PROGRAM.ensure()
    kubectl = shutil.which("kubectl") or str(PROGRAM.kubectl())
    version = _version(kubectl, kubeconfig)
    if version is None:
        message = f"no cluster answers at KUBECONFIG={kubeconfig}; start it, or unset it"
        raise ServiceError(message)
    return KubernetesFacts(
        kubeconfig=kubeconfig,
        started_here=False,
        version=version,
        host_address=os.environ.get("LAUNCH_TEST_HOST_ADDRESS", ""),
        kubectl=kubectl,
    )


def _version(kubectl: str, kubeconfig: str) -> str | None:
    try:
        answer = run([kubectl, f"--kubeconfig={kubeconfig}", "get", "--raw=/version"])
    except ServiceError:
        return None
    return answer.partition('"gitVersion": "')[2].partition('"')[0]


def _stop(layout: Layout) -> None:
    node.stop(layout)
    control_plane.stop(layout)
    node.remove_network(layout)
    shutil.rmtree(layout.root, ignore_errors=True)
