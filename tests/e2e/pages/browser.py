"""A real browser, driven from tests that share their loop with the server it talks to."""

import asyncio
import base64
from pathlib import Path
from typing import Any, Self

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.infrastructure.state import BrowserFacts

TIMEOUT_SECONDS = 30
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--window-size=1280,1000",
)

#: Calls back when the expression is true; looks again whenever the document changes.
_UNTIL = """
const [expression, done] = arguments;
const holds = new Function(`return (${expression})`);
const look = () => {
  let value = false;
  try { value = holds(); } catch { value = false; }
  if (value) { observer.disconnect(); done(value); }
};
const observer = new MutationObserver(look);
const whole = { subtree: true, childList: true, characterData: true, attributes: true };
observer.observe(document, whole);
look();
"""


class Browser:
    """One window; every call runs in a thread, so that the test's loop can serve it."""

    def __init__(self, facts: BrowserFacts, profile: Path) -> None:
        options = Options()
        options.binary_location = facts.browser
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=Service(facts.driver))
        self._driver.set_script_timeout(TIMEOUT_SECONDS)
        self._driver.set_page_load_timeout(TIMEOUT_SECONDS)

    async def open(self, url: str) -> Self:
        await asyncio.to_thread(self._driver.get, url)
        return self

    async def run(self, script: str, *values: Any) -> Any:
        """The value that the script returns."""
        return await asyncio.to_thread(self._driver.execute_script, script, *values)

    async def run_async(self, script: str, *values: Any) -> Any:
        """The value that the script gives to its last argument."""
        return await asyncio.to_thread(self._driver.execute_async_script, script, *values)

    async def until(self, expression: str) -> Any:
        """Wait until a JavaScript expression is true; tests fail with the text of the page."""
        try:
            return await self.run_async(_UNTIL, expression)
        except Exception as error:
            shown = await self.text("body")
            raise AssertionError(f"never true: {expression}\non the page:\n{shown}") from error

    async def text(self, selector: str) -> str:
        found = await self.run(
            "return document.querySelector(arguments[0])?.innerText ?? ''", selector
        )
        return str(found)

    async def click(self, selector: str) -> None:
        """Click an element, having marked the present page (`window.before`)."""
        await self.run(
            "window.before = true; document.querySelector(arguments[0]).click()", selector
        )

    async def console(self) -> list[str]:
        """What was written to the console since the last call: refused scripts, errors."""
        entries = await asyncio.to_thread(self._driver.get_log, "browser")
        return [entry["message"] for entry in entries]

    async def command(self, name: str, values: dict[str, Any]) -> Any:
        """A command of the DevTools protocol."""
        return await asyncio.to_thread(self._driver.execute_cdp_cmd, name, values)

    async def picture(self, path: Path) -> None:
        """The whole page as an image."""
        values = {"captureBeyondViewport": True}
        shot = await self.command("Page.captureScreenshot", values)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._driver.quit()
