import json
from pathlib import Path

import pytest

from tests.infrastructure import state
from tests.infrastructure.state import GitFacts, PostgresFacts


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state" / "services.json"
    monkeypatch.setenv("LAUNCH_TEST_STATE", str(path))
    return path


def test_without_a_file_nothing_is_up(file: Path) -> None:
    assert state.load() == state.Facts()
    assert not file.exists()


def test_recorded_facts_are_read_back_and_are_private(file: Path) -> None:
    postgres = PostgresFacts(url="postgresql://a:b@127.0.0.1:1/c", started_here=True)
    state.record("postgres", postgres)
    assert state.load().postgres == postgres
    assert file.stat().st_mode & 0o077 == 0


def test_a_service_taken_down_leaves_the_others_recorded(file: Path) -> None:
    postgres = PostgresFacts(url="postgresql://a:b@127.0.0.1:1/c", started_here=False)
    state.record("postgres", postgres)
    state.record("git", _git())
    state.record("git", None)
    assert state.load(file) == state.Facts(postgres=postgres)


def test_what_an_older_version_recorded_in_other_words_is_not_up(file: Path) -> None:
    postgres = PostgresFacts(url="postgresql://a:b@127.0.0.1:1/c", started_here=False)
    state.record("postgres", postgres)
    state.record("git", _git())
    recorded = json.loads(file.read_text())
    del recorded["git"]["ssh_scp_url"]
    file.write_text(json.dumps(recorded))
    assert state.load() == state.Facts(postgres=postgres)


def test_variables_name_service_and_fact() -> None:
    postgres = PostgresFacts(url="postgresql://a:b@127.0.0.1:1/c", started_here=True)
    variables = state.environment(state.Facts(postgres=postgres, git=_git()))
    assert variables["DATABASE_URL"] == postgres.url
    assert variables["LAUNCH_TEST_POSTGRES_STARTED_HERE"] == "1"
    assert variables["LAUNCH_TEST_GIT_COMMITS_V1_0"] == "abc"
    assert "DOCKER_HOST" not in variables


def _git() -> GitFacts:
    texts = dict.fromkeys(GitFacts.__dataclass_fields__, "text")
    return GitFacts(**{**texts, "commits": {"v1.0": "abc"}})
