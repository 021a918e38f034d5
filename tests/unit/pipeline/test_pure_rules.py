"""Environment, macros, layout, offers, endings: from values to values."""

import errno
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.execution import JobSecret, MountConfig
from agent.model.cause import Cause
from agent.model.errors import ConfigError, InvalidInputError, JobError, PolicyError
from agent.model.phase import Errored, Failed, Lost, Preempted, Refused, Stopped, Succeeded
from agent.model.spec import parse_spec
from agent.pipeline.job_variables import (
    MAX_VARIABLE_CHARS,
    chunked,
    environment_of,
    injected_into,
    named_by_queue,
)
from agent.pipeline.outcome import StoppedBy, is_expected, outcome_of, outcome_of_failure
from agent.pipeline.resolve import arguments_of, checked_command, expand, macros_of
from agent.pipeline.source_tree import layout_of
from agent.ports.runner import Ending
from tests.unit.pipeline.claims import claim

RESOURCE = "local-container"


def test_every_job_gets_the_variables_of_wandb_and_ours() -> None:
    spec = {"overrides": {"run_config": {"lr": 1}, "files": {"a": {"b": 1}}}, "sweep_id": "s"}
    assert environment_of(claim(spec), "http://plane", "repo/name:tag") == {
        "WANDB_BASE_URL": "http://plane",
        "WANDB_API_KEY": "launchrun-token",
        "WANDB_ENTITY": "people",
        "WANDB_PROJECT": "things",
        "WANDB_RUN_ID": "run00001",
        "WANDB_LAUNCH": "True",
        "WANDB_DOCKER": "repo/name:tag",
        "WANDB_NAME": "a name",
        "WANDB_USERNAME": "ann",
        "WANDB_SWEEP_ID": "s",
        "WANDB_LAUNCH_QUEUE_NAME": "gpu",
        "WANDB_LAUNCH_QUEUE_ENTITY": "people",
        "WANDB_LAUNCH_TRACE_ID": "item",
        "WANDB_CONFIG": '{"lr": 1}',
        "WANDB_LAUNCH_FILE_OVERRIDES": '{"a": {"b": 1}}',
        "WANDB_ARTIFACTS": "{}",
        "LAUNCH_ITEM_ID": "item",
        "LAUNCH_ATTEMPT": "1",
        "LAUNCH_EPOCH": "1",
        "LAUNCH_QUEUE": "gpu",
    }


def test_what_is_not_given_is_not_set() -> None:
    made = environment_of(claim(name=None, author=None, project=""), "http://plane", None)
    absent = {"WANDB_DOCKER", "WANDB_NAME", "WANDB_USERNAME", "WANDB_RESUME", "WANDB_PROJECT"}
    assert not absent & set(made)


def test_people_are_sent_to_the_address_that_they_know() -> None:
    made = environment_of(claim({}), "http://172.18.0.1:8450", None, page_url="http://plane")
    assert made["WANDB_BASE_URL"] == "http://172.18.0.1:8450"
    assert made["WANDB_APP_URL"] == "http://plane"


def test_a_submitters_key_hides_the_author_and_a_resumed_run_may_go_on() -> None:
    spec = {
        "_wandb_api_key": "theirs", "_resume_count": 1, "queue_entity": "team", "job": "e/p/j:v0",
        "overrides": {"artifacts": {"data": "d:v1"}},
    }  # fmt: skip
    made = environment_of(claim(spec), "http://plane", None)
    assert made["WANDB_API_KEY"] == "theirs"
    assert "WANDB_USERNAME" not in made
    assert made["WANDB_RESUME"] == "allow"
    assert made["WANDB_LAUNCH_QUEUE_ENTITY"] == "team"
    assert json.loads(made["WANDB_ARTIFACTS"]) == {"_wandb_job": "e/p/j:v0", "data": "d:v1"}


