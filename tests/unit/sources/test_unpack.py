"""Archives that nobody vouches for: what is unpacked, and what is refused by name."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.sources.unpack import Limits, unpack
from agent.system.threads import Stop, StoppedError

LIMITS = Limits(max_bytes=10 * 1024**2, max_files=100)


def member(name, data=b"", *, kind=tarfile.REGTYPE, link="", mode=0o644, size=None):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    info.size = len(data) if size is None else size
    return info, data


def archive(tmp_path, *members, fmt=tarfile.PAX_FORMAT):
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz", format=fmt) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path.open("rb")


def refused(tmp_path, *members, limits=LIMITS):
    into = tmp_path / "into"
    into.mkdir()
    with archive(tmp_path, *members) as file, pytest.raises(JobError) as caught:
        unpack(file, into, limits, Stop())
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"into", "archive.tar.gz"}
    return caught.value


def test_files_folders_and_inner_links_arrive(tmp_path):
    into = tmp_path / "into"
    into.mkdir()
    members = (
        member("deep/er/main.py", b"print()", mode=0o4777),
        member("data", b"x" * 512),
        member("empty", kind=tarfile.DIRTYPE, mode=0o000),
        member("latest", kind=tarfile.SYMTYPE, link="deep/er/main.py"),
        member("deep/up", kind=tarfile.SYMTYPE, link="../data"),
    )
    with archive(tmp_path, *members) as file:
        assert unpack(file, into, LIMITS, Stop()) == 5
    assert (into / "deep/er/main.py").read_bytes() == b"print()"
    assert (into / "deep/er/main.py").stat().st_mode & 0o7777 == 0o755
    assert (into / "data").stat().st_mode & 0o7777 == 0o644
    assert (into / "empty").stat().st_mode & 0o7777 == 0o755
    assert (into / "latest").readlink() == Path("deep/er/main.py")
    assert (into / "deep/up").read_bytes() == b"x" * 512


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "a/.."])
def test_names_that_climb_are_refused(tmp_path, name):
    error = refused(tmp_path, member(name, b"x"))
    assert error.cause is Cause.SOURCE_INVALID
    assert "points out of the folder" in error.message


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("l", "/etc/passwd"),
        ("l", "../outside"),
        ("a/l", "../../outside"),
        ("l", ""),
    ],
)
def test_links_that_leave_are_refused(tmp_path, name, link):
    error = refused(tmp_path, member(name, kind=tarfile.SYMTYPE, link=link))
    assert "is a link" in error.message


def test_a_chain_of_links_counts_by_where_it_arrives(tmp_path):
    error = refused(
        tmp_path,
        member("a/b/c", kind=tarfile.DIRTYPE),
        member("a/b/up", kind=tarfile.SYMTYPE, link="../.."),
        member("leave", kind=tarfile.SYMTYPE, link="a/b/up/../x"),
    )
    assert "`leave` is a link out of the folder" in error.message


def test_nothing_is_written_behind_a_link(tmp_path):
    error = refused(tmp_path, member("d", kind=tarfile.SYMTYPE, link="."), member("d/file", b"x"))
    assert "occurs as a folder and as something else" in error.message


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
    ],
)
def test_other_kinds_are_refused_by_name(tmp_path, kind, word):
    error = refused(tmp_path, member("a", b""), member("x", kind=kind, link="a"))
    assert word in error.message
    assert "`x`" in error.message


def test_one_name_twice_is_refused(tmp_path):
    assert "`a` occurs twice" in refused(tmp_path, member("a", b"1"), member("a", b"2")).message


def test_a_file_in_a_folder_s_place_is_refused(tmp_path):
    assert "occurs twice" in refused(tmp_path, member("a/b", b"1"), member("a", b"2")).message


@pytest.mark.parametrize("name", ["x" * 256, "/".join(["d"] * 201), "/".join(["d" * 100] * 60)])
def test_names_that_are_too_long_are_refused(tmp_path, name):
    assert "is too long" in refused(tmp_path, member(name, b"x")).message


def test_too_many_entries_are_refused(tmp_path):
    members = [member(f"f{number}") for number in range(6)]
    limits = Limits(max_bytes=1000, max_files=5)
    assert "more than 5 entries" in refused(tmp_path, *members, limits=limits).message


def test_a_bomb_stops_before_it_is_written(tmp_path):
    """Ten GiB declared: refused by the header alone."""
    bomb = tmp_path / "archive.tar.gz"
    info = tarfile.TarInfo("bomb")
    info.size = 10 * 1024**3
    with gzip.open(bomb, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.write(b"\0" * 1024 * 1024)
    into = tmp_path / "into"
    into.mkdir()
    with bomb.open("rb") as file, pytest.raises(JobError) as caught:
        unpack(file, into, Limits(4 * 1024**3, 10), Stop())
    assert "beyond what is allowed (10.0 GiB" in caught.value.message
    assert list(into.iterdir()) == []


def test_a_ratio_that_no_code_has_is_refused(tmp_path):
    limits = Limits(max_bytes=10**9, max_files=10, max_ratio=10, free_bytes=100_000)
    error = refused(tmp_path, member("zeros", bytes(2_000_000)), limits=limits)
    assert "beyond what is allowed" in error.message


def test_a_huge_extended_header_is_never_held_in_memory(tmp_path):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 3 * 1024**2
    bomb = tmp_path / "archive.tar.gz"
    with gzip.open(bomb, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(3 * 1024**2))
    into = tmp_path / "into"
    into.mkdir()
    with bomb.open("rb") as file, pytest.raises(JobError, match="header is larger than 1 MiB"):
        unpack(file, into, LIMITS, Stop())


def test_skipped_content_counts_too(tmp_path):
    """An entry of an unknown kind with a size is skipped; that must not go on without end."""
    huge = tarfile.TarInfo("pad")
    huge.type, huge.size = b"9", 2_000_000
    bomb = tmp_path / "archive.tar.gz"
    with gzip.open(bomb, "wb") as file:
        file.write(huge.tobuf(tarfile.GNU_FORMAT) + bytes(3_000_000))
    into = tmp_path / "into"
    into.mkdir()
    limits = Limits(max_bytes=1000, max_files=1, free_bytes=1000)
    with bomb.open("rb") as file, pytest.raises(JobError):
        unpack(file, into, limits, Stop())


@pytest.mark.parametrize("content", [b"", b"not gzip", gzip.compress(b"not a tar archive" * 100)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(content)
    into = tmp_path / "into"
    into.mkdir()
    with path.open("rb") as file, pytest.raises(JobError, match=r"not a complete \.tar\.gz"):
        unpack(file, into, LIMITS, Stop())


def test_a_cut_archive_is_refused(tmp_path):
    with archive(tmp_path, member("a", os.urandom(50_000))) as file:
        whole = file.read()
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(whole[: len(whole) // 2])
    into = tmp_path / "into"
    into.mkdir()
    with path.open("rb") as file, pytest.raises(JobError):
        unpack(file, into, LIMITS, Stop())


def test_it_stops_when_asked(tmp_path):
    stop = Stop()
    stop.set()
    into = tmp_path / "into"
    into.mkdir()
    with archive(tmp_path, member("a", b"x")) as file, pytest.raises(StoppedError):
        unpack(file, into, LIMITS, stop)


def test_a_full_disk_is_called_so(tmp_path):
    """/dev/full refuses every byte, as a full disk does."""
    from agent.sources.unpack import _disk_error

    with pytest.raises(OSError) as caught, Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
    assert _disk_error(caught.value).cause is Cause.DISK_FULL
    assert _disk_error(PermissionError(13, "Permission denied")).cause is Cause.SOURCE_INVALID


names = st.text(st.sampled_from("ab./\0\\~"), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(names, st.sampled_from(["f", "d", "l"]), names), max_size=6))
def test_nothing_is_ever_written_outside(tmp_path_factory, entries):
    base = tmp_path_factory.mktemp("fuzz")
    into = base / "into"
    into.mkdir()
    kinds = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE}
    members = [
        member(name.replace("\0", ""), b"x" if kind == "f" else b"", kind=kinds[kind],
               link=link.replace("\0", "") if kind == "l" else "")
        for name, kind, link in entries
    ]  # fmt: skip
    with archive(base, *members) as file:
        try:
            unpack(file, into, LIMITS, Stop())
        except JobError:
            pass
        else:
            for path in into.rglob("*"):
                assert Path(os.path.realpath(path)).is_relative_to(into)
    assert {path.name for path in base.iterdir()} == {"into", "archive.tar.gz"}
