"""Artifacts over the wire, with the documents of W&B's client."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from agent.control.request_data import CONTENTS, LOGS, RUN_FILES, RUN_STREAMS
from agent.control.retention import Retention
from tests.integration.control_wire import artifact_documents as documents
from tests.integration.control_wire.uploading import PLACE, Upload, md5
from tests.integration.control_wire.wire import open_wire

FILES = {"main.py": b"print(1)\n", "lib/a.py": b"A = 1\n", "empty": b""}


async def _read(wire, url: str) -> bytes:
    async with wire.http.get(url) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.read()


async def _file_urls(wire, name: str, alias: str, per_page: int = 5000) -> dict[str, str]:
    found, cursor = {}, None
    while True:
        data = await wire.ann.data(
            documents.FILE_URLS,
            entity="ann",
            project="demo",
            collection=name,
            alias=alias,
            cursor=cursor,
            perPage=per_page,
        )
        files = data["project"]["artifactCollection"]["artifactMembership"]["files"]
        found |= {edge["node"]["name"]: edge["node"]["directUrl"] for edge in files["edges"]}
        if not files["pageInfo"]["hasNextPage"]:
            return found
        cursor = files["pageInfo"]["endCursor"]


async def test_an_artifact_is_made_looked_up_and_read_back(wire):
    upload = await Upload(wire.ann, "code-x", FILES, aliases=("latest", "mine")).whole()
    assert upload.latest is None
    member = await upload.member("latest")
    assert member["versionIndex"] == 0
    assert {each["alias"] for each in member["aliases"]} == {"latest", "mine", "v0"}
    assert member["artifact"]["state"] == "COMMITTED"
    assert member["artifact"]["fileCount"] == len(FILES)
    assert member["artifact"]["artifactSequence"]["project"]["entity"] == {"name": "ann"}
    assert await upload.member("v0") is not None
    assert await upload.member("v1") is None
    data = await wire.ann.data(documents.FETCH_MANIFEST, id=upload.id)
    text = await _read(wire, data["artifact"]["currentManifest"]["file"]["directUrl"])
    assert text == upload.manifest()
    urls = await _file_urls(wire, "code-x", "latest", per_page=2)
    assert {path: await _read(wire, url) for path, url in urls.items()} == FILES


async def test_the_same_content_is_one_version_and_takes_the_aliases(wire):
    first = await Upload(wire.ann, "c", FILES).whole()
    again = await Upload(wire.ann, "c", FILES, aliases=("latest", "stable")).create()
    assert (again.id, again.state) == (first.id, "COMMITTED")
    assert again.latest == {"id": first.id}
    assert (await again.member("stable"))["versionIndex"] == 0


async def test_the_same_client_id_is_one_artifact_in_any_state(wire):
    one = await Upload(wire.ann, "c", FILES, client_id="k1").create()
    same = await Upload(wire.ann, "c", FILES, client_id="k1").create()
    other = await Upload(wire.ann, "c", FILES, client_id="k2").create()
    assert (same.id, same.state) == (one.id, "PENDING")
    assert other.id != one.id
    await one.whole()
    duplicate = await Upload(wire.ann, "c", FILES, client_id="k3").create()
    mapped = await wire.ann.data(documents.CLIENT_ID, clientID="k3")
    assert duplicate.id == one.id
    assert mapped["clientIDMapping"] == {"serverID": one.id}


async def test_no_version_comes_of_an_upload_that_was_cut_and_the_rest_can_be_sent_later(wire):
    cut = await Upload(wire.ann, "c", FILES).create()
    nodes = await cut.announce()
    assert await cut.put(nodes["main.py"], FILES["main.py"]) == 200
    await cut.send_manifest()
    answer = await cut.commit()
    assert "'empty'" in answer["errors"][0]["message"]
    assert answer["errors"][0]["extensions"]["code"] == "CONFLICT"
    assert await cut.member("latest") is None
    later = await Upload(wire.ann, "c", FILES).create()
    assert later.latest is None
    assert sorted(await later.send()) == ["empty", "lib/a.py"]
    await later.send_manifest()
    assert "errors" not in await later.commit()
    assert (await later.member("latest"))["versionIndex"] == 0


async def test_a_connection_cut_in_the_middle_of_a_file_stores_nothing(wire):
    content = bytes(3 * 1024 * 1024)
    upload = await Upload(wire.ann, "c", {"big": content}).create()
    node = (await upload.announce())["big"]
    path = node["uploadUrl"].removeprefix(wire.server.url)
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.server.port)
    head = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content[: 2 * 1024 * 1024])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    del reader
    assert (await upload.announce())["big"]["uploadUrl"] is not None
    assert await upload.send() == ["big"]
    assert (await upload.announce())["big"]["uploadUrl"] is None


async def test_parts_may_be_announced_and_one_place_for_the_whole_is_given(wire):
    """W&B's client announces as many as a store takes; without places for parts it sends one."""
    upload = await Upload(wire.ann, "c", FILES).create()
    parts = [{"partNumber": number, "hexMD5": "0" * 32} for number in range(1, 10_001)]
    upload.parts = {"main.py": parts}
    node = (await upload.announce())["main.py"]
    assert node["uploadMultipartUrls"] is None
    assert await upload.put(node, FILES["main.py"]) == 200
    completed = await wire.ann.ask(
        documents.COMPLETE_PARTS,
        input={
            "completeMultipartAction": "Complete",
            "completedParts": parts[:1],
            "artifactID": upload.id,
            "storagePath": node["storagePath"],
            "uploadID": "none",
        },
    )
    assert completed["errors"][0]["message"] == "Multipart uploads are not supported."


