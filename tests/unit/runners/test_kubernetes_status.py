"""What a Job's objects say, from objects that were recorded from a real cluster.

`kubernetes_states.json`: scenario → snapshots of Job, pods and warnings, in order (Kubernetes
1.36.3, containerd 1.7.24), reduced to the fields that are looked at.
"""

import copy
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from agent.model.cause import Cause
from agent.ports.runner import Ended, Pending, Progress, Running
from agent.runners.kubernetes.fields import (
    CODE_CONTAINER,
    all_containers,
    started_containers,
    time_of,
)
from agent.runners.kubernetes.pending import Observed, Warned, refusal_of
from agent.runners.kubernetes.status import progress_of, ran_since

RECORDED: dict[str, list[dict[str, Any]]] = json.loads(
    Path(__file__).with_name("kubernetes_states.json").read_text()
)


def snapshot(name: str, index: int = -1) -> dict[str, Any]:
    return copy.deepcopy(RECORDED[name][index])


def observed(seen: dict[str, Any], **more: Any) -> Observed:
    warnings: dict[str, dict[str, Warned]] = defaultdict(dict)
    for event in seen["warnings"]:
        warned = Warned(event["message"], time_of(event.get("lastTimestamp")))
        warnings[event["involvedObject"]["uid"]][event["reason"]] = warned
    return Observed(seen["job"], tuple(seen["pods"]), warnings, **more)


def told(seen: dict[str, Any], **more: Any) -> Progress:
    return progress_of(observed(seen, **more))


def recorded(name: str, index: int = -1) -> Progress:
    return told(snapshot(name, index))


NODE = "0/1 nodes are available: "
REGISTRY = "127.0.0.1:5000/tests"


@pytest.mark.parametrize(
    ("name", "index", "cause", "message"),
    [
        ("noroom", 0, Cause.SCHEDULE_NO_NODE, f"{NODE}1 Insufficient cpu"),
        (
            "selector",
            0,
            Cause.SCHEDULE_NO_NODE,
            f"{NODE}1 node(s) didn't match Pod's node affinity/selector",
        ),
        ("suspend", 0, Cause.SCHEDULE_SUSPENDED, "the Job is suspended (`spec.suspend`)"),
        ("resuspend", 1, Cause.SCHEDULE_SUSPENDED, "the Job is suspended (`spec.suspend`)"),
        (
            "unbound",
            0,
            Cause.SCHEDULE_VOLUME,
            f"{NODE}pod has unbound immediate PersistentVolumeClaims",
        ),
        (
            "hostmount",
            0,
            Cause.SCHEDULE_VOLUME,
            (
                'MountVolume.SetUp failed for volume "d" : hostPath type check failed: '
                "/nowhere/at/all is not a directory"
            ),
        ),
        ("badsubpath", 0, Cause.SCHEDULE_IMAGE, f"image {REGISTRY}/shell:1 is being pulled"),
        ("oom", 0, Cause.SCHEDULE_SETUP, "node 'node1' prepares its pod"),
        ("deadline", 0, Cause.SCHEDULE_SETUP, "its pod has not been created yet"),
        ("initrun", 0, Cause.SCHEDULE_INIT, "init container 'fetch' (1 of 2) runs"),
        ("initfail", 0, Cause.SCHEDULE_INIT, "init container 'fetch' (1 of 1) failed"),
    ],
)
def test_what_a_job_waits_for(name: str, index: int, cause: Cause, message: str) -> None:
    pending = recorded(name, index)
    assert isinstance(pending, Pending)
    assert (pending.cause, pending.message, pending.permanent) == (cause, message, False)
    assert pending.since is not None


@pytest.mark.parametrize(
    ("name", "cause", "message"),
    [
        ("nosecret", Cause.START_REFERENCE, "container 'launch0': secret \"none\" not found"),
        (
            "nokey",
            Cause.START_REFERENCE,
            "container 'launch0': couldn't find key nokey in ConfigMap nokey/kube-root-ca.crt",
        ),
        (
            "nosa",
            Cause.START_REFERENCE,
            'error looking up service account nosa/nobody: serviceaccount "nobody" not found',
        ),
        ("nopvc", Cause.START_REFERENCE, f'{NODE}persistentvolumeclaim "none" not found'),
        (
            "nomount",
            Cause.START_REFERENCE,
            'MountVolume.SetUp failed for volume "d" : secret "none" not found',
        ),
        (
            "refused",
            Cause.IMAGE_UNAVAILABLE,
            (
                "127.0.0.1:9/tests/shell:1: failed to do request: "
                'Head "http://127.0.0.1:9/v2/tests/shell/manifests/1": '
                "dial tcp 127.0.0.1:9: connect: connection refused"
            ),
        ),
        (
            "nohost",
            Cause.IMAGE_UNAVAILABLE,
            (
                "registry.invalid/tests/shell:1: failed to do request: "
                'Head "https://registry.invalid/v2/tests/shell/manifests/1": '
                "dial tcp: lookup registry.invalid on 192.0.2.53:53: no such host"
            ),
        ),
    ],
)
def test_an_error_that_may_pass(name: str, cause: Cause, message: str) -> None:
    for index in range(len(RECORDED[name])):
        assert recorded(name, index) == Pending(cause, message)


