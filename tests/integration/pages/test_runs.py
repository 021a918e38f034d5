"""The pages of runs, read as text and used without scripts."""

import html
import json
import re

import aiohttp
import pytest

from agent.control.services.runs import RunChange
from agent.control.store.accounts import Role
from tests.integration.pages.jobs import GIT, stored_job
from tests.integration.pages.runs import begin, finish, log, png, put_file, send
from tests.integration.pages.test_pages import CORPUS, events_until, page, words

PATH = "/ada/vision/runs/r1"
TABS = ("", "/workspace", "/overview", "/logs", "/system", "/files", "/artifacts", "/code")
CHARTS = "/launch/charts/ada/vision"
ACTIONS = "/launch/runs/ada/vision/r1"
#: Everything that shows something of a run.
READ = (
    *(f"{PATH}{tab}" for tab in TABS),
    f"{CHARTS}?run=r1&key=loss",
    f"{ACTIONS}/console",
    f"{ACTIONS}/console.txt",
    f"{ACTIONS}/files/a.txt",
    "/launch/events?run=ada/vision/r1",
)


async def fetched(session: aiohttp.ClientSession, path: str) -> dict:
    async with session.get(path) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_the_overview_shows_what_the_run_recorded(scene, sign_in):
    run = await begin(
        scene,
        display_name="brave-sun-1",
        notes="a first try",
        tags=("baseline",),
        group="g7",
        job_type="train",
        host="box.example",
        commit="c0ffee",
        config={"lr": 0.1, "model": {"layers": [1, 2], "name": "resnet"}, "_wandb": {"t": 1}},
    )
    metadata = {"program": "train.py", "args": ["--lr", "0.1"], "python": "3.12.4", "os": "Linux"}
    await put_file(scene, run, "wandb-metadata.json", json.dumps(metadata).encode())
    await send(scene, run, "wandb-summary.json", 0, ['{"loss":{"best":NaN},"acc":0.75,"_step":3}'])
    await finish(scene, run, 3)

    text = words(await page(await sign_in(scene.ada), f"{PATH}/overview"))

    for shown in (
        "brave-sun-1 failed",
        "Exit code 3",
        "Author ada",
        "Group g7",
        "Job type train",
        "Tags baseline",
        "Git commit c0ffee",
        "Command train.py --lr 0.1",
        "Host box.example",
        "Python 3.12.4",
        "Notes a first try",
        "lr 0.1",
        "model.layers [1, 2]",
        "model.name resnet",
        "acc 0.75",
        "loss.best NaN",
    ):
        assert shown in text, shown
    assert "_wandb" not in text
    assert "_step" not in text


@pytest.mark.parametrize(
    "metadata", [b"[1]", b"{", b'{"git": 3, "args": 5, "os": {}}', b"[" * 9999]
)
async def test_metadata_of_any_form_gives_a_page(scene, sign_in, metadata):
    run = await begin(scene)
    await put_file(scene, run, "wandb-metadata.json", metadata)

    assert "State running" in words(await page(await sign_in(scene.ada), f"{PATH}/overview"))


async def test_an_unknown_tab_and_an_unknown_run_are_not_found(scene, sign_in):
    await begin(scene)
    session = await sign_in(scene.ada)

    for path, said in (
        (f"{PATH}/nosuch", "no tab 'nosuch'"),
        ("/ada/vision/runs/r2", "no run 'r2'"),
    ):
        async with session.get(path) as answer:
            assert answer.status == 404
            assert said in html.unescape(await answer.text())


async def test_lines_of_charts_have_steps_seconds_and_values(scene, sign_in):
    run = await begin(scene)
    await log(scene, run, [{"loss": 1.5, "a": {"b": 1}}, {"note": "loss"}, {"loss": float("nan")}])
    await log(scene, run, [{"loss": True}, {"loss": 10**400}, {"loss": 0.5}], first=3)
    session = await sign_in(scene.ada)

    found = await fetched(session, f"{CHARTS}?run=r1&key=loss&key=a.b&key=none")

    assert found["r1"]["loss"] == {
        "steps": [0, 2, 4, 5],
        "seconds": [0.0, 4.0, 8.0, 10.0],
        "values": [1.5, None, None, 0.5],
    }
    assert found["r1"]["a.b"]["values"] == [1.0]
    assert found["r1"]["none"]["values"] == []


