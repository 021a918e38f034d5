"""Which files of a directory become contents, and which directories are refused."""

import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from agent.jobs.code_directory import code_contents
from agent.model.errors import InvalidInputError
from agent.model.job.digest import entry_digest
from agent.model.tree import SECRET_NAMES


def paths(folder: Path) -> list[str]:
    return [each.path for each in code_contents(folder).stored]


def test_digests_are_those_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1_000_000)
    (tmp_path / "b").write_bytes(b"")
    found = {each.path: (each.digest, each.size) for each in code_contents(tmp_path).stored}
    assert found == {
        "a": (entry_digest([b"x" * 1_000_000]), 1_000_000),
        "b": (entry_digest([]), 0),
    }


def test_links_within_are_stored_as_what_they_point_at(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "x.py").write_text("x")
    (tmp_path / "alias.py").symlink_to("lib/x.py")
    (tmp_path / "other").symlink_to("lib")
    assert paths(tmp_path) == ["alias.py", "lib/x.py", "other/x.py"]


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("/etc/passwd", "a link out of the directory, to /etc/passwd"),
        ("../outside", "a link out of the directory, to ../outside"),
        ("me@host.1234:1700000000", "a link to nothing, to me@host.1234:1700000000"),
        (".", "a link to a folder that contains it"),
        ("../sub", "a link to a folder that contains it"),
        (".venv", "a link to .venv/, which is not stored"),
        ("made", "a link to made/, which is not stored"),
        ("pipe", "a link to a socket, pipe or device"),
    ],
)
def test_links_that_lead_nowhere_good_are_left_out_and_named(
    tmp_path: Path, target: str, problem: str
) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "main.py").write_text("")
    for environment in (".venv", "made"):
        (root / environment).mkdir()
        (root / environment / "pyvenv.cfg").write_text("home = /usr/bin")
    os.mkfifo(root / "pipe")
    (tmp_path / "outside").write_text("secret")
    link = "sub/link" if target == "../sub" else "link"
    (root / link).symlink_to(target)
    found = code_contents(root)
    assert [each.path for each in found.stored] == ["main.py"]
    assert f"{link} ({problem})" in found.left_out


def test_sockets_and_pipes_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "main.py").write_text("")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        monkeypatch.chdir(tmp_path)
        made.bind("s")
        found = code_contents(tmp_path)
    assert [each.path for each in found.stored] == ["main.py"]
    assert found.left_out == [f"{name} (a socket, pipe or device)" for name in ("pipe", "s")]


@pytest.mark.parametrize(
    ("marker", "stays"),
    [
        ("env/pyvenv.cfg", False),
        ("deep/my env/pyvenv.cfg", False),
        ("conda/conda-meta/history", False),
        ("wandb/anything.txt", False),
        ("demo/wandb/run-20260101_000000-abc/files/config.yaml", False),
        ("demo/wandb/debug.log", False),
        ("demo/wandb/logs/debug-core.log", False),
        ("demo/wandb/offline-run-1-x/run.wandb", False),
        ("demo/wandb/latest-run/x", False),
        ("wandb/__init__.py", True),
        ("demo/wandb/__init__.py", True),
        ("demo/wandb/helpers.py", True),
        ("environment/main.cfg", True),
    ],
)
def test_environments_and_runs_of_the_client_are_left_out_whatever_their_names(
    tmp_path: Path, marker: str, *, stays: bool
) -> None:
    (tmp_path / "main.py").write_text("")
    (tmp_path / marker).parent.mkdir(parents=True)
    (tmp_path / marker).write_text("")
    found = code_contents(tmp_path)
    kept = sorted(["main.py", marker]) if stays else ["main.py"]
    assert [each.path for each in found.stored] == kept
    assert bool(found.left_out) == (not stays and not marker.startswith("wandb/"))


def test_the_clients_link_out_of_its_folder_blocks_nothing(tmp_path: Path) -> None:
    """Its core's log is a link into the user's cache."""
    logs = tmp_path / "demo/wandb/logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to("/nonexistent/cache/core-debug.log")
    (tmp_path / "demo/main.py").write_text("")
    assert paths(tmp_path) == ["demo/main.py"]


def test_a_directory_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with pytest.raises(InvalidInputError, match="holds no file"):
        code_contents(tmp_path)


def test_too_many_files_are_counted_and_their_folder_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(12):
        (tmp_path / "data" / str(number)).write_text("")
    (tmp_path / "main.py").write_text("")
    with pytest.raises(InvalidInputError, match=r"more than 10 files.*in 'data'"):
        code_contents(tmp_path, max_files=10)
    assert len(code_contents(tmp_path, max_files=13).stored) == 13


def test_names_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/\xff", os.O_CREAT))
    with pytest.raises(InvalidInputError, match="is not UTF-8"):
        code_contents(tmp_path)


@pytest.mark.parametrize(
    "size", [64 << 20, pytest.param(3 << 30, marks=pytest.mark.long)], ids=["64 MiB", "3 GiB"]
)
def test_a_large_file_is_hashed_within_little_memory(tmp_path: Path, size: int) -> None:
    """A sparse file: the size is real, the bytes are zeroes."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate(size)
    tracemalloc.start()
    try:
        (content,) = code_contents(tmp_path).stored
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert content.size == size
    assert peak < 8 << 20


def test_50_000_files_are_within_the_limit(tmp_path: Path) -> None:
    for folder in range(50):
        (tmp_path / str(folder)).mkdir()
        for number in range(1000):
            (tmp_path / str(folder) / str(number)).touch()
    assert len(code_contents(tmp_path).stored) == 50_000


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_what_looks_like_a_secret_is_left_out_also_behind_a_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "main.py").write_text("")
    (tmp_path / "sub" / name).mkdir(parents=True)
    (tmp_path / "sub" / name / "file").write_text("canary")
    (tmp_path / name).write_text("canary")
    (tmp_path / "link").symlink_to(name)
    (tmp_path / "folder").symlink_to(f"sub/{name}")
    (tmp_path / f"{name}.py").write_text("no secret")
    stored, withheld, _ = code_contents(tmp_path)
    assert [each.path for each in stored] == sorted([f"{name}.py", "main.py"])
    assert withheld == sorted([name, "folder/file", "link", f"sub/{name}/file"])
    included, withheld, _ = code_contents(tmp_path, lambda path: path == name)
    assert name in [each.path for each in included]
    assert name not in withheld
