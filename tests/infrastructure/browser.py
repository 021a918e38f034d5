"""A headless browser and its driver, for the tests of the pages."""

import shutil
from pathlib import Path

from . import debian
from .errors import ServiceError
from .state import BrowserFacts


def up(recorded: BrowserFacts | None) -> BrowserFacts:
    """Use the machine's Chromium and its driver; install Debian's where one is missing."""
    if recorded and alive(recorded):
        return recorded
    if not (_browser() and _driver()):
        debian.install("chromium", "chromium-driver", "fonts-dejavu-core")
    browser, driver = _browser(), _driver()
    if not browser or not driver:
        message = "Chromium or chromedriver is not on the path after the installation"
        raise ServiceError(message)
    return BrowserFacts(browser=browser, driver=driver)


def down(recorded: BrowserFacts | None) -> None:
    """Do nothing: no browser runs between tests, and packages stay installed."""
    del recorded


def alive(recorded: BrowserFacts) -> bool:
    """Tell whether both programs are still there."""
    return Path(recorded.browser).exists() and Path(recorded.driver).exists()


def _browser() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


def _driver() -> str | None:
    return shutil.which("chromedriver")
