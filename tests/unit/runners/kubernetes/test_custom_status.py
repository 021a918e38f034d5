"""What operators write into the status of custom resources."""

from typing import Any

import pytest

from agent.model.cause import Cause
from agent.ports.runner import Ended, Ending, Pending, Running
from agent.runners.kubernetes.custom_status import Stage, custom_status, is_custom
from agent.runners.kubernetes.pending import Observed
from agent.runners.kubernetes.status import is_finished, progress_of


def condition(kind: str, status: str = "True", **more: str) -> dict[str, str]:
    return {"type": kind, "status": status, **more}


@pytest.mark.parametrize(
    ("status", "stage"),
    [
        ({}, Stage.UNKNOWN),
        ({"conditions": None, "phase": None}, Stage.UNKNOWN),
        ({"phase": "Pending"}, Stage.PENDING),
        ({"state": {"phase": "Completing"}}, Stage.RUNNING),
        ({"state": "Running"}, Stage.RUNNING),
        ({"jobStatus": "SUCCEEDED"}, Stage.SUCCEEDED),
        ({"applicationState": {"state": "FAILED"}}, Stage.FAILED),
        ({"terminalState": "Completed"}, Stage.SUCCEEDED),
        ({"conditions": [condition("Created"), condition("Running")]}, Stage.RUNNING),
        ({"conditions": [condition("Running", "False"), condition("Succeeded")]}, Stage.SUCCEEDED),
        ({"conditions": [condition("Failed"), condition("Completed", "False")]}, Stage.FAILED),
        ({"conditions": [condition("Succeeded", "False")]}, Stage.FAILED),
        ({"conditions": [condition("Succeeded", "Unknown")]}, Stage.UNKNOWN),
        ({"conditions": [condition("Running"), condition("Succeeded", "False")]}, Stage.RUNNING),
        ({"replicatedJobsStatus": [{"active": 1}]}, Stage.PENDING),
        ({"replicatedJobsStatus": [{"active": 1}, {"ready": 2}]}, Stage.RUNNING),
        ({"replicatedJobsStatus": [{"ready": 1}], "terminalState": "Failed"}, Stage.FAILED),
    ],
)
def test_the_furthest_word_counts(status: dict[str, Any], stage: Stage) -> None:
    assert custom_status({"status": status}).stage is stage


def resource(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    made = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z", "uid": "u"},
        "spec": spec,
    }
    return made if status is None else {**made, "status": status}


def pod(exit_code: int) -> dict[str, Any]:
    ended = {"terminated": {"exitCode": exit_code, "startedAt": "2026-01-01T00:00:01Z"}}
    return {
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z", "uid": "p"},
        "spec": {},
        "status": {
            "phase": "Failed" if exit_code else "Succeeded",
            "containerStatuses": [{"name": "a", "state": ended}],
        },
    }


def test_jobs_in_lists_are_no_custom_resources() -> None:
    assert not is_custom({"metadata": {}})
    assert not is_custom({"apiVersion": "batch/v1", "kind": "Job"})
    assert is_custom({"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job"})


def test_a_failed_pod_does_not_end_what_its_operator_may_replace() -> None:
    observed = Observed(resource({"phase": "Running"}), (pod(3),))
    assert isinstance(progress_of(observed), Running)
    assert not is_finished(observed.job)


def test_the_exit_code_of_a_failure_is_its_last_failed_pods() -> None:
    observed = Observed(resource({"phase": "Failed"}), (pod(3), pod(0)))
    progress = progress_of(observed)
    assert isinstance(progress, Ended)
    assert progress.ending.exit_code == 3


def test_a_failure_without_pods_has_the_operators_sentence() -> None:
    told = condition("Failed", reason="BackoffLimit", message="master failed.")
    progress = progress_of(Observed(resource({"conditions": [told]})))
    message = "the PyTorchJob has failed: BackoffLimit: master failed"
    assert progress == Ended(Ending(None, None, Cause.RUN_EXIT_CODE, message))


@pytest.mark.parametrize(
    ("made", "cause", "message"),
    [
        (resource(), Cause.SCHEDULE_SETUP, "no operator has taken the PyTorchJob up yet"),
        (resource({"phase": "Pending", "message": "in line"}), Cause.SCHEDULE_SETUP, "in line"),
        (resource({"phase": "Pending"}), Cause.SCHEDULE_SETUP, "the PyTorchJob has no pods yet"),
        (resource({}, suspend=True), Cause.SCHEDULE_SUSPENDED, "the PyTorchJob is suspended"),
        (
            resource({}, runPolicy={"suspend": True}),
            Cause.SCHEDULE_SUSPENDED,
            "the PyTorchJob is suspended",
        ),
        (
            resource({"conditions": [condition("Suspended", message="quota")]}),
            Cause.SCHEDULE_SUSPENDED,
            "quota",
        ),
    ],
)
def test_what_it_waits_for_is_told(made: dict[str, Any], cause: Cause, message: str) -> None:
    progress = progress_of(Observed(made))
    assert isinstance(progress, Pending)
    assert (progress.cause, progress.message) == (cause, message)
