"""The page of a run: overview, charts, console, system metrics, files, artifacts; stop."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final
from urllib.parse import quote, urlencode

from aiohttp import web

from agent.control.auth.policy import Action, Policy, Principal
from agent.control.files.signed_urls import SignedUrls
from agent.control.request_data import CONFIG, PLANE, RUN_FILES, RUN_STREAMS, principal_of
from agent.control.services.history_keys import flattened
from agent.control.services.runs import ALIVE_OR_EXPECTED, storage_id
from agent.control.store.artifacts import ArtifactRecord
from agent.control.store.items import ItemRecord
from agent.control.store.run_streams import StreamRecord
from agent.control.store.runs import RunRecord
from agent.control.web import charts, console, media
from agent.control.web.filters import job_url, project_url, run_url
from agent.control.web.items import job_of
from agent.control.web.jobs import artifact_files
from agent.control.web.rendering import page
from agent.model.errors import LaunchError, NotFoundError
from agent.model.job.names import JOB_TYPE
from agent.model.spec import Json

#: Tabs by the end of their path, W&B's words; the first is the one of the run's own path.
TABS: Final = {
    "workspace": "Charts",
    "overview": "Overview",
    "logs": "Console",
    "system": "System",
    "files": "Files",
    "artifacts": "Artifacts and code",
}
#: Ends of path that W&B uses for what is on another tab here.
_OTHER_WORDS: Final = {"code": "artifacts", "console": "logs", "model": "overview"}
#: Values of a config or summary, and characters of one value, that a page shows.
_MAX_VALUES: Final = 1_000
_MAX_TEXT: Final = 2_000
_FILES: Final = 100
#: Bytes of a file with metadata that is read, and of an image that is shown.
_MAX_METADATA: Final = 256 * 1024
_MAX_IMAGE: Final = 8 * 1024**2
_IMAGES: Final = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a config or summary."""

    name: str
    text: str
    #: The file with an image or a table, if it is one.
    file: str | None


async def run(request: web.Request) -> web.StreamResponse:
    """A tab of a run's page."""
    record = await charts.find_run(request)
    word = request.match_info.get("tab", "").partition("/")[0] or "workspace"
    tab = _OTHER_WORDS.get(word, word)
    if tab not in TABS:
        raise NotFoundError(f"A run's page has no tab '{word}'.", hint=f"Tabs: {', '.join(TABS)}.")
    place = (record.entity, record.project, record.name)
    item = await _item_of(request, record)
    job = await _job_of(request, record, item)
    return page(
        request,
        "run.html",
        urlencode({"run": "/".join(place)}),
        run=record,
        item=item,
        job=job,
        tab=tab,
        tabs=[
            (text, run_url(*place, "" if name == "workspace" else name), name == tab)
            for name, text in TABS.items()
        ],
        actions=_path(record),
        may_stop=offers_stop(principal_of(request), record),
        **await _tab_values(request, record, tab),
    )


async def stop(request: web.Request) -> web.StreamResponse:
    """Ask the run to stop and redirect to its page."""
    record = await charts.find_run(request)
    await request.app[PLANE].runs.stop(principal_of(request), storage_id(record))
    raise web.HTTPSeeOther(run_url(record.entity, record.project, record.name))


async def file(request: web.Request) -> web.StreamResponse:
    """Redirect to the signed URL of a file, so that links of pages do not expire."""
    record, config = await charts.find_run(request), request.app[CONFIG]
    signed_urls = SignedUrls(request.app[PLANE].keys, "", config.signed_url_lifetime)
    name = request.match_info["name"]
    raise web.HTTPSeeOther(signed_urls.run_file("read", record.entity, record.id, name))


def offers_stop(principal: Principal, record: RunRecord) -> bool:
    """Whether to offer stopping; the service decides."""
    running = record.state in ALIVE_OR_EXPECTED and not record.stopped
    return running and Policy().allows(principal, record.entity, Action.WRITE_RUNS)


def values_of(document: Json) -> tuple[list[Value], int]:
    """The first values of a config or summary by dotted name, and how many more there are.

    W&B's config has each value as `{"value": …}`; what its client adds begins with `_`.
    """
    own = {
        key: one["value"] if isinstance(one, dict) and "value" in one else one
        for key, one in document.items()
        if not key.startswith("_")
    }
    found = sorted(flattened(own))
    return [_value(name, one) for name, one in islice(found, _MAX_VALUES)], max(
        0, len(found) - _MAX_VALUES
    )


def _value(name: str, value: Any) -> Value:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    path = value.get("path") if isinstance(value, dict) and "_type" in value else None
    cut = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + " …"
    return Value(name, cut, path if isinstance(path, str) else None)


def _path(record: RunRecord) -> str:
    """Where the page's forms and scripts send requests."""
    names = (record.entity, record.project, record.name)
    return "/launch/runs/" + "/".join(quote(name, safe="") for name in names)


async def _tab_values(request: web.Request, record: RunRecord, tab: str) -> dict[str, Any]:
    match tab:
        case "overview":
            return await _overview(request, record)
        case "workspace":
            return await _charts(request, record, "history")
        case "system":
            return await _charts(request, record, "events")
        case "logs":
            text = "" if _is_fragment(request) else await console.tail(request, record)
            return {"tail": text}
        case "files":
            return await _files(request, record)
        case _:
            return await _artifacts(request, record)


