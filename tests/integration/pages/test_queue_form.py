"""Queues made, changed, paused and deleted in the page, without scripts."""

import difflib
import html
import re
import threading

import aiohttp
import pytest
import yaml

from agent.control.store.accounts import Role
from agent.control.store.items import Submission
from agent.control.web.queue_form import changed_lines
from agent.model.errors import NotFoundError
from tests.integration.pages.test_pages import CORPUS, page, words

NEW = "/launch/queues/ada"
EDIT = "/launch/queues/ada/gpu/edit"
GPU = {
    "name": "gpu",
    "resource": "kubernetes",
    "prioritization": "on",
    "arguments": "kind: Job\nspec: {parallelism: '{{pods}}'}\n",
    "others": "retries: 2\n",
    "variable-0-name": "pods",
    "variable-0-type": "integer",
    "variable-0-default": "1",
    "variable-0-maximum": "8",
    "variable-0-description": "How many",
    "action": "check",
}


async def send(
    session: aiohttp.ClientSession, path: str, values: dict[str, str]
) -> tuple[int, str, str]:
    """Send a form; status, path and page at the end."""
    async with session.post(path, data=values) as answer:
        return answer.status, answer.url.path, await answer.text()


def digest(markup: str) -> str:
    """What the save button sends with the shown changes."""
    found = re.search(r'name="digest" value="(\w+)"', markup)
    assert found, "no changes are shown"
    return found[1]


def diff(markup: str) -> list[str]:
    """The lines that are shown as added or removed."""
    lines = re.findall(r'<span class="(?:added|removed)">(.*?)\n</span>', markup, re.DOTALL)
    return [html.unescape(line) for line in lines]


async def make(session: aiohttp.ClientSession) -> None:
    _, _, shown = await send(session, NEW, GPU)
    await send(session, NEW, {**GPU, "action": "save", "digest": digest(shown)})


async def test_a_queue_is_shown_before_it_is_made(scene, sign_in):
    session = await sign_in(scene.ada)

    status, _, shown = await send(session, NEW, GPU)
    with pytest.raises(NotFoundError):
        await scene.plane.queues.get(scene.ada.principal, "ada", "gpu")
    saved = await send(session, NEW, {**GPU, "action": "save", "digest": digest(shown)})

    assert status == 200
    assert "+ resource: kubernetes" in diff(shown)
    assert saved[:2] == (200, "/launch/queues/ada/gpu")
    queue = await scene.plane.queues.get(scene.ada.principal, "ada", "gpu")
    arguments = {"kind": "Job", "spec": {"parallelism": "{{pods}}"}}
    assert queue.config == {"retries": 2, "resource_args": {"kubernetes": arguments}}
    schema = {"type": "integer", "default": 1, "maximum": 8}
    assert queue.template_variables == {"pods": {"schema": schema, "description": "How many"}}
    assert (queue.resource, queue.prioritization) == ("kubernetes", "V0")


async def test_a_form_that_changes_nothing_says_so(scene, sign_in):
    session = await sign_in(scene.ada)
    await make(session)
    markup = await page(session, EDIT)
    fields = re.findall(r'<input[^>]* name="([^"]+)"[^>]* value="([^"]*)"', markup)
    texts = re.findall(r'<textarea[^>]* name="([^"]+)"[^>]*>(.*?)</textarea>', markup, re.DOTALL)
    chosen = {"resource": "kubernetes", "prioritization": "on", "variable-0-type": "integer"}
    values = {name: html.unescape(text) for name, text in [*fields, *texts]} | chosen

    _, _, shown = await send(session, EDIT, {**values, "action": "check"})

    assert "Nothing would change." in shown


async def test_changes_are_shown_as_a_difference_and_saved(scene, sign_in):
    session = await sign_in(scene.ada)
    await make(session)
    changed = {**GPU, "variable-0-maximum": "4", "prioritization": "off"}

    _, _, shown = await send(session, EDIT, changed)
    await send(session, EDIT, {**changed, "action": "save", "digest": digest(shown)})

    lines = [line.replace(" ", "") for line in diff(shown)]
    assert lines == ["-prioritization:true", "+prioritization:false", "-maximum:8", "+maximum:4"]
    queue = await scene.plane.queues.get(scene.ada.principal, "ada", "gpu")
    assert queue.template_variables["pods"]["schema"]["maximum"] == 4
    assert queue.prioritization == "DISABLED"


