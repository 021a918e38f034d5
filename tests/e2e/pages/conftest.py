"""One browser for all tests of the pages; each test begins without cookies."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.e2e.pages.browser import Browser
from tests.infrastructure.state import Facts


@pytest.fixture(scope="session")
def chromium(services: Facts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert services.browser is not None
    browser = Browser(services.browser, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    await chromium.command("Network.clearBrowserCookies", {})
    await chromium.console()
    yield chromium
    await chromium.open("about:blank")