def _is_fragment(request: web.Request) -> bool:
    return request.query.get("fragment") == "1"


async def _overview(request: web.Request, record: RunRecord) -> dict[str, Any]:
    metadata = await _metadata(request, record)
    config, more_config = values_of(record.config)
    summary, more_summary = values_of(record.summary)
    return {
        "facts": list(_facts(record, metadata)),
        "no_job": await _why_no_job(request, record),
        "config": config,
        "more_config": more_config,
        "summary": summary,
        "more_summary": more_summary,
        "histograms": media.histograms(record),
        "tables": await media.tables(request, record),
        "alerts": await request.app[PLANE].run_streams.alerts(record.id),
    }


def _facts(record: RunRecord, metadata: Json) -> Iterator[tuple[str, str]]:
    """Where and from what the run was started: name and value."""
    git = metadata.get("git")
    git = git if isinstance(git, dict) else {}
    program = metadata.get("program") or record.program
    given = metadata.get("args")
    arguments = given if isinstance(given, list) else []
    command = " ".join(str(word) for word in (program or "", *arguments)).strip()
    rows = (
        ("Git repository", record.git_remote or git.get("remote")),
        ("Git commit", record.commit or git.get("commit")),
        ("Command", command),
        ("Host", record.host or metadata.get("host")),
        ("Operating system", metadata.get("os")),
        ("Python", metadata.get("python")),
        ("Image", metadata.get("docker")),
        ("GPU", metadata.get("gpu")),
        ("CPUs", metadata.get("cpu_count_logical") or metadata.get("cpu_count")),
    )
    return ((name, str(value)[:_MAX_TEXT]) for name, value in rows if value)


async def _metadata(request: web.Request, record: RunRecord) -> Json:
    """What W&B's client says about machine and program; empty when it did not."""
    with suppress(LaunchError, ValueError, RecursionError):
        files = request.app[RUN_FILES]
        data = await files.read(record.id, "wandb-metadata.json", _MAX_METADATA)
        found = json.loads(data or b"{}")
        return found if isinstance(found, dict) else {}
    return {}


async def _charts(request: web.Request, record: RunRecord, stream: str) -> dict[str, Any]:
    states = await request.app[PLANE].run_streams.states(record.id)
    state = states.get(stream, StreamRecord())
    if stream == "history":
        metrics = charts.metrics(state)
    else:
        metrics = await charts.system_metrics(request.app[RUN_STREAMS], record.id, state)
    return {
        "stream": stream,
        "metrics": charts.as_attribute(metrics),
        "runs": charts.as_attribute([record.name]),
        "labels": charts.as_attribute([record.display_name or record.name]),
        "version": state.version,
        "series_url": f"/launch/charts{project_url(record.entity, record.project)}",
    }


async def _files(request: web.Request, record: RunRecord) -> dict[str, Any]:
    after = request.query.get("after")
    found = await request.app[PLANE].run_files.list(record.id, after=after, first=_FILES)
    more = f"?{urlencode({'after': found.end_cursor})}" if found.has_next else None
    images = {
        one.name
        for one in found.rows
        if one.name.lower().endswith(_IMAGES) and one.size <= _MAX_IMAGE
    }
    return {"files": found.rows, "images": images, "after": after, "more": more}


async def _artifacts(request: web.Request, record: RunRecord) -> dict[str, Any]:
    artifacts, principal = request.app[PLANE].artifacts, principal_of(request)
    made = await artifacts.outputs_of(principal, record)
    code = [one for one in made if one.collection.type == "code"]
    return {
        "made": made,
        "used": await artifacts.inputs_of(principal, record),
        "code": [(one, await artifact_files(request, one)) for one in code[-1:]],
    }


async def _why_no_job(request: web.Request, record: RunRecord) -> str | None:
    """Why no job was made of a run that has ended."""
    found = await request.app[PLANE].run_jobs.of_run(principal_of(request), record)
    return None if found is None else found.problem


async def _item_of(request: web.Request, record: RunRecord) -> ItemRecord | None:
    """The item that launched the run, if there is one and the caller may read it."""
    if record.item_id is None:
        return None
    with suppress(NotFoundError):
        return await request.app[PLANE].items.get(principal_of(request), record.item_id)
    return None


async def _job_of(
    request: web.Request, record: RunRecord, item: ItemRecord | None
) -> tuple[str, str] | None:
    """The job that the run came from, or that was made of it: its reference and page."""
    if item is not None and (found := job_of(item)) is not None:
        return found
    used = await request.app[PLANE].artifacts.inputs_of(principal_of(request), record)
    jobs = [each for each in used if each.collection.type == JOB_TYPE]
    return _job_link(jobs[-1]) if jobs else None


def _job_link(artifact: ArtifactRecord) -> tuple[str, str]:
    place = artifact.collection
    path = job_url(place.entity, place.project, place.name)
    return artifact.reference, f"{path}?version=v{artifact.version}"
