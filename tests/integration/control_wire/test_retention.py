"""Retention: logs of deleted items are removed, all others are kept; rounds go on."""

import asyncio
import json
from datetime import UTC, datetime

from structlog.testing import capture_logs

from agent.control import retention as module
from agent.control.request_data import CONFIG, CONTENTS, LOGS, RUN_FILES, RUN_STREAMS
from agent.control.retention import Retention
from agent.control.services.run_streams import RunName
from agent.control.services.runs import RunChange
from agent.control.services.stream_update import parse_update
from tests.integration.control_wire.wire import SPEC


async def _submit(wire, spec):
    data = await wire.ann.data(
        "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }",
        i={"queueName": "default", "runSpec": spec},
    )
    return data["submitLaunchItem"]["id"]


def _retention(wire, logs):
    app = wire.server.app
    stores = (app[CONTENTS], app[RUN_FILES], app[RUN_STREAMS])
    return Retention(wire.server.services, logs, *stores)


async def test_logs_of_deleted_items_are_removed(wire):
    logs = wire.server.app[LOGS]
    item = await _submit(wire, SPEC)
    folder = wire.server.app[CONFIG].data_dir / "logs"
    for known in (item, "aaaabbbbcccc"):
        (folder / known / "1" / "job").mkdir(parents=True)
        (folder / known / "1" / "job" / "object").write_bytes(b"x")
    retention = _retention(wire, logs)
    assert await retention.remove_unused_bytes(datetime.now(UTC)) == (1, 0)
    assert await logs.items() == [item]


async def test_a_failing_round_is_logged_and_tried_again(wire, monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    monkeypatch.setattr(module, "_ROUNDS_PER_SEARCH", 1)
    rounds = asyncio.Queue()

    class Broken:
        """A store that fails once."""

        async def items(self):
            rounds.put_nowait(None)
            if rounds.qsize() == 1:
                raise OSError("away")
            return []

    retention = _retention(wire, Broken())
    with capture_logs() as logged:
        running = asyncio.create_task(retention.run())
        async with asyncio.timeout(10):
            while rounds.qsize() < 3:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait((running,))
    events = [entry["event"] for entry in logged]
    assert "retention round failed" in events
    assert "retention round finished" in events


async def test_files_of_deleted_runs_are_removed(wire):
    async def pieces():
        yield b"text"

    files, runs = wire.server.app[RUN_FILES], wire.server.services.runs
    made = []
    for name in ("r1", "r2"):
        place = {"entity": "ann", "project": "demo", "name": name}
        run, _ = await runs.upsert(wire.admin, RunChange(), **place)
        await files.put("ann", run.id, "output.log", pieces())
        made.append(run)
    run, gone = made
    await runs.delete(wire.admin, gone.id)
    assert set(await files.runs()) == {run.id, gone.id}
    await _retention(wire, wire.server.app[LOGS]).remove_unused_bytes(datetime.now(UTC))
    assert await files.runs() == [run.id]


async def test_streams_of_deleted_runs_are_removed(wire):
    streams, runs = wire.server.app[RUN_STREAMS], wire.server.services.runs
    body = json.dumps({"files": {"output.log": {"offset": 0, "content": ["x" * 1000] * 500}}})
    made = []
    for name in ("kept", "gone"):
        made.append((await runs.upsert(wire.admin, RunChange(), project="p", name=name))[0].id)
        await streams.write(wire.admin, RunName("ann", "p", name), parse_update(body.encode()))
    assert await streams.runs() == sorted(made)
    await runs.delete(wire.admin, made[1])
    await _retention(wire, wire.server.app[LOGS]).remove_unused_bytes(datetime.now(UTC))
    assert await streams.runs() == made[:1]
    assert len([line async for _, part in streams.lines(made[0], "output") for line in part]) == 500