async def test_other_bytes_than_announced_are_refused(wire):
    upload = await Upload(wire.ann, "c", FILES).create()
    node = (await upload.announce())["main.py"]
    assert await upload.put(node, b"print(2)\n") == 422
    node["uploadHeaders"] = [f"Content-MD5:{md5(b'x')}"]
    assert await upload.put(node, FILES["main.py"]) == 422
    assert (await upload.announce())["main.py"]["uploadUrl"] is not None


async def test_a_manifest_that_lists_other_files_than_announced_is_refused(wire):
    upload = await Upload(wire.ann, "c", FILES).create()
    await upload.send()
    upload.files = {"main.py": FILES["main.py"]}
    await upload.send_manifest()
    answer = await upload.commit()
    assert "lists other files" in answer["errors"][0]["message"]


async def test_a_file_too_large_is_refused(tmp_path):
    async with open_wire(tmp_path / "data", max_file=1024) as wire:
        upload = await Upload(wire.ann, "c", {"big": bytes(1025)}).create()
        assert await upload.put((await upload.announce())["big"], bytes(1025)) == 413


@pytest.mark.parametrize("change", ["expires=1&", "signature=x", "/0"])
async def test_an_address_is_good_for_one_thing_and_a_while(wire, change):
    upload = await Upload(wire.ann, "c", FILES).create()
    url = (await upload.announce())["main.py"]["uploadUrl"]
    head, _, query = url.partition("?")
    changed = {
        "expires=1&": f"{head}?expires=1&{query.partition('&')[2]}",
        "signature=x": f"{head}?{query.partition('&')[0]}&signature=x",
        "/0": f"{head.replace('/ann/', '/bob/')}?{query}",
    }[change]
    async with wire.http.put(changed, data=b"x") as answer:
        assert answer.status == 403
    async with wire.http.get(url) as answer:
        assert answer.status == 403
    for origin in ("https://elsewhere.example", "null", None):
        headers = {} if origin is None else {"Origin": origin}
        async with wire.http.options(url, headers=headers) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers
    own = str(answer.url.origin())
    async with wire.http.options(url, headers={"Origin": own}) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == own
    async with wire.http.options(url) as answer:
        assert answer.status == 204


async def test_versions_are_numbered_without_gap_when_two_commit_at_once(wire):
    uploads = [
        await Upload(wire.ann, "c", {"main.py": f"print({n})".encode()}).create() for n in range(6)
    ]
    for upload in uploads:
        await upload.send()
        await upload.send_manifest()
    await asyncio.gather(*(upload.commit() for upload in uploads))
    data = await wire.ann.data(
        documents.PROJECT_ARTIFACTS,
        entity="ann",
        project="demo",
        type="code",
        collection="c",
        perPage=50,
    )
    found = data["project"]["artifactType"]["artifactCollection"]["artifacts"]
    assert [edge["version"] for edge in found["edges"]] == [f"v{n}" for n in range(5, -1, -1)]
    aliases = [
        edge["version"]
        for edge in found["edges"]
        if "latest" in {each["alias"] for each in edge["node"]["aliases"]}
    ]
    assert aliases == ["v5"]


async def test_a_name_belongs_to_one_type(wire):
    await Upload(wire.ann, "c", FILES).whole()
    wanted = {
        **PLACE,
        "artifactTypeName": "job",
        "artifactCollectionName": "c",
        "digest": "0" * 32,
        "digestAlgorithm": "MANIFEST_MD5",
    }
    answer = await wire.ann.ask(documents.CREATE, input=wanted)
    message = "'c' in ann/demo is an artifact of type `code`, not of type `job`."
    assert answer["errors"][0]["message"] == message
    asked = {"entity": "ann", "project": "demo", "name": "c:latest"}
    data = await wire.ann.data(documents.ARTIFACT_TYPE, **asked)
    assert data["project"]["artifact"]["artifactType"] == {"name": "code"}


