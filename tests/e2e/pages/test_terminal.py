"""The log view in a real browser: colours, progress bars, hostile bytes."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.control.middleware.browser_security import add_security_headers
from agent.control.web.rendering import StaticFiles
from tests.e2e.pages.browser import Browser

pytestmark = pytest.mark.browser

_PAGE = """<!doctype html><link rel="stylesheet" href="/launch/static/launch.css">
<div class="log" id="log"></div>"""
_WRITE = """
const [pieces, done] = arguments;
import("/launch/static/terminal.js").then(({ Terminal }) => {
  const element = document.getElementById("log");
  const terminal = new Terminal(element);
  for (const piece of pieces) terminal.write(piece);
  terminal.flush();
  const lines = [...element.querySelectorAll(".line")];
  done(lines.map((line) => [...line.children].map((span) => ({
    text: span.textContent, classes: span.className,
    foreground: span.style.color, background: span.style.background })))); });
"""


class Screen:
    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    async def spans(self, *pieces: str) -> list[list[dict[str, Any]]]:
        """The lines as lists of spans."""
        found: list[list[dict[str, Any]]] = await self.browser.run_async(_WRITE, list(pieces))
        return found

    async def lines(self, *pieces: str) -> list[str]:
        """The text of the lines."""
        return ["".join(s["text"] for s in line).rstrip() for line in await self.spans(*pieces)]


@pytest.fixture
async def screen(browser: Browser) -> AsyncIterator[Screen]:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=_PAGE, content_type="text/html")

    app = web.Application()
    app.on_response_prepare.append(add_security_headers)
    app.router.add_get("/", page)
    app.router.add_get("/launch/static/{name}", StaticFiles().serve)
    async with TestServer(app) as server:
        await browser.open(str(server.make_url("/")))
        yield Screen(browser)
        await browser.open("about:blank")


async def test_a_carriage_return_draws_the_line_again(screen):
    bar = [f"\r{percent:3}%|{'#' * (percent // 10):10}|" for percent in range(0, 101, 10)]

    assert await screen.lines(*bar, "\ndone\n") == ["100%|##########|", "done", ""]


async def test_a_shorter_text_after_a_carriage_return_leaves_the_rest_as_a_terminal_does(screen):
    assert await screen.lines("abcdef\rXY\n", "abcdef\r\x1b[KXY") == ["XYcdef", "XY"]


async def test_several_progress_bars_are_drawn_over_each_other(screen):
    bars = ["a 1%\nb 1%\n", "\x1b[2Aa 9%\nb 9%\n", "\x1b[2A\x1b[2Ka done\x1b[1B\rb done\n"]

    assert await screen.lines(*bars) == ["a done", "b done", ""]


async def test_colours_of_all_three_kinds(screen):
    [line] = await screen.spans(
        "\x1b[1;31mred\x1b[0m\x1b[38;5;208morange\x1b[38;2;1;2;3mrgb\x1b[m\x1b[97;44mwhite"
    )

    assert [(s["text"], s["classes"], s["foreground"]) for s in line] == [
        ("red", "t-bold f1", ""),
        ("orange", "", "rgb(255, 135, 0)"),
        ("rgb", "", "rgb(1, 2, 3)"),
        ("white", "f15 on b4", ""),
    ]


async def test_colours_with_colons_and_underlines_with_a_style(screen):
    [line] = await screen.spans("\x1b[38:2::9:8:7mink\x1b[0m\x1b[4:3mwavy\x1b[4:0mplain")

    assert [(s["text"], s["classes"], s["foreground"]) for s in line] == [
        ("ink", "", "rgb(9, 8, 7)"),
        ("wavy", "t-under", ""),
        ("plain", "", ""),
    ]


async def test_inverse_swaps_foreground_and_background(screen):
    [line] = await screen.spans("\x1b[7mplain\x1b[31mred\x1b[27mback")

    assert [s["classes"] for s in line] == [
        "t-default-foreground t-default-background",
        "on b1 t-default-foreground",
        "f1",
    ]


async def test_sequences_cut_anywhere_read_the_same(screen):
    text = "a\x1b[1;32mgreen\x1b[0m\x1b]0;title\x07b\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\c\n"
    whole = await screen.spans(text)

    assert await screen.spans(*text) == whole
    assert "".join(s["text"] for s in whole[0]) == "agreenblinkc"


async def test_unknown_and_invalid_sequences_are_removed(screen):
    text = "\x1b[?25l\x1b[>4;1m\x1b[999zx\x1b(By\x1b[1\x01mz\x07\x00\x7f!"

    [line] = await screen.lines(text)

    assert line.startswith("xy")
    assert line.endswith("z!")


async def test_an_escape_string_that_never_ends_does_not_swallow_the_log(screen):
    lines = await screen.lines("\x1b]0;" + "x" * 5000 + "\n", "after\n")

    assert lines[-2] == "after"


async def test_only_the_last_lines_are_kept(screen):
    lines = await screen.lines("".join(f"line {n}\n" for n in range(7000)))

    assert len(lines) <= 5300
    assert lines[-2] == "line 6999"


async def test_a_huge_line_is_cut_and_says_so(screen):
    first, second = await screen.lines("x" * 1_000_000 + "\nnext")

    assert 4000 < len(first) < 4200
    assert "download the log" in first
    assert second == "next"


@pytest.mark.parametrize(
    "text",
    [
        "<script>window.hacked = 1</script>",
        '<img src=x onerror="window.hacked = 1">',
        "\x1b]8;;javascript:window.hacked=1\x1b\\click\x1b]8;;\x1b\\",
        "\x1b[38;2;1;2;3;url(x)m</span><svg onload=window.hacked=1>",
    ],
)
async def test_markup_in_a_log_is_text(screen, text):
    await screen.spans(text)
    made = "return document.querySelectorAll('#log script, #log img, #log svg, #log a').length"

    assert await screen.browser.run(made) == 0
    assert await screen.browser.run("return window.hacked") is None


async def test_wide_characters_and_emoji_are_whole(screen):
    assert await screen.lines("日本 🚀 é\n") == ["日本 🚀 é", ""]
