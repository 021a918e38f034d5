"""Filters and orders of runs, on both databases."""

import math
from typing import Any

import pytest
from sqlalchemy import insert, text

from agent.control.services.runs import RunChange
from agent.control.store.tables import runs as runs_table
from agent.control.store.tx import Tx
from agent.model.errors import InvalidInputError
from tests.contract.store.world import World

RUNS: dict[str, RunChange] = {
    "one": RunChange(
        display_name="Baseline 1",
        tags=("best", 'odd"%_'),
        group="g",
        job_type="train",
        config={"lr": {"value": 0.1}, "opt": {"value": {"name": "sgd", "steps": 3}}},
        summary={"loss": 1.5, "done": True, "text": "abc"},
    ),
    "two": RunChange(
        display_name="Second_run",
        tags=("bes",),
        config={"lr": {"value": 1}, "opt": {"value": {"name": "adam"}}, "flag": {"value": False}},
        summary={"loss": math.nan, "big": 2**200, "a.b": 4, 'q"uote': 5, "nul": "a\0b"},
    ),
    "three": RunChange(
        state="failed",
        config={"lr": {"value": "0.1"}},
        summary={"loss": -2, "deep": {"er": {"x": 7}}, "inf": math.inf, "done": False},
    ),
}


@pytest.fixture
async def filled(world: World) -> World:
    for name, change in RUNS.items():
        await world.plane.runs.upsert(world.me, change, project="p", name=name)
    await world.plane.runs.upsert(world.me, RunChange(), project="other", name="elsewhere")
    return world


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, "one two three"),
        ({}, "one two three"),
        ({"state": "failed"}, "three"),
        ({"state": {"$ne": "failed"}}, "one two"),
        ({"state": {"$in": ["failed", "crashed"]}}, "three"),
        ({"state": {"$nin": ["failed"]}}, "one two"),
        ({"group": None}, "two three"),
        ({"group": {"$ne": "g"}}, "two three"),
        ({"jobType": "train"}, "one"),
        ({"displayName": "Second_run"}, "two"),
        ({"display_name": {"$regex": "^Base.*1$"}}, "one"),
        ({"display_name": {"$regex": "d_r"}}, "two"),
        ({"display_name": {"$regex": r"Baseline\ 1"}}, "one"),
        ({"display_name": {"$contains": "line 1"}}, "one"),
        ({"display_name": {"$contains": "%"}}, ""),
        ({"tags": "best"}, "one"),
        ({"tags": {"$in": ["bes", "x"]}}, "two"),
        ({"tags": 'odd"%_'}, "one"),
        ({"tags": {"$nin": ["best"]}}, "two three"),
        ({"tags": {"$exists": False}}, "three"),
        ({"config.lr.value": 0.1}, "one"),
        ({"config.lr": {"$gt": 0.05}}, "one two"),
        ({"config.lr.value": "0.1"}, "three"),
        ({"config.lr": 1}, "two"),
        ({"config.opt.value.name": {"$in": ["adam", "x"]}}, "two"),
        ({"config.opt.name": "sgd"}, "one"),
        ({"config.opt.value.steps": {"$exists": True}}, "one"),
        ({"config.flag": False}, "two"),
        ({"summary_metrics.loss": {"$lt": 0}}, "three"),
        ({"summary_metrics.loss": {"$exists": False}}, "two"),
        ({"summary_metrics.loss": {"$not": {"$gt": 0}}}, "two three"),
        ({"summary.done": True}, "one"),
        ({"summaryMetrics.text": "abc"}, "one"),
        ({"summary.deep.er.x": 7}, "three"),
        ({"summary.a.b": 4}, "two"),
        ({'summary.q"uote': 5}, "two"),
        ({"summary.big": {"$gt": 1e50}}, "two"),
        ({"summary.text": {"$gt": 1}}, ""),
        ({"createdAt": {"$gt": "2020-01-01T00:00:00"}}, "one two three"),
        ({"created_at": {"$lt": "2020-01-01T00:00:00Z"}}, ""),
        ({"username": "ann"}, "one two three"),
        ({"$or": [{"group": "g"}, {"state": "failed"}]}, "one three"),
        ({"$and": [{"state": "running"}, {"config.lr": 1}]}, "two"),
        ({"$nor": [{"group": "g"}, {"state": "failed"}]}, "two"),
        ({"$or": []}, ""),
    ],
)
async def test_a_filter_finds(filled: World, filters: Any, expected: str) -> None:
    found = await filled.plane.runs.list(filled.me, None, "p", filters=filters, order="+created_at")
    assert " ".join(run.name for run in found.rows) == expected
    assert found.total == len(found.rows)
    assert await filled.plane.runs.count(filled.me, None, "p", filters) == found.total


