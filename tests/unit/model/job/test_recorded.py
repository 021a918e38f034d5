"""Jobs from what runs recorded: which source, which name, and when there is none."""

import json
from typing import Any

import pytest

from agent.model.errors import InvalidInputError
from agent.model.job.recorded import (
    NoJobError,
    RecordedCode,
    RecordedJob,
    RecordedRun,
    program_paths,
    recorded_job,
    stated_settings,
)

GIT = {"remote": "https://host.example/o/r.git", "commit": "a" * 40}
CODE = RecordedCode("QXJ0", "source-p-train.py", frozenset({"train.py"}))
METADATA = {"python": "CPython 3.11.7", "codePath": "train.py", "codePathLocal": "train.py"}
FROZEN = "wandb==0.31.0\nsix==1.16.0\n"


def job(
    *, program: str | None = None, code: RecordedCode | None = None, diff: bytes | None = None,
    requirements: str | None = FROZEN, **metadata: Any,
) -> RecordedJob:  # fmt: skip
    given = {key: one for key, one in (METADATA | metadata).items() if one is not None}
    run = RecordedRun(
        given, requirements, {"lr": 0.1}, {"loss": 1.0}, code=code, diff=diff, program=program
    )
    return recorded_job(run)


def described(made: RecordedJob) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.contents["wandb-job.json"])
    return found


def test_a_checkout_becomes_a_git_job_with_its_changes() -> None:
    made = job(git=GIT, code=CODE, docker="a/b:1", diff=b"+x")
    assert made.name == "job-https___host.example_o_r.git_train.py"
    assert made.aliases == ("latest",)
    file = described(made)
    assert (file["source_type"], file["runtime"]) == ("repo", "3.11")
    assert file["source"] == {
        "git": GIT, "entrypoint": ["python3.11", "train.py"], "notebook": False,
    }  # fmt: skip
    assert file["input_types"]["params"]["type_map"] == {"lr": {"wb_type": "number"}}
    assert file["output_types"]["params"]["type_map"] == {"loss": {"wb_type": "number"}}
    assert made.contents["diff.patch"] == b"+x"
    assert made.contents["requirements.frozen.txt"] == b"wandb==0.31.0\nsix==1.16.0"


def test_logged_code_comes_second_and_takes_no_patch() -> None:
    made = job(code=CODE, docker="a/b:1", diff=b"+x")
    assert made.name == "job-source-p-train.py"
    assert described(made)["source"]["artifact"] == "wandb-artifact://_id/QXJ0"
    assert "diff.patch" not in made.contents


def test_an_image_comes_last_and_its_tag_is_an_alias() -> None:
    made = job(docker="123456789012.dkr.ecr.us-east-1.amazonaws.com/my-image:develop")
    assert made.name == "job-123456789012.dkr.ecr.us-east-1.amazonaws.com_my-image"
    assert made.aliases == ("develop", "latest")
    assert described(made)["source"] == {
        "image": "123456789012.dkr.ecr.us-east-1.amazonaws.com/my-image:develop"
    }


@pytest.mark.parametrize(
    "remote",
    [
        "/srv/r.git",
        "file:///srv/r.git",
        "r.git",
        "git://h/r",
        "--upload-pack=x",
        "https://-x/r",
        "",
    ],
)
def test_a_remote_that_others_cannot_reach_is_passed_over(remote: str) -> None:
    made = job(git=GIT | {"remote": remote}, code=CODE)
    assert described(made)["source_type"] == "artifact"


@pytest.mark.parametrize("commit", ["", "main", "a" * 39, "-" * 40, None, 5])
def test_a_commit_that_is_none_is_passed_over(commit: Any) -> None:
    assert described(job(git=GIT | {"commit": commit}, code=CODE))["source_type"] == "artifact"


def test_a_password_is_stored_nowhere() -> None:
    made = job(git=GIT | {"remote": "https://ann:secret@host.example/o/r.git"})
    assert "secret" not in made.name + str(made.contents)
    assert described(made)["source"]["git"]["remote"] == "https://ann@host.example/o/r.git"


def test_the_program_is_where_the_code_artifact_has_it() -> None:
    code = RecordedCode("QXJ0", "source", frozenset({"jobs/train.py"}))
    made = job(code=code, codePath="jobs/train.py")
    assert described(made)["source"]["entrypoint"] == ["python3.11", "jobs/train.py"]
    assert program_paths({"codePath": "a/b.py", "codePathLocal": "b.py"}) == ("b.py", "a/b.py")
    with pytest.raises(NoJobError):
        job(code=RecordedCode("QXJ0", "source", frozenset()))


@pytest.mark.parametrize(
    "lacking",
    [{"requirements": None}, {"python": None}, {}, {"git": GIT, "codePath": None}, {"git": "x"}],
)
def test_what_lacks_an_ingredient_becomes_no_job(lacking: dict[str, Any]) -> None:
    with pytest.raises(NoJobError):
        job(**lacking)


@pytest.mark.parametrize(
    "wrong",
    [{"git": GIT, "codePath": "../x.py"}, {"git": GIT, "python": "PyPy 2.7"}, {"docker": "A B"}],
)
def test_what_cannot_be_described_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        job(**wrong)


def test_equal_runs_give_equal_contents() -> None:
    assert job(git=GIT) == job(git=GIT)


def test_settings_that_the_program_states_are_followed() -> None:
    program = 'import wandb\nwandb.init(settings=wandb.Settings(job_source="artifact"))\n'
    assert described(job(git=GIT, code=CODE, program=program))["source_type"] == "artifact"
    with pytest.raises(NoJobError, match="source `artifact`"):
        job(git=GIT, program=program)
    named = "run = wandb.init(settings=Settings(\n    job_name='mine',  # a name\n))"
    assert job(git=GIT, program=named).name == "mine"
    with pytest.raises(InvalidInputError):
        job(git=GIT, program="Settings(job_name='a/b')")
    with pytest.raises(NoJobError, match="disable_job_creation"):
        job(git=GIT, program="Settings(disable_job_creation=True)")
    assert job(git=GIT, program="Settings(disable_job_creation=False)")


@pytest.mark.parametrize(
    ("program", "stated"),
    [
        (
            "Settings(job_name='a', x=f(1, 2), job_source='repo')",
            {"job_name": "a", "job_source": "repo"},
        ),
        ("f(Settings(job_name='a'), job_source='repo')", {"job_name": "a"}),
        ("Settings(x=dict(job_name='a'))", {}),
        (
            "Settings(job_name='a')\nSettings(job_name='b', job_source='repo')",
            {"job_source": "repo"},
        ),
        ("Settings(job_name='a' + x)", {}),
        ("Settings(job_name='a' 'b')", {}),
        ("Settings(job_name=f'{x}')", {}),
        ("Settings(job_name=b'x')", {}),
        ("Settings(job_name=name)", {}),
        ("# Settings(job_name='a')", {}),
        ("'''Settings(job_name='a')'''", {}),
        ("job_name = 'a'", {}),
        ("Settings(job_name='a')\nx = '''", {}),
        ("Settings(" * 5000, {}),
        ("(" * 100_000, {}),
        ("\0", {}),
        ("Settings(job_name='\\ud800')", {"job_name": "\ud800"}),
        ("", {}),
    ],
)
def test_only_literal_keywords_of_settings_count(program: str, stated: dict[str, Any]) -> None:
    assert stated_settings(program) == stated
