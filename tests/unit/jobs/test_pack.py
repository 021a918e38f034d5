"""Packing code: equal files give equal bytes, and what cannot be packed is named."""

import hashlib
import io
import os
import socket
import tarfile

import pytest

from agent.jobs.pack import pack
from agent.model.errors import InvalidInputError


def fill(folder):
    (folder / "pkg").mkdir(parents=True)
    (folder / "main.py").write_text("print('hello')")
    (folder / "pkg/run.sh").write_text("#!/bin/sh\n")
    (folder / "pkg/run.sh").chmod(0o750)
    (folder / "link").symlink_to("pkg/run.sh")
    (folder / "empty").mkdir()
    return folder


def packed(folder):
    out = io.BytesIO()
    return pack(folder, out), out.getvalue()


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


def test_equal_files_give_equal_bytes_wherever_they_lie(tmp_path):
    first = fill(tmp_path / "a")
    second = fill(tmp_path / "elsewhere" / "b")
    for path in second.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (second / "main.py").chmod(0o600)
    assert packed(first) == packed(second)


def test_digest_and_sizes_are_those_of_the_archive(tmp_path):
    facts, data = packed(fill(tmp_path / "a"))
    assert facts.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert facts.size == len(data)
    assert facts.files == 3
    assert facts.content_size == len("print('hello')") + len("#!/bin/sh\n")


def test_only_names_modes_and_contents_are_kept(tmp_path):
    found = members(packed(fill(tmp_path / "a"))[1])
    assert list(found) == ["empty", "link", "main.py", "pkg", "pkg/run.sh"]
    assert found["pkg/run.sh"].mode == 0o755
    assert found["main.py"].mode == 0o644
    assert found["link"].linkname == "pkg/run.sh"
    assert {(each.uid, each.gid, each.mtime, each.uname) for each in found.values()} == {
        (0, 0, 0, "")
    }


def test_a_changed_byte_changes_the_digest(tmp_path):
    folder = fill(tmp_path / "a")
    before = packed(folder)[0].digest
    (folder / "main.py").write_text("print('hallo')")
    assert packed(folder)[0].digest != before


def test_history_caches_and_environments_stay_behind(tmp_path):
    folder = fill(tmp_path / "a")
    for name in (".git", "__pycache__", ".venv", "wandb", "pkg/__pycache__", "pkg/wandb"):
        (folder / name).mkdir()
        (folder / name / "file").write_text("x")
    names = set(members(packed(folder)[1]))
    assert "pkg/wandb/file" in names
    assert not any(
        part in name.split("/") for name in names for part in (".git", "__pycache__", ".venv")
    )
    assert "wandb" not in names


@pytest.mark.parametrize("target", ["/etc/passwd", "../other", "pkg/../../other"])
def test_a_link_that_leaves_is_named(tmp_path, target):
    folder = fill(tmp_path / "a")
    (folder / "bad").symlink_to(target)
    with pytest.raises(InvalidInputError, match="«bad» is a link out of it"):
        packed(folder)


def test_sockets_and_pipes_are_named(tmp_path):
    folder = fill(tmp_path / "a")
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidInputError, match="«pipe» is a socket, pipe or device"):
        packed(folder)
    (folder / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "sock"))
        with pytest.raises(InvalidInputError, match="«sock» is a socket"):
            packed(folder)


def test_what_is_no_directory_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InvalidInputError, match="file» is a file"):
        packed(file)
    with pytest.raises(InvalidInputError, match="none» does not exist"):
        packed(tmp_path / "none")


def test_a_file_that_shrinks_meanwhile_is_named(tmp_path, monkeypatch):
    folder = fill(tmp_path / "a")
    true = os.fstat

    def larger(descriptor):
        facts = list(true(descriptor))
        facts[6] += 10  # st_size: as it was before somebody cut the file
        return os.stat_result(facts)

    monkeypatch.setattr("agent.jobs.pack.os.fstat", larger)
    with pytest.raises(InvalidInputError, match="became shorter while it was packed"):
        packed(folder)


def test_names_beyond_ascii_and_long_ones_come_back(tmp_path):
    folder = tmp_path / "a"
    name = "ü" * 60 + "/" + "x" * 200
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("x")
    assert name in members(packed(folder)[1])