async def test_a_metric_goes_over_the_one_that_its_program_defined(scene, sign_in):
    """`define_metric("loss", step_metric="epoch")`, and definitions that are no such."""
    definitions = [
        {"1": "epoch", "6": [3]},
        {"1": "loss", "5": 1, "6": [1]},
        {"1": "acc", "5": 9},
        {"1": 3, "5": 1},
        {"5": "1", "1": "lost"},
        "none",
    ]
    run = await begin(scene, config={"_wandb": {"m": definitions}})
    await log(scene, run, [{"loss": 1.5, "epoch": 10, "acc": 1}, {"loss": 0.5}])
    session = await sign_in(scene.ada)

    found = (await fetched(session, f"{CHARTS}?run=r1&key=loss&key=acc&key=lost"))["r1"]

    assert (found["loss"]["axisName"], found["loss"]["axis"]) == ("epoch", [10.0, None])
    assert "axis" not in found["acc"]
    assert "axis" not in found["lost"]
    other = await begin(scene, "r2", config={"_wandb": {"m": {"1": "loss"}}})
    await log(scene, other, [{"loss": 1}])
    assert "axis" not in (await fetched(session, f"{CHARTS}?run=r2&key=loss"))["r2"]["loss"]


async def test_histograms_and_tables_are_shown(scene, sign_in):
    run = await begin(scene)
    table = {"columns": ["name", "<b>"], "data": [["cat", 1], ["dog", {"a": None}]]}
    await put_file(scene, run, "media/table/t.table.json", json.dumps(table).encode())
    await put_file(scene, run, "media/table/bad.table.json", b"{")
    summary = {
        "weights": {"_type": "histogram", "values": [1, 4, 0], "bins": [-1, 0, 1, 2]},
        "packed": {
            "_type": "histogram",
            "values": [2, 2],
            "packedBins": {"min": 0.5, "size": 0.25, "count": 2},
        },
        "damaged": {"_type": "histogram", "values": [1, "x"], "bins": [0, 1, 2]},
        "huge": {"_type": "histogram", "values": [10**400], "bins": [0, 1]},
        "predictions": {"_type": "table-file", "path": "media/table/t.table.json"},
        "broken": {"_type": "table-file", "path": "media/table/bad.table.json"},
        "absent": {"_type": "table-file", "path": "media/table/none.table.json"},
    }
    await send(scene, run, "wandb-summary.json", 0, [json.dumps(summary)])

    markup = await page(await sign_in(scene.ada), f"{PATH}/overview")

    assert re.findall(r'<figure class="histogram" aria-label="(\w+)"', markup) == [
        "packed",
        "weights",
    ]
    assert 'aria-label="5 values from -1 to 2"' in markup
    assert 'aria-label="4 values from 0.5 to 1"' in markup
    assert re.findall(r'<rect x="(\d)" y="(\d+)" width="0.9" height="(\d+)"', markup)[2:] == [
        ("0", "75", "25"),
        ("1", "0", "100"),
        ("2", "100", "0"),
    ]
    assert re.findall(r'aria-label="Table (\w+)"', markup) == ["predictions"]
    text = words(markup)
    assert "predictions 2 rows, 2 columns name <b> cat 1 dog" in html.unescape(text)
    assert "<b>" not in markup


async def test_the_overview_says_why_no_job_was_made(scene, sign_in):
    run = await begin(scene)
    await finish(scene, run)
    await scene.plane.run_jobs.record_no_job(run.id, 1, "It recorded no program.")

    text = words(await page(await sign_in(scene.ada), f"{PATH}/overview"))

    assert "Job None was made of this run. It recorded no program." in text


async def test_long_lines_of_charts_are_sampled_with_both_ends(scene, sign_in):
    run = await begin(scene)
    for first in range(0, 6_000, 3_000):
        await log(scene, run, [{"loss": first + n} for n in range(3_000)], first=first)

    [line] = (await fetched(await sign_in(scene.ada), f"{CHARTS}?run=r1&key=loss"))["r1"].values()

    assert len(line["values"]) == 500
    assert (line["values"][0], line["values"][-1]) == (0.0, 5999.0)
    assert line["steps"] == [int(value) for value in line["values"]]


