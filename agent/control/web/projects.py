"""The page of a project: its runs in a table, and charts that compare chosen ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from agent.control.request_data import PLANE, principal_of
from agent.control.services.accounts import QUEUE_PROJECT
from agent.control.services.history_keys import flattened
from agent.control.services.runs import STATES
from agent.control.store.runs import Aggregate, RunRecord, config_values, simple_value
from agent.control.web import charts
from agent.control.web.filters import project_url
from agent.control.web.rendering import page
from agent.control.web.runs import values_of
from agent.model.errors import InvalidInputError, NotFoundError
from agent.model.spec import Json

_PAGE: Final = 50
#: Projects of an entity that the list of projects has.
_PROJECTS: Final = 500
#: Runs whose charts are shown until others are chosen, and the most that are.
_CHARTED: Final = 5
_MAX_CHARTED: Final = 20
#: Columns that a page offers, shows at most, and shows of config and summary until some are chosen.
_MAX_OFFERED: Final = 500
_MAX_COLUMNS: Final = 30
_FIRST_COLUMNS: Final = 3
_MAX_CELL: Final = 80
#: Columns of every table, with what they are ordered by.
_ORDERS: Final = {"Name": "display_name", "State": "state", "Created": "created_at"}
_GROUPS: Final = {"group": "Group", "job_type": "Job type", "state": "State", "user": "Author"}
_ROOTS: Final = ("config", "summary")
_NEWEST: Final = "-created_at"


@dataclass(frozen=True, slots=True)
class Row:
    """A run in the table."""

    run: RunRecord
    #: Texts of the chosen columns.
    cells: tuple[str, ...]
    charted: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring rows of the table, and what is said of all runs like them."""

    #: `None`: no group was asked for.
    heading: str | None
    rows: list[Row]
    #: Runs of the group, also on other pages.
    total: int = 0
    #: By column, of its numbers: mean, and lowest to highest.
    aggregates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heading:
    """A column, and the link that orders by it; `order` is ascending, descending or none."""

    text: str
    link: str
    order: str


async def all_projects(request: web.Request) -> web.StreamResponse:
    """Projects of all entities, or of the one in the address."""
    plane, principal = request.app[PLANE], principal_of(request)
    entity = request.match_info.get("entity")
    if entity:
        names = [(await plane.accounts.entity(principal, entity)).name]
    else:
        names = [each.name for each in await plane.accounts.entities(principal)]
    shown = []
    for name in names:
        found = await plane.projects.list(principal, name, after=None, first=_PROJECTS)
        shown.append((name, [each for each in found.rows if each.name != QUEUE_PROJECT]))
    topics = urlencode({"entity": entity} if entity else {"heartbeats": "1"})
    return page(request, "projects.html", topics, entity=entity, shown=shown)


async def wandb_view(request: web.Request) -> web.StreamResponse:
    """Redirect from W&B's address of a part of a project to its page."""
    names = request.match_info
    raise web.HTTPSeeOther(project_url(names["entity"], names["project"]))


async def wandb_sweep(request: web.Request) -> web.StreamResponse:
    """Redirect from the URL that W&B's clients print for a sweep to its runs."""
    names = request.match_info
    query = urlencode({"sweep": names["sweep"]})
    raise web.HTTPSeeOther(f"{project_url(names['entity'], names['project'])}?{query}")


async def project(request: web.Request) -> web.StreamResponse:
    """A project; `find`, `state`, `sweep`, `order`, `group`, `column`, `run` and `after` choose."""
    plane, principal, query = request.app[PLANE], principal_of(request), request.query
    place = request.match_info["entity"], request.match_info["project"]
    if await plane.projects.get(principal, *place) is None:
        raise NotFoundError(f"There is no project '{place[1]}' in '{place[0]}'.")
    group = query.get("group") or ""
    order = f"+{_stored(group)}" if group else query.get("order") or _NEWEST
    found = await plane.runs.list(
        principal,
        *place,
        filters=filters(query),
        order=_stored(order),
        after=query.get("after"),
        first=_PAGE,
    )
    values = {run.id: values_by_column(run) for run in found.rows}
    offered = sorted({name for each in values.values() for name in each})[:_MAX_OFFERED]
    columns = query.getall("column", []) or first_columns(offered)
    if len(columns) > _MAX_COLUMNS:
        raise InvalidInputError(f"The table has up to {_MAX_COLUMNS} columns.")
    charted = await _charted(request, found.rows)
    shown = {run.name for run in charted}
    rows = [
        Row(run, tuple(values[run.id].get(name, "") for name in columns), run.name in shown)
        for run in found.rows
    ]
    return page(
        request,
        "project.html",
        urlencode({"project": "/".join(place)}),
        entity=place[0],
        project=place[1],
        groups=await _groups(request, rows, group, columns),
        total=found.total,
        headings=[_heading(request, text, key, order) for text, key in _ORDERS.items()],
        value_headings=[_heading(request, name, name, order) for name in columns],
        columns=columns,
        offered=sorted({*offered, *columns}),
        group=group,
        group_choices=_group_choices(offered, group),
        states=STATES,
        query=query,
        others=[run for run in charted if run.id not in values],
        first_page=link(request, after=None),
        more=link(request, after=found.end_cursor) if found.has_next else None,
        **_charts(request, charted),
    )