@given(st.text(max_size=20), st.integers(1, 4))
def test_long_json_is_cut_and_comes_together_again(text: str, times: int) -> None:
    value = {"x": text + "y" * (MAX_VARIABLE_CHARS // 2) * times}
    parts = chunked("WANDB_CONFIG", value)
    assert all(len(part) <= MAX_VARIABLE_CHARS for part in parts.values())
    if "WANDB_CONFIG" in parts:
        assert parts == {"WANDB_CONFIG": json.dumps(value)}
    else:
        joined = "".join(parts[f"WANDB_CONFIG_{i}"] for i in range(len(parts)))
        assert json.loads(joined) == value


def test_macros_are_replaced_in_every_string_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_AGENT", "no")
    args = {
        "${run_id}": ["${run_id}-${author}", {"deep": "${entity_name}/${project_name}"}, 3],
        "env": "${SECRET_OF_THE_AGENT} ${image_uri} ${run_name}",
        "secrets": ["x"],
    }
    made = arguments_of(claim({"resource_args": {RESOURCE: args}}), "i")
    assert made == {
        "${run_id}": ["run00001-ann", {"deep": "people/things"}, 3],
        "env": "${SECRET_OF_THE_AGENT} i a name",
    }
    assert macros_of(claim(name=None, author=None), None)["run_name"] == ""
    assert expand(None, {}) is None


def _offer(spec_names: object, queue_names: object, kind: str = "secrets") -> dict[str, object]:
    args = {"resource_args": {RESOURCE: {kind: spec_names}}}
    return {
        "spec": args,
        "layers": {"queue": {"resource_args": {RESOURCE: {kind: queue_names}}}},
    }


def test_a_queue_names_secrets_and_mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_ENV", "two")
    (tmp_path / "three").write_text("three\n")
    secrets = {
        "a": JobSecret(value="one", as_env="A", queues=("people/gpu",)),
        "b": JobSecret(env="FROM_ENV", as_file="/run/b", queues=("*",)),
        "c": JobSecret(file=tmp_path / "three", as_env="C", queues=("x/y", "people/gpu")),
    }
    made = injected_into(claim(**_offer(["a", "b", "c"], ["a", "b", "c"])), secrets, {})
    assert made.environment == {"A": "one", "C": "three"}
    assert made.files == {"/run/b": b"two"}
    assert "one" not in repr(made)
    assert "two" not in repr(made)
    data = {"data": MountConfig(source=tmp_path, target="/data", queues=("people/gpu",))}
    mounted = injected_into(claim(**_offer(["data"], ["data"], "mounts")), {}, data)
    assert mounted.mounts == ("data",)


@pytest.mark.parametrize(
    ("wanted", "allowed"), [(["a"], []), (["a"], None), ("a", ["a"]), ([1], ["a"])]
)
def test_nobody_but_the_queue_names_secrets(wanted: object, allowed: object) -> None:
    with pytest.raises(PolicyError) as caught:
        named_by_queue(claim(**_offer(wanted, allowed)), "secrets")
    assert caught.value.cause is Cause.POLICY_RESOURCE


@pytest.mark.parametrize(
    ("key", "kind"),
    [("--mounts", "mounts"), ("Mounts", "mounts"), ("Secrets", "secrets"), ("-SECRETS", "secrets")],
)
def test_another_spelling_is_refused_with_the_right_one(key: str, kind: str) -> None:
    with pytest.raises(PolicyError, match=f"`{key}` is not known. It is written `{kind}`"):
        named_by_queue(claim(**_offer(["a"], ["a"], key)), kind)


@pytest.mark.parametrize("kind", ["secrets", "mounts"])
@pytest.mark.parametrize(
    "queues",
    [
        None,
        ("people/cpu",),
        ("others/gpu",),
        ("people/gpu2", "People/gpu", "eople/gpu"),
        ("people/*", "*/gpu"),
    ],
    ids=str,
)
def test_what_the_administrator_does_not_give_to_the_queue_is_refused(
    kind: str, queues: tuple[str, ...] | None
) -> None:
    """Its template names it: whoever administers a queue does not administer the agent."""
    secrets, mounts = {}, {}
    if queues is not None:
        secrets = {"a": JobSecret(value="hidden", as_env="A", queues=queues)}
        mounts = {"a": MountConfig(source=Path("/"), target="/a", queues=queues)}
    with pytest.raises(PolicyError) as caught:
        injected_into(claim(**_offer(["a"], ["a"], kind)), secrets, mounts)
    assert caught.value.cause is Cause.POLICY_RESOURCE
    # The same for one that does not exist.
    assert caught.value.message == f"`{kind}`: this agent offers no 'a' to queue people/gpu."
    assert caught.value.hint is not None
    assert "lists 'people/gpu' in its `queues`" in caught.value.hint


def test_the_queue_is_that_of_the_lease_and_not_what_a_spec_says() -> None:
    given = _offer(["a"], ["a"])
    given["spec"] = {**given["spec"], "entity": "others", "queue": "cpu", "queue_entity": "others"}
    secrets = {"a": JobSecret(value="hidden", as_env="A", queues=("others/gpu", "others/cpu"))}
    with pytest.raises(PolicyError, match="to queue people/gpu"):
        injected_into(claim(**given), secrets, {})


@pytest.mark.parametrize(
    "secret",
    [
        JobSecret(env="NOT_SET_ANYWHERE", as_env="A", queues=("*",)),
        JobSecret(file=Path("/nowhere"), as_env="A", queues=("*",)),
    ],
)
def test_a_secret_without_a_value_is_named(secret: JobSecret) -> None:
    with pytest.raises(JobError, match="'a'"):
        injected_into(claim(**_offer(["a"], ["a"])), {"a": secret}, {})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "jobs" / "hello").mkdir(parents=True)
    (root / "jobs" / "hello" / "job.py").write_text("")
    (root / "jobs" / "hello" / "Dockerfile.wandb").write_text("")
    (root / "main.py").write_text("")
    (root / "Dockerfile").write_text("")
    (root / "out").symlink_to("/")
    return root


def _layout(root: Path, *, containers: bool = True, **spec: object) -> tuple[object, ...]:
    made = layout_of(root, parse_spec(spec), containers=containers)
    return made.context, made.dockerfile, made.command


def test_layouts_of_a_source(tree: Path) -> None:
    run = {"entry_point": ["python", "jobs/hello/job.py"]}
    assert _layout(tree, overrides={"entry_point": ["python", "main.py"]}) == (
        ".", None, ("python", "main.py"),
    )  # fmt: skip
    assert _layout(tree, overrides=run) == (
        "jobs/hello", "Dockerfile.wandb", ("python", "job.py"),
    )  # fmt: skip
    assert _layout(tree, overrides=run, containers=False)[:2] == (".", None)
    assert _layout(tree, build={"dockerfile": "Dockerfile"}) == (".", "Dockerfile", ())
    assert _layout(tree, build={"build_context": "jobs/hello", "dockerfile": "Dockerfile.wandb"})[
        :2
    ] == ("jobs/hello", "Dockerfile.wandb")
    overridden = {"dockerfile": "Dockerfile", "entry_point": ["bash", "-c", "true"]}
    assert _layout(tree, overrides=overridden, build={"dockerfile": "x"})[1] == "Dockerfile"
    for words in (["bash", "-c", "true"], ["python"], ["/bin/true"], ["true"]):
        assert _layout(tree, overrides={"entry_point": words}) == (".", None, tuple(words))
    assert _layout(tree, overrides={"entry_point": ["./main.py"]})[2] == ("python", "./main.py")
    three = {"entry_point": ["python", "jobs/hello/job.py", "--fast"]}
    assert _layout(tree, overrides=three)[2] == ("python", "jobs/hello/job.py", "--fast")


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ({"build": {"build_context": ".."}}, Cause.SOURCE_INVALID),
        ({"build": {"build_context": "/etc"}}, Cause.SOURCE_INVALID),
        ({"build": {"build_context": "out/etc"}}, Cause.SOURCE_INVALID),
        ({"build": {"build_context": "a\0b"}}, Cause.SOURCE_INVALID),
        ({"build": {"build_context": "nowhere"}}, Cause.SOURCE_NOT_FOUND),
        ({"build": {"build_context": "main.py"}}, Cause.SOURCE_NOT_FOUND),
        ({"build": {"dockerfile": "../x"}}, Cause.SOURCE_INVALID),
        ({"build": {"dockerfile": "nope"}}, Cause.SOURCE_NOT_FOUND),
        ({"overrides": {"entry_point": ["python", "nope.py"]}}, Cause.START_ENTRYPOINT),
        ({"overrides": {"entry_point": ["python", "../x.py"]}}, Cause.SOURCE_INVALID),
    ],
)
def test_paths_that_lead_nowhere_or_outside(
    tree: Path, spec: dict[str, object], cause: Cause
) -> None:
    with pytest.raises(JobError) as caught:
        _layout(tree, **spec)
    assert caught.value.cause is cause