async def test_what_was_not_shown_is_not_saved(scene, sign_in):
    session = await sign_in(scene.ada)
    await make(session)
    wanted = {**GPU, "variable-0-maximum": "4"}
    _, _, shown = await send(session, EDIT, wanted)
    seen = digest(shown)

    other = await send(session, EDIT, {**wanted, "others": "", "action": "save", "digest": seen})
    await scene.queue("gpu", resource="kubernetes", prioritization="DISABLED")
    later = await send(session, EDIT, {**wanted, "action": "save", "digest": seen})
    without = await send(session, EDIT, {**wanted, "action": "save"})

    assert "- " in "".join(diff(other[2]))
    assert "+ prioritization: true" in diff(later[2])
    assert "These changes will be saved" in without[2]
    queue = await scene.plane.queues.get(scene.ada.principal, "ada", "gpu")
    assert queue.template_variables["pods"]["schema"]["maximum"] == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arguments": "a: [1"}, "Line 1: not valid YAML"),
        ({"arguments": "- a"}, "Line 1: expected"),
        ({"others": "resource_args: 5"}, "`resource_args` is no mapping."),
        ({"variable-0-default": "many"}, "Its default: "),
        ({"variable-0-further": "[1]"}, "The further rules are no JSON object"),
        (
            {"variable-0-type": "", "variable-0-further": '{"type": "nonsense"}'},
            "templateVariables.pods.schema",
        ),
        (
            {"variable-0-further": '{"default": 2}'},
            "`default`: given in a field and among the further",
        ),
        ({"variable-1-name": "pods"}, "There are two of this name."),
        ({"name": "-x"}, "'-x' cannot be the name of a queue."),
        ({"name": "default"}, "There is a queue 'default' in 'ada' already."),
        ({"plugin": "not a name"}, "'not a name' cannot be the name of a resource."),
        ({"variable-0-name": ""}, "{{pods}} is used"),
        ({"arguments": "", "variable-0-name": "unused"}, "templateVariables.unused is declared"),
    ],
)
async def test_what_is_wrong_is_said_and_the_texts_are_kept(scene, sign_in, values, message):
    session = await sign_in(scene.ada)
    status, _, shown = await send(session, NEW, GPU | values)
    assert status == 422
    assert message in words(shown)
    assert "retries: 2" in shown or "others" in values
    assert "digest" not in shown


async def test_variables_that_only_the_template_names_get_fields(scene, sign_in):
    session = await sign_in(scene.ada)
    _, _, shown = await send(session, NEW, GPU | {"variable-0-name": ""})
    assert 'name="variable-0-name" value="pods"' in shown


async def test_a_queue_is_paused_resumed_and_deleted(scene, sign_in):
    session = await sign_in(scene.ada)
    await make(session)
    item = await scene.submit("waits", "gpu")
    path = "/launch/queues/ada/gpu"

    paused = await send(session, f"{path}/pause", {"paused": "yes"})
    resumed = await send(session, f"{path}/pause", {"paused": "no"})
    refused = await send(session, f"{path}/delete", {})
    deleted = await send(session, f"{path}/delete", {"force": "yes"})

    assert "paused" in words(paused[2])
    assert "paused" not in words(resumed[2])
    assert (refused[0], deleted[:2]) == (409, (200, "/launch"))
    found = await scene.plane.items.get(scene.ada.principal, item.id)
    assert (found.queue_id, found.phase.word) == (None, "stopped")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MEMBER])
