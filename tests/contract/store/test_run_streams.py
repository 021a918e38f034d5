"""Streams of runs on both databases: lines by number, the state of the run, silent runs."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agent.control.files.run_history import (
    SampleSpec,
    even,
    rows_of_steps,
    sampled_rows,
    sampled_series,
    sampled_values,
)
from agent.control.files.run_streams import RunStreamStore
from agent.control.files.storage import open_folder
from agent.control.services.run_streams import RunName, Written
from agent.control.services.runs import RunChange
from agent.control.services.stream_update import StreamUpdate, parse_update
from agent.control.store.run_streams import Stream
from agent.control.store.runs import RunRecord
from agent.model.errors import ConflictError, InvalidInputError
from tests.contract.store.world import World

NAME = RunName("ann", "p", "r")
HISTORY = "wandb-history.jsonl"


class Process:
    """The process of a run, as far as its file stream goes."""

    def __init__(self, world: World, store: RunStreamStore) -> None:
        self.world = world
        self.store = store

    async def send(self, files: dict[str, tuple[int, list[str]]] | None = None, **more) -> Written:
        sent = {
            name: {"offset": at, "content": lines} for name, (at, lines) in (files or {}).items()
        }
        update = parse_update(json.dumps({"files": sent, **more}).encode())
        return await self.store.write(self.world.me, NAME, update)

    async def log(self, first: int, end: int) -> Written:
        rows = [json.dumps({"_step": number, "loss": number / 2}) for number in range(first, end)]
        return await self.send({HISTORY: (first, rows)})

    async def run(self) -> RunRecord:
        found = await self.world.plane.runs.get(self.world.me, "ann", "p", "r")
        assert found is not None
        return found

    async def lines(self, stream: Stream, first: int = 0, end: int | None = None) -> list[Any]:
        run = await self.run()
        parts = [part async for part in self.store.lines(run.id, stream, first, end)]
        return [(at + n, line.decode()) for at, found in parts for n, line in enumerate(found)]

    async def steps(self) -> list[int]:
        return [json.loads(line)["_step"] for _, line in await self.lines("history")]


@pytest.fixture
async def process(world: World, tmp_path: Path) -> Process:
    folder = await open_folder(tmp_path / "objects")
    store = RunStreamStore(folder, world.plane.run_streams, world.plane.stored)
    await world.plane.runs.upsert(world.me, RunChange(), project="p", name="r")
    return Process(world, store)


async def test_repeated_and_out_of_order_lines_are_there_once(process: Process) -> None:
    for first, end in ((0, 3), (0, 3), (6, 9), (2, 7), (6, 9), (0, 1)):
        await process.log(first, end)
    assert await process.steps() == list(range(9))
    run = await process.run()
    assert run.history_lines == 9
    history = (await process.world.plane.run_streams.states(run.id))["history"]
    assert history.last_step == 8
    assert (history.keys or {})["loss"]["types"] == {"number": 9}
    assert json.loads(history.tail) == {"_step": 8, "loss": 4.0}


async def test_a_line_of_the_console_is_replaced_by_its_later_text(process: Process) -> None:
    await process.send({"output.log": (0, ["start", " 10%"])})
    await process.send({"output.log": (1, [" 50%"])})
    await process.send({"output.log": (1, ["100%", "done"])})
    assert await process.lines("output") == [(0, "start"), (1, "100%"), (2, "done")]
    assert await process.lines("output", 1, 2) == [(1, "100%")]


async def test_many_small_updates_are_merged_and_read_the_same(process: Process) -> None:
    for number in range(150):
        await process.log(number, number + 1)
    run = await process.run()
    chunks = await process.world.plane.run_streams.chunks(run.id, "history")
    assert len(chunks) < 64
    assert any(chunk.object for chunk in chunks)
    assert await process.steps() == list(range(150))
    state = (await process.world.plane.run_streams.states(run.id))["history"]
    small = [chunk for chunk in chunks if chunk.data is not None]
    assert (state.small_chunks, state.small_bytes) == (len(small), sum(c.size for c in small))


async def test_a_large_update_is_an_object_of_several_chunks(process: Process) -> None:
    long = "x" * 10_000_000
    await process.send({"output.log": (0, [long, *["y" * 1000] * 500])})
    run = await process.run()
    chunks = await process.world.plane.run_streams.chunks(run.id, "output")
    assert all(chunk.data is None for chunk in chunks)
    assert len({chunk.object for chunk in chunks}) == 1
    lines = await process.lines("output")
    assert lines[0][1] == long
    assert len(lines) == 501
    assert await process.lines("output", 400, 402) == [(400, "y" * 1000), (401, "y" * 1000)]
    assert await process.store.delete_run(run.id) == 1


async def test_parts_of_a_history_are_found_by_step(process: Process) -> None:
    rows = [json.dumps({"_step": 10 * n, "pad": "z" * 5000}) for n in range(100)]
    await process.send({HISTORY: (0, rows)})
    run = await process.run()
    found = [part async for part in process.store.steps(run.id, range(500, 510))]
    seen = [json.loads(line)["_step"] for part in found for line in part.of_steps(range(2**40))]
    assert 500 in seen
    assert len(seen) < 30
    rows = [row for part in found for row in part.of_steps(range(500, 510))]
    assert [json.loads(row)["_step"] for row in rows] == [500]


async def test_pages_and_samples_of_a_history_are_exact(process: Process) -> None:
    """Whatever the lengths and steps of rows are, and however often they were replaced."""
    chance = random.Random(7)
    stored: dict[int, dict[str, Any]] = {}

    async def send(first: int, steps: Iterable[int]) -> None:
        rows = [
            {"_step": step, "pad": "p" * chance.choice((0, 9, 9, 9, 4000)), "loss": step / 2}
            for step in steps
        ]
        for row in rows[:: chance.choice((1, 50))]:
            row["rare"] = row["_step"]
        stored.update(enumerate(rows, first))
        await process.send({HISTORY: (first, [json.dumps(row) for row in rows])})

    await send(0, range(0, 4000, 2))
    await send(2000, range(4000, 5000))
    await send(1500, chance.sample(range(3000, 4000), 700))
    await send(2900, [7, 7, 9000])
    rows = [stored[number] for number in sorted(stored)]
    run = await process.run()
    for first, end in (
        (0, 100),
        (2999, 3500),
        (3000, 9001),
        (7, 8),
        (9000, 9001),
        (10_000, 11_000),
    ):
        found = await rows_of_steps(process.store, run.id, range(first, end))
        assert [json.loads(row) for row in found] == [
            row for row in rows if first <= row["_step"] < end
        ]
    for keys, samples in ((["loss"], 10), (["loss"], 2990), (["rare", "loss"], 40)):
        having = [row for row in rows if all(key in row for key in keys)]
        spec = SampleSpec.parse({"keys": keys, "samples": samples})
        values = await sampled_values(process.store, run.id, spec)
        assert values == [
            {key: having[index][key] for key in keys} for index in even(len(having), samples)
        ]
    keys = {"loss": "rare", "rare": None}
    series = await sampled_series(process.store, run.id, "history", keys, 100)
    assert series["loss"].axis == [rows[index].get("rare") for index in even(len(rows), 100)]
    assert series["loss"].values == [rows[index]["loss"] for index in even(len(rows), 100)]
    texts = await sampled_rows(process.store, run.id, "history", 33)
    assert [json.loads(text) for text in texts] == [rows[index] for index in even(len(rows), 33)]


async def test_a_rare_key_keeps_its_points_beside_keys_that_end_alike(process: Process) -> None:
    rows: list[dict[str, Any]] = []
    for step in range(4000):
        rare = {"loss": 5.0, "val": {"acc": 0.6}, "_own": 1} if step % 200 == 7 else {}
        common = {"train/loss": 0.1, "train": {"acc": 0.5, "loss": 1}, "note": "loss"}
        rows.append({"_step": step, **common, **rare})
    await process.send({HISTORY: (0, [json.dumps(row) for row in rows])})
    run = await process.run()
    keys = dict.fromkeys(("loss", "val.acc", "_own"))
    series = await sampled_series(process.store, run.id, "history", keys, 50)
    assert [one.steps for one in series.values()] == [[*range(7, 4000, 200)]] * 3
    for key in keys:
        spec = SampleSpec.parse({"keys": [key, "_step"], "samples": 50})
        values = await sampled_values(process.store, run.id, spec)
        assert [one["_step"] for one in values] == [*range(7, 4000, 200)]


async def test_summary_and_end(process: Process) -> None:
    await process.send({"wandb-summary.json": (0, ['{"loss": NaN, "best": {"acc": 0.5}}'])})
    run = await process.run()
    assert (str(run.summary["loss"]), run.summary["best"], run.state) == (
        "nan",
        {"acc": 0.5},
        "running",
    )
    await process.send(complete=True, exitcode=3)
    ended = await process.run()
    assert (ended.state, ended.exit_code) == ("failed", 3)
    assert ended.ended_at is not None
    await process.send(complete=True, exitcode=0)
    await process.log(0, 1)
    again = await process.run()
    assert (again.state, again.exit_code, again.ended_at) == ("failed", 3, ended.ended_at)
    assert await process.steps() == [0]


async def test_a_run_that_is_begun_again_runs(process: Process) -> None:
    world = process.world
    await world.plane.runs.stop(world.me, (await process.run()).id)
    assert (await process.log(0, 2)).stopped
    await process.send(complete=True, exitcode=1)
    await world.plane.runs.upsert(world.me, RunChange(notes="n"), run_id=(await process.run()).id)
    assert (await process.run()).state == "failed"
    run, inserted = await world.plane.runs.upsert(world.me, RunChange(), project="p", name="r")
    assert (inserted, run.state, run.exit_code, run.ended_at) == (False, "running", None, None)
    assert run.history_lines == 2
    assert not (await process.log(2, 3)).stopped


async def test_a_silent_run_has_crashed_until_it_reports_again(process: Process) -> None:
    world = process.world
    await world.pass_time(290)
    assert (await process.run()).state == "running"
    await world.pass_time(11)
    crashed = await process.run()
    assert (crashed.state, crashed.ended_at) == ("crashed", crashed.heartbeat_at)
    await process.send()
    alive = await process.run()
    assert (alive.state, alive.ended_at) == ("running", None)
    await process.send(preempting=True)
    assert (await process.run()).state == "preempting"
    await world.pass_time(301)
    assert (await process.run()).state == "preempted"


async def test_a_user_sets_the_state_to_pending_or_failed(process: Process) -> None:
    runs, me = process.world.plane.runs, process.world.me
    run_id = (await process.run()).id
    for state in ("running", "finished", "crashed", "odd"):
        with pytest.raises(InvalidInputError):
            await runs.set_state(me, run_id, state)
    assert await runs.set_state(me, run_id, "failed")
    assert (await process.run()).ended_at is not None
    assert await runs.set_state(me, run_id, "pending")
    waiting = await process.run()
    assert (waiting.state, waiting.ended_at, waiting.exit_code) == ("pending", None, None)
    await process.log(0, 1)
    assert (await process.run()).state == "running"
    await process.send(complete=True, exitcode=0)
    with pytest.raises(ConflictError, match="is finished"):
        await runs.set_state(me, run_id, "failed")
    assert (await process.run()).state == "finished"


async def test_runs_are_not_silent_for_the_time_the_server_was_away(process: Process) -> None:
    await process.world.pass_time(900, reap=False)
    await process.world.plane.reaper.start()
    await process.world.plane.reaper.reap_once()
    assert (await process.run()).state == "running"


async def test_the_streams_of_a_run_go_with_it(process: Process) -> None:
    await process.log(0, 3)
    run = await process.run()
    world = process.world
    assert await world.plane.runs.delete(world.me, run.id) is not None
    assert await world.plane.run_streams.states(run.id) == {}
    assert await world.plane.run_streams.chunks(run.id, "history") == []
    await world.plane.runs.upsert(world.me, RunChange(), project="p", name="r")
    assert await process.steps() == []


async def test_the_bytes_of_streams_count_for_their_entity(process: Process) -> None:
    world = process.world

    async def counted() -> dict[str, int]:
        return {row.kind: row.bytes for row in await world.plane.stored.every()}

    for first, end in ((0, 30), (0, 30), (20, 40)):
        await process.log(first, end)
    run = await process.run()
    chunks = await world.plane.run_streams.chunks(run.id, "history")
    assert await counted() == {"run_streams": sum(chunk.size for chunk in chunks)}
    for number in range(40, 120):
        await process.log(number, number + 1)
    chunks = await world.plane.run_streams.chunks(run.id, "history")
    assert await counted() == {"run_streams": sum(chunk.size for chunk in chunks)}
    await world.plane.runs.delete(world.me, run.id)
    assert await counted() == {"run_streams": 0}


async def test_an_update_is_stored_whole_or_not_at_all(process: Process) -> None:
    update = StreamUpdate(parse_update(b'{"files":{"output.log":{"content":["a"]}}}').streams)
    with pytest.raises(KeyError):
        await process.world.plane.run_streams.append(process.world.me, NAME, update, {})
    assert await process.lines("output") == []
    assert await process.world.plane.run_streams.states((await process.run()).id) == {}