async def test_references_are_listed_with_where_they_point_to(wire):
    references = {"data": "s3://bucket/key"}
    await Upload(wire.ann, "c", FILES, references=references).whole()
    assert (await _file_urls(wire, "c", "latest"))["data"] == "s3://bucket/key"


async def test_aliases_move_and_a_deleted_version_gives_latest_back(wire):
    first = await Upload(wire.ann, "c", FILES).whole()
    second = await Upload(wire.ann, "c", {"main.py": b"2"}).whole()
    alias = [{"alias": "best", "artifactCollectionName": "c"}]
    for upload in (first, second):
        await wire.ann.data(
            documents.ADD_ALIASES, input={"artifactID": upload.id, "aliases": alias}
        )
    assert (await first.member("best"))["versionIndex"] == 1
    refused = await wire.ann.ask(documents.DELETE, artifactID=second.id)
    assert "ann/demo/c:v1 has the aliases" in refused["errors"][0]["message"]
    await wire.ann.data(documents.DELETE, artifactID=second.id, deleteAliases=True)
    assert (await first.member("latest"))["versionIndex"] == 0
    assert await first.member("best") is None
    assert await first.member("v1") is None
    third = await Upload(wire.ann, "c", {"main.py": b"2"}).whole()
    assert (await third.member("latest"))["versionIndex"] == 2
    await wire.ann.data(
        documents.DELETE_ALIASES,
        input={
            "artifactID": third.id,
            "aliases": [{"alias": "latest", "artifactCollectionName": "c"}],
        },
    )
    assert await third.member("latest") is None


async def test_a_single_file_is_read_with_a_key_and_not_without(wire):
    upload = await Upload(wire.ann, "c", FILES).whole()
    digest = md5(FILES["lib/a.py"])
    import base64

    hexadecimal = base64.b64decode(digest).hex()
    base = "/artifactsV2/default/ann/demo/c"
    for path in (
        f"{base}/{upload.id}/{hexadecimal}/lib%2Fa.py",
        f"{base}/{upload.id}/{upload.id}/{hexadecimal}/a.py",
    ):
        async with wire.ann.request("GET", path) as answer:
            assert (answer.status, await answer.read()) == (200, FILES["lib/a.py"])
        assert await wire.nobody.status("GET", path) == 401
        stranger = await wire.user("stranger" + str(len(path)))
        assert await stranger.status("GET", path) == 404
    assert await wire.ann.status("GET", f"{base}/x/{'0' * 32}/a.py") == 404


async def test_inputs_outputs_and_metadata_of_a_run(wire):
    run = {"name": "r1", "project": "demo", "entity": "ann", "jobType": "cli_create_job"}
    made = await wire.ann.data(documents.UPSERT_RUN, **run)
    upload = await Upload(wire.ann, "c", FILES, run="r1").whole()
    for _ in range(2):
        await wire.ann.data(documents.USE, runName="r1", artifactID=upload.id, **PLACE)
    used = await wire.ann.data(documents.USED_BY, id=upload.id)
    assert [edge["node"]["name"] for edge in used["artifact"]["usedBy"]["edges"]] == ["r1"]
    created = await wire.ann.data(documents.CREATED_BY, id=upload.id)
    assert created["artifact"]["createdBy"]["__typename"] == "Run"
    changed = await wire.ann.data(
        documents.UPDATE, input={"artifactID": upload.id, "metadata": '{"a": NaN}'}
    )
    assert changed["result"]["artifact"]["metadata"] == '{"a":NaN}'
    await wire.ann.data(documents.DELETE_RUN, id=made["upsertBucket"]["bucket"]["id"])
    created = await wire.ann.data(documents.CREATED_BY, id=upload.id)
    assert created["artifact"]["createdBy"] == {"__typename": "User", "id": "ann", "name": "ann"}


async def test_a_run_uploads_files_and_says_that_it_is_over(wire):
    run = {"name": "r1", "project": "demo", "entity": "ann", "jobType": "cli_create_job"}
    made = await wire.ann.data(documents.UPSERT_RUN, **run)
    asked = {"entity": "ann", "project": "demo", "run": "r1"}
    names = ["wandb-metadata.json", "media/a b.txt"]
    data = await wire.ann.data(documents.RUN_FILES, files=names, **asked)
    files = data["createRunFiles"]["files"]
    assert [file["name"] for file in files] == names
    for file in files:
        async with wire.http.put(file["uploadUrl"], data=b"{}") as answer:
            assert answer.status == 200
    assert await wire.ann.code(documents.RUN_FILES, files=["../x"], **asked) == "INVALID_INPUT"
    stream = "/files/ann/demo/r1/file_stream"
    body = {"files": {"output.log": {"offset": 0, "content": ["x"]}}}
    async with wire.ann.request("POST", stream, json=body) as answer:
        assert (await answer.json())["stopped"] is False
    done = {"complete": True, "exitcode": 0}
    assert await wire.ann.status("POST", stream, json=done) == 200
    found = await wire.server.services.runs.get(wire.admin, "ann", "demo", "r1")
    assert found.state == "finished"
    await wire.ann.data(documents.DELETE_RUN, id=made["upsertBucket"]["bucket"]["id"])
    assert await wire.ann.status("POST", stream, json={}) == 404