@pytest.mark.parametrize(
    ("name", "cause", "message"),
    [
        ("missing", Cause.IMAGE_NOT_FOUND, f"{REGISTRY}/nothing:1: not found"),
        ("initimage", Cause.IMAGE_NOT_FOUND, f"{REGISTRY}/nothing:2: not found"),
        (
            "private",
            Cause.IMAGE_AUTH,
            (
                "127.0.0.1:5001/tests/shell:1: pull access denied, repository does not exist or "
                "may require authorization: authorization failed: no basic auth credentials"
            ),
        ),
        (
            "neverpull",
            Cause.IMAGE_NOT_FOUND,
            f'Container image "{REGISTRY}/nothing:1" is not present with pull policy of Never',
        ),
        (
            "quota0",
            Cause.START_REFUSED,
            "exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0",
        ),
        ("quotacpu", Cause.START_REFUSED, "failed quota: q: must specify cpu for: launch0"),
        (
            "nonroot",
            Cause.START_REFUSED,
            "container 'launch0': container has runAsNonRoot and image will run as root",
        ),
    ],
)
def test_what_never_runs_is_told_at_once_and_in_the_same_words(
    name: str, cause: Cause, message: str
) -> None:
    for index in range(len(RECORDED[name])):
        pending = recorded(name, index)
        assert isinstance(pending, Pending)
        assert (pending.cause, pending.message, pending.permanent) == (cause, message, True)


def test_names_and_policies_that_a_cluster_refuses() -> None:
    for name, cause, part in (
        ("badname", Cause.IMAGE_NOT_FOUND, "invalid reference format"),
        ("podsecurity", Cause.START_REFUSED, 'violates PodSecurity "restricted:latest"'),
    ):
        pending = recorded(name)
        assert isinstance(pending, Pending)
        assert (pending.cause, pending.permanent) == (cause, True)
        assert part in pending.message
        assert "Error creating" not in pending.message


@pytest.mark.parametrize(
    ("name", "code", "signal", "cause", "message"),
    [
        ("ok", 0, None, None, ""),
        ("initrun", 0, None, None, ""),
        ("suspend", 0, None, None, ""),
        ("exit3", 3, None, None, ""),
        ("backoff", 5, None, None, ""),
        (
            "oom",
            137,
            9,
            Cause.RUN_OUT_OF_MEMORY,
            "killed because it used more memory than it was given",
        ),
        (
            "deadline",
            None,
            None,
            Cause.RUN_DEADLINE,
            "the Job's `activeDeadlineSeconds` (4) have passed",
        ),
        (
            "poddeadline",
            143,
            15,
            Cause.RUN_DEADLINE,
            "Pod was active on the node longer than the specified deadline",
        ),
        (
            "ephemeral",
            143,
            15,
            Cause.RUN_EVICTED,
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi",
        ),
        ("initfail", None, None, Cause.START_INIT, "init container 'fetch' failed (exit code 4)"),
        (
            "nocommand",
            None,
            None,
            Cause.START_ENTRYPOINT,
            'exec: "/no/such": stat /no/such: no such file or directory',
        ),
        (
            "noexec",
            None,
            None,
            Cause.START_ENTRYPOINT,
            'exec: "/etc/passwd": permission denied',
        ),
        (
            "badsubpath",
            None,
            None,
            Cause.START_FAILED,
            "error during container init: mkdir /etc/passwd: not a directory",
        ),
    ],
)
def test_how_a_job_ended(
    name: str, code: int | None, signal: int | None, cause: Cause | None, message: str
) -> None:
    progress = recorded(name)
    assert isinstance(progress, Ended)
    ending = progress.ending
    assert (ending.exit_code, ending.signal, ending.cause) == (code, signal, cause)
    assert ending.message == message
    assert ending.finished_at is not None


