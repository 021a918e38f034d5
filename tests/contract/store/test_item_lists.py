"""Lists of many items: an index answers every filter, and only what is shown is read."""

from sqlalchemy import Executable, func, insert, select, text

from agent.control.store import item_lists, queues
from agent.control.store.item_lists import ItemFilter, Window
from agent.control.store.tables import items
from agent.control.store.tx import Tx
from agent.model.phase import Phase
from tests.contract.store.world import World

MANY = 8_000
PHASES = (Phase.SUCCEEDED, Phase.FAILED, Phase.QUEUED)


async def fill(world: World) -> str:
    """Many items of one queue; its id."""
    first = await world.submit({"name": "first"})

    def work(tx: Tx) -> None:
        row = dict(tx.require(items.select())._mapping)
        rows = [
            {
                **row,
                "seq": row["seq"] + 1 + number,
                "id": f"i{number:011}",
                "phase": PHASES[number % 3].value,
                "display_name": f"item {number}",
                "job": f"ann/default/job{number % 7}",
                "author": f"user{number % 5}",
            }
            for number in range(MANY)
        ]
        tx.run(insert(items), rows)

    await world.plane.database.write(work)
    if await world.plane.database.read(lambda tx: not is_sqlite(tx)):
        await world.plane.database.write(lambda tx: tx.run(text("ANALYZE items")))
    return str(first.queue_id)


def is_sqlite(tx: Tx) -> bool:
    return tx.connection.dialect.name == "sqlite"


def plan(tx: Tx, query: Executable) -> str:
    how = {"literal_binds": True, "render_postcompile": True}
    compiled = query.compile(tx.connection, compile_kwargs=how)  # type: ignore[attr-defined]
    explain = "EXPLAIN QUERY PLAN" if is_sqlite(tx) else "EXPLAIN"
    # `%` is doubled for drivers that format their statements.
    statement = f"{explain} {compiled}".replace("%%", "%")
    rows = tx.connection.exec_driver_sql(statement).all()
    return "\n".join(str(row) for row in rows)


FILTERS = (
    ItemFilter(),
    ItemFilter(search="item 19"),
    ItemFilter(search="nothing is called so"),
    ItemFilter(author="user3", job="job2", phases=[Phase.FAILED], search="9"),
)


async def test_lists_of_many_items_are_answered_by_indexes(world: World) -> None:
    queue_id = await fill(world)

    def plans(tx: Tx) -> list[str]:
        found = []
        for narrow in (*FILTERS, ItemFilter(queue_id=queue_id, search="item")):
            where = (items.c.entity == "ann", *narrow.conditions())
            found.append(plan(tx, item_lists.numbers_of(where, Window(51))))
            found.append(plan(tx, item_lists.numbers_of(where, Window(51, newer_than=5))))
            found.append(plan(tx, select(func.count()).select_from(items).where(*where)))
        return found

    def others(tx: Tx) -> tuple[str, str]:
        where = (items.c.job == "ann/default/job2", items.c.entity.in_(["ann"]))
        job = plan(tx, item_lists.numbers_of(where, Window(51)))
        return job, plan(tx, queues.counts_query([queue_id]))

    shown = await world.plane.database.read(plans)
    job, counts = await world.plane.database.read(others)
    if await world.plane.database.read(is_sqlite):
        assert [each for each in shown if "COVERING INDEX ix_items_list" not in each] == []
        assert "ix_items_job" in job
        assert "COVERING INDEX ix_items_queue_phase" in counts
        assert "TEMP B-TREE" not in "".join((*shown, job, counts)).upper()
    else:
        # With filters the best plan depends on how many rows match: sorting a few is one.
        for whole in shown[:2]:
            assert "Index" in whole, whole
            assert "Sort" not in whole, whole

    for narrow in FILTERS:
        page = await world.plane.items.list(world.me, narrow=narrow, first=5_000)
        seen = [item.id for item in page.rows]
        while page.has_next:
            after = page.end_cursor
            page = await world.plane.items.list(world.me, narrow=narrow, first=5_000, after=after)
            seen += [item.id for item in page.rows]
        assert len(seen) == len(set(seen)) == page.total
