"""What decides a build: contents and names, not times."""

import os
import socket

import pytest

from agent.builders.image.content_key import content_key, tree_digest
from agent.model.errors import JobError
from agent.ports.builder import BuildRequest
from agent.system.tasks import Stop, StoppedError


def request(root, context=None, dockerfile=None):
    return BuildRequest(
        root=root, context=context or root, dockerfile=dockerfile, base_image=None, python=None,
        command=(), user_id=1000, title="t", entity="team", queue="q", labels={},
    )  # fmt: skip


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "root"
    (made / "pkg").mkdir(parents=True)
    (made / "main.py").write_text("x")
    (made / "pkg/run").write_text("y")
    (made / "link").symlink_to("main.py")
    return made


def digest(root, everything=False):
    return tree_digest(root, everything=everything, stop=Stop())


def test_times_do_not_count(root):
    before = digest(root)
    os.utime(root / "main.py", (1, 1))
    (root / "main.py").chmod(0o600)
    assert digest(root) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "main.py").write_text("z"),
        lambda root: (root / "main.py").chmod(0o755),
        lambda root: (root / "main.py").rename(root / "other.py"),
        lambda root: (root / "new").mkdir(),
        lambda root: ((root / "link").unlink(), (root / "link").symlink_to("pkg/run")),
        lambda root: ((root / "link").unlink(), (root / "link").write_text("main.py")),
    ],
)
def test_everything_else_counts(root, change):
    before = digest(root)
    change(root)
    assert digest(root) != before


def test_what_is_never_sent_counts_only_on_request(root):
    before, before_all = digest(root), digest(root, everything=True)
    (root / "wandb").mkdir()
    (root / "wandb/log").write_text("")
    assert digest(root) == before
    assert digest(root, everything=True) != before_all


def test_what_is_no_file_is_named(root):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "sock"))
        with pytest.raises(JobError, match="'sock' is neither"):
            digest(root)


def test_what_cannot_be_read_is_named(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("agent.builders.image.content_key._file_digest", refuse)
    with pytest.raises(JobError, match=r"'main\.py' cannot be read \(Permission denied\)"):
        digest(root)


def test_it_stops_when_asked(root):
    stop = Stop()
    stop.set()
    with pytest.raises(StoppedError):
        tree_digest(root, everything=False, stop=stop)


def test_keys_tell_parts_apart_and_forget_their_order():
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key({"a": "1"}) != content_key({"a": 1})