@pytest.mark.parametrize(
    "filters",
    [
        [],
        "x",
        {"nothing": 1},
        {"config": 1},
        {"state": {"$where": "x"}},
        {"name": {"$regex": "(a+)+b"}},
        {"name": {"$regex": 1}},
        {"tags": {"$gt": "a"}},
        {"tags": 3},
        {"$or": {}},
        {"state": {"$in": "x"}},
        {"state": {"$in": ["x"] * 501}},
        {"$or": [{"state": "x"}] * 501},
        {"created_at": {"$gt": "soon"}},
    ],
)
async def test_a_filter_that_is_not_understood_is_refused(filled: World, filters: Any) -> None:
    with pytest.raises(InvalidInputError):
        await filled.plane.runs.list(filled.me, None, "p", filters=filters)


async def test_a_filter_has_a_limit_of_levels(filled: World) -> None:
    filters: Any = {"state": "x"}
    for _ in range(30):
        filters = {"$and": [filters]}
    with pytest.raises(InvalidInputError, match="levels"):
        await filled.plane.runs.list(filled.me, None, "p", filters=filters)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (None, "three two one"),
        ("-created_at", "three two one"),
        ("+created_at", "one two three"),
        ("created_at", "one two three"),
        ("+summary_metrics.loss", "three one two"),
        ("-summary_metrics.loss", "one three two"),
        ("-config.lr.value", "two one three"),
        ("+display_name", "one two three"),
        ("+config.nothing", "three two one"),
    ],
)
async def test_runs_are_ordered_page_by_page(
    filled: World, order: str | None, expected: str
) -> None:
    if order == "+display_name":
        (three,) = (
            await filled.plane.runs.list(filled.me, None, "p", filters={"name": "three"})
        ).rows
        await filled.plane.runs.upsert(filled.me, RunChange(display_name="z"), run_id=three.id)
    names: list[str] = []
    after = None
    while True:
        page = await filled.plane.runs.list(filled.me, None, "p", order=order, after=after, first=1)
        names += [run.name for run in page.rows]
        after = page.end_cursor
        if not page.has_next:
            break
    assert " ".join(names) == expected


async def test_an_order_that_is_not_known_is_refused(filled: World) -> None:
    with pytest.raises(InvalidInputError, match="'nothing'"):
        await filled.plane.runs.list(filled.me, None, "p", order="-nothing")


async def test_a_page_among_many_runs_uses_an_index(world: World) -> None:
    await world.plane.runs.upsert(world.me, RunChange(), project="p", name="first")

    def plan(tx: Tx) -> str:
        row = dict(tx.require(runs_table.select())._mapping)
        rows = [
            {
                **row,
                "seq": row["seq"] + 1 + n,
                "id": f"i{n}",
                "name": f"n{n}",
                "project": "p" if n % 50 == 0 else "q",
            }
            for n in range(20_000)
        ]
        tx.run(insert(runs_table), rows)
        sqlite = tx.connection.dialect.name == "sqlite"
        if not sqlite:
            tx.run(text("ANALYZE runs"))
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        query = (
            "SELECT * FROM runs WHERE entity = 'ann' AND project = 'p' ORDER BY seq DESC LIMIT 50"
        )
        return "\n".join(str(line) for line in tx.all(text(f"{explain} {query}")))

    found = await world.plane.database.write(plan)
    assert "ix_runs_project_seq" in found
    assert "SCAN" not in found
    assert "Sort" not in found
    page = await world.plane.runs.list(world.me, None, "p", first=50)
    assert (len(page.rows), page.total) == (50, 401)
