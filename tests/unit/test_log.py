"""The launcher's own log: who it is for, what it carries, and what it never shows."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from agent.log import configure
from agent.model.redact import Redactor


@pytest.fixture
def setup() -> Iterator[Callable[..., None]]:
    """Configures, and undoes it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    streams: list[TextIO] = []
    yield lambda redactor=None, **given: streams.append(configure(redactor or Redactor(), **given))
    for stream in streams:
        if stream is not sys.stderr:
            stream.close()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


Setup = Callable[..., None]


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_is_bound_is_in_every_line(setup: Setup, tmp_path: Path) -> None:
    file = tmp_path / "logs" / "agent.log"
    setup(file=str(file))
    with structlog.contextvars.bound_contextvars(job="j1", queue="q", attempt=2):
        structlog.get_logger().info("started", image="x")
    structlog.get_logger().debug("not at this level")
    (line,) = lines(file)
    assert line["event"] == "started"
    assert (line["job"], line["queue"], line["attempt"], line["level"]) == ("j1", "q", 2, "info")


def test_secrets_are_removed_at_the_sink(setup: Setup, tmp_path: Path) -> None:
    file = tmp_path / "agent.log"
    redactor = Redactor()
    setup(file=str(file), redactor=redactor)
    redactor.add("learned-later")
    log = structlog.get_logger()
    log.info("x learned-later", env={"A": "learned-later", "n": 1}, argv=["a", "learned-later"])
    try:
        raise RuntimeError("https://ada:pw@host")
    except RuntimeError:
        log.exception("failed")
    text = file.read_text()
    assert "learned-later" not in text
    assert "pw@" not in text
    assert "RuntimeError" in text
    assert lines(file)[0]["env"] == {"A": "***", "n": 1}


def test_libraries_write_to_the_same_place_and_are_cleaned_too(
    setup: Setup, tmp_path: Path
) -> None:
    file = tmp_path / "agent.log"
    setup(file=str(file), redactor=Redactor(["library-secret"]))
    logging.getLogger("some.library").warning("careful: %s", "library-secret")
    logging.getLogger("some.library").info("chatter")
    try:
        raise RuntimeError("library-secret")
    except RuntimeError:
        logging.getLogger("some.library").exception("broke")
    first, second = lines(file)
    assert first["event"] == "careful: ***"
    assert "RuntimeError" in str(second["exception"])
    assert "library-secret" not in file.read_text()


def test_people_get_text(setup: Setup, tmp_path: Path) -> None:
    file = tmp_path / "agent.log"
    setup(file=str(file), layout="console")
    structlog.get_logger().warning("disk nearly full", free="1 GiB")
    assert "disk nearly full" in file.read_text()
    assert not file.read_text().startswith("{")


def test_a_file_that_cannot_be_written_is_said(
    setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    setup(file=str(tmp_path / "file" / "agent.log"))
    structlog.get_logger().info("still heard")
    told = capsys.readouterr().err
    assert "cannot be written" in told
    assert "still heard" in told


def test_half_a_character_is_escaped_and_fails_nobody(setup: Setup, tmp_path: Path) -> None:
    file = tmp_path / "agent.log"
    setup(file=str(file), layout="json")
    structlog.get_logger().info("ended", message="half a \ud800 character")
    assert "half a \\ud800 character" in file.read_text()


def test_a_message_of_a_library_is_written_once_in_a_while_with_a_count(
    setup: Setup, tmp_path: Path
) -> None:
    file = tmp_path / "log"
    setup(layout="json", file=str(file))
    logger = logging.getLogger("aiohttp.server")
    for number in range(1000):
        logger.error("Error handling request from %s", f"10.0.0.{number}")
    logger.error("another one")
    assert len(lines(file)) == 2
    (handler,) = logging.getLogger().handlers
    (repetitions,) = handler.filters
    # As if a minute had passed.
    repetitions._seen = {key: (-1e9, left) for key, (_, left) in repetitions._seen.items()}
    logger.error("Error handling request from %s", "10.0.0.1")
    assert str(lines(file)[-1]["event"]).endswith("(999 more like this were left out)")