def renamed(seen: dict[str, Any], **ended: Any) -> dict[str, Any]:
    """The init container of a recorded state as the one that fetches code."""
    for pod in seen["pods"]:
        pod["spec"]["initContainers"][0]["name"] = CODE_CONTAINER
        pod["spec"]["containers"] = [{"name": "main"}]
        pod["status"]["initContainerStatuses"][0]["name"] = CODE_CONTAINER
        pod["status"]["initContainerStatuses"][0]["state"].get("terminated", {}).update(ended)
    return seen


@pytest.mark.parametrize(
    ("ended", "told_of_it"),
    [
        ({"message": "There is no project 'p'.\n"}, "There is no project 'p'"),
        ({"message": None}, "exit code 4"),
        ({"message": None, "reason": "OOMKilled"}, "more memory than it was given"),
        (
            {"message": 'exec: "python3": not found in $PATH: unknown', "reason": "StartError"},
            (
                f"image {REGISTRY}/shell:1 (`code_image`) cannot run the fetch: "
                'exec: "python3": not found in $PATH'
            ),
        ),
    ],
)
def test_code_that_cannot_be_fetched_has_a_cause_of_its_own(
    ended: dict[str, Any], told_of_it: str
) -> None:
    seen = renamed(snapshot("initfail"), **ended)
    progress = told(seen)
    assert isinstance(progress, Ended)
    assert progress.ending.cause is Cause.START_CODE
    expected = f"the job's code could not be fetched into its pod: {told_of_it}"
    assert progress.ending.message == expected
    pod = seen["pods"][-1]
    assert (all_containers(pod), started_containers(pod)) == (["main"], [])


def test_a_job_whose_code_is_fetched_says_so() -> None:
    progress = told(renamed(snapshot("initrun", 0)))
    assert isinstance(progress, Pending)
    assert progress.cause is Cause.SCHEDULE_INIT
    assert progress.message == "the fetch of the job's code runs"


@pytest.mark.parametrize("name", ["nocommand", "noexec", "badsubpath", "initfail", "missing"])
def test_a_container_that_was_never_started_did_not_run(name: str) -> None:
    """Its status says that it started in 1970."""
    assert ran_since(observed(snapshot(name))) is None


def test_retries_of_a_job_belong_to_its_attempt() -> None:
    """`backoffLimit: 1`: a failed pod is no end, and the last one decides."""
    assert isinstance(recorded("backoff", 0), Running)
    again = recorded("backoff", 1)
    assert isinstance(again, Pending)
    assert again.message == "its pod ended; the cluster runs it again (retry 1 of 1)"


def test_a_deadline_that_passed_before_it_ran_is_no_run() -> None:
    seen = snapshot("deadlinepending")
    seen["pods"] = snapshot("deadlinepending", 0)["pods"]
    progress = told(seen)
    assert isinstance(progress, Ended)
    assert progress.ending.cause is Cause.SCHEDULE_TIMEOUT


def failed_by(reason: str, *, ended: bool = True) -> Progress:
    """The pod of a running job as the disruption controllers and the kubelet leave it."""
    seen = snapshot("exit3")
    status = seen["pods"][0]["status"]
    if ended:
        status["containerStatuses"][0]["state"]["terminated"]["exitCode"] = 143
    else:
        state = status["containerStatuses"][0]["state"]
        state["running"] = {"startedAt": state.pop("terminated")["startedAt"]}
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "Why."}
    status["conditions"].append(condition)
    seen["pods"][0]["metadata"]["deletionTimestamp"] = "2026-11-29T20:30:00Z"
    return told(seen)


@pytest.mark.parametrize(
    ("reason", "ended", "code", "cause"),
    [
        ("PreemptionByScheduler", True, 143, Cause.PREEMPTED),
        ("EvictionByEvictionAPI", True, 143, Cause.PREEMPTED),
        ("TerminationByKubelet", True, 143, Cause.PREEMPTED),
        ("DeletionByTaintManager", True, 143, Cause.PREEMPTED),
        ("DeletionByTaintManager", False, None, Cause.LOST_NODE),
        ("DeletionByPodGC", False, None, Cause.LOST_NODE),
        ("DeletionByPodGC", True, None, Cause.LOST_NODE),
    ],
)
def test_a_machine_that_was_taken_away_and_one_that_is_gone(
    reason: str, ended: bool, code: int | None, cause: Cause
) -> None:
    progress = failed_by(reason, ended=ended)
    assert isinstance(progress, Ended)
    ending = progress.ending
    assert (ending.exit_code, ending.cause, ending.message) == (code, cause, "Why")