async def test_only_administrators_change_queues(scene, sign_in, role):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    await scene.queue("gpu", "vision")
    person = await scene.person("vic", "vision", role)
    session = await sign_in(person)
    path = "/launch/queues/vision/gpu"
    for form in ("/launch/queues/vision", f"{path}/edit", f"{path}/pause", f"{path}/delete"):
        status, _, _ = await send(session, form, GPU | {"paused": "yes", "force": "yes"})
        assert status == 403, form
    for form in ("/launch/queues/vision", f"{path}/edit"):
        async with session.get(form) as answer:
            assert answer.status == 403
    shown = await page(session, f"{path}?tab=settings")
    assert "Delete this queue" not in shown
    assert "/edit" not in shown
    assert not (await scene.plane.queues.get(scene.ada.principal, "vision", "gpu")).paused


async def test_those_outside_of_the_entity_do_not_learn_that_it_exists(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    session = await sign_in(await scene.person("vic", "vision", Role.ADMIN))
    for form in (NEW, "/launch/queues/ada/default/edit", "/launch/queues/nosuch"):
        status, _, _ = await send(session, form, GPU)
        assert status == 404, form


async def test_forms_of_another_site_change_no_queue(scene, sign_in):
    session = await sign_in(scene.ada)
    path = "/launch/queues/ada/default"
    for form in (NEW, f"{path}/edit", f"{path}/pause", f"{path}/delete"):
        headers = {"Origin": "http://evil.example"}
        async with session.post(form, data={"paused": "yes"}, headers=headers) as answer:
            assert answer.status == 403
    assert not (await scene.plane.queues.get(scene.ada.principal, "ada", "default")).paused


@pytest.mark.parametrize("text", CORPUS)
async def test_texts_in_the_form_stay_texts(scene, sign_in, text):
    session = await sign_in(scene.ada)
    values = {f"variable-0-{name}": text for name in ("name", "default", "enum", "description")}
    _, _, shown = await send(session, NEW, {**GPU, "name": text, "others": text, **values})
    assert html.escape(text, quote=False) in shown.replace("&#34;", '"').replace("&#39;", "'")
    assert text not in shown or html.escape(text) == text


class Counted(str):
    """A line that counts how often it is compared or looked up."""

    count = 0
    __slots__ = ()

    def __hash__(self) -> int:
        Counted.count += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        Counted.count += 1
        return super().__eq__(other)


def test_the_differences_of_many_lines_are_not_looked_for_by_the_square_of_their_number():
    before = ["first", *(f"x{i % 190}" for i in range(8000)), "last"]
    after = ["first", *(f"x{i * 7 % 190}" for i in range(8000)), "last"]
    Counted.count = 0
    lines = list(changed_lines([*map(Counted, before)], [*map(Counted, after)]))
    assert Counted.count < 20 * len(before)
    assert [each.text for each in lines if each.kind != "added"][1:] == before
    assert [each.text for each in lines if each.kind != "removed"][1:] == after


def test_one_change_in_a_long_template_is_shown_alone():
    before = [f"line {i}" for i in range(5000)]
    after = [*before[:2500], "new", *before[2500:]]
    lines = [each.text for each in changed_lines(before, after)]
    assert lines == ["…", *before[2497:2500], "new", *before[2500:2503]]


async def test_texts_of_templates_are_not_made_on_the_event_loop(scene, sign_in, monkeypatch):
    session = await sign_in(scene.ada)
    await make(session)
    threads = set()

    def noted(work):
        def call(*args, **options):
            threads.add(threading.current_thread())
            return work(*args, **options)

        return call

    monkeypatch.setattr(yaml, "dump", noted(yaml.dump))
    monkeypatch.setattr(difflib, "unified_diff", noted(difflib.unified_diff))
    await page(session, EDIT)
    await page(session, "/launch/queues/ada/gpu?tab=settings")
    await send(session, EDIT, {**GPU, "variable-0-maximum": "4"})
    assert threads
    assert threading.main_thread() not in threads


def browser_values(markup: str) -> dict[str, str]:
    """What a browser sends of a form in which nothing was changed."""
    sent = {}
    for tag in re.findall(r"<input[^>]*>", markup):
        name, value = (re.search(rf' {key}="([^"]*)"', tag) for key in ("name", "value"))
        if name:
            # Browsers remove line breaks from fields of one line.
            sent[name[1]] = re.sub(r"[\r\n]", "", html.unescape(value[1])) if value else ""
    for name, text in re.findall(
        r'<textarea[^>]* name="([^"]+)"[^>]*>(.*?)</textarea>', markup, re.DOTALL
    ):
        sent[name] = html.unescape(text).replace("\n", "\r\n")
    for name, options in re.findall(
        r'<select[^>]* name="([^"]+)"[^>]*>(.*?)</select>', markup, re.DOTALL
    ):
        chosen = re.search(r'<option(?: value="([^"]*)")? selected>([^<]*)', options)
        first = re.search(r'<option(?: value="([^"]*)")?>([^<]*)', options)
        value, text = (chosen or first).groups()
        sent[name] = html.unescape(text if value is None else value)
    return sent


@pytest.mark.parametrize(
    "variable",
    [
        {"schema": {"type": "string", "default": ""}},
        {"schema": {"type": "string", "default": " x "}},
        {"schema": {"type": "string", "default": "a\nb"}},
        {"schema": {"type": "string", "default": 3}},
        {"schema": {"type": "string", "enum": ["", "a"]}},
        {"schema": {"type": "string", "enum": ["a\nb", "c"]}},
        {"schema": {"type": "string", "enum": ["a\u2028b", "c"]}},
        {"schema": {"type": "string", "enum": ["a ", "c"], "default": "c"}},
        {"schema": {"type": ["string", "null"], "default": None}},
        {"schema": {"enum": ["a", 1, None], "default": None}},
        {"schema": {"type": "integer", "default": 3, "minimum": 0, "multipleOf": 1}},
        {"schema": {"type": "string"}, "title": "T", "description": " of two\nlines "},
    ],
)
async def test_what_is_not_touched_keeps_its_value(scene, sign_in, variable):
    session = await sign_in(scene.ada)
    await scene.plane.queues.save(
        scene.ada.principal,
        "ada",
        "gpu",
        resource="local-container",
        config={"resource_args": {"local-container": {"env": ["A={{v}}"]}}},
        template_variables={"v": variable},
        prioritization="V0",
    )
    sent = browser_values(await page(session, EDIT))

    _, _, same = await send(session, EDIT, sent | {"action": "check"})
    assert "Nothing would change." in same
    changed = sent | {"prioritization": "off", "action": "check"}
    _, _, shown = await send(session, EDIT, changed)
    await send(session, EDIT, changed | {"action": "save", "digest": digest(shown)})

    queue = await scene.plane.queues.get(scene.ada.principal, "ada", "gpu")
    assert queue.template_variables == {"v": variable}
    assert queue.prioritization == "DISABLED"


async def test_every_variable_of_a_long_list_is_kept(scene, sign_in):
    session = await sign_in(scene.ada)
    variables = {f"v{i}": {"schema": {"type": "string"}} for i in range(60)}
    await scene.plane.queues.save(
        scene.ada.principal,
        "ada",
        "gpu",
        resource="local-container",
        config={
            "resource_args": {"local-container": {"env": [f"{{{{{each}}}}}" for each in variables]}}
        },
        template_variables=variables,
        prioritization="V0",
    )
    sent = browser_values(await page(session, EDIT))
    _, _, same = await send(session, EDIT, sent | {"action": "check"})
    assert "Nothing would change." in same


async def test_a_queue_without_a_resource_gets_none_by_being_saved(scene, sign_in):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    vic = await scene.person("vic", "vision", Role.MEMBER)
    session = await sign_in(vic)
    path = "/launch/queues/vic/default/edit"
    spec = {"docker": {"docker_image": "x"}}
    await scene.plane.items.submit(vic.principal, Submission("vic", "p", "default", spec))
    assert (await scene.plane.queues.get(vic.principal, "vic", "default")).resource is None
    sent = browser_values(await page(session, path)) | {"others": "retries: 2"}

    refused = await send(session, path, sent | {"arguments": "env: [A=b]", "action": "check"})
    _, _, shown = await send(session, path, sent | {"action": "check"})
    await send(session, path, sent | {"action": "save", "digest": digest(shown)})

    assert "Choose what jobs run on" in words(refused[2])
    queue = await scene.plane.queues.get(vic.principal, "vic", "default")
    assert (queue.resource, queue.config) == (None, {"retries": 2})
