"""What jobs and other users wrote cannot move the cursor, rename the window or fake a line."""

import io
import json

import pytest

from agent.cli.errors import show_error
from agent.cli.output import print_json, print_pairs, print_table
from agent.cli.terminal import LogOutput, escape_control_characters
from agent.model.errors import LaunchError

CLEAR = "\x1b[2J"
HOSTILE = [
    CLEAR,
    "\x1b]0;title\x07",
    "\x1b]52;c;cm0gLXJm\x07",
    "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",
    "\x9b2J",
    "\x1b[1A",
    "\x1b[5;5H",
    "\x1b[6n",
    "\x1bc",
    "\x1b(0",
    "\x0e",
    "\x7f",
    "\u202etxt.exe",
    "\ud800",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_control_sequence_is_shown_and_not_obeyed(text: str) -> None:
    shown = escape_control_characters(f"a{text}b")
    assert shown.isprintable()
    assert shown.startswith("a\\")
    assert shown.endswith("b")


@pytest.mark.parametrize("text", ["größe – 木 🎉", "tab\tand\nline", "C:\\temp"])
def test_ordinary_text_stays(text: str) -> None:
    assert escape_control_characters(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_way_of_printing_lets_it_through(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME"], [[text]], "none")
    print_pairs([("name", text)])
    print_json({"name": text})
    show_error(LaunchError(text, hint=text))
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in (out + err).splitlines())
    assert json.loads(out[out.index("{") :])["name"] == text


def test_a_name_with_a_line_break_is_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME", "STATE"], [["a\nb  succeeded", "failed"]], "none")
    assert capsys.readouterr().out.splitlines()[1:] == ["a\\nb  succeeded  failed"]


class Screen(io.TextIOWrapper):
    """A stream that says whether it is a terminal, and remembers its bytes."""

    def __init__(self, *, terminal: bool) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, "utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def shown(self, *pieces: bytes) -> str:
        output = LogOutput(self)
        for piece in pieces:
            output.write(piece)
        return self.bytes.getvalue().decode()


@pytest.mark.parametrize("text", HOSTILE[:12])
def test_a_log_on_a_terminal_does_not_reach_beyond_its_line(text: str) -> None:
    data = f"a{text}b".encode()
    for cut in range(len(data) + 1):
        shown = Screen(terminal=True).shown(data[:cut], data[cut:])
        assert shown.isprintable(), (cut, shown)
        assert shown == escape_control_characters(f"a{text}b")


@pytest.mark.parametrize(
    "text",
    ["\x1b[1;31mred\x1b[0m\n", " 10%\r 20%\r", "a\x08b", "\x1b[2K\x1b[1Gagain", "größe\n"],
)
def test_colours_and_progress_bars_stay(text: str) -> None:
    data = text.encode()
    for cut in range(len(data) + 1):
        assert Screen(terminal=True).shown(data[:cut], data[cut:]) == text


def test_a_log_in_a_pipe_is_unchanged() -> None:
    data = b"".join(text.encode("utf-8", "surrogatepass") for text in HOSTILE) + b"\xff\x00"
    screen = Screen(terminal=False)
    LogOutput(screen).write(data)
    assert screen.bytes.getvalue() == data


class Stream(io.TextIOWrapper):
    """A file, or a terminal."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__(io.BytesIO())
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def written(self) -> bytes:
        return self.buffer.getvalue()  # type: ignore[attr-defined]


PROGRESS = b"Receiving:  1%\rReceiving: 50%\rReceiving: done.\nnext\r\nlast 1%\rlast 2%"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_progress_of_other_tools_is_for_terminals(size: int) -> None:
    file, terminal = Stream(terminal=False), Stream(terminal=True)
    for stream in (file, terminal):
        output = LogOutput(stream, progress=False)
        for start in range(0, len(PROGRESS), size):
            output.write(PROGRESS[start : start + size])
        output.end()
    assert file.written == b"Receiving: done.\nnext\nlast 2%\n"
    assert b"50%" in terminal.written


def test_the_output_of_a_job_is_its_own_bytes() -> None:
    file = Stream(terminal=False)
    output = LogOutput(file)
    output.write(PROGRESS)
    assert file.written == PROGRESS