def test_a_job_that_ended_well_while_it_was_disrupted_has_ended_well() -> None:
    seen = snapshot("ok")
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    seen["pods"][0]["status"]["conditions"].append(condition)
    progress = told(seen)
    assert isinstance(progress, Ended)
    assert (progress.ending.exit_code, progress.ending.cause) == (0, None)


def test_only_the_controller_knows_why_a_pod_is_deleted() -> None:
    """A deadline, a suspension or a person: the pod looks alike, so nothing is said early."""
    seen = snapshot("exit3")
    seen["job"]["status"]["conditions"] = []
    assert isinstance(told(seen), Ended)
    seen["pods"][0]["metadata"]["deletionTimestamp"] = "2026-11-29T20:30:00Z"
    assert isinstance(told(seen), Pending)
    del seen["pods"][0]["metadata"]["deletionTimestamp"]
    seen["job"]["spec"]["suspend"] = True
    assert isinstance(told(seen), Pending)


def test_a_pod_that_somebody_deleted_keeps_its_exit_code() -> None:
    seen = snapshot("exit3")
    seen["pods"][0]["metadata"]["deletionTimestamp"] = "2026-11-29T20:30:00Z"
    progress = told(seen)
    assert isinstance(progress, Ended)
    assert (progress.ending.exit_code, progress.ending.cause) == (3, None)
    assert progress.ending.message == "its pod was deleted by another program or user"


def test_a_pod_that_was_deleted_before_it_ran() -> None:
    seen = snapshot("pendingdeleted")
    seen["pods"] = snapshot("pendingdeleted", 0)["pods"]
    progress = told(seen)
    assert isinstance(progress, Ended)
    assert progress.ending.cause is Cause.START_FAILED
    assert progress.ending.exit_code is None


def test_pods_that_are_gone_leave_the_end_unknown() -> None:
    progress = recorded("poddeleted")
    assert isinstance(progress, Ended)
    assert (progress.ending.exit_code, progress.ending.cause) == (None, Cause.LOST_WORKLOAD)


def test_a_node_that_says_nothing_about_a_deleted_pod_is_lost() -> None:
    seen = snapshot("poddeleted", 0)
    pod = seen["pods"][0]
    pod["metadata"]["deletionTimestamp"] = "2026-11-29T20:30:00Z"
    assert isinstance(told(seen), Running)
    silent = frozenset({pod["metadata"]["uid"]})
    progress = told(seen, silent=silent)
    assert isinstance(progress, Ended)
    assert progress.ending.cause is Cause.LOST_NODE
    assert "node 'node1'" in progress.ending.message
    seen["job"]["spec"]["backoffLimit"] = 3
    waits = told(seen, silent=silent)
    assert isinstance(waits, Pending)
    assert waits.cause is Cause.LOST_NODE


def test_an_image_for_another_architecture() -> None:
    """The runtime writes the reason to the log, which the kubelet copies into the status."""
    seen = snapshot("foreign")
    terminated = seen["pods"][0]["status"]["containerStatuses"][0]["state"]["terminated"]
    terminated["message"] = "exec /bin/sh: exec format error\n"
    progress = told(seen)
    assert isinstance(progress, Ended)
    assert (progress.ending.exit_code, progress.ending.cause) == (None, Cause.IMAGE_PLATFORM)
    terminated["message"] = "the tool said: exec /bin/x: exec format error\n"
    progress = told(seen)
    assert isinstance(progress, Ended)
    assert (progress.ending.exit_code, progress.ending.cause) == (1, None)


