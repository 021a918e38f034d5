"""The process's own log: readable text on a terminal, JSON otherwise, secrets redacted.

`pipeline/attempt.py` binds `item`, `attempt` and `queue`, `daemon/service.py` binds `agent`
(`structlog.contextvars`); they appear in every line until unbound. The output of jobs is not
part of this log.
"""

import logging
import sys
import time
from pathlib import Path
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from agent.model.redact import Redactor

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]


def configure(
    redactor: Redactor, *, level: Level = "info", layout: Format = "auto", file: str = "-"
) -> TextIO:
    """Configure structlog and the logging of libraries; returns the stream they write to.

    `-` is standard error; it is also used, with a message, when the file cannot be opened.
    """
    stream = _open(file)
    renderer: Processor = structlog.processors.JSONRenderer(ensure_ascii=False)
    if layout == "console" or (layout == "auto" and stream.isatty()):
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    redaction = _Redaction(redactor)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    number = getattr(logging, level.upper())
    structlog.configure(
        processors=[*shared, redaction, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(_Repetitions())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redaction,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))
    return stream


class _Repetitions(logging.Filter):
    """Lets one of equal library messages through per minute and counts the rest.

    Clients can cause them at any rate: malformed requests, connections beyond the limit.
    """

    _INTERVAL: Final = 60.0
    _MAX_SEEN: Final = 1000

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it."""
        raised = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        key = (record.name, str(record.msg), raised)
        now = time.monotonic()
        since, left_out = self._seen.get(key, (-self._INTERVAL, 0))
        if now - since < self._INTERVAL:
            self._seen[key] = (since, left_out + 1)
            return False
        if len(self._seen) > self._MAX_SEEN:
            self._seen.clear()
        self._seen[key] = (now, 0)
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more like this were left out)"
            record.args = None
        return True


class _Redaction:
    """The last processor before the renderer: removes secrets from every value."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(self, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        return {key: self._clean(value) for key, value in event.items()}

    def _clean(self, value: object) -> object:
        match value:
            case str():
                return self._redactor.text(value)
            case dict():
                return {str(key): self._clean(item) for key, item in value.items()}
            case list() | tuple() | set():
                return [self._clean(item) for item in value]
            case None | bool() | int() | float():
                return value
            case _:
                return self._redactor.text(str(value))


def _open(file: str) -> TextIO:
    if file == "-":
        return sys.stderr
    try:
        path = Path(file).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Logged values may contain lone surrogates; a line that cannot be encoded would raise.
        return path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError as error:
        print(  # noqa: T201 -- the log itself is not available
            f"The log file {file} cannot be written ({error.strerror}); logging to standard error.",
            file=sys.stderr,
        )
        return sys.stderr
