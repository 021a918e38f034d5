"""From flags to a launch spec, and what is refused on the way."""

from pathlib import Path

import pytest

from agent.jobs.author import Wishes, author, is_git
from agent.model.errors import InvalidInputError


def refusal(wishes: Wishes) -> str:
    with pytest.raises(InvalidInputError) as caught:
        author(wishes)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_directory_is_packed_later(tmp_path: Path) -> None:
    made = author(Wishes(uri=str(tmp_path), entry_point='python "my job.py" --x', name="n"))
    assert made.folder == tmp_path
    assert made.spec == {"name": "n", "overrides": {"entry_point": ["python", "my job.py", "--x"]}}


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example/org/repo.git",
        "https://user@git.example/org/repo.git",
        "https://git.example:8443/user@org/repo.git",
        "ssh://git@git.example/org/repo.git",
        "git@git.example:org/repo.git",
        "git@git.example:/srv/repo.git",
        "file:///srv/repo",
    ],
)
def test_git_urls_of_every_form(url: str) -> None:
    made = author(Wishes(uri=url, git_version="v1", entry_point="python a.py"))
    assert made.folder is None
    assert made.spec["source"] == {"type": "git", "url": url, "ref": "v1"}


def test_an_image_stands_where_wandbs_clients_look_for_it() -> None:
    spec = author(Wishes(docker_image="a/b:1", args=("--lr", "1"))).spec
    assert spec["source"] == {"type": "image", "image": "a/b:1"}
    assert spec["docker"] == {"docker_image": "a/b:1"}
    assert spec["overrides"] == {"args": ["--lr", "1"]}


def test_flags_win_over_the_spec_they_start_from() -> None:
    base = {
        "resource": "local-process",
        "overrides": {"run_config": {"a": 1}, "entry_point": ["x"]},
        "name": "old",
        "their_key": 1,
    }
    made = author(
        Wishes(
            uri="https://h/r.git",
            base=base,
            name="new",
            resource="local-container",
            timeout="90m",
            retries=2,
            on_lost="retry",
            memory="2GiB",
            gpus=1,
            resource_args={"local-container": {"m": "1g"}},
        )
    )
    assert made.spec["name"] == "new"
    assert made.spec["resource"] == "local-container"
    assert made.spec["overrides"] == {"run_config": {"a": 1}, "entry_point": ["x"]}
    assert made.spec["resources"] == {"memory": "2GiB", "gpus": 1}
    assert made.spec["their_key"] == 1
    assert (made.spec["timeout"], made.spec["retries"]) == ("90m", 2)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        (Wishes(), "no source"),
        (Wishes(uri="x", docker_image="y"), "exclude each other"),
        (Wishes(base_image="x", docker_image="y"), "exclude each other"),
        (Wishes(uri="https://h/r.git"), "needs --entry-point"),
        (Wishes(uri="./nowhere", entry_point="x"), "./nowhere is neither a directory here nor"),
        (Wishes(uri="ftp://h/r", entry_point="x"), "`ftp` is not a protocol"),
        (Wishes(uri="ftp://u:pw@h:port/r", entry_point="x"), "the URL holds a password"),
        (Wishes(uri="https://u:pw@h/r.git", entry_point="x"), "the URL holds a password"),
        (Wishes(uri="https://:pw@h/r.git", entry_point="x"), "the URL holds a password"),
        (Wishes(uri="https://u:pw@h:port/r.git", entry_point="x"), "the URL holds a password"),
        (Wishes(uri="ssh://u:pw@h/r.git", entry_point="x"), "the URL holds a password"),
        (Wishes(base={"source": {"type": "git", "url": "https://u:pw@h/r"}}), "`source.url`: the"),
        (Wishes(uri="https://h/r.git", git_version="--x", entry_point="x"), "option of git"),
        (Wishes(docker_image="x", git_version="v1"), "--git-version belongs to a git repository"),
        (Wishes(uri=".", git_version="v1", entry_point="x"), "'.' is a directory"),
        (Wishes(docker_image="x", entry_point='python "a'), "cannot be split into words"),
        (Wishes(docker_image="x", timeout="90"), "`timeout`"),
        (Wishes(docker_image="x", timeout="0s"), "`timeout`"),
        (Wishes(docker_image="my image"), "'my image' is no image reference"),
        (Wishes(base={"source": {"type": "image", "image": "a:b:c"}}), "'a:b:c'"),
        (Wishes(docker_image="x", memory="5 stones"), "`resources.memory`"),
        (Wishes(base={"overrides": {"args": "x"}}, docker_image="y"), "`overrides.args`"),
    ],
)
def test_what_cannot_be_is_refused(wishes: Wishes, says: str) -> None:
    told = refusal(wishes)
    assert says in told
    assert "pw@" not in told


def test_a_file_is_no_directory_and_the_remedy_is_told(tmp_path: Path) -> None:
    script = tmp_path / "main.py"
    script.write_text("")
    told = refusal(Wishes(uri=str(script), entry_point="x"))
    assert "is a file, not a directory" in told
    assert "python main.py" in told


def test_a_directory_that_looks_like_a_remote_is_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@b:c").mkdir()
    assert not is_git("a@b:c")
    assert is_git("a@b:d")
