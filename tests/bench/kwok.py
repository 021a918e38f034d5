"""Nodes that run nothing: pods on them start at once, and end unless they are told to stay."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.infrastructure.kubernetes_account import kubectl
from tests.infrastructure.kubernetes_layout import API_ADDRESS, current
from tests.infrastructure.process import free_port
from tests.infrastructure.state import KubernetesFacts

#: Where pods of a benchmark are placed, and nothing else is.
LABEL = {"launch-bench.node": "simulated"}
TOLERATION = {"key": "launch-bench.node", "operator": "Exists"}
#: Label of pods that run until they are deleted.
STAYS = "launch-bench.stays"
_NODES = 20
_KUBELET = {
    "cpu": "1000",
    "memory": "1Ti",
    "pods": "1000",
}
#: What a container has written, as a container runtime stores it.
_LOG = "2026-01-01T00:00:00.000000000Z stdout F hello\n"

_RUNNING = """
conditions:
- {lastTransitionTime: {{ Now | Quote }}, status: "True", type: Initialized}
- {lastTransitionTime: {{ Now | Quote }}, status: "True", type: Ready}
- {lastTransitionTime: {{ Now | Quote }}, status: "True", type: ContainersReady}
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  name: {{ .name | Quote }}
  ready: true
  restartCount: 0
  state: {running: {startedAt: {{ Now | Quote }}}}
{{ end }}
phase: Running
startTime: {{ Now | Quote }}
"""
_ENDED = """
containerStatuses:
{{ range .spec.containers }}
- image: {{ .image | Quote }}
  name: {{ .name | Quote }}
  ready: false
  restartCount: 0
  state:
    terminated:
      exitCode: 0
      finishedAt: {{ Now | Quote }}
      reason: Completed
      startedAt: {{ Now | Quote }}
{{ end }}
phase: Succeeded
"""


def _when(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


def _stage(name: str, kind: str, when: list[dict[str, Any]], then: dict[str, Any]) -> Any:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": when},
            "next": then,
        },
    }


def _configuration(log: Path) -> str:
    ready = '.status.conditions.[] | select( .type == "Ready" ) | .status'
    kept, deleted = (
        _when(".metadata.deletionTimestamp", operator) for operator in ("DoesNotExist", "Exists")
    )
    node = f"""
conditions:
- {{lastTransitionTime: {{{{ Now | Quote }}}}, reason: Ready, status: "True", type: Ready}}
addresses:
- {{address: {{{{ NodeIP | Quote }}}}, type: InternalIP}}
daemonEndpoints: {{kubeletEndpoint: {{Port: {{{{ NodePort }}}}}}}}
allocatable: {json.dumps(_KUBELET)}
capacity: {json.dumps(_KUBELET)}
"""
    documents = [
        _stage("node", "Node", [_when(ready, "NotIn", "True")], {"statusTemplate": node}),
        _stage(
            "run",
            "Pod",
            [kept, _when(".status.phase", "In", "Pending"), _when(ready, "NotIn", "True")],
            {"statusTemplate": _RUNNING},
        ),
        _stage(
            "end",
            "Pod",
            [
                kept,
                _when(".status.phase", "In", "Running"),
                _when(f'.metadata.labels["{STAYS}"]', "DoesNotExist"),
            ],
            {"statusTemplate": _ENDED},
        ),
        _stage("delete", "Pod", [deleted], {"delete": True}),
        {
            "apiVersion": "kwok.x-k8s.io/v1alpha1",
            "kind": "ClusterLogs",
            "metadata": {"name": "hello"},
            "spec": {"logs": [{"logsFile": str(log), "follow": False}]},
        },
    ]
    return yaml.safe_dump_all(documents)


@asynccontextmanager
async def simulated_nodes(cluster: KubernetesFacts, root: Path) -> AsyncIterator[None]:
    """Nodes with the label and the taint, for as long as the context lasts."""
    root.mkdir()
    log, config = root / "container.log", root / "kwok.yaml"
    log.write_text(_LOG)
    config.write_text(_configuration(log))
    layout = current()
    certificate, key = (layout.certificates / f"kubelet.{end}" for end in ("pem", "key"))
    port = free_port()
    with (root / "kwok.log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(layout.programs / "kwok"),
            f"--kubeconfig={cluster.kubeconfig}",
            f"--config={config}",
            "--manage-nodes-with-label-selector=launch-bench.node=simulated",
            f"--node-ip={API_ADDRESS}",
            f"--node-port={port}",
            f"--server-address={API_ADDRESS}:{port}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            "--node-lease-duration-seconds=40",
            stdout=output,
            stderr=output,
        )
    selector = "--selector=launch-bench.node=simulated"
    nodes = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"simulated-{n}", "labels": LABEL},
            "spec": {"taints": [{"key": TOLERATION["key"], "effect": "NoSchedule"}]},
        }
        for n in range(_NODES)
    ]
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes})
    try:
        await asyncio.to_thread(kubectl, cluster, "create", "-f", "-", stdin=given)
        await asyncio.to_thread(
            kubectl, cluster, "wait", "node", selector, "--for=condition=Ready", "--timeout=120s"
        )
        yield
    finally:
        await asyncio.to_thread(kubectl, cluster, "delete", "node", selector)
        process.terminate()
        await process.wait()
