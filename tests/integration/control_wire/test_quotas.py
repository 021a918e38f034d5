"""Limits of stored bytes over HTTP: what is refused leaves nothing, and says what to do."""

import io

import pytest

from agent.control.request_data import CONFIG
from tests.integration.control_wire import artifact_documents as documents
from tests.integration.control_wire.agents import submitted_and_claimed
from tests.integration.control_wire.uploading import Upload
from tests.integration.control_wire.wire import SPEC, open_wire

ROOM = 4 * 1024 * 1024


@pytest.fixture
async def small(tmp_path):
    """A server with little room."""
    async with open_wire(tmp_path / "data", max_stored=ROOM, max_log=1000) as wire:
        yield wire


def on_disk(wire) -> int:
    folders = (
        wire.server.app[CONFIG].data_dir / name for name in ("contents", "logs", "run-files")
    )
    return sum(
        path.stat().st_size for each in folders for path in each.rglob("*") if path.is_file()
    )


async def put(wire, address: str, data: bytes) -> tuple[int, str]:
    async with wire.http.put(address, data=io.BytesIO(data)) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize("size", [500_000, 2 * 1024 * 1024])
async def test_artifacts_are_refused_at_the_limit(small, size):
    """Contents that are stored at once, and such that arrive in parts."""
    files = {f"f{number}": bytes([number]) * size for number in range(ROOM // size + 2)}
    upload = await Upload(small.ann, "c", files).create()
    places = await upload.announce()
    answers = [await put(small, places[name]["uploadUrl"], files[name]) for name in files]
    statuses = [status for status, _ in answers]
    assert statuses == [200] * (ROOM // size) + [413] * 2
    assert "QUOTA_EXCEEDED" in answers[-1][1]
    assert "control.max_stored" in answers[-1][1]
    assert on_disk(small) <= ROOM


async def test_a_batch_of_contents_is_refused_at_the_limit(small):
    files = {f"f{number}": bytes([number]) * 900_000 for number in range(6)}
    upload = await Upload(small.ann, "c", files).create()
    addresses = [node["uploadUrl"] for node in (await upload.announce()).values()]
    pairs = zip(addresses, files.values(), strict=True)
    body = b"".join(f"{len(data)} {address}\n".encode() + data for address, data in pairs)
    headers = {"Content-Type": "application/vnd.launch.contents"}
    url = f"{small.server.url}/storage/contents"
    async with small.http.post(url, data=io.BytesIO(body), headers=headers) as answer:
        assert (answer.status, "QUOTA_EXCEEDED" in await answer.text()) == (413, True)
    assert on_disk(small) <= ROOM


async def test_files_of_runs_are_refused_at_the_limit_and_freed_with_their_run(small):
    run = {"name": "r1", "project": "demo", "entity": "ann"}
    made = await small.ann.data(documents.UPSERT_RUN, **run)
    asked = {"entity": "ann", "project": "demo", "run": "r1"}
    names = ["a", "b"]
    data = await small.ann.data(documents.RUN_FILES, files=names, **asked)
    first, second = (file["uploadUrl"] for file in data["createRunFiles"]["files"])
    assert (await put(small, first, b"x" * (ROOM - 10)))[0] == 200
    status, text = await put(small, second, b"y" * 11)
    assert (status, "QUOTA_EXCEEDED" in text) == (413, True)
    assert on_disk(small) == ROOM - 10
    deletion = "mutation ($id: ID!) { deleteRun(input: {id: $id}) { success } }"
    assert await small.ann.data(deletion, id=made["upsertBucket"]["bucket"]["id"])
    assert on_disk(small) == 0
    assert (await put(small, second, b"y" * 11))[0] == 404
    assert on_disk(small) == 0


async def test_a_name_that_no_folder_can_hold_is_refused(small):
    await small.ann.data(documents.UPSERT_RUN, name="r1", project="demo", entity="ann")
    asked = {"entity": "ann", "project": "demo", "run": "r1"}
    long = ["x" * 241]
    assert await small.ann.code(documents.RUN_FILES, files=long, **asked) == "INVALID_INPUT"


async def _held(wire):
    _, claim = await submitted_and_claimed(wire.ann, SPEC)
    return claim


async def _append(wire, claim, offset: int, data: bytes) -> tuple[int, str]:
    path = f"/launch/items/{claim['itemId']}/attempts/1/logs/job"
    query = f"?epoch={claim['epoch']}&offset={offset}"
    async with wire.ann.request("POST", path + query, data=io.BytesIO(data)) as answer:
        return answer.status, await answer.text()


async def test_one_log_ends_at_its_limit(small):
    claim = await _held(small)
    assert (await _append(small, claim, 0, b"x" * 1000))[0] == 200
    status, text = await _append(small, claim, 1000, b"y")
    assert (status, "LOG_FULL" in text, "control.max_log" in text) == (413, True, True)
    assert (await _append(small, claim, 0, b"x" * 1000))[0] == 200
    stored = {row.kind: row.bytes for row in await small.server.services.stored.every()}
    assert stored == {"logs": 1000}


async def test_a_log_is_refused_while_its_entity_may_store_nothing(small):
    claim = await _held(small)
    content = {"f": b"f" * (ROOM - 10)}
    upload = await Upload(small.ann, "c", content).create()
    await upload.send()
    status, text = await _append(small, claim, 0, b"x" * 11)
    assert (status, "QUOTA_EXCEEDED" in text) == (413, True)
    assert (await _append(small, claim, 0, b"x" * 10))[0] == 200


async def test_metrics_say_what_is_stored(tmp_path):
    key = tmp_path / "scrape"
    key.write_text("a-key-for-prometheus")
    key.chmod(0o600)
    async with open_wire(tmp_path / "data", scrape_key_file=key) as wire:
        await Upload(wire.ann, "c", {"f": b"12345"}).whole()
        prometheus = {"Authorization": "Bearer a-key-for-prometheus"}
        async with wire.http.get(f"{wire.server.url}/metrics", headers=prometheus) as answer:
            lines = (await answer.text()).splitlines()
    (line,) = [line for line in lines if line.startswith("launch_stored_bytes{")]
    assert line.startswith('launch_stored_bytes{entity="ann",kind="contents"}')
    assert float(line.rpartition(" ")[2]) > 5
