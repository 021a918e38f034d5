"""Bytes without an owner go, all others stay."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

from structlog.testing import capture_logs

from agent.control import retention as module
from agent.control.files.logs import LogKey
from agent.control.keys import BLOBS, CONTENTS, LOGS
from agent.control.retention import Retention, Swept
from agent.control.store.records import Role
from tests.integration.control_wire.wire import SPEC


def _digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def _store(blobs, data):
    async def chunks():
        yield data

    await blobs.put("ann", _digest(data), chunks())


async def _submit(wire, spec):
    data = await wire.ann.data(
        "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }",
        i={"queueName": "default", "runSpec": spec},
    )
    return data["submitLaunchItem"]["id"]


async def test_logs_without_an_item_and_code_that_nobody_names_go(wire, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 1)
    blobs, logs = wire.server.app[BLOBS], wire.server.app[LOGS]
    await _store(blobs, b"used")
    await _store(blobs, b"unused")
    source = {"type": "code", "digest": _digest(b"used"), "size": 4, "name": "code"}
    spec = {"source": source, "project": "demo", "overrides": {"entry_point": ["python", "x.py"]}}
    item = await _submit(wire, spec)
    await _submit(wire, SPEC)
    await logs.append(LogKey(item, 1, "job"), 0, b"kept")
    await logs.append(LogKey("aaaabbbbcccc", 1, "job"), 0, b"gone")
    retention = Retention(wire.server.services, blobs, logs, wire.server.app[CONTENTS])
    now = datetime.now(UTC)
    assert await retention.sweep(now - timedelta(days=1)) == Swept(logs=1, blobs=0, contents=0)
    assert await retention.sweep(now + timedelta(minutes=1)) == Swept(logs=0, blobs=1, contents=0)
    assert await logs.items() == [item]
    assert await blobs.size("ann", _digest(b"used")) == 4
    assert await blobs.size("ann", _digest(b"unused")) is None


async def test_code_stays_that_an_item_of_another_entity_names(wire):
    """On a team's queue, with the run, and so the code, in a space of one's own."""
    await wire.team("team", ann=Role.ADMIN)
    blobs, plane = wire.server.app[BLOBS], wire.server.services
    await _store(blobs, b"used")
    source = {"type": "code", "digest": _digest(b"used"), "size": 4, "name": "code"}
    spec = {"source": source, "entity": "ann", "overrides": {"entry_point": ["python", "x.py"]}}
    await wire.ann.data(
        "mutation ($i: SubmitLaunchItemInput!) { submitLaunchItem(input: $i) { id } }",
        i={"entityName": "team", "queueName": "default", "runSpec": spec},
    )
    retention = Retention(plane, blobs, wire.server.app[LOGS], wire.server.app[CONTENTS])
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert (await retention.sweep(later)).blobs == 0
    assert await blobs.size("ann", _digest(b"used")) == 4


async def test_a_failing_round_is_logged_and_tried_again(wire, monkeypatch):
    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    rounds = asyncio.Queue()

    class Broken:
        """A store that fails once."""

        async def items(self):
            rounds.put_nowait(None)
            if rounds.qsize() == 1:
                raise OSError("away")
            return []

    retention = Retention(
        wire.server.services, wire.server.app[BLOBS], Broken(), wire.server.app[CONTENTS]
    )
    with capture_logs() as logged:
        running = asyncio.create_task(retention.run())
        async with asyncio.timeout(10):
            while rounds.qsize() < 3:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait((running,))
    events = [entry["event"] for entry in logged]
    assert "retention failed" in events
    assert "retention" in events
