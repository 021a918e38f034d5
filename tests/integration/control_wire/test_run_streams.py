"""The file stream over HTTP, and what clients read back by GraphQL."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.infrastructure import mounts
from tests.integration.control_wire.wire import Wire, open_wire

STREAM = "/files/ann/vision/r1/file_stream"
UPSERT = """mutation($name: String!, $config: JSONString) {
  upsertBucket(input: {modelName: "vision", name: $name, config: $config}) {
    inserted bucket { id name historyLineCount }
  }
}"""
RUN = 'query($name: String!) { project(name: "vision") { run(name: $name) { %s } } }'
RESUME = """query { model(name: "vision") { bucket(name: "r1", missingOk: true) {
  summaryMetrics logLineCount historyLineCount eventsLineCount historyTail eventsTail
  config tags notes wandbConfig(keys: ["t"]) } } }"""
FILES = """mutation($files: [String!]!) { createRunFiles(input: {entityName: "ann",
  projectName: "vision", runName: "r1", files: $files}) { runID files { name uploadUrl } } }"""


def history(first: int, *rows: str) -> dict[str, Any]:
    return {"files": {"wandb-history.jsonl": {"offset": first, "content": list(rows)}}}


async def _begin(wire: Wire, **config: Any) -> str:
    sent = json.dumps({key: {"value": value} for key, value in config.items()})
    made = await wire.ann.data(UPSERT, name="r1", config=sent)
    return made["upsertBucket"]["bucket"]["id"]


async def _run(wire: Wire, fields: str) -> Any:
    found = await wire.ann.data(RUN % fields, name="r1")
    return found["project"]["run"]


async def test_values_that_are_no_numbers_come_back_as_they_were_sent(wire: Wire) -> None:
    await _begin(wire)
    rows = ['{"_step":0,"a":NaN,"b":{"c":-Infinity}}', '{"_step":1,"a":Infinity}']
    assert await wire.ann.status("POST", STREAM, json=history(0, *rows)) == 200
    summary = {"files": {"wandb-summary.json": {"offset": 0, "content": ['{"a":NaN}']}}}
    assert await wire.ann.status("POST", STREAM, json=summary) == 200
    run = await _run(
        wire,
        'history summaryMetrics historyKeys sampledHistory(specs: ["{\\"keys\\": [\\"a\\"]}"])',
    )
    assert run["history"] == rows
    assert run["summaryMetrics"] == '{"a":NaN}'
    assert run["sampledHistory"] == [[{"a": "NaN"}, {"a": "Infinity"}]]
    assert run["historyKeys"]["keys"]["b.c"]["previousValue"] == "-Infinity"
    assert run["historyKeys"]["lastStep"] == 1


async def test_a_compressed_body_is_read(wire: Wire) -> None:
    await _begin(wire)
    body = gzip.compress(json.dumps(history(0, '{"a":1}')).encode())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    assert await wire.ann.status("POST", STREAM, data=body, headers=headers) == 200
    assert (await _run(wire, "historyLineCount")) == {"historyLineCount": 1}
    for damaged in (b"x", body[:-9]):
        assert await wire.ann.status("POST", STREAM, data=damaged, headers=headers) == 400
    other = headers | {"Content-Encoding": "br"}
    assert await wire.ann.status("POST", STREAM, data=body, headers=other) == 400
    bomb = gzip.compress(b"[" + b" " * 64 * 1024**2 + b"]")
    assert await wire.ann.status("POST", STREAM, data=bomb, headers=headers) == 413


async def test_what_resuming_needs(wire: Wire) -> None:
    await _begin(wire, _wandb={"t": {"1": [2]}, "m": []}, lr=1)
    empty = (await wire.ann.data(RESUME))["model"]["bucket"]
    assert (empty["historyTail"], empty["historyLineCount"]) == ("[]", 0)
    body = history(0, '{"_step":0}', '{"_step":4}')
    body["files"]["output.log"] = {"offset": 0, "content": ["one"]}
    body["files"]["wandb-events.jsonl"] = {"offset": 2, "content": ['{"system.cpu":3}']}
    assert await wire.ann.status("POST", STREAM, json=body) == 200
    found = (await wire.ann.data(RESUME))["model"]["bucket"]
    assert json.loads(json.loads(found["historyTail"])[0]) == {"_step": 4}
    assert json.loads(json.loads(found["eventsTail"])[0]) == {"system.cpu": 3}
    counts = [found[f"{name}LineCount"] for name in ("history", "events", "log")]
    assert counts == [2, 3, 1]
    assert json.loads(found["wandbConfig"]) == {"t": {"1": [2]}}
    assert (await wire.ann.data(UPSERT, name="r1", config=None))["upsertBucket"] == {
        "inserted": False,
        "bucket": {"id": (await _begin(wire)), "name": "r1", "historyLineCount": 2},
    }


async def test_console_lines_have_number_time_and_level(wire: Wire) -> None:
    await _begin(wire)
    lines = [
        "2026-11-20T07:59:58.351678 out",
        "ERROR 2026-11-20T07:59:59.000001 err",
        '{"ts":"2026-11-20T08:00:00","content":"json","level":"error","label":"rank1"}',
        "plain",
        '{"other":1}',
        "2026-11-20T07:59:58.351678",
    ]
    sent = {"files": {"output.log": {"offset": 0, "content": lines}}}
    assert await wire.ann.status("POST", STREAM, json=sent) == 200
    node = "node { number timestamp level label line }"
    fields = f"{{ edges {{ {node} }} pageInfo {{ endCursor hasNextPage }} }}"
    first = (await _run(wire, f"logLines(first: 4) {fields}"))["logLines"]
    seen = [tuple(edge["node"].values()) for edge in first["edges"]]
    assert seen == [
        (0, "2026-11-20T07:59:58.351678", "", "", "out"),
        (1, "2026-11-20T07:59:59.000001", "error", "", "err"),
        (2, "2026-11-20T08:00:00", "error", "rank1", "json"),
        (3, "", "", "", "plain"),
    ]
    assert first["pageInfo"] == {"endCursor": "4", "hasNextPage": True}
    rest = (await _run(wire, f'logLines(first: 4, after: "4") {fields}'))["logLines"]
    assert [edge["node"]["line"] for edge in rest["edges"]] == ['{"other":1}', ""]
    assert not rest["pageInfo"]["hasNextPage"]
    last = (await _run(wire, f"logLines(last: 2) {fields}"))["logLines"]
    assert [edge["node"]["number"] for edge in last["edges"]] == [4, 5]


async def test_a_run_that_is_not_there_and_a_foreign_one(wire: Wire) -> None:
    await _begin(wire)
    eve = await wire.user("eve")
    assert await wire.ann.status("POST", "/files/ann/vision/no/file_stream", json={}) == 404
    assert await wire.ann.status("POST", "/files/no/vision/r1/file_stream", json={}) == 404
    assert await eve.status("POST", STREAM, json={"complete": True, "exitcode": 0}) == 404
    assert await wire.nobody.status("POST", STREAM, json={}) == 401
    assert await wire.ann.status("POST", STREAM, data=b"{") == 400
    assert (await _run(wire, "state")) == {"state": "running"}


async def test_files_of_a_run_are_listed_read_and_deleted(wire: Wire) -> None:
    await _begin(wire)
    made = (await wire.ann.data(FILES, files=["b/two.txt", "./one.txt"]))["createRunFiles"]
    assert [file["name"] for file in made["files"]] == ["b/two.txt", "./one.txt"]
    for file in made["files"]:
        url = file["uploadUrl"].removeprefix(wire.server.url)
        assert await wire.nobody.status("PUT", url, data=b"0123456789") == 200
    node = "{ edges { node { id name sizeBytes directUrl url mimetype updatedAt } } }"
    listed = await _run(wire, f"fileCount files {node}")
    assert listed["fileCount"] == 2
    assert [each["node"]["name"] for each in listed["files"]["edges"]] == ["b/two.txt", "one.txt"]
    named = (await _run(wire, f'files(names: ["./one.txt", "none"]) {node}'))["files"]["edges"]
    assert [(each["node"]["name"], each["node"]["sizeBytes"]) for each in named] == [
        ("one.txt", 10),
        ("none", 0),
    ]
    like = (await _run(wire, f'files(pattern: "b/%") {node}'))["files"]["edges"]
    assert len(like) == 1
    path = named[0]["node"]["directUrl"].removeprefix(wire.server.url)
    async with wire.nobody.request("GET", path, headers={"Range": "bytes=2-4"}) as part:
        assert (part.status, await part.read()) == (206, b"234")
        assert part.headers["Content-Range"] == "bytes 2-4/10"
    async with wire.nobody.request("GET", path) as whole:
        assert (whole.status, await whole.read()) == (200, b"0123456789")
    assert await wire.nobody.status("GET", path.replace("one", "two")) == 403
    delete = "mutation($files: [ID!]!) { deleteFiles(input: {files: $files}) { success } }"
    ids = [named[0]["node"]["id"]]
    eve = await wire.user("eve")
    assert (await eve.data(delete, files=ids))["deleteFiles"] == {"success": False}
    assert (await wire.ann.data(delete, files=ids))["deleteFiles"] == {"success": True}
    assert (await _run(wire, "fileCount")) == {"fileCount": 1}
    assert await wire.nobody.status("GET", path) == 404


async def test_an_alert_is_kept_unless_it_comes_again_too_soon(wire: Wire) -> None:
    await _begin(wire)
    send = """mutation($wait: Duration) { notifyScriptableRunAlert(input: {entityName: "ann",
      projectName: "vision", runName: "r1", title: "T", text: "x", severity: WARN,
      waitDuration: $wait}) { success } }"""
    minute = 60 * 10**9
    assert (await wire.ann.data(send, wait=minute))["notifyScriptableRunAlert"]["success"]
    assert not (await wire.ann.data(send, wait=minute))["notifyScriptableRunAlert"]["success"]
    assert (await wire.ann.data(send, wait=None))["notifyScriptableRunAlert"]["success"]
    alerts = (await _run(wire, "alerts { title text severity }"))["alerts"]
    assert alerts == [{"title": "T", "text": "x", "severity": "WARN"}] * 2


async def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts a disk")
    with mounts.small_disk(tmp_path / "small", "12m") as folder:
        async with open_wire(folder / "data") as wire:
            await _begin(wire)
            rows = [json.dumps({"n": n, "pad": "x" * 1000}) for n in range(400)]
            stored = 0
            for number in range(60):
                body = history(number * 400, *rows)
                async with wire.ann.request("POST", STREAM, json=body) as answer:
                    if answer.status != 200:
                        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
                        break
                    stored += 400
            else:
                pytest.fail("the disk was never full")
            assert stored > 0
            run = await _run(wire, "history(minStep: 0, maxStep: 400) historyLineCount")
            assert [json.loads(row)["n"] for row in run["history"]] == list(range(400))
            assert run["historyLineCount"] == stored
