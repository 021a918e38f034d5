"""The rules by which files are cut, and the digests of the parts."""

import base64
import hashlib
from pathlib import Path

import pytest

from agent.model.errors import InvalidInputError
from agent.model.job.digest import entry_digest
from agent.remote.artifacts.contents import Content, PartSizes, parts_input, split_parts

GIB = 1 << 30
SMALL = PartSizes(threshold=10, size=4)


@pytest.mark.parametrize(
    ("size", "count", "part"),
    [
        (0, 0, 100 << 20),
        (2 * GIB - 1, 0, 100 << 20),
        (2 * GIB, 21, 100 << 20),
        (21 * (100 << 20), 21, 100 << 20),
        (21 * (100 << 20) + 1, 22, 100 << 20),
        # From 10,000 parts on the parts grow, in blocks of 4096 bytes.
        (10_000 * (100 << 20) - 1, 10_000, 100 << 20),
        (10_000 * (100 << 20) + 1, 10_000, (100 << 20) + 4096),
        (5 << 40, 10_000, 549_756_928),
    ],
)
def test_sizes_are_those_of_w_and_b_s_client(size: int, count: int, part: int) -> None:
    rules = PartSizes()
    assert (rules.count(size), rules.size_for(size)) == (count, part)


def test_parts_are_those_that_w_and_b_s_client_announced() -> None:
    """Recorded from 0.31.0 for 2 GiB and one byte, all zero: 21 parts, the first and the last."""
    size, rules = (2 << 30) + 1, PartSizes()
    part = rules.size_for(size)
    last = size - 20 * part
    assert rules.count(size) == 21
    assert hashlib.md5(bytes(part)).hexdigest() == "2f282b84e7e608d5852449ed940bfc51"
    assert hashlib.md5(bytes(last)).hexdigest() == "ac0a2e2c9f97a41afa263f7f8bbd571d"


def content(file: Path, data: bytes) -> Content:
    file.write_bytes(data)
    return Content("data/big", entry_digest([data]), len(data), str(file))


async def test_parts_follow_each_other_and_know_their_digests(tmp_path: Path) -> None:
    parts = await split_parts(content(tmp_path / "f", b"0123456789"), SMALL)
    assert [(part.offset, part.size) for part in parts] == [(0, 4), (4, 4), (8, 2)]
    assert parts_input(parts) == [
        {"partNumber": number, "hexMD5": hashlib.md5(piece).hexdigest()}
        for number, piece in ((1, b"0123"), (2, b"4567"), (3, b"89"))
    ]
    assert base64.b64decode(parts[2].digest) == hashlib.md5(b"89").digest()


async def test_small_files_and_bytes_go_whole(tmp_path: Path) -> None:
    assert await split_parts(content(tmp_path / "f", b"012345678"), SMALL) == ()
    data = b"0123456789"
    assert await split_parts(Content("c", entry_digest([data]), len(data), data), SMALL) == ()


@pytest.mark.parametrize("other", [b"0123456780", b"012345678"])
async def test_a_file_that_changed_since_it_was_hashed_is_told(
    tmp_path: Path, other: bytes
) -> None:
    promised = content(tmp_path / "f", b"0123456789")
    (tmp_path / "f").write_bytes(other)
    with pytest.raises(InvalidInputError, match="'data/big' changed"):
        await split_parts(promised, SMALL)


async def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    promised = content(tmp_path / "f", b"0123456789")
    (tmp_path / "f").unlink()
    with pytest.raises(InvalidInputError, match="'data/big' cannot be read any more"):
        await split_parts(promised, SMALL)


async def test_more_than_a_store_takes_is_refused(tmp_path: Path) -> None:
    rules = PartSizes(threshold=10, size=4, largest=10)
    with pytest.raises(InvalidInputError, match="'data/big' has 11 bytes; 10 is the most"):
        await split_parts(content(tmp_path / "f", b"0123456789a"), rules)