async def test_charts_compare_runs_of_one_project_only(scene, sign_in):
    for name, value in (("r1", 1.0), ("r2", 2.0)):
        await log(scene, await begin(scene, name), [{"loss": value}])
    session = await sign_in(scene.ada)

    found = await fetched(session, f"{CHARTS}?run=r1&run=r2&run=r1&key=loss")
    assert {run: lines["loss"]["values"] for run, lines in found.items()} == {
        "r1": [1.0],
        "r2": [2.0],
    }

    for query, status in (
        ("run=r3&key=loss", 404),
        ("run=r1&key=loss&stream=output", 400),
        ("&".join(["run=r1"] * 21), 400),
        ("run=r1&" + "&".join(["key=loss"] * 25), 400),
    ):
        async with session.get(f"{CHARTS}?{query}") as answer:
            assert answer.status == status, query


async def test_system_metrics_are_offered_on_their_tab(scene, sign_in):
    run = await begin(scene)
    row = json.dumps({"_runtime": 3.5, "_timestamp": 1.0, "system.cpu": 40.5})
    await send(scene, run, "wandb-events.jsonl", 0, [row])
    session = await sign_in(scene.ada)

    assert "system.cpu" in await page(session, f"{PATH}/system")
    assert "system.cpu" not in await page(session, PATH)
    found = await fetched(session, f"{CHARTS}?run=r1&key=system.cpu&stream=events")
    assert found["r1"]["system.cpu"]["seconds"] == [3.5]
    assert found["r1"]["system.cpu"]["values"] == [40.5]


async def test_the_console_has_the_last_lines_and_a_download_of_all(scene, sign_in):
    run = await begin(scene)
    lines = [f"2026-11-20T07:59:58.351678 line {n}" for n in range(2_499)]
    await send(
        scene, run, "output.log", 0, [*lines, "ERROR 2026-11-20T07:59:58.4 \x1b[31mbad\x1b[0m"]
    )
    session = await sign_in(scene.ada)

    found = await fetched(session, f"{ACTIONS}/console")
    late = await fetched(session, f"{ACTIONS}/console?first=2498")
    async with session.get(f"{ACTIONS}/console.txt") as answer:
        whole = await answer.text()

    assert found["end"] == 2_500
    assert [line["number"] for line in found["lines"]] == list(range(500, 2_500))
    assert [line["text"] for line in late["lines"]] == ["line 2498", "\x1b[31mbad\x1b[0m"]
    assert [line["error"] for line in late["lines"]] == [False, True]
    assert whole.splitlines()[0] == "line 0"
    assert len(whole.splitlines()) == 2_500
    text = words(await page(session, f"{PATH}/logs"))
    assert "line 500 " in text
    assert "line 499 " not in text
    assert " bad" in text
    async with session.get(f"{ACTIONS}/console?first=-1") as answer:
        assert answer.status == 400


