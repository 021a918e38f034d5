"""The pages of runs in a real browser: charts, console, live updates, texts of users."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.pages.browser import Browser
from tests.e2e.pages.test_live import HOSTILE, PHONE, mark, sign_in, unmoved
from tests.integration.pages.runs import begin, finish, log, png, put_file, send
from tests.integration.pages.scene import Scene, open_scene

pytestmark = pytest.mark.browser

PATH = "/ada/vision/runs/r1"
TABS = ("", "/overview", "/logs", "/system", "/files", "/artifacts")
LEGEND = "document.querySelector('[data-metric=loss] .chart-last').innerText"


@pytest.fixture
async def scene(tmp_path: Path, browser: Browser) -> AsyncIterator[Scene]:
    """Closes the page before the server stops."""
    async with open_scene(tmp_path) as opened:
        yield opened
        await browser.open("about:blank")


async def rows(browser: Browser) -> list[str]:
    return await browser.run(
        "return [...document.querySelectorAll('.log > div')].map((e) => e.innerText.trim())"
    )


async def test_charts_are_drawn_and_follow_what_is_logged(scene, browser):
    run = await begin(scene)
    await log(scene, run, [{"loss": 1 / (n + 1), "acc": n} for n in range(50)])
    await sign_in(browser, scene, PATH)
    await mark(browser)
    await browser.console()

    await browser.until(f"{LEGEND} === 'r1: 0.02'")
    await browser.until("document.querySelectorAll('.chart canvas').length === 2")
    await log(scene, run, [{"loss": 7}], first=50)
    await browser.until(f"{LEGEND} === 'r1: 7'")

    assert await unmoved(browser)
    painted = """const canvas = document.querySelector('[data-metric=loss] canvas');
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      return data.some((value) => value > 0);"""
    assert await browser.run(painted)
    assert await browser.console() == []


async def test_options_of_charts_draw_them_otherwise(scene, browser):
    run = await begin(scene)
    await log(scene, run, [{"loss": 10.0 ** (n % 4), "acc": -n} for n in range(50)])
    await sign_in(browser, scene, PATH)
    await browser.until(f"{LEGEND} !== 'Loading…'")
    await browser.console()
    picture = "document.querySelector('[data-metric=loss] canvas').toDataURL()"
    change = """const [name, value, done] = arguments;
      const field = document.querySelector(`[data-chart-options] [name=${name}]`);
      if (field.type === 'checkbox') field.checked = value; else field.value = value;
      field.dispatchEvent(new Event('input', { bubbles: true }));
      requestAnimationFrame(() => setTimeout(done, 0));"""

    seen = [await browser.run(f"return {picture}")]
    for name, value in (("smoothing", "0.9"), ("logarithmic", True), ("axis", "seconds")):
        await browser.run_async(change, name, value)
        seen.append(await browser.run(f"return {picture}"))
    await browser.run_async(change, "find", "AC")

    assert len(set(seen)) == len(seen)
    shown = "return [...document.querySelectorAll('.chart')].map((e) => e.dataset.metric)"
    assert await browser.run(shown) == ["acc"]
    assert await browser.console() == []


async def test_the_console_draws_lines_again_that_were_written_again(scene, browser):
    run = await begin(scene)
    await send(scene, run, "output.log", 0, ["one", "10%"])
    await sign_in(browser, scene, f"{PATH}/logs")
    await browser.until("document.querySelector('.log').innerText.includes('10%')")
    await mark(browser)

    await send(scene, run, "output.log", 1, ["\x1b[32m50%\x1b[0m", "ERROR 2026-01-01T00:00:00 bad"])
    await browser.until("document.querySelector('.log').innerText.includes('bad')")

    assert await rows(browser) == ["one", "50%", "bad"]
    assert await browser.run("return document.querySelector('.log .f2').innerText") == "50%"
    assert await browser.run("return document.querySelector('.console-error').innerText") == "bad"
    assert await unmoved(browser)


async def test_a_run_that_ends_shows_it_without_a_reload(scene, browser):
    run = await begin(scene)
    await sign_in(browser, scene, f"{PATH}/overview")
    await mark(browser)

    await send(scene, run, "wandb-summary.json", 0, ['{"loss": 0.125}'])
    await browser.until("document.querySelector('#overview').innerText.includes('0.125')")
    await finish(scene, run)
    await browser.until("document.querySelector('.title .state').innerText === 'finished'")

    assert await unmoved(browser)
    assert await browser.run("return document.querySelector('.danger')") is None


async def test_an_image_is_shown_beside_its_file(scene, browser):
    run = await begin(scene)
    await put_file(scene, run, "media/images/a.png", png())
    await sign_in(browser, scene, f"{PATH}/files")

    await browser.run_async(
        "const done = arguments[0]; const image = document.querySelector('.preview img');"
        "image.decode().then(() => done(image.naturalWidth));"
    )
    width = await browser.run("return document.querySelector('.preview img').naturalWidth")
    assert width == 64


async def test_stop_asks_and_then_the_run_is_stopping(scene, browser):
    await begin(scene)
    await sign_in(browser, scene, PATH)

    await browser.run("window.confirm = () => true")
    await browser.click(".actions button.danger")
    await browser.until("document.querySelector('.title').innerText.includes('stopping')")

    run = await scene.plane.runs.get(scene.ada.principal, "ada", "vision", "r1")
    assert run.stopped


async def hostile_run(scene: Scene) -> None:
    run = await begin(
        scene,
        display_name=HOSTILE * 3,
        notes=HOSTILE,
        tags=(HOSTILE,),
        config={HOSTILE: HOSTILE, "long" * 40: "y" * 400},
    )
    await log(scene, run, [{HOSTILE: n, "long" * 40: n} for n in range(3)])
    await send(scene, run, "output.log", 0, [HOSTILE, "x" * 500])
    await send(scene, run, "wandb-events.jsonl", 0, ['{"system.cpu": 3, "_runtime": 1}'])
    await put_file(scene, run, "<img src=x onerror='window.hacked=1'>.png", png())
    await put_file(scene, run, "z" * 200, b"")


async def test_texts_of_runs_are_never_executed(scene, browser):
    await hostile_run(scene)
    await sign_in(browser, scene)
    await browser.console()

    for tab in TABS:
        await browser.open(f"{scene.url}{PATH}{tab}")
        await browser.until("document.querySelector('[data-live-status]').innerText === 'Live'")
        if tab in {"", "/system"}:
            await browser.until("document.querySelector('.chart canvas')")
        assert await browser.run("return window.hacked") is None, tab
    assert await browser.console() == []


async def test_no_page_of_a_run_is_wider_than_a_phone(scene, browser):
    await hostile_run(scene)
    await sign_in(browser, scene)
    phone = {"width": PHONE, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    await browser.command("Emulation.setDeviceMetricsOverride", phone)
    try:
        for tab in TABS:
            await browser.open(f"{scene.url}{PATH}{tab}")
            await browser.until("document.querySelector('[data-live-status]').innerText === 'Live'")
            if tab in {"", "/system"}:
                await browser.until("document.querySelector('.chart canvas')")
            wide = await browser.run("return document.documentElement.scrollWidth")
            assert wide <= PHONE, tab
    finally:
        await browser.command("Emulation.clearDeviceMetricsOverride", {})