def pull_failure(image: str, answer: str) -> Pending:
    seen = snapshot("missing", 0)
    container = seen["pods"][0]["status"]["containerStatuses"][0]
    container["image"] = image
    prefix = f'failed to pull and unpack image "{image}": '
    container["state"]["waiting"]["message"] = prefix + answer
    progress = told(seen)
    assert isinstance(progress, Pending)
    return progress


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        ("no match for platform in manifest sha256:1: not found", Cause.IMAGE_PLATFORM),
        ("unexpected status from HEAD request to http://a/v2/x: 403 Forbidden", Cause.IMAGE_AUTH),
        ("unauthorized: access to the requested resource is not authorized", Cause.IMAGE_AUTH),
        ("requested access to the resource is denied", Cause.IMAGE_AUTH),
        ("reading manifest 1 in r/x: manifest unknown", Cause.IMAGE_NOT_FOUND),
        ("unexpected status from GET request to http://a/v2: 500", Cause.IMAGE_UNAVAILABLE),
        ("429 Too Many Requests: toomanyrequests", Cause.IMAGE_UNAVAILABLE),
        ('failed to do request: Head "https://a:401/v2/denied": EOF', Cause.IMAGE_UNAVAILABLE),
        ("failed to authorize: dial tcp 192.0.2.1:443: i/o timeout", Cause.IMAGE_UNAVAILABLE),
        ("", Cause.IMAGE_UNAVAILABLE),
    ],
)
def test_registries_answer_in_many_words(answer: str, cause: Cause) -> None:
    pending = pull_failure("r/x:1", answer)
    assert pending.cause is cause
    assert pending.permanent is (cause is not Cause.IMAGE_UNAVAILABLE)


def test_the_name_of_an_image_is_no_answer() -> None:
    for name in ("r/unauthorized-denied:404", "r:403/manifest unknown"):
        assert pull_failure(name, f"{name}: EOF").cause is Cause.IMAGE_UNAVAILABLE


@pytest.mark.parametrize(
    ("requested", "limited", "hopeless"),
    [
        ("pods=1", "pods=4", False),
        ("pods=1", "pods=0", True),
        ("requests.cpu=500m", "requests.cpu=1", False),
        ("requests.cpu=1500m", "requests.cpu=1", True),
        ("limits.memory=1Gi", "limits.memory=1G", True),
        ("limits.memory=1000Mi", "limits.memory=1Gi", False),
        ("pods=1,requests.cpu=2", "pods=9,requests.cpu=1", True),
    ],
)
def test_a_quota_that_is_used_up_and_one_that_is_too_small(
    requested: str, limited: str, hopeless: bool
) -> None:
    message = (
        f'Error creating: pods "a-b" is forbidden: exceeded quota: q, requested: {requested}, '
        f"used: pods=0, limited: {limited}"
    )
    pending = refusal_of(message)
    assert pending.permanent is hopeless
    assert pending.cause is (Cause.START_REFUSED if hopeless else Cause.SCHEDULE_QUOTA)


def test_a_quota_that_is_not_counted_yet_is_waited_for() -> None:
    """Created a moment ago."""
    pending = refusal_of('pods "a-b" is forbidden: status unknown for quota: q, resources: pods')
    assert (pending.cause, pending.permanent) == (Cause.SCHEDULE_QUOTA, False)


def test_a_failure_of_the_cluster_is_no_refusal() -> None:
    message = "Error creating: Internal error occurred: failed calling webhook: connection refused"
    assert refusal_of(message).cause is Cause.START_FAILED
    assert not refusal_of(message).permanent


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (
            [
                {
                    "type": "QuotaReserved",
                    "status": "False",
                    "reason": "Pending",
                    "message": "couldn't assign flavors to pod set main: insufficient quota for "
                    "cpu in flavor default.",
                }
            ],
            (
                "Kueue: couldn't assign flavors to pod set main: insufficient quota for cpu in "
                "flavor default"
            ),
        ),
        (
            [{"type": "Evicted", "status": "True", "message": "Preempted by a higher priority"}],
            "Kueue: it was evicted: Preempted by a higher priority",
        ),
        ([], "Kueue: it has not been looked at yet"),
    ],
)
def test_why_kueue_has_not_admitted_a_job(conditions: list[dict[str, str]], message: str) -> None:
    workload = {"metadata": {}, "status": {"conditions": conditions}}
    pending = told(snapshot("suspend", 0), admission=workload)
    assert isinstance(pending, Pending)
    assert (pending.cause, pending.message) == (Cause.SCHEDULE_SUSPENDED, message)


def test_a_warning_about_an_earlier_pod_is_over() -> None:
    """The quota admitted the pod that then ran, and failed."""
    seen = snapshot("backoff", 1)
    del seen["pods"][1:]
    seen["warnings"] = snapshot("quota0")["warnings"]
    seen["warnings"][0]["involvedObject"]["uid"] = seen["job"]["metadata"]["uid"]
    for created, cause in (
        ("2026-11-29T20:00:00Z", Cause.START_REFUSED),
        ("2026-11-29T23:00:00Z", Cause.SCHEDULE_SETUP),
    ):
        seen["pods"][0]["metadata"]["creationTimestamp"] = created
        pending = told(seen)
        assert isinstance(pending, Pending)
        assert pending.cause is cause