async def test_files_have_lasting_links_and_images_previews(scene, sign_in):
    run = await begin(scene)
    await put_file(scene, run, "media/images/a b.png", png())
    await put_file(scene, run, "notes.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    session = await sign_in(scene.ada)

    markup = await page(session, f"{PATH}/files")

    assert markup.count("<img ") == 2, "the logo, and one preview"
    assert f'src="{ACTIONS}/files/media/images/a%20b.png"' in markup
    async with session.get(f"{ACTIONS}/files/media/images/a%20b.png") as answer:
        assert await answer.read() == png()
    async with session.get(f"{ACTIONS}/files/notes.svg") as answer:
        assert answer.content_type == "application/octet-stream"
        assert answer.headers["Content-Disposition"] == "attachment"


async def test_files_come_in_pages(scene, sign_in):
    run = await begin(scene)
    for number in range(101):
        await put_file(scene, run, f"f{number:03}.txt", b"")
    session = await sign_in(scene.ada)

    first = await page(session, f"{PATH}/files")
    second = words(await page(session, f"{PATH}/files?after=f099.txt"))

    assert 'href="?after=f099.txt" rel="next"' in first
    assert "f100.txt" in second
    assert "f099.txt" not in second


async def test_artifacts_made_and_used_lead_to_the_job(scene, sign_in):
    run = await begin(scene)
    ada, artifacts = scene.ada.principal, scene.plane.artifacts
    job = await stored_job(scene, "train", GIT)
    await artifacts.use(ada, job.id, entity=run.entity, project=run.project, run_name=run.name)
    session = await sign_in(scene.ada)

    text = await page(session, f"{PATH}/artifacts")

    assert "/launch/jobs/ada/default/train?version=v0" in text
    assert "The run has made no artifacts." in words(text)
    overview = await page(session, f"{PATH}/overview")
    assert (
        'class="button" href="/launch/jobs/ada/default/train?version=v0#launch">Launch again'
        in overview
    )


async def test_item_and_run_lead_to_each_other(scene, sign_in):
    item = await scene.submit("train", project="vision", run_id="r1")
    agent = await scene.agent()
    claim = await scene.claim(agent)
    await scene.start(agent, claim)
    session = await sign_in(scene.ada)
    item = await scene.plane.items.get(scene.ada.principal, item.id)
    before = await page(session, f"/launch/items/{item.id}")
    run, _ = await scene.plane.runs.upsert(
        scene.ada.principal,
        RunChange(display_name="brave-sun-1"),
        entity="ada",
        project=item.project,
        name=item.run_name,
    )
    where = f"/ada/{item.project}/runs/{run.name}"

    assert f'href="{where}"' not in before
    assert f'<a href="{where}">brave-sun-1</a>' in await page(session, f"/launch/items/{item.id}")
    assert f'href="/launch/items/{item.id}"' in await page(session, f"{where}/overview")


async def test_stopping_a_run_is_a_form(scene, sign_in):
    await begin(scene)
    session = await sign_in(scene.ada)
    assert f'action="{ACTIONS}/stop"' in await page(session, PATH)

    async with session.post(f"{ACTIONS}/stop", headers={"Origin": "http://evil.example"}) as answer:
        assert answer.status == 403
    async with session.post(f"{ACTIONS}/stop") as answer:
        assert answer.url.path == PATH
        assert "stopping" in await answer.text()

    run = await scene.plane.runs.get(scene.ada.principal, "ada", "vision", "r1")
    assert run.stopped
    assert "/stop" not in await page(session, PATH)


async def test_a_viewer_reads_a_run_and_does_not_stop_it(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "team")
    viewer = await scene.person("vic", "team", Role.VIEWER)
    await begin(scene, entity="team")
    session = await sign_in(viewer)

    for tab in TABS:
        assert "/stop" not in await page(session, f"/team/vision/runs/r1{tab}")
    async with session.post("/launch/runs/team/vision/r1/stop") as answer:
        assert answer.status == 403
    run = await scene.plane.runs.get(scene.ada.principal, "team", "vision", "r1")
    assert not run.stopped


@pytest.mark.parametrize("path", READ)
async def test_a_run_of_another_entity_is_not_found(scene, sign_in, path):
    run = await begin(scene)
    await log(scene, run, [{"loss": 1}])
    await put_file(scene, run, "a.txt", b"a")
    await scene.plane.accounts.create_team(scene.ada.principal, "team")
    stranger = await sign_in(await scene.person("vic", "team", Role.ADMIN))

    async with stranger.get(path) as answer:
        assert answer.status == 404
        assert "loss" not in html.unescape(await answer.text())
    async with stranger.post(f"{ACTIONS}/stop") as answer:
        assert answer.status == 404


@pytest.mark.parametrize("path", READ)
async def test_nobody_reads_a_run_without_signing_in(scene, path):
    await begin(scene)
    async with (
        aiohttp.ClientSession(scene.url) as session,
        session.get(path, allow_redirects=False) as answer,
    ):
        assert answer.status == 303
        assert answer.headers["Location"].startswith("/login?next=")


@pytest.mark.parametrize("payload", CORPUS)
async def test_texts_of_runs_are_escaped(scene, sign_in, payload):
    run = await begin(
        scene,
        display_name=payload,
        notes=payload,
        tags=(payload,),
        group=payload,
        host=payload,
        git_remote=payload,
        config={payload: payload},
    )
    image = {"_type": "image-file", "path": payload}
    await send(scene, run, "wandb-summary.json", 0, [json.dumps({payload: payload, "i": image})])
    await log(scene, run, [{payload: 1.0}])
    await send(scene, run, "output.log", 0, [payload])
    await put_file(scene, run, payload.replace("/", "_") + ".png", b"x")
    session = await sign_in(scene.ada)

    for tab in TABS:
        markup = await page(session, f"{PATH}{tab}")
        assert payload not in markup or html.escape(payload) == payload
        assert "<script>alert" not in markup
        assert "1337" not in markup
    assert payload in html.unescape(await page(session, f"{PATH}/overview"))


async def test_events_report_what_a_run_logs(scene, sign_in):
    run = await begin(scene)
    session = await sign_in(scene.ada)

    for place in ("run=ada/vision/r1", "project=ada/vision"):
        async with session.get(f"/launch/events?{place}") as answer:
            await events_until(answer, b"event: changed")
            await log(scene, run, [{"loss": 1}])
            await events_until(answer, b"event: changed")
