"""Large files go in parts to servers that give addresses for parts."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from agent.model.errors import InvalidInputError, PermissionDeniedError, ServerError
from agent.model.job.digest import entry_digest
from agent.remote.artifacts.contents import Content, PartSizes
from agent.remote.artifacts.transfers import Transfers
from agent.remote.artifacts.upload import ArtifactUploader, NewVersion, StoredVersion
from agent.remote.client import ControlPlaneClient, Endpoint
from tests.unit.jobs.plane import serving
from tests.unit.remote.artifacts.part_store import PartStore

DATA = bytes(range(256)) * 40  # 10,240 bytes, no two parts alike
RULES = PartSizes(threshold=4000, size=3000)


async def no_wait(_: float) -> None:
    """Between two tries, a test waits for nothing."""


@pytest.fixture
async def far() -> AsyncIterator[PartStore]:
    async with serving(PartStore()) as made:
        yield made


@pytest.fixture
async def uploads(far: PartStore) -> AsyncIterator[Callable[[PartSizes], ArtifactUploader]]:
    client = ControlPlaneClient(Endpoint(far.url, "k" * 40), sleep=no_wait)
    async with client, Transfers(sleep=no_wait) as transfers:
        yield lambda rules: ArtifactUploader(client, transfers, part_sizes=rules)


@pytest.fixture
def store(
    uploads: Callable[[PartSizes], ArtifactUploader], tmp_path: Path
) -> Callable[..., asyncio.Future[StoredVersion]]:
    async def run(rules: PartSizes = RULES, **files: bytes) -> StoredVersion:
        contents = [file(tmp_path, name, data) for name, data in files.items()]
        async with uploads(rules) as made:
            return await made.store(NewVersion("team", "p", "dataset", "big", contents))

    return run


def file(folder: Path, name: str, data: bytes) -> Content:
    (folder / name).write_bytes(data)
    return Content(name, entry_digest([data]), len(data), str(folder / name))


async def test_a_large_file_arrives_in_parts_and_a_small_one_whole(far, store) -> None:
    stored = await store(big=DATA, small=b"few bytes")
    assert (stored.action, stored.sent_files) == ("Created", 2)
    assert far.files(far.committed("big")[0]) == {"big": DATA, "small": b"few bytes"}
    assert sorted(far.seen) == [1, 2, 3, 4]
    assert sorted(far.puts) == ["small", "wandb_manifest.json"]
    assert sorted(int(each["Content-Length"]) for each in far.part_headers) == [1240] + [3000] * 3
    # The signature may cover the media type: none was asked for, so none is sent.
    assert all("Content-Type" not in each for each in far.part_headers)


async def test_the_same_content_is_not_sent_again(far, store) -> None:
    await store(big=DATA)
    stored = await store(big=DATA, more=b"x")
    assert (stored.action, stored.sent_files) == ("Updated", 1)
    assert sorted(far.seen) == [1, 2, 3, 4]


async def test_our_control_plane_gets_it_in_one_request(far, store) -> None:
    far.features.append("LAUNCH_LEASES")
    await store(big=DATA)
    asked = next(given for name, given in far.calls if name == "CreateArtifactFiles")
    assert "uploadPartsInput" not in asked["input"]["artifactFiles"][0]
    assert (far.seen, far.puts) == ([], ["big", "wandb_manifest.json"])


async def test_a_server_that_gives_no_places_for_parts_gets_it_whole(far, store) -> None:
    far._parts_of = lambda _: None
    await store(big=DATA)
    assert (far.seen, far.puts) == ([], ["big", "wandb_manifest.json"])


@pytest.mark.parametrize("fault", [0, 503])
async def test_a_part_that_is_cut_is_sent_again_alone(far, store, fault: int) -> None:
    far.faults[2] = [fault, fault]
    await store(big=DATA)
    assert sorted(far.seen) == [1, 2, 2, 2, 3, 4]
    assert far.files(far.committed("big")[0])["big"] == DATA


@pytest.mark.parametrize("status", [403, 400])
async def test_an_address_that_expired_is_renewed_and_the_other_parts_are_kept(
    far, store, status: int
) -> None:
    far.faults[4] = [status]
    await store(big=DATA)
    assert sorted(far.seen) == [1, 2, 3, 4, 4]
    assert len(far.uploads) == 1
    assert far.files(far.committed("big")[0])["big"] == DATA


async def test_a_new_upload_of_the_store_gets_all_parts(far, store) -> None:
    far.same_upload = False
    far.faults[4] = [403]
    await store(big=DATA)
    assert sorted(far.seen) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert sorted(far.uploads["upload-1"].tags) == [1, 2, 3, 4]


async def test_the_address_of_a_whole_file_is_renewed_too(far, store) -> None:
    """On a slow link it may wait for hours behind the others of its batch."""
    far.expired = {"small": 1}
    await store(small=b"few bytes", other=b"x")
    assert far.puts.count("small") == 2
    assert far.operations().count("CreateArtifactFiles") == 2
    assert far.files(far.committed("big")[0])["small"] == b"few bytes"


async def test_an_address_of_a_whole_file_that_is_always_refused_is_told(far, store) -> None:
    far.expired = {"small": 9}
    with pytest.raises(PermissionDeniedError, match=r"403 Forbidden.*Request has expired"):
        await store(small=b"few bytes")
    assert far.puts == ["small"] * 2
    assert far.committed("big") == []


async def test_an_address_that_is_always_refused_is_told(far, store) -> None:
    far.faults[1] = [403] * 9
    with pytest.raises(PermissionDeniedError, match=r"403 Forbidden.*Request has expired"):
        await store(big=DATA)
    assert far.seen.count(1) == 4
    assert far.committed("big") == []


async def test_another_client_may_have_stored_it_meanwhile(far, store) -> None:
    far.faults[1] = [403]
    first = far._parts_of

    def parts(asked):
        far.blobs[asked["md5"]] = DATA
        return first(asked)

    far._parts_of = parts
    await store(big=DATA)
    assert "CompleteMultipartUploadArtifact" not in far.operations()


async def test_a_file_that_changes_while_it_is_sent_never_becomes_whole(
    far, store, tmp_path: Path
) -> None:
    first = far._parts_of

    def parts(asked):
        (tmp_path / "big").write_bytes(DATA[:-1] + b"!")
        return first(asked)

    far._parts_of = parts
    with pytest.raises(InvalidInputError, match="'big' changed while it was being sent"):
        await store(big=DATA)
    assert 4 not in far.uploads["upload-0"].tags
    assert "CompleteMultipartUploadArtifact" not in far.operations()
    assert far.committed("big") == []


async def test_places_that_do_not_fit_the_parts_are_the_server_s_fault(far, store) -> None:
    first = far._parts_of

    def parts(asked):
        made = first(asked)
        made["uploadUrlParts"].pop()
        return made

    far._parts_of = parts
    with pytest.raises(ServerError, match="URLs for 3 parts of 'big', which has 4"):
        await store(big=DATA)


async def test_a_store_without_tags_is_told(far, store) -> None:
    far.with_tags = False
    with pytest.raises(ServerError, match="took a part of 'big' without an ETag"):
        await store(big=DATA)


async def test_the_media_type_that_the_server_asks_for_is_sent(far, store) -> None:
    first = far.on_create_artifact_files

    def answer(variables):
        made = first(variables)
        made["createArtifactFiles"]["files"]["edges"][0]["node"]["uploadHeaders"] = [
            "Content-MD5:of-the-whole", "Content-Type:application/x",
        ]  # fmt: skip
        return made

    far.on_create_artifact_files = answer
    await store(big=DATA)
    assert {each["Content-Type"] for each in far.part_headers} == {"application/x"}
    assert "of-the-whole" not in {each["Content-MD5"] for each in far.part_headers}


async def test_large_files_are_announced_in_requests_of_bounded_size(far, store) -> None:
    """1,000 parts of the one and 150 of each of the others are three requests, not one."""
    rules = PartSizes(threshold=150, size=1)
    files = {name: name.encode() * size for name, size in (("a", 1000), ("b", 150), ("c", 150))}
    far._parts_of = lambda _: None
    await store(rules, **files, d=b"d")
    asked = [given["input"] for name, given in far.calls if name == "CreateArtifactFiles"]
    named = [[each["name"] for each in given["artifactFiles"]] for given in asked]
    assert named == [["a"], ["b"], ["c", "d"]]


async def test_memory_is_bounded_whatever_the_size(far, uploads, tmp_path: Path) -> None:
    """A sparse file of 128 MiB; the far end, in the same process, forgets what it hashes."""
    far.forgets = True
    size = 128 << 20
    with (tmp_path / "big").open("wb") as made:
        made.truncate(size)
    digest = entry_digest(bytes(1 << 20) for _ in range(128))
    content = Content("big", digest, size, str(tmp_path / "big"))
    async with uploads(PartSizes(threshold=1, size=16 << 20)) as made:
        tracemalloc.start()
        try:
            await made.store(NewVersion("team", "p", "dataset", "big", [content]))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert sorted(far.seen) == list(range(1, 9))
    assert peak < 48 << 20