@pytest.mark.parametrize("overrides", [{"entry_point": [" "]}, {"args": ["a\0b"]}])
def test_commands_that_nothing_can_be_started_with(overrides: dict[str, object]) -> None:
    with pytest.raises(PolicyError) as caught:
        checked_command(parse_spec({"overrides": overrides}))
    assert caught.value.cause is Cause.POLICY_SPEC


@pytest.mark.parametrize(
    ("ending", "why", "outcome"),
    [
        (Ending(0), None, Succeeded()),
        (Ending(3), None, Failed(Cause.RUN_EXIT_CODE, "exit code 3", 3)),
        (
            Ending(120, cause=Cause.DISK_FULL, message="no space on /jobs/a"),
            None,
            Failed(Cause.DISK_FULL, "no space on /jobs/a; exit code 120", 120),
        ),
        (
            Ending(137, 9, Cause.RUN_OUT_OF_MEMORY, "more memory than given"),
            None,
            Failed(Cause.RUN_OUT_OF_MEMORY, "more memory than given; exit code 137", 137),
        ),
        (
            Ending(None, cause=Cause.RUN_EVICTED, message="the node ran short of disk"),
            None,
            Failed(Cause.RUN_EVICTED, "the node ran short of disk; no exit code"),
        ),
        (
            Ending(143, 15, Cause.PREEMPTED, "a job of higher priority came"),
            None,
            Preempted("a job of higher priority came"),
        ),
        (
            Ending(None, cause=Cause.LOST_NODE, message="node 'a' is gone"),
            None,
            Lost(Cause.LOST_NODE, "node 'a' is gone"),
        ),
        (
            Ending(None, cause=Cause.IMAGE_NOT_FOUND, message="no such image"),
            None,
            Errored(Cause.IMAGE_NOT_FOUND, "no such image"),
        ),
        (
            Ending(None, cause=Cause.RUN_DEADLINE, message="`activeDeadlineSeconds` have passed"),
            None,
            Failed(Cause.RUN_DEADLINE, "`activeDeadlineSeconds` have passed; no exit code"),
        ),
        (
            Ending(143, signal=15, message="its pod was deleted"),
            None,
            Failed(Cause.RUN_SIGNAL, "ended by signal 15; its pod was deleted", 143),
        ),
        (Ending(137, signal=9), None, Failed(Cause.RUN_SIGNAL, "ended by signal 9", 137)),
        (Ending(None), None, Lost(Cause.LOST_WORKLOAD, "it ended, and its exit code is not known")),
        (
            Ending(1, cause=Cause.START_FAILED, message="cgroup"),
            None,
            Errored(Cause.START_FAILED, "cgroup"),
        ),
        (Ending(0), StoppedBy.USER, Stopped("stopped on request; exit code 0", exit_code=0)),
        (
            Ending(None, signal=9),
            StoppedBy.AGENT,
            Stopped(
                "the agent was asked to stop its jobs; "
                "it did not end on SIGTERM within its grace and was killed, signal 9",
                Cause.STOPPED_BY_AGENT,
            ),
        ),
        (
            Ending(None),
            StoppedBy.DEADLINE,
            Failed(Cause.RUN_DEADLINE, "stopped after its timeout of 5.0 s; no exit code"),
        ),
        (Ending(143), StoppedBy.USER, Stopped("stopped on request; exit code 143", exit_code=143)),
        (
            Ending(137),
            StoppedBy.DEADLINE,
            Failed(
                Cause.RUN_DEADLINE,
                "stopped after its timeout of 5.0 s; "
                "it did not end on SIGTERM within its grace and was killed, exit code 137",
                137,
            ),
        ),
    ],
)
def test_how_it_ended_and_what_that_means(
    ending: Ending, why: StoppedBy | None, outcome: object
) -> None:
    assert outcome_of(ending, why, 5.0) == outcome


