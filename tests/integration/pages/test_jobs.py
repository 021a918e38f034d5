"""The pages of jobs, read as text and used without scripts."""

import html
import re

import aiohttp
import pytest

from agent.control.store.accounts import Role
from agent.model.cause import Cause
from agent.model.phase import Phase
from tests.integration.pages.jobs import GIT, IMAGE, of_code, stored_code, stored_job
from tests.integration.pages.test_pages import CORPUS, page, words

PATH = "/launch/jobs/ada/default/train"
SCHEMA = {
    "type": "object",
    "properties": {
        "epochs": {"type": "integer", "title": "Epochs", "minimum": 1, "maximum": 9},
        "optimizer": {"type": "string", "enum": ["adam", "sgd"]},
        "lr": {"type": "number", "exclusiveMinimum": 0, "required": True, "default": 0.1},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
        "data": {"type": "object", "properties": {"shuffle": {"type": "boolean"}}},
    },
}
WITH_SCHEMA = {"input_schemas": {"@wandb.config": SCHEMA}}


def field(label: str, markup: str) -> str:
    """The name in the form of the field with that label."""
    pattern = rf'<label for="([^"]+)">{re.escape(label)}\b.*?id="\1"[^>]*?name="([^"]+)"'
    found = re.search(pattern, markup, re.DOTALL)
    assert found, f"no field '{label}'"
    return html.unescape(found.group(2))


def beside(label: str, markup: str) -> str:
    """The error shown beside the field with that label."""
    pattern = rf'<label for="([^"]+)">{re.escape(label)}\b.*?id="\1-error">(.*?)</p>'
    found = re.search(pattern, markup, re.DOTALL)
    assert found, f"nothing beside '{label}'"
    return html.unescape(found.group(2))


async def send(
    session: aiohttp.ClientSession, path: str, values: dict[str, str]
) -> tuple[int, str, str]:
    """Send a form; returns status, final path and page."""
    async with session.post(path, data={"queue": "default", **values}) as answer:
        return answer.status, answer.url.path, await answer.text()


async def test_a_project_lists_its_jobs_with_source_versions_aliases_and_last_run(scene, sign_in):
    await stored_job(scene, "train", aliases=("release",))
    await stored_job(scene, "train", GIT | {"runtime": "3.12"}, aliases=("release",))
    await stored_job(scene, "picture", IMAGE, aliases=("1",))
    item = await scene.submit("again", docker={}, job="ada/default/train:latest")
    agent = await scene.agent()
    claim = await scene.claim(agent)
    await scene.start(agent, claim)
    await scene.finish(agent, claim, Phase.FAILED, Cause.RUN_EXIT_CODE, "It ended with 7.", 7)

    markup = await page(await sign_in(scene.ada), "/launch/jobs/ada/default")

    assert "picture image example/image:1 1 v0 1 latest never launched" in words(markup)
    assert "train git https://git.example/org/repo.git at c0ffeec0ffee 2 v1" in words(markup)
    assert re.search(r"v1 (release latest|latest release) again .*? failed", words(markup))
    assert f'href="/launch/items/{item.id}"' in markup


async def test_the_url_that_clients_print_redirects_to_the_projects_jobs(scene, sign_in):
    await stored_job(scene, "picture", IMAGE)
    session = await sign_in(scene.ada)
    async with session.get("/ada/default/jobs") as answer:
        assert (answer.status, answer.url.path) == (200, "/launch/jobs/ada/default")
        assert ">picture</a>" in await answer.text()
    async with session.get("/ada/nothing/jobs") as answer:
        assert answer.status == 404


