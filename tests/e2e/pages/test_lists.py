"""Lists and forms in a real browser: by keyboard, on a phone, live, without shifts."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.pages.browser import Browser
from tests.e2e.pages.test_live import PHONE, mark, sign_in, unmoved
from tests.integration.pages.jobs import IMAGE, stored_job
from tests.integration.pages.scene import Scene, open_scene

pytestmark = pytest.mark.browser

MANIFEST = "kind: Job\nspec:\n  parallelism: '{{pods}}'\n"
#: Sum of the layout shifts since the page was opened, those after a user's input left out.
SHIFTS = """
const done = arguments[0];
let sum = 0;
new PerformanceObserver((list) => {
  for (const one of list.getEntries()) if (!one.hadRecentInput) sum += one.value;
}).observe({ type: "layout-shift", buffered: true });
requestAnimationFrame(() => requestAnimationFrame(() => done(sum)));
"""


#: Names of the fields without a label.
NAMELESS = """
const fields = [...document.querySelectorAll("input:not([type=hidden]), select, textarea")];
return fields.filter((e) => !e.labels.length || !e.labels[0].innerText.trim()).map((e) => e.name);
"""


@pytest.fixture
async def scene(tmp_path: Path, browser: Browser) -> AsyncIterator[Scene]:
    """Closes the page before the server stops."""
    async with open_scene(tmp_path) as opened:
        yield opened
        await browser.open("about:blank")


async def type_into(browser: Browser, selector: str, text: str) -> None:
    """Text as from a keyboard, into a field that is focused first."""
    await browser.run("document.querySelector(arguments[0]).focus()", selector)
    await browser.command("Input.insertText", {"text": text})


async def press(browser: Browser, key: str, code: int) -> None:
    """A key that is pressed and released."""
    values = {"key": key, "code": key, "windowsVirtualKeyCode": code}
    values |= {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        await browser.command("Input.dispatchKeyEvent", {"type": kind, **values})


async def busy(scene: Scene) -> None:
    """Items in several phases, an agent, a job, a queue with variables."""
    await stored_job(scene, "train", IMAGE)
    variables = {
        "size": {"schema": {"type": "string", "enum": ["small", "large"], "default": "small"}},
        "gpus": {"schema": {"type": "integer", "default": 1}, "description": "Devices of one job"},
    }
    arguments = {"local-process": {"size": "{{size}}", "gpus": "{{gpus}}"}}
    config = {"resource_args": arguments}
    await scene.queue("gpu", config=config, template_variables=variables)
    await scene.submit("", docker={}, job="ada/default/train:latest")
    agent = await scene.agent()
    claim = await scene.claim(agent)
    await scene.start(agent, claim)
    for number in range(3):
        await scene.submit(f"waits-{number}")
    await scene.plane.items.stop(scene.ada.principal, (await scene.submit("stopped")).id)


async def test_a_queue_is_made_in_the_page_by_keyboard(scene, browser):
    await sign_in(browser, scene, "/launch/queues/ada")
    await type_into(browser, "#name", "cluster")
    await browser.run("document.querySelector('#resource').value = 'kubernetes'")
    await type_into(browser, "#arguments", MANIFEST)
    await type_into(browser, "#variable-0-name", "pods")
    await press(browser, "Enter", 13)
    # What was checked has the focus, and Enter in a field never saves.
    await browser.until("document.activeElement.id === 'changes'")
    assert "+ resource: kubernetes" in await browser.text("#changes")
    await press(browser, "Tab", 9)
    await press(browser, "Tab", 9)
    assert await browser.run("return document.activeElement.value") == "save"
    await press(browser, "Enter", 13)
    await browser.until("location.pathname === '/launch/queues/ada/cluster' && document.body")

    assert "parallelism: '{{pods}}'" in await browser.text("#tab")
    queue = await scene.plane.queues.get(scene.ada.principal, "ada", "cluster")
    assert queue.template_variables == {"pods": {"schema": {"type": "string"}}}


async def test_deleting_a_queue_asks_also_after_the_page_was_updated(scene, browser):
    await sign_in(browser, scene, "/launch/queues/ada/default?tab=settings")
    await mark(browser)
    await scene.queue("default", config={"retries": 3})
    await browser.until("document.querySelector('#tab').innerText.includes('retries: 3')")
    await browser.run("window.confirm = (text) => { window.asked = text; return false; }")

    await browser.run("document.querySelector('button.danger').click()")

    assert await browser.run("return window.asked") == "Delete the queue default?"
    assert await unmoved(browser)


async def test_the_variables_of_the_chosen_queue_are_shown(scene, browser):
    await busy(scene)
    await sign_in(browser, scene, "/launch/jobs/ada/default/train")
    assert "VARIABLES" not in (await browser.text("#launch")).upper()

    await browser.run(
        "const s = document.querySelector('#field-queue'); s.value = 'gpu';"
        "s.dispatchEvent(new Event('change'))"
    )

    shown = await browser.text("fieldset[data-queue=gpu]")
    assert "Devices of one job" in shown
    await browser.click("#launch button.main")
    await browser.until("location.pathname.startsWith('/launch/items/') && document.body")
    item = await scene.plane.items.get(
        scene.ada.principal, await browser.run("return location.pathname.split('/').pop()")
    )
    arguments = item.run_spec["resource_args"]["local-process"]
    assert arguments == {"size": "small", "gpus": 1}


async def test_a_filtered_list_is_updated_and_what_is_being_typed_stays(scene, browser):
    await busy(scene)
    await sign_in(browser, scene, "/launch/items?find=waits")
    await mark(browser)
    await type_into(browser, "[name=job]", "half a na")

    await scene.submit("waits-too")
    await scene.submit("something else")

    await browser.until("document.querySelector('#items').innerText.includes('waits-too')")
    assert "something else" not in await browser.text("#items")
    assert await browser.run("return document.activeElement.value") == "half a na"
    assert await unmoved(browser)
    await press(browser, "Enter", 13)
    await browser.until("location.search.includes('half') && document.querySelector('#items')")
    assert "find=waits" in await browser.run("return location.search")


PATHS = (
    "/launch",
    "/launch/items",
    "/launch/agents",
    "/launch/jobs/ada/default/train",
    "/launch/queues/ada/gpu",
    "/launch/queues/ada/gpu?tab=settings",
    "/launch/queues/ada/gpu/edit",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, 1280])
async def test_pages_fit_have_names_and_do_not_shift(scene, browser, width, scheme, tmp_path):
    await busy(scene)
    await sign_in(browser, scene)
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    await browser.command("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    await browser.command("Emulation.setEmulatedMedia", {"features": features})
    await browser.console()
    try:
        for number, path in enumerate(PATHS):
            await browser.open(f"{scene.url}{path}")
            if "edit" not in path:
                live = "document.querySelector('[data-live-status]').innerText === 'Live'"
                await browser.until(live)
            assert await browser.run("return document.documentElement.scrollWidth") <= width, path
            assert await browser.run(NAMELESS) == [], path
            assert await browser.run_async(SHIFTS) < 0.02, path
            await browser.picture(tmp_path / f"{scheme}-{width}-{number}.png")
    finally:
        await browser.command("Emulation.clearDeviceMetricsOverride", {})
        await browser.command("Emulation.setEmulatedMedia", {"features": []})
    assert await browser.console() == []
