"""The pages in a real browser: sign-in, live updates, live logs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.model.cause import Cause
from agent.model.phase import Phase
from tests.e2e.pages.browser import Browser
from tests.integration.pages.scene import Scene, open_scene

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
#: Widths of a phone and of a desk.
PHONE = 390


@pytest.fixture
async def scene(tmp_path: Path, browser: Browser) -> AsyncIterator[Scene]:
    """Closes the page before the server stops."""
    async with open_scene(tmp_path) as opened:
        yield opened
        await browser.open("about:blank")


async def sign_in(browser: Browser, scene: Scene, path: str = "/launch") -> None:
    """Sign in with the form, which redirects to the page that was asked for."""
    await browser.open(f"{scene.url}{path}")
    await browser.run("document.querySelector('#key').value = arguments[0]", scene.ada.key)
    await browser.click("form button.main")
    await browser.until(f"location.pathname + location.search === {path!r} && document.body")


async def unmoved(browser: Browser) -> bool:
    """Whether the page is still the one that was marked: nothing was reloaded."""
    return bool(await browser.run("return window.marked === true"))


async def mark(browser: Browser) -> None:
    await browser.run("window.marked = true")


async def test_after_sign_in_the_queue_and_its_agents_are_shown(scene, browser):
    agent = await scene.agent()

    await sign_in(browser, scene)
    assert "default" in await browser.text("#queues")
    await browser.click("a[href='/launch/queues/ada/default']")
    await browser.until("document.querySelector('h1')?.innerText === 'default'")
    await browser.click("a[href='?tab=agents']")
    await browser.until("location.search === '?tab=agents' && document.querySelector('#tab')")

    shown = await browser.text("#tab")
    assert agent.id in shown
    assert "POLLING" in shown


async def test_a_one_time_link_signs_in_once(scene, browser):
    link = await scene.server.sign_in_url(scene.ada.principal)

    await browser.open(link)
    await browser.until("location.pathname === '/launch' && document.querySelector('#queues')")
    await browser.command("Network.clearBrowserCookies", {})
    await browser.open(link)

    assert "used already" in await browser.text("main")


async def test_an_item_that_arrives_appears_without_a_reload(scene, browser):
    await sign_in(browser, scene, "/launch/queues/ada/default")
    await mark(browser)

    await scene.submit("newcomer")

    await browser.until("document.querySelector('#tab').innerText.includes('newcomer')")
    assert await unmoved(browser)


async def test_an_item_is_followed_from_its_queue_to_its_end(scene, browser):
    item = await scene.submit("train")
    await sign_in(browser, scene, f"/launch/items/{item.id}")
    await mark(browser)
    state = "document.querySelector('.title .state').innerText"

    agent = await scene.agent()
    claim = await scene.claim(agent)
    await browser.until(f"{state} === 'preparing'")
    await scene.log(claim, b"installing requirements\n", "setup")
    await browser.until("document.querySelector('.log').innerText.includes('installing')")
    await scene.start(agent, claim)
    await browser.until(f"{state} === 'running'")
    await scene.log(claim, b"epoch 1\n")
    await browser.until("document.querySelector('.log').innerText.includes('epoch 1')")
    await scene.finish(agent, claim, Phase.SUCCEEDED, Cause.SUCCEEDED, "exit code 0", 0)
    await browser.until(f"{state} === 'succeeded'")
    await browser.until("document.querySelector('.log-foot').innerText.includes('Complete')")

    assert await unmoved(browser)
    assert "installing" not in await browser.text(".log")


async def test_a_live_log_draws_colours_and_progress_bars(scene, browser):
    item = await scene.submit("train")
    agent = await scene.agent()
    claim = await scene.claim(agent)
    await scene.start(agent, claim)
    await sign_in(browser, scene, f"/launch/items/{item.id}")

    for percent in (10, 50, 100):
        await scene.log(claim, f"\r\x1b[32m{percent:3}%\x1b[0m".encode())
        await browser.until(f"document.querySelector('.log').innerText.includes('{percent}%')")
    await scene.log(claim, b"\ndone\n")
    await browser.until("document.querySelector('.log').innerText.includes('done')")

    lines = await browser.run("return document.querySelector('.log').innerText.trim().split('\\n')")
    assert lines == ["100%", "done"]
    assert await browser.run("return document.querySelector('.log .f2').innerText") == "100%"


async def test_a_long_log_is_shown_from_near_its_end_with_a_remark(scene, browser):
    item = await scene.submit("train")
    agent = await scene.agent()
    claim = await scene.claim(agent)
    await scene.start(agent, claim)
    for _ in range(3):
        await scene.log(claim, b"".join(b"line %060d\n" % n for n in range(15_000)))
    await scene.log(claim, b"the end\n")
    await sign_in(browser, scene, f"/launch/items/{item.id}")

    await browser.until("document.querySelector('.log').innerText.includes('the end')")

    # The remark at the top may have left the window of kept lines.
    lines = await browser.run("return document.querySelectorAll('.log .line').length")
    assert 1000 < lines <= 5300


async def test_a_log_continues_after_a_restart_of_the_server(scene, browser):
    item = await scene.submit("train")
    agent = await scene.agent()
    claim = await scene.claim(agent)
    await scene.start(agent, claim)
    await scene.log(claim, b"before\n")
    await sign_in(browser, scene, f"/launch/items/{item.id}")
    await browser.until("document.querySelector('.log').innerText.includes('before')")
    await mark(browser)

    port = scene.server.port
    await scene.server.stop()
    await browser.until("document.querySelector('.log-foot').innerText.includes('trying again')")
    async with open_scene(scene.folder, port, scene.ada.key) as again:
        await again.log(claim, b"after\n")
        await browser.until("document.querySelector('.log').innerText.includes('after')")
        text = await browser.text(".log")
        await browser.open("about:blank")

    assert text.split() == ["before", "after"]


async def test_an_expired_session_redirects_to_the_sign_in_page(scene, browser):
    """The browser opens no password dialog, and the page does not stay as if it were live."""
    item = await scene.submit("train")
    await scene.claim(await scene.agent())
    await sign_in(browser, scene, f"/launch/items/{item.id}")
    await browser.until("document.querySelector('.log-foot').innerText.includes('Live')")
    keys = await scene.plane.accounts.keys(scene.ada.principal)

    for key in keys:
        await scene.plane.accounts.revoke_key(scene.ada.principal, key.id)
    await scene.server.stop()
    async with open_scene(scene.folder, scene.server.port):
        await browser.until("location.pathname === '/login' && document.querySelector('#key')")
        await browser.open("about:blank")


async def test_stop_asks_and_then_stops(scene, browser):
    item = await scene.submit("train")
    await sign_in(browser, scene, f"/launch/items/{item.id}")

    await browser.run("window.confirm = () => true")
    await browser.click(".actions button.danger")
    await browser.until("document.querySelector('.title .state').innerText === 'stopped'")

    record = await scene.plane.items.get(scene.ada.principal, item.id)
    assert record.phase is Phase.STOPPED


async def test_an_agent_is_drained_and_then_stopped_after_a_question(scene, browser):
    agent = await scene.agent()
    await sign_in(browser, scene, f"/launch/agents/{agent.id}")
    await browser.run("window.confirm = (text) => { window.asked = text; return false; }")
    await browser.click(".actions form[action$='/drain'] button")
    assert await browser.run("return window.asked") == (
        "Let box finish its jobs, claim no more, and shut down?"
    )
    told = await scene.plane.agents.get(scene.ada.principal, agent.id)
    assert told is not None
    assert told.stop is None

    await browser.run("window.confirm = () => true")
    await browser.click(".actions form[action$='/drain'] button")
    await browser.until("document.querySelector('.title .state').innerText === 'DRAINING'")
    await browser.until("!document.querySelector('form[action$=\"/drain\"]')")
    assert "asked to finish its jobs" in await browser.text("main")
    await browser.run("window.confirm = () => true")
    await browser.click(".actions form[action$='/stop'] button")
    await browser.until("document.body.innerText.includes('asked to stop its jobs')")

    told = await scene.plane.agents.get(scene.ada.principal, agent.id)
    assert told is not None
    assert told.stop == "STOP"


async def test_choosing_an_entity_shows_its_queues(scene, browser):
    await scene.plane.accounts.create_team(scene.ada.principal, "vision")
    await scene.queue("gpu", "vision")
    await sign_in(browser, scene)

    await browser.run(
        "const s = document.querySelector('select'); s.value = 'vision';"
        "s.dispatchEvent(new Event('change'))"
    )

    await browser.until("location.search === '?entity=vision' && document.querySelector('#queues')")
    shown = await browser.text("#queues")
    assert "gpu" in shown
    assert "ada" not in shown


async def test_open_details_and_the_focus_survive_an_update(scene, browser):
    item = await scene.submit("train")
    await sign_in(browser, scene, f"/launch/items/{item.id}")
    await browser.run("const d = document.querySelector('#history'); d.open = true;")
    await browser.run("document.querySelector('#history summary').focus()")

    await scene.claim(await scene.agent())
    await browser.until("document.querySelector('#history').innerText.includes('preparing')")

    assert await browser.run("return document.querySelector('#history').open")
    assert await browser.run("return document.activeElement.innerText") == "History"


async def test_texts_of_users_are_never_executed(scene, browser):
    item = await scene.submit(HOSTILE, overrides={"args": [HOSTILE]})
    agent = await scene.agent()
    claim = await scene.claim(agent)
    facts = {"commit": HOSTILE}
    ada = scene.ada.principal
    await scene.plane.leases.advance(ada, agent.id, claim.lease, activity=HOSTILE, facts=facts)
    await scene.start(agent, claim)
    await scene.log(claim, f"{HOSTILE}\n\x1b]8;;javascript:hacked=1\x07x\x1b]8;;\x07".encode())
    await sign_in(browser, scene)
    await browser.console()

    paths = (
        "/launch",
        "/launch/queues/ada/default",
        f"/launch/agents/{agent.id}",
        f"/launch/items/{item.id}",
    )
    for path in paths:
        await browser.open(f"{scene.url}{path}")
        await browser.until("document.querySelector('[data-live-status]').innerText === 'Live'")
        assert await browser.run("return window.hacked") is None
    await browser.until("document.querySelector('.log').innerText.includes('onerror')")
    assert await browser.run("return window.hacked") is None
    assert await browser.console() == []


async def test_no_page_is_wider_than_a_phone(scene, browser):
    item = await scene.submit("a-rather-long-name-" * 8)
    agent = await scene.agent()
    claim = await scene.claim(agent)
    await scene.log(claim, b"x" * 500 + b"\n", "setup")
    await sign_in(browser, scene)
    phone = {"width": PHONE, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    await browser.command("Emulation.setDeviceMetricsOverride", phone)
    try:
        for path in (
            "/login",
            "/launch",
            "/launch/queues/ada/default",
            "/launch/queues/ada/default?tab=agents",
            "/launch/queues/ada/default?tab=settings",
            f"/launch/agents/{agent.id}",
            f"/launch/items/{item.id}",
        ):
            await browser.open(f"{scene.url}{path}")
            wide = await browser.run("return document.documentElement.scrollWidth")
            assert wide <= PHONE, path
    finally:
        await browser.command("Emulation.clearDeviceMetricsOverride", {})
