"""From the options of a submission to a launch spec, and which options are refused."""

from pathlib import Path

import pytest

from agent.jobs.request import SubmitOptions, check_git_url, check_options, is_git
from agent.jobs.submission import launch_spec
from agent.model.errors import InvalidInputError


def _check_and_write(options: SubmitOptions) -> None:
    check_options(options)
    launch_spec(options, options.job)


def refusal(options: SubmitOptions) -> str:
    with pytest.raises(InvalidInputError) as caught:
        _check_and_write(options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_job_that_was_made_keeps_entry_point_and_dockerfile_in_the_overrides() -> None:
    options = SubmitOptions(
        uri=".", entry_point='python "my job.py" --x', dockerfile="D", base_image="b", name="n"
    )
    assert launch_spec(options, "team/demo/n:v0") == {
        "job": "team/demo/n:v0",
        "project": "default",
        "name": "n",
        "overrides": {"entry_point": ["python", "my job.py", "--x"], "dockerfile": "D"},
    }


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example/org/repo.git",
        "https://user@git.example/org/repo.git",
        "https://git.example:8443/user@org/repo.git",
        "https://user:pw@git.example/org/repo.git",
        "ssh://git@git.example/org/repo.git",
        "git@git.example:org/repo.git",
        "git@git.example:/srv/repo.git",
        "file:///srv/repo",
    ],
)
def test_git_urls_of_every_form(url: str) -> None:
    check_git_url(url, "v1")


def test_an_image_stands_where_wandbs_clients_look_for_it() -> None:
    spec = launch_spec(SubmitOptions(docker_image="a/b:1", args=("--lr", "1")), None)
    assert spec["source"] == {"type": "image", "image": "a/b:1"}
    assert spec["docker"] == {"docker_image": "a/b:1"}
    assert spec["overrides"] == {"args": ["--lr", "1"]}


def test_options_win_over_the_spec_they_are_added_to() -> None:
    base = {
        "source": {"type": "git", "url": "https://h/r.git"},
        "resource": "local-process",
        "overrides": {"run_config": {"a": 1}, "entry_point": ["x"]},
        "name": "old",
        "their_key": 1,
    }
    spec = launch_spec(
        SubmitOptions(
            base=base,
            name="new",
            resource="local-container",
            timeout="90m",
            retries=2,
            on_lost="retry",
            memory="2GiB",
            gpus=1,
            build_context="jobs",
            resource_args={"local-container": {"m": "1g"}},
        ),
        None,
    )
    assert spec["name"] == "new"
    assert spec["resource"] == "local-container"
    assert spec["overrides"] == {"run_config": {"a": 1}, "entry_point": ["x"]}
    assert spec["resources"] == {"memory": "2GiB", "gpus": 1}
    assert spec["build"] == {"build_context": "jobs"}
    assert spec["their_key"] == 1
    assert (spec["timeout"], spec["retries"]) == ("90m", 2)


def git(url: str, **more: str) -> SubmitOptions:
    return SubmitOptions(uri=url, entry_point="x", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (SubmitOptions(), "no source"),
        (SubmitOptions(uri="x", docker_image="y"), "exclude each other"),
        (SubmitOptions(base_image="x", docker_image="y"), "exclude each other"),
        (SubmitOptions(uri="https://h/r.git"), "needs --entry-point"),
        (git("./nowhere"), "./nowhere is neither a directory here nor"),
        (git("ftp://h/r"), "`ftp` is not a protocol"),
        (git("ftp://u:pw@h:port/r"), "the URL contains a password or token"),
        (git("https://u:pw@h:port/r.git"), "the URL contains a password or token"),
        (
            SubmitOptions(base={"source": {"type": "git", "url": "https://u:pw@h/r"}}),
            "`source.git.url`: the URL contains a password or token",
        ),
        (git("https://h/r.git", git_version="--x"), "option of git"),
        (SubmitOptions(docker_image="x", git_version="v1"), "--git-version belongs to a git"),
        (git(".", git_version="v1"), "'.' is a directory"),
        (SubmitOptions(docker_image="x", entry_point='python "a'), "cannot be split into words"),
        (SubmitOptions(docker_image="x", timeout="90"), "`timeout`"),
        (SubmitOptions(docker_image="x", timeout="0s"), "`timeout`"),
        (SubmitOptions(docker_image="my image"), "'my image' is not an image reference"),
        (SubmitOptions(base={"source": {"type": "image", "image": "a:b:c"}}), "'a:b:c'"),
        (SubmitOptions(docker_image="x", memory="5 stones"), "`resources.memory`"),
        (
            SubmitOptions(base={"overrides": {"args": "x"}}, docker_image="y"),
            "`overrides.args`",
        ),
    ],
)
def test_what_cannot_be_is_refused(options: SubmitOptions, says: str) -> None:
    message = refusal(options)
    assert says in message
    assert "pw@" not in message


def test_a_directory_that_looks_like_a_remote_is_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@b:c").mkdir()
    assert not is_git("a@b:c")
    assert is_git("a@b:d")
