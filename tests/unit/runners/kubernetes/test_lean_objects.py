"""What is kept of objects says the same as the objects themselves."""

from dataclasses import replace
from typing import Any

import pytest

from agent.runners.kubernetes.fields import all_containers, lean, lean_pod
from agent.runners.kubernetes.pods import shown_pods
from agent.runners.kubernetes.status import is_finished, progress_of, ran_since
from tests.unit.runners.test_kubernetes_status import RECORDED, observed


@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_state_is_read_alike(name: str) -> None:
    for seen in RECORDED[name]:
        whole = observed(seen)
        kept = replace(whole, job=lean(whole.job), pods=tuple(map(lean_pod, whole.pods)))
        assert progress_of(kept) == progress_of(whole)
        assert shown_pods(kept) == shown_pods(whole)
        assert (is_finished(kept.job), ran_since(kept)) == (
            is_finished(whole.job),
            ran_since(whole),
        )


def test_the_rest_is_dropped_and_the_object_itself_is_not_changed() -> None:
    metadata = {"name": "a", "managedFields": [{}]}
    containers = [{"name": "main", "env": [{"name": "A"}], "image": "i"}]
    pod: dict[str, Any] = {
        "metadata": metadata,
        "spec": {
            "nodeName": "n",
            "restartPolicy": "Never",
            "volumes": [],
            "containers": containers,
        },
        "status": {"phase": "Running"},
    }
    kept = lean_pod(pod)
    assert kept["metadata"] == {"name": "a"}
    assert all_containers(kept) == all_containers(pod) == ["main"]
    assert kept["spec"] == {
        "nodeName": "n",
        "restartPolicy": "Never",
        "initContainers": [],
        "containers": [{"name": "main"}],
    }
    assert "env" in pod["spec"]["containers"][0]
    job = {"metadata": metadata, "spec": {"backoffLimit": 0, "template": {"spec": {}}}}
    assert lean(job)["spec"] == {"backoffLimit": 0}
    custom = {**job, "apiVersion": "kubeflow.org/v1"}
    assert lean(custom)["spec"] == job["spec"]