async def test_all_jobs_are_grouped_by_project_and_narrowed_to_an_entity(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    await stored_job(scene, "train", project="one")
    await stored_job(scene, "detect", entity="vision", project="two")
    session = await sign_in(scene.ada)

    everything = words(await page(session, "/launch/jobs"))
    chosen = words(await page(session, "/launch/jobs?entity=vision"))

    assert "ada/one" in everything
    assert "vision/two" in everything
    assert "ada/one" not in chosen
    assert "detect" in chosen


async def test_without_jobs_the_page_shows_how_to_create_one(scene, sign_in):
    assert "launch job create" in words(await page(await sign_in(scene.ada), "/launch/jobs"))


async def test_a_project_that_does_not_exist_is_not_found(scene, sign_in):
    session = await sign_in(scene.ada)
    async with session.get("/launch/jobs/ada/nowhere") as answer:
        assert answer.status == 404
        assert "There is no project 'nowhere'" in words(await answer.text())


async def test_a_job_shows_its_description_its_files_and_its_versions(scene, sign_in):
    await stored_job(scene, "train", IMAGE)
    await stored_job(scene, "train", aliases=("release",))

    text = words(await page(await sign_in(scene.ada), PATH))

    assert "Reference ada/default/train:v1" in text
    assert "Source git Repository https://git.example/org/repo.git Commit c0ffee" in text
    assert "Entry point python train.py" in text
    assert "Build context jobs/train Dockerfile Dockerfile.wandb" in text
    assert "Python 3.11" in text
    assert re.search(r"Files .* wandb-job.json [\d.]+ bytes", text)
    assert re.search(r"Versions .* v1 .* v0 ", text)


async def test_a_code_job_is_shown_with_the_name_the_version_and_the_files_of_its_code(
    scene, sign_in
):
    await stored_code(scene, "code-train", "print(0)\n")
    code = await stored_code(scene, "code-train")
    await stored_job(scene, "train", of_code(code))
    session = await sign_in(scene.ada)

    markup = await page(session, PATH)
    listed = await page(session, "/launch/jobs/ada/default")

    assert "Code artifact code-train:v1 Entry point python main.py" in words(markup)
    assert re.search(r"Code code-train:v1 .* main.py 9 bytes", words(markup))
    assert "train code code-train:v1 1 v0" in words(listed)
    assert "wandb-artifact" not in markup + listed

    await scene.plane.artifacts.delete(scene.ada.principal, code.id, with_aliases=True)
    gone = words(await page(session, PATH))
    assert "Code artifact code-train:v1 (deleted)" in gone
    assert "main.py 9 bytes" not in gone


async def test_files_of_a_version_can_be_fetched_and_never_run_in_the_browser(scene, sign_in):
    code = await stored_code(scene, "code-train", "print(0)\n")
    await stored_job(scene, "train", of_code(code))
    session = await sign_in(scene.ada)
    markup = await page(session, PATH)
    (address,) = re.findall(r'<a href="([^"]+)">main.py</a>', markup)
    async with session.get(html.unescape(address)) as answer:
        assert await answer.text() == "print(0)\n"
        assert answer.headers["Content-Disposition"] == "attachment"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert re.search(r'<a href="[^"]+">wandb-job.json</a>', markup)


async def test_code_of_others_keeps_its_id(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    secret = await stored_code(scene, "code-secret", entity="vision")
    bob = await scene.person("bob", "ada", Role.VIEWER)
    await stored_job(scene, "train", of_code(secret))

    hidden = await page(await sign_in(bob), PATH)
    shown = await page(await sign_in(scene.ada), PATH)

    assert "code-secret" not in hidden
    assert f"wandb-artifact://_id/{secret.id}" in hidden
    assert "Code artifact vision/default/code-secret:v0" in words(shown)


async def test_a_version_is_shown_by_number_and_by_alias(scene, sign_in):
    await stored_job(scene, "train", IMAGE, aliases=("old",))
    await stored_job(scene, "train")
    session = await sign_in(scene.ada)

    assert "Source image Image example/image:1" in words(await page(session, f"{PATH}?version=v0"))
    assert "Source image Image example/image:1" in words(await page(session, f"{PATH}?version=old"))
    async with session.get(f"{PATH}?version=v7") as answer:
        assert answer.status == 404
        assert "has no version v7 ." in words(await answer.text())


async def test_a_job_that_cannot_be_read_is_shown_with_its_problem_and_without_a_form(
    scene, sign_in
):
    await stored_job(scene, "train", problem="wandb-job.json is not JSON.")

    text = words(await page(await sign_in(scene.ada), PATH))

    assert "wandb-job.json is not JSON." in text
    assert "Launch again" not in text


async def test_the_form_submits_the_values_of_its_fields(scene, sign_in):
    await stored_job(scene, "train", metadata=WITH_SCHEMA)
    session = await sign_in(scene.ada)
    markup = await page(session, PATH)

    status, path, _ = await send(
        session,
        f"{PATH}?version=v0",
        {
            field("Epochs", markup): "3",
            field("optimizer", markup): '"sgd"',
            field("lr", markup): "0.25",
            field("tags", markup): '"b"',
            field("data.shuffle", markup): "true",
            "others": '{"free": {"deep": [1]}}',
            "name": "from-a-form",
        },
    )

    assert status == 200
    item = await scene.plane.items.get(scene.ada.principal, path.rpartition("/")[2])
    assert item.name == "from-a-form"
    assert item.run_spec["job"] == "ada/default/train:v0"
    assert item.run_spec["overrides"]["run_config"] == {
        "epochs": 3,
        "optimizer": "sgd",
        "lr": 0.25,
        "tags": ["b"],
        "data": {"shuffle": True},
        "free": {"deep": [1]},
    }


async def test_schema_violations_are_shown_beside_their_field_and_the_text_is_kept(scene, sign_in):
    await stored_job(scene, "train", metadata=WITH_SCHEMA)
    session = await sign_in(scene.ada)
    markup = await page(session, PATH)
    epochs = field("Epochs", markup)

    high = await send(session, PATH, {epochs: "12", field("lr", markup): "0.1"})
    word = await send(session, PATH, {epochs: "many"})
    other = await send(session, PATH, {field("lr", markup): "0.1", "others": "[1]"})

    assert [high[0], word[0], other[0]] == [422, 422, 422]
    assert beside("Epochs", high[2]) == "12 breaks the rule `maximum: 9`."
    assert 'value="12"' in high[2]
    assert beside("Epochs", word[2]) == "'many' is not a whole number."
    assert beside("lr", word[2]) == "A value is required."
    assert "not a JSON object" in beside("Further parameters", other[2])
    assert (await scene.plane.items.list(scene.ada.principal, "ada")).total == 0


@pytest.mark.parametrize(
    "rule", [{"$ref": "http://127.0.0.1:1/x.json"}, {"pattern": r"(a)\1"}, {"type": "no such"}]
)
async def test_a_schema_that_cannot_be_used_is_told_and_nothing_is_submitted(scene, sign_in, rule):
    schema = {"type": "object", "properties": {"lr": rule}}
    await stored_job(scene, "train", metadata={"input_schemas": {"@wandb.config": schema}})
    session = await sign_in(scene.ada)
    markup = await page(session, PATH)

    status, _, shown = await send(session, PATH, {field("lr", markup): "1"})

    assert status == 422
    assert "The job's schema cannot be used" in beside("Further parameters", shown)
    assert (await scene.plane.items.list(scene.ada.principal, "ada")).total == 0


async def test_without_a_schema_fields_come_from_the_types_of_an_earlier_run(scene, sign_in):
    types = {"lr": {"wb_type": "number"}, "deep": {"wb_type": "boolean"}}
    tree = {"wb_type": "typedDict", "params": {"type_map": types}}
    await stored_job(scene, "train", GIT | {"input_types": tree})
    session = await sign_in(scene.ada)
    markup = await page(session, PATH)

    _, path, _ = await send(
        session, PATH, {field("lr", markup): "1e-3", field("deep", markup): "false"}
    )

    item = await scene.plane.items.get(scene.ada.principal, path.rpartition("/")[2])
    assert item.run_spec["overrides"]["run_config"] == {"lr": 0.001, "deep": False}


async def test_the_form_is_filled_with_the_latest_parameters(scene, sign_in):
    await stored_job(scene, "train", metadata=WITH_SCHEMA)
    config = {"lr": 0.5, "epochs": 4, "free": 1}
    overrides = {"run_config": config}
    await scene.submit("before", docker={}, job="ada/default/train:v0", overrides=overrides)

    markup = await page(await sign_in(scene.ada), PATH)

    shown = re.findall(r'<input[^>]*value="([^"]*)"[^>]*name="([^"]*)"', markup)
    assert ("4", field("Epochs", markup)) in [(value, html.unescape(name)) for value, name in shown]
    assert "{\n  &#34;free&#34;: 1\n}" in markup


async def test_an_item_is_launched_again_with_its_own_parameters(scene, sign_in):
    await stored_job(scene, "train")
    job = {"docker": {}, "job": "ada/default/train:v0"}
    first = await scene.submit("first", **job, overrides={"run_config": {"lr": 0.125}})
    await scene.submit("second", **job, overrides={"run_config": {"lr": 0.75}})
    session = await sign_in(scene.ada)

    shown = await page(session, f"/launch/items/{first.id}")
    link = html.unescape(re.search(r'class="button" href="([^"]*)">Launch again', shown).group(1))
    assert link == f"{PATH}?version=v0&item={first.id}#launch"
    again = await page(session, link)
    assert "0.125" in again
    assert "0.75" not in again
    assert "0.75" in await page(session, f"{PATH}?item=nosuchitem00")


async def test_a_form_that_is_sent_twice_launches_once(scene, sign_in):
    await stored_job(scene, "train")
    session = await sign_in(scene.ada)
    token = re.search(r'name="token" value="(\w+)"', await page(session, PATH)).group(1)

    first = await send(session, PATH, {"token": token})
    second = await send(session, PATH, {"token": token})
    changed = await send(session, PATH, {"token": token, "others": '{"a": 1}'})

    assert first[1] == second[1]
    assert changed[1] != first[1]


async def test_an_error_of_the_control_plane_is_shown_above_the_form(scene, sign_in):
    await stored_job(scene, "train")
    session = await sign_in(scene.ada)

    status, _, markup = await send(session, PATH, {"queue": "defalt"})

    assert status == 422
    assert "There is no queue 'defalt'" in words(markup)


async def test_a_viewer_sees_no_form_and_cannot_launch(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    await scene.queue("default", "vision")
    await stored_job(scene, "train", entity="vision")
    session = await sign_in(await scene.person("vic", "vision", Role.VIEWER))
    path = "/launch/jobs/vision/default/train"

    assert "Launch again" not in words(await page(session, path))
    status, _, markup = await send(session, path, {})
    assert status == 422
    assert "may not submit items" in words(markup)


async def test_an_item_links_to_its_job(scene, sign_in):
    await stored_job(scene, "train")
    item = await scene.submit("again", docker={}, job="ada/default/train:latest")

    markup = await page(await sign_in(scene.ada), f"/launch/items/{item.id}")

    assert f'<a href="{PATH}?version=v0">ada/default/train:v0</a>' in markup


async def test_texts_of_a_job_are_escaped(scene, sign_in):
    for number, text in enumerate(CORPUS):
        schema = {"properties": {text: {"title": text, "description": text, "enum": [text]}}}
        source = GIT["source"] | {"entrypoint": ["python", text]}
        await stored_job(
            scene,
            f"job-{number}",
            GIT | {"source": source},
            metadata={"input_schemas": {"@wandb.config": schema}},
        )
    session = await sign_in(scene.ada)
    for number in range(len(CORPUS)):
        markup = await page(session, f"/launch/jobs/ada/default/job-{number}")
        assert "<script>alert" not in markup
        assert "<img src=x" not in markup
        assert "<svg onload" not in markup
        assert "' onmouseover=" not in markup
        assert "1337" not in markup