def filters(query: Mapping[str, str]) -> Json:
    """A filter document for runs with a text in name or id, in a state, of a sweep."""
    names = ("display_name", "name")
    conditions: list[Json] = [{key: query[key]} for key in ("state", "sweep") if query.get(key)]
    find = query.get("find", "").strip()
    if find:
        conditions.append({"$or": [{name: {"$contains": find}} for name in names]})
    return {"$and": conditions}


def values_by_column(run: RunRecord) -> dict[str, str]:
    """Values of config and summary by column, such as `summary.loss`."""
    documents = zip(_ROOTS, (run.config, run.summary), strict=True)
    return {
        f"{root}.{value.name}": value.text[:_MAX_CELL]
        for root, document in documents
        for value in values_of(document)[0]
    }


def first_columns(offered: Sequence[str]) -> list[str]:
    """The columns that are shown until some are chosen."""
    return [
        name
        for root in _ROOTS
        for name in [each for each in offered if each.startswith(f"{root}.")][:_FIRST_COLUMNS]
    ]


async def _groups(
    request: web.Request, rows: Sequence[Row], group: str, columns: Sequence[str]
) -> list[Group]:
    """Neighbouring rows with the same value; without a group all of them, without a heading."""
    if not group:
        return [Group(None, list(rows))] if rows else []
    found = [(text, list(each)) for text, each in groupby(rows, lambda row: _group_of(row, group))]
    chosen = filters(request.query)
    wanted = [{"$and": [chosen, _like(each[0].run, group)]} for _, each in found]
    place = request.match_info["entity"], request.match_info["project"]
    of_groups = await request.app[PLANE].runs.aggregates(
        principal_of(request), *place, wanted, columns
    )
    return [
        Group(text, each, total, tuple(_aggregate(values.get(name)) for name in columns))
        for (text, each), (total, values) in zip(found, of_groups, strict=True)
    ]


def _group_of(row: Row, group: str) -> str:
    if group in _GROUPS:
        return str(getattr(row.run, group) or "none")
    return values_by_column(row.run).get(group, "none")


def _like(run: RunRecord, group: str) -> Json:
    """A filter for the runs that have the same value to group by."""
    if group in _GROUPS:
        return {group: getattr(run, group)}
    root, _, path = group.partition(".")
    value = simple_value(config_values(run.config) if root == "config" else run.summary, path)
    return {_stored(group): {"$exists": False} if value is None else value}


def _aggregate(found: Aggregate | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.4g} ({found.lowest:.4g} to {found.highest:.4g})"


def link(request: web.Request, **changes: str | None) -> str:
    """The page's own address with some parameters changed; `None` removes one."""
    left_out = {*changes, "fragment"}
    kept = [(name, text) for name, text in request.query.items() if name not in left_out]
    added = [(name, text) for name, text in changes.items() if text is not None]
    return f"?{urlencode(kept + added)}"


def _stored(key: str) -> str:
    """A column's name as orders of runs have it."""
    sign = key[: len(key) - len(key.lstrip("+-"))]
    root, dot, rest = key[len(sign) :].partition(".")
    if not dot:
        return key
    return f"{sign}summary_metrics.{rest}" if root == "summary" else f"{sign}{root}.{rest}"


def _heading(request: web.Request, text: str, key: str, order: str) -> Heading:
    sign = order[:1] if order[1:] == key else ""
    following = f"+{key}" if sign == "-" else f"-{key}"
    shown = {"-": "descending", "+": "ascending"}.get(sign, "none")
    return Heading(text, link(request, order=following, group=None, after=None), shown)


def _group_choices(offered: Iterable[str], group: str) -> list[tuple[str, str]]:
    """Values and texts of the choice of a group."""
    names = [name for name in offered if name.startswith("config.")]
    if group and group not in _GROUPS and group not in names:
        names.append(group)
    return [*_GROUPS.items(), *((name, name) for name in names)]


async def _charted(request: web.Request, rows: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs that were chosen for charts, on this page or another; else the first ones."""
    if "run" not in request.query:
        return list(rows[:_CHARTED])
    known = {run.name: run for run in rows}
    names = [name for name in dict.fromkeys(request.query.getall("run")) if name]
    plane, principal = request.app[PLANE], principal_of(request)
    place = request.match_info["entity"], request.match_info["project"]
    found = [
        known.get(name) or await plane.runs.get(principal, *place, name)
        for name in names[:_MAX_CHARTED]
    ]
    return [run for run in found if run is not None]


def _charts(request: web.Request, charted: Sequence[RunRecord]) -> dict[str, Any]:
    place = request.match_info["entity"], request.match_info["project"]
    return {
        "stream": "history",
        "metrics": charts.as_attribute(_numbers(charted)),
        "runs": charts.as_attribute([run.name for run in charted]),
        "labels": charts.as_attribute([run.display_name or run.name for run in charted]),
        "version": sum(run.history_lines for run in charted),
        "series_url": f"/launch/charts{project_url(*place)}",
    }


def _numbers(charted: Iterable[RunRecord]) -> list[str]:
    """The numbers in the summaries, which have the last value of everything that is logged."""
    names = {
        key
        for run in charted
        for key, value in flattened(run.summary)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return sorted(name for name in names if not name.startswith("_"))