async def test_a_runs_file_is_stored_only_with_the_announced_md5(wire):
    run = {"name": "r1", "project": "demo", "entity": "ann", "jobType": None}
    await wire.ann.data(documents.UPSERT_RUN, **run)
    asked = {"entity": "ann", "project": "demo", "run": "r1", "files": ["a.txt"]}
    data = await wire.ann.data(documents.RUN_FILES, **asked)
    url = data["createRunFiles"]["files"][0]["uploadUrl"]
    for announced, status in {md5(b"other"): 422, "no digest": 400, md5(b"text"): 200}.items():
        async with wire.http.put(url, data=b"text", headers={"Content-MD5": announced}) as answer:
            assert answer.status == status, announced


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=0-0", 206, b"0"),
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=5-99", 206, b"56789"),
        ("bytes=-99", 206, b"0123456789"),
        ("bytes=10-", 416, None),
        ("bytes=4-2", 200, b"0123456789"),
        ("bytes=0-1,4-5", 200, b"0123456789"),
        ("lines=0-1", 200, b"0123456789"),
    ],
)
async def test_a_part_of_a_file_is_sent_on_request(wire, header, status, expected):
    await Upload(wire.ann, "c", {"digits": b"0123456789"}).whole()
    url = (await _file_urls(wire, "c", "latest"))["digits"]
    async with wire.http.get(url, headers={"Range": header}) as answer:
        assert answer.status == status
        if expected is not None:
            assert await answer.read() == expected
        if status == 206:
            assert answer.headers["Content-Range"].endswith("/10")
            assert answer.content_length == len(expected)


async def test_a_part_of_what_has_changed_is_the_whole(wire):
    await Upload(wire.ann, "c", {"digits": b"0123456789"}).whole()
    url = (await _file_urls(wire, "c", "latest"))["digits"]
    async with wire.http.get(url, headers={"Range": "bytes=2-4", "If-Range": '"x"'}) as answer:
        assert (answer.status, await answer.read()) == (200, b"0123456789")
        etag = answer.headers["ETag"]
    async with wire.http.get(url, headers={"Range": "bytes=2-4", "If-Range": etag}) as answer:
        assert (answer.status, await answer.read()) == (206, b"234")
    async with wire.http.head(url, headers={"Range": "bytes=2-4"}) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, "10")


async def test_contents_are_stored_once_and_go_when_nothing_refers_to_them(wire, tmp_path):
    folder = tmp_path / "data" / "contents"
    first = await Upload(wire.ann, "c", FILES).whole()
    await Upload(wire.ann, "d", FILES | {"more": b"more"}).whole()
    assert len([path for path in folder.rglob("*") if path.is_file()]) == len(FILES) + 3
    app = wire.server.app
    (folder / "ann" / "leftover").write_bytes(b"of a process that was killed")
    stores = (app[LOGS], app[CONTENTS], app[RUN_FILES], app[RUN_STREAMS])
    retention = Retention(wire.server.services, *stores)
    assert await retention.remove_unused_bytes(datetime.now(UTC) - timedelta(days=1)) == (0, 0)
    await wire.ann.data(documents.DELETE, artifactID=first.id, deleteAliases=True)
    await (pending := Upload(wire.ann, "e", {"never": b"committed"})).create()
    await pending.send()
    later = datetime.now(UTC) + timedelta(minutes=1)
    _, removed = await retention.remove_unused_bytes(later)
    assert removed == 3, "the first manifest, the file never committed, the leftover"
    urls = await _file_urls(wire, "d", "latest")
    assert await _read(wire, urls["main.py"]) == FILES["main.py"]
    assert await wire.ann.code(documents.COMMIT, artifactID=pending.id) == "NOT_FOUND"


async def test_damaged_bytes_never_arrive_as_a_whole_file(wire, tmp_path):
    content = bytes(3 * 1024 * 1024)
    await Upload(wire.ann, "c", {"big": content}).whole()
    stored = next(
        path for path in (tmp_path / "data" / "contents").rglob("*") if path.stat().st_size > 2**20
    )
    stored.write_bytes(content[:-1] + b"x")
    urls = await _file_urls(wire, "c", "latest")
    import aiohttp

    with pytest.raises(aiohttp.ClientError):
        await _read(wire, urls["big"])
