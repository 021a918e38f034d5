"""Filters and orders of runs, on both databases."""

import math
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text

from agent.control.services.runs import RunChange
from agent.control.store import runs
from agent.control.store.run_tables import run_values
from agent.control.store.run_tables import runs as runs_table
from agent.control.store.tables import projects
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
        {"created_at": {"$gt": int("9" * 400)}},
        {"config.lr": {"$gt": int("9" * 400)}},
        {"summary.loss": int("9" * 400)},
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
        # Numbers, then texts, then runs without either.
        ("+config.lr", "one two three"),
        ("+summary.text", "one three two"),
        ("-state", "two one three"),
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


MANY = 1_000
OTHERS = 10_000
#: The number, in the order of creation, of the first run of a page; a run's loss is its number.
PLANS = [
    ("-created_at", None, MANY - 1, "ix_runs_project_seq"),
    ("+state", None, 0, "ix_runs_project_state"),
    ("-display_name", None, MANY - 1, "ix_runs_project_display_name"),
    ("+summary_metrics.loss", None, 0, "ix_run_values_number"),
    ("-summary_metrics.loss", None, MANY - 1, "ix_run_values_number"),
    ("+config.kind", None, 0, "ix_run_values_text"),
    ("-created_at", {"config.kind": "kind-777"}, 777, "ix_run_values_text"),
    ("-created_at", {"summary.loss": {"$gte": MANY - 5}}, MANY - 1, "ix_run_values_number"),
    ("-created_at", {"config.last": True}, MANY - 1, "ix_run_values_truth"),
]


async def fill(world: World) -> None:
    """Runs that differ in their values, and many more of another project."""
    for project in ("p", "q"):
        await world.plane.runs.upsert(world.me, RunChange(), project=project, name="first")

    def insert_all(tx: Tx) -> None:
        for first in tx.all(select(runs_table, projects.c.number).join(projects, OF_PROJECT)):
            row = {key: value for key, value in first._mapping.items() if key != "number"}
            numbers = range(MANY if row["project"] == "p" else OTHERS)
            start = 1000 + row["seq"] * OTHERS
            place = {"project_number": first.number, "number": None, "text": None, "truth": None}
            tx.run(
                insert(runs_table),
                [
                    {
                        **row,
                        "seq": start + n,
                        "id": f"{row['project']}{n}",
                        "name": f"n{n:06d}",
                        "display_name": f"n{n:06d}",
                        "state": "crashed",
                    }
                    for n in numbers
                ],
            )
            values: list[dict[str, Any]] = []
            for n in numbers:
                here = {"run_seq": start + n, **place}
                values.append({**here, "key": "summary.loss", "number": float(n)})
                values.append({**here, "key": "config.kind", "text": f"kind-{n % 1000:03d}"})
                values.append({**here, "key": "config.last", "truth": n == numbers[-1]})
            tx.run(insert(run_values), values)
        for name in ("runs", "run_values") if tx.connection.dialect.name != "sqlite" else ():
            tx.run(text(f"ANALYZE {name}"))

    await world.plane.database.write(insert_all)


OF_PROJECT = (projects.c.entity == runs_table.c.entity) & (projects.c.name == runs_table.c.project)


async def test_pages_among_many_runs_use_an_index(world: World) -> None:
    """Each order and filter that an index can serve: neither a scan of all runs nor a sort."""
    await fill(world)
    plans: list[str] = []
    for order, filters, first, index in PLANS:

        def page(tx: Tx, order: str = order, filters: Any = filters) -> tuple[str, str]:
            statements: list[tuple[str, Any]] = []
            if filters is None and tx.connection.dialect.name != "sqlite":
                # Of so few rows PostgreSQL may sort; the question is whether it has to.
                tx.connection.exec_driver_sql("SET LOCAL enable_sort = off")

            def note(_c: Any, _u: Any, statement: str, values: Any, *_rest: Any) -> None:
                statements.append((statement, values))

            event.listen(tx.connection, "before_cursor_execute", note)
            rows, _ = runs.page(tx, "ann", "p", filters=filters, order=order, after=None, limit=50)
            event.remove(tx.connection, "before_cursor_execute", note)
            # The count is first, and where no run has a number, the query for them.
            statement, values = statements[-1]
            return rows[0][1].name, "\n".join(explained(tx, statement, values))

        name, plan = await world.plane.database.read(page)
        plans.append(f"{order} {filters}: {name}\n{plan}")
        assert index in plan, plans[-1]
        assert "SCAN runs" not in plan, plans[-1]
        assert "Seq Scan on runs" not in plan, plans[-1]
        if filters is None:
            assert "TEMP B-TREE" not in plan, plans[-1]
            assert "Sort" not in plan, plans[-1]
        assert name == f"n{first:06d}", plans[-1]


def explained(tx: Tx, statement: str, values: Any) -> list[str]:
    prefix = "EXPLAIN QUERY PLAN" if tx.connection.dialect.name == "sqlite" else "EXPLAIN"
    rows = tx.connection.exec_driver_sql(f"{prefix} {statement}", values)
    return [str(row) for row in rows]


async def test_values_follow_their_run(world: World) -> None:
    """A value that changes its kind, goes or comes is found as it is now; none stays behind."""
    upsert = world.plane.runs.upsert
    first = RunChange(config={"a": {"value": 1}, "b": {"value": "x"}}, summary={"a": True})
    run, _ = await upsert(world.me, first, project="p", name="r")
    second = RunChange(config={"a": {"value": "1"}, "c": {"value": 2}}, summary={"a": 3, "b": 4})
    await upsert(world.me, second, project="p", name="r")

    async def found(**filters: Any) -> bool:
        wanted = {key.replace("_", "."): value for key, value in filters.items()}
        return await world.plane.runs.count(world.me, None, "p", wanted) == 1

    assert await found(config_a="1", config_c=2, summary_a=3, summary_b=4)
    assert not await found(config_a=1)
    assert not await found(config_b={"$exists": True})
    assert not await found(summary_a=True)
    await world.plane.runs.delete(world.me, run.id)
    left = await world.plane.database.read(lambda tx: tx.all(select(run_values)))
    assert left == []
