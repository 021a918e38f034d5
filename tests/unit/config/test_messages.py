"""What the configuration names and the machine lacks is told, and nothing else."""

from contextlib import nullcontext
from pathlib import Path

import pytest

from agent.config.agent import AgentConfig
from agent.config.schema import missing_inputs

EVERY = {"queues": ["*"]}


def told(document: dict[str, object], **environ: str) -> tuple[str, ...]:
    return missing_inputs(AgentConfig.model_validate(document), environ)


def test_the_defaults_name_nothing_that_could_be_missing() -> None:
    assert told({}) == ()


def test_each_secret_that_cannot_be_read_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("verborgen")
    secrets = {
        "a": {"file": tmp_path / "gone", "as_env": "A", **EVERY},
        "b": {"env": "NOT_SET", "as_env": "B", **EVERY},
        "c": {"file": tmp_path / "there", "as_env": "C", **EVERY},
        "d": {"env": "SET", "as_env": "D", **EVERY},
        "e": {"value": "x", "as_env": "E", **EVERY},
    }
    one, two = told({"secrets": secrets}, SET="verborgen")
    assert one.startswith("`secrets.a`: The secret file ")
    assert "gone cannot be read: No such file or directory." in one
    assert two.startswith("`secrets.b`: The environment variable NOT_SET, ")


def test_secrets_in_lists_and_files_that_are_read_are_looked_at(tmp_path: Path) -> None:
    git = {
        "known_hosts": tmp_path / "hosts",
        "credentials": [{"url": "https://g/", "username": "u", "password": {"env": "NO"}}],
    }
    mounts = {"data": {"source": tmp_path, "target": "/d", **EVERY}}
    said = told({"sources": {"git": git}, "mounts": mounts, "state_dir": tmp_path / "made-later"})
    assert [line.partition(":")[0] for line in said] == [
        "`sources.git.credentials[0].password`",
        "`sources.git.known_hosts`",
    ]
    assert said[1].endswith("hosts does not exist.")


@pytest.mark.parametrize(
    ("name", "accepted"),
    [("team/gpu", True), ("team/gpu pool", True), ("*", True), ("team/", False), ("a/b/c", False),
     ("a b/c", False), ("team/ x", False)],
)  # fmt: skip
def test_queues_are_named_as_they_may_be_called(name: str, accepted: bool) -> None:
    document = {"secrets": {"a": {"value": "x", "as_env": "A", "queues": [name]}}}
    with nullcontext() if accepted else pytest.raises(ValueError, match="queues"):
        AgentConfig.model_validate(document)
