"""Blobs by digest: wholly there, or not at all."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from agent.control.files.blobs import BlobStore
from agent.control.files.storage import open_folder
from agent.control.files.verifying import DigestMismatchError, TooLargeError
from agent.control.http.bodies import BrokenOffError
from agent.model.errors import InvalidInputError

DATA = b"code" * 1000
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


async def _chunks(data: bytes, *, cut_at: int | None = None, size: int = 1000):
    for start in range(0, len(data), size):
        if cut_at is not None and start >= cut_at:
            raise BrokenOffError("cut")
        yield data[start : start + size]


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
async def blobs(tmp_path):
    return BlobStore(await open_folder(tmp_path), 10_000_000)


async def test_a_blob_comes_back(blobs):
    assert await blobs.size("ann", DIGEST) is None
    assert await blobs.read("ann", DIGEST) is None
    assert await blobs.put("ann", DIGEST, _chunks(DATA)) == 4000
    size, stream = await blobs.read("ann", DIGEST)
    assert (size, b"".join([bytes(chunk) async for chunk in stream])) == (4000, DATA)


async def test_blobs_are_listed_by_age(blobs):
    await blobs.put("ann", DIGEST, _chunks(DATA))
    now = datetime.now(UTC)
    assert await blobs.older_than("ann", now + timedelta(minutes=1)) == [DIGEST]
    assert await blobs.older_than("ann", now - timedelta(minutes=1)) == []
    assert await blobs.older_than("bob", now + timedelta(minutes=1)) == []


async def test_an_entity_does_not_see_the_blobs_of_another(blobs):
    await blobs.put("ann", DIGEST, _chunks(DATA))
    assert await blobs.size("bob", DIGEST) is None


async def test_storing_again_reads_to_the_end_and_changes_nothing(blobs, tmp_path):
    await blobs.put("ann", DIGEST, _chunks(DATA))
    assert await blobs.put("ann", DIGEST, _chunks(DATA)) == 4000
    assert len(_files(tmp_path)) == 1


@pytest.mark.parametrize("length", [4000, 12_000_000])
async def test_a_cut_upload_leaves_nothing(tmp_path, length):
    data = b"x" * length
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blobs = BlobStore(await open_folder(tmp_path), 20_000_000)
    with pytest.raises(BrokenOffError):
        await blobs.put("ann", digest, _chunks(data, cut_at=length // 2, size=1000))
    assert _files(tmp_path) == []


async def test_a_cancelled_upload_leaves_nothing(blobs, tmp_path):
    began = asyncio.Event()

    async def endless():
        yield b"x" * 6_000_000
        began.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(blobs.put("ann", DIGEST, endless()))
    await began.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    for _ in range(200):
        if not _files(tmp_path):
            break
        await asyncio.sleep(0.01)
    assert _files(tmp_path) == []


async def test_other_bytes_than_promised_are_refused(blobs, tmp_path):
    with pytest.raises(DigestMismatchError, match=DIGEST):
        await blobs.put("ann", DIGEST, _chunks(b"else"))
    assert _files(tmp_path) == []


async def test_too_many_bytes_are_refused(tmp_path):
    blobs = BlobStore(await open_folder(tmp_path), 2000)
    with pytest.raises(TooLargeError, match="2000"):
        await blobs.put("ann", DIGEST, _chunks(DATA))
    assert _files(tmp_path) == []


async def test_a_deleted_blob_is_gone(blobs):
    await blobs.put("ann", DIGEST, _chunks(DATA))
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert await blobs.delete_old("ann", DIGEST, later)
    assert await blobs.delete_old("ann", DIGEST, later)
    assert await blobs.size("ann", DIGEST) is None


async def test_a_name_that_is_no_digest_is_refused(blobs):
    with pytest.raises(InvalidInputError, match="not a digest"):
        await blobs.size("ann", "sha256:../../etc")


async def test_what_a_killed_upload_left_is_swept_at_the_next_start(tmp_path):
    (tmp_path / "blobs" / "ann").mkdir(parents=True)
    staged = tmp_path / "blobs" / "ann" / f"{'a' * 64}#1"
    staged.write_bytes(b"half")
    kept = tmp_path / "blobs" / "ann" / ("b" * 64)
    kept.write_bytes(b"whole")
    await open_folder(tmp_path)
    assert _files(tmp_path) == [kept]


@pytest.mark.parametrize("again", ["looked up", "stored"])
async def test_a_blob_that_somebody_counts_on_stays(blobs, again):
    """Who finds it there does not send it, and submits what names it a moment later."""
    await blobs.put("ann", DIGEST, _chunks(DATA))
    before = datetime.now(UTC) + timedelta(minutes=1)
    assert await blobs.older_than("ann", before) == [DIGEST]
    future = before + timedelta(minutes=1)
    blobs._clock = lambda: future
    if again == "looked up":
        assert await blobs.size("ann", DIGEST) == 4000
    else:
        await blobs.put("ann", DIGEST, _chunks(DATA))
    assert not await blobs.delete_old("ann", DIGEST, before)
    assert await blobs.size("ann", DIGEST) == 4000
    assert await blobs.older_than("ann", before) == []


async def test_who_asks_while_a_blob_goes_hears_that_it_is_gone(blobs):
    await blobs.put("ann", DIGEST, _chunks(DATA))
    later = datetime.now(UTC) + timedelta(minutes=1)
    going = asyncio.create_task(blobs.delete_old("ann", DIGEST, later))
    await asyncio.sleep(0)
    assert await blobs.size("ann", DIGEST) is None
    assert await going
