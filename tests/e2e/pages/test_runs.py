"""The pages of runs in a real browser: charts, console, live updates, texts of users."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.pages.browser import Browser
from tests.e2e.pages.test_live import HOSTILE, PHONE, mark, sign_in, unmoved
from tests.integration.pages.runs import begin, finish, log, png, put_file, send
from tests.integration.pages.scene import Scene, open_scene

pytestmark = pytest.mark.browser

PATH = "/ada/vision/runs/r1"
PAGES = (
    "/ada/vision",
    "/ada/vision?group=state",
    *(f"{PATH}{tab}" for tab in ("", "/overview", "/logs", "/system", "/files", "/artifacts")),
)
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


async def test_the_end_of_a_long_console_is_in_view(scene, browser):
    run = await begin(scene)
    await send(scene, run, "output.log", 0, [f"line {n}" for n in range(200)])
    await sign_in(browser, scene, f"{PATH}/logs")

    await browser.until("document.querySelector('.log-foot').innerText.includes('200 lines')")
    below = """const [done] = arguments;
      const log = document.querySelector('.log');
      requestAnimationFrame(() => requestAnimationFrame(
        () => done(log.scrollHeight - log.scrollTop - log.clientHeight)));"""
    assert await browser.run_async(below) < 40


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
    await send(scene, run, "wandb-summary.json", 0, [json.dumps({HOSTILE: 2, "long" * 40: 2})])
    await send(scene, run, "output.log", 0, [HOSTILE, "x" * 500])
    await send(scene, run, "wandb-events.jsonl", 0, ['{"system.cpu": 3, "_runtime": 1}'])
    await put_file(scene, run, "<img src=x onerror='window.hacked=1'>.png", png())
    await put_file(scene, run, "z" * 200, b"")


async def open_page(browser: Browser, scene: Scene, path: str) -> None:
    """Open a page and wait until it is live, and its first chart drawn if it has some."""
    await browser.open(f"{scene.url}{path}")
    await browser.until("document.querySelector('[data-live-status]').innerText === 'Live'")
    if await browser.run("return document.querySelector('[data-charts]') !== null"):
        await browser.until("document.querySelector('.chart')")
        # Charts are drawn when they come into view.
        await browser.run("document.querySelector('.chart').scrollIntoView()")
        await browser.until("document.querySelector('.chart canvas')")


async def test_texts_of_runs_are_never_executed(scene, browser):
    await hostile_run(scene)
    await sign_in(browser, scene)
    await browser.console()

    for path in PAGES:
        await open_page(browser, scene, path)
        assert await browser.run("return window.hacked") is None, path
    assert await browser.console() == []


async def test_no_page_of_a_run_is_wider_than_a_phone(scene, browser):
    await hostile_run(scene)
    await sign_in(browser, scene)
    phone = {"width": PHONE, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    await browser.command("Emulation.setDeviceMetricsOverride", phone)
    try:
        for path in PAGES:
            await open_page(browser, scene, path)
            wide = await browser.run("return document.documentElement.scrollWidth")
            assert wide <= PHONE, path
    finally:
        await browser.command("Emulation.clearDeviceMetricsOverride", {})


async def test_runs_are_chosen_for_charts_and_compared(scene, browser):
    for name, value in (("r1", 1), ("r2", 2)):
        run = await begin(scene, name)
        await log(scene, run, [{"loss": value}, {"loss": value + 0.5}])
        await send(scene, run, "wandb-summary.json", 0, [f'{{"loss": {value + 0.5}}}'])
    await sign_in(browser, scene, "/ada/vision")
    await mark(browser)
    await browser.until(f"{LEGEND} === 'r2: 2.5 · r1: 1.5'")

    await browser.run("document.querySelector('[data-chart-run][value=r2]').click()")
    await browser.until(f"{LEGEND} === 'r1: 1.5'")
    await log(scene, run, [{"loss": 9}], first=2)
    await begin(scene, "r3")
    await browser.until("document.querySelector('#runs').innerText.includes('r3')")

    assert await unmoved(browser)
    checked = "[...document.querySelectorAll('[data-chart-run]:checked')].map((e) => e.value)"
    assert await browser.run(f"return {checked}") == ["r1"]
    assert await browser.run("return location.search") == "?run=r1"


async def test_a_project_leads_to_its_runs_and_jobs(scene, browser):
    await log(scene, await begin(scene), [{"loss": 1}])
    await sign_in(browser, scene, "/ada/vision")

    await browser.click("#runs tbody th a")
    await browser.until(f"location.pathname === '{PATH}' && document.querySelector('.chart')")
    for text in ("Overview", "Console", "System", "Files", "Artifacts and code"):
        await browser.run(
            "[...document.querySelectorAll('.tabs a')]"
            ".find((each) => each.innerText === arguments[0]).click()",
            text,
        )
        await browser.until(
            f"document.querySelector('.tabs [aria-current]').innerText === '{text}'"
        )
    await browser.click(".breadcrumb li:last-child a")
    await browser.until("location.pathname === '/ada/vision' && document.querySelector('#runs')")
    await browser.click(".tabs a[href='/launch/jobs/ada/vision']")
    await browser.until("document.querySelector('main')?.innerText.includes('no jobs')")
