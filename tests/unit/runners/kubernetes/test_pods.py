"""Pods in words, from objects that were recorded from a real cluster."""

from dataclasses import replace

import pytest

from agent.ports.runner import Pod
from agent.runners.kubernetes.pending import Warned
from agent.runners.kubernetes.pods import shown_pods
from tests.unit.runners.test_kubernetes_status import observed, snapshot

EVICTED = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi"


@pytest.mark.parametrize(
    ("name", "node", "state", "details"),
    [
        ("ok", "node1", "succeeded", ("launch0: exit code 0",)),
        ("oom", "node1", "failed", ("launch0: exit code 137 (OOMKilled)",)),
        ("missing", "node1", "pending", ("launch0: ImagePullBackOff",)),
        ("initfail", "node1", "failed", ("fetch: exit code 4",)),
        (
            "ephemeral",
            "node1",
            "failed",
            (
                f"Evicted: {EVICTED}",
                "launch0: exit code 143",
            ),
        ),
        (
            "nomount",
            "node1",
            "pending",
            ('FailedMount: MountVolume.SetUp failed for volume "d" : secret "none" not found',),
        ),
        ("evictretry", "node1", "running", ()),
    ],
)
def test_a_pod_is_told_in_words(name: str, node: str, state: str, details: tuple[str, ...]) -> None:
    (pod,) = shown_pods(observed(snapshot(name)))
    assert (pod.node, pod.state, pod.details) == (node, state, details)


def test_a_pod_without_a_node_says_what_the_scheduler_says() -> None:
    (pod,) = shown_pods(observed(snapshot("noroom")))
    assert (pod.node, pod.state) == ("", "pending")
    assert "1 Insufficient cpu" in pod.details[0]


def test_the_newest_pods_of_many_are_shown() -> None:
    seen = observed(snapshot("ok"))
    (pod,) = seen.pods
    many = tuple({**pod, "metadata": {**pod["metadata"], "name": f"p{n}"}} for n in range(500))
    shown = shown_pods(replace(seen, pods=many))
    assert [each.name for each in shown] == [f"p{n}" for n in range(480, 500)]


def test_a_pod_that_is_being_deleted_says_so() -> None:
    seen = observed(snapshot("evictretry"))
    (pod,) = seen.pods
    pod["metadata"]["deletionTimestamp"] = "2026-11-29T12:00:00Z"
    name = pod["metadata"]["name"]
    assert shown_pods(seen) == (Pod(name, "node1", "running, being deleted"),)


def test_a_container_that_has_ended_is_news_while_others_run() -> None:
    """With the last one the pod's own end follows, so that each end is told once."""
    seen = observed(snapshot("exit3"))
    (pod,) = seen.pods
    pod["status"]["phase"] = "Running"
    assert shown_pods(seen)[0].details == ()
    pod["status"]["containerStatuses"].append({"name": "other", "state": {"running": {}}})
    assert shown_pods(seen)[0].details == ("launch0: exit code 3",)


def test_a_pod_that_is_not_over_says_what_happened_last() -> None:
    seen = observed(snapshot("evictretry"))
    (pod,) = seen.pods
    news = {pod["metadata"]["uid"]: Warned("Pulling image 'a'", None)}
    (shown,) = shown_pods(replace(seen, news=news))
    assert shown.details[-1] == "Pulling image 'a'"
    over = observed(snapshot("ok"))
    (pod,) = over.pods
    (shown,) = shown_pods(replace(over, news={pod["metadata"]["uid"]: Warned("Started", None)}))
    assert "Started" not in shown.details
