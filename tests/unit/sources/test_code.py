"""The code source: an archive by digest, checked byte for byte before it is unpacked."""

import hashlib
import io
import tarfile
from dataclasses import dataclass

import pytest

from agent.config.execution import CodeConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.spec import CodeSource
from agent.sources.code import CodeFetcher
from agent.testing.builder_suite import RecordingLog


@dataclass(frozen=True)
class Facts:
    digest: str
    size: int


def pack(folder, out):
    """As `tar -czf` of a submitter does."""
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.add(folder, ".")
    data = out.getvalue()
    return Facts(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


class Blobs:
    """A blob store that sends what it was told to, in pieces."""

    def __init__(self, data, piece=1000):
        self.data, self.piece, self.asked = data, piece, []

    async def read_blob(self, entity, digest):
        self.asked.append((entity, digest))
        for start in range(0, len(self.data), self.piece):
            yield self.data[start : start + self.piece]


@pytest.fixture
def packed(tmp_path):
    folder = tmp_path / "mine"
    (folder / "pkg").mkdir(parents=True)
    (folder / "main.py").write_text("print('hello')")
    (folder / "pkg/data.bin").write_bytes(bytes(range(256)) * 10_000)
    out = io.BytesIO()
    return pack(folder, out), out.getvalue()


def source(packed, **changes):
    facts, _ = packed
    return CodeSource(**{"digest": facts.digest, "size": facts.size, "name": "mine", **changes})


async def fetch(blobs, what, tmp_path, threads, config=None):
    into = tmp_path / "into"
    into.mkdir()
    fetcher = CodeFetcher(blobs, config or CodeConfig(), threads)
    return await fetcher.fetch(what, "team", into, RecordingLog())


async def test_what_was_packed_arrives(packed, tmp_path, threads):
    blobs = Blobs(packed[1])
    tree = await fetch(blobs, source(packed), tmp_path, threads)
    assert (tree.root / "main.py").read_text() == "print('hello')"
    assert (tree.root / "pkg/data.bin").stat().st_size == 2_560_000
    assert tree.identity == f"code@{packed[0].digest}"
    assert tree.commit is None
    assert blobs.asked == [("team", packed[0].digest)]
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "into"}


async def test_large_downloads_pass_in_batches(tmp_path, threads):
    folder = tmp_path / "mine"
    folder.mkdir()
    # Nothing that compresses: the archive is larger than one batch.
    (folder / "noise").write_bytes(
        b"".join(hashlib.sha512(b"%d" % n).digest() for n in range(40_000))
    )
    out = io.BytesIO()
    facts = pack(folder, out)
    assert facts.size > 2 * 1024**2
    tree = await fetch(Blobs(out.getvalue(), 70_000), source((facts, b"")), tmp_path, threads)
    assert (tree.root / "noise").read_bytes() == (folder / "noise").read_bytes()


async def test_other_bytes_under_the_digest_are_refused(packed, tmp_path, threads):
    data = bytearray(packed[1])
    data[-1] ^= 1
    with pytest.raises(JobError, match="what was received has the digest sha256:") as caught:
        await fetch(Blobs(bytes(data)), source(packed), tmp_path, threads)
    assert caught.value.cause is Cause.SOURCE_INVALID
    assert list((tmp_path / "into").iterdir()) == []


async def test_a_cut_download_is_the_network_s_fault(packed, tmp_path, threads):
    with pytest.raises(JobError, match="ended after 100 of") as caught:
        await fetch(Blobs(packed[1][:100]), source(packed), tmp_path, threads)
    assert caught.value.cause is Cause.SOURCE_UNREACHABLE


async def test_more_than_was_declared_is_refused_while_it_comes(packed, tmp_path, threads):
    with pytest.raises(JobError, match="larger than the"):
        await fetch(Blobs(packed[1] + b"more"), source(packed), tmp_path, threads)


async def test_more_than_the_agent_takes_is_refused_before_a_byte(packed, tmp_path, threads):
    blobs = Blobs(packed[1])
    with pytest.raises(JobError, match=r"sources\.code\.max_size"):
        await fetch(blobs, source(packed), tmp_path, threads, CodeConfig(max_size=10))
    assert blobs.asked == []


async def test_a_missing_blob_keeps_the_port_s_error(packed, tmp_path, threads):
    class Missing(Blobs):
        async def read_blob(self, entity, digest):
            raise JobError(Cause.SOURCE_NOT_FOUND, "it is not there")
            yield b""

    with pytest.raises(JobError, match="it is not there"):
        await fetch(Missing(b""), source(packed), tmp_path, threads)


async def test_a_folder_that_cannot_be_written_is_told(packed, tmp_path, threads):
    fetcher = CodeFetcher(Blobs(packed[1]), CodeConfig(), threads)
    with pytest.raises(JobError, match="cannot be stored"):
        await fetcher.fetch(source(packed), "team", tmp_path / "missing" / "into", RecordingLog())