@pytest.mark.parametrize(
    ("error", "kind", "cause", "expected"),
    [
        (PolicyError(Cause.POLICY_SOURCE, "x"), Refused, Cause.POLICY_SOURCE, True),
        (JobError(Cause.LOST_ENGINE, "x"), Lost, Cause.LOST_ENGINE, True),
        (JobError(Cause.BUILD_FAILED, "x"), Errored, Cause.BUILD_FAILED, True),
        (InvalidInputError("x"), Refused, Cause.POLICY_SPEC, True),
        (ConfigError("x"), Errored, Cause.INTERNAL, True),
        (OSError(errno.ENOSPC, "full", "/x"), Errored, Cause.DISK_FULL, True),
        (OSError(errno.EDQUOT, "full"), Errored, Cause.DISK_FULL, True),
        (OSError(errno.EACCES, "no"), Errored, Cause.INTERNAL, False),
        (ValueError("x"), Errored, Cause.INTERNAL, False),
    ],
)
def test_every_failure_becomes_an_outcome(
    error: Exception, kind: type, cause: Cause, expected: bool
) -> None:
    outcome = outcome_of_failure(error, "ref00000")
    assert isinstance(outcome, kind)
    assert outcome.cause is cause
    assert is_expected(error) is expected
    assert expected or "ref00000" in outcome.message
