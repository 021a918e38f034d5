"""Which process of the engine is answering, and what that process has seen.

An engine that is restarted reports exit codes that are not the job's own: 143 where it stopped the
container itself, 255 where the job ended while no engine was there. So a code counts only if one
process of the engine saw the container run and end. Two things prove that:

- A request for events that is open while the container is started, or is seen running, and that
  then reports its end.
- The marker: a container without an image that is never started and that the engine removes when
  it starts, since it is to be removed automatically. As long as it exists, no other process of
  the engine has started since it was created. Job containers have its id as a label.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from agent.docker.client import Engine, EngineResponse
from agent.docker.errors import EngineError, EngineRefusedError
from agent.model.work import LABEL_CONTROL_PLANE, LABEL_KIND
from agent.system.tasks import cancel_task

_CONFLICT: Final = 409
_NOT_FOUND: Final = 404
_ERROR: Final = 300
_CHUNK: Final = 64 * 1024
_PING: Final = 5.0
_MARKER: Final = "launch-engine-marker"
_MARKER_BODY: Final = {
    "Image": "",
    "Cmd": ["marks the engine's process"],
    "Labels": {LABEL_KIND: "engine-marker"},
    "HostConfig": {"AutoRemove": True, "NetworkMode": "none"},
}
#: Its name is taken before it can be inspected: tries, and seconds between them.
_MARKER_TRIES: Final = 10
_MARKER_PAUSE: Final = 0.2
#: An engine keeps the last 256 events in memory. They come first, so that none is missed between
#: the response to the request and the engine's subscription.
_ALL: Final = "1"


@dataclass(frozen=True, slots=True)
class Death:
    """The engine's event about a container's end."""

    exit_code: int
    #: Signals that the engine sent before: for a client, or by itself at its shutdown.
    signals: frozenset[str]


class EventStream:
    """What one process of the engine reports about containers; a broken one is never repaired."""

    def __init__(self) -> None:
        #: Id of the marker that existed when it was opened; empty if the engine refuses one.
        self.marker = ""
        self.ended = False
        #: Containers that this process of the engine started.
        self.started: set[str] = set()
        #: Containers that it had running while the stream was open.
        self.running: set[str] = set()
        self._signals: dict[str, set[str]] = {}
        self._deaths: dict[str, asyncio.Future[Death | None]] = {}

    async def death(self, container: str, limit: float) -> Death | None:
        """Wait for its end, at most `limit` seconds; `None` also when the stream breaks."""
        if self.ended and not self.has_seen_end(container):
            return None
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                return await asyncio.shield(self._death(container))
        return None

    def has_seen_end(self, container: str) -> bool:
        """Whether the container's end was reported."""
        known = self._deaths.get(container)
        return known is not None and known.done() and known.result() is not None

    def take(self, event: dict[str, Any]) -> None:
        """An event of the engine."""
        actor = event.get("Actor") or {}
        container, attributes = str(actor.get("ID")), actor.get("Attributes") or {}
        match event.get("Action"):
            case "start":
                self.started.add(container)
            case "kill":
                self._signals.setdefault(container, set()).add(str(attributes.get("signal")))
            case "die" if not self._death(container).done():
                signals = frozenset(self._signals.get(container, ()))
                self._death(container).set_result(Death(int(attributes["exitCode"]), signals))

    def end(self) -> None:
        """The connection broke."""
        self.ended = True
        for waiting in self._deaths.values():
            if not waiting.done():
                waiting.set_result(None)

    def forget(self, container: str) -> None:
        """Drop the state of a container that was removed."""
        self.started.discard(container)
        self.running.discard(container)
        self._signals.pop(container, None)
        waiting = self._deaths.pop(container, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _death(self, container: str) -> asyncio.Future[Death | None]:
        if container not in self._deaths:
            self._deaths[container] = asyncio.get_running_loop().create_future()
        return self._deaths[container]


class EngineProcess:
    """Follows the running engine process, for one control plane's containers."""

    def __init__(self, engine: Engine, control_plane_id: str) -> None:
        self._engine = engine
        self._label = f"{LABEL_CONTROL_PLANE}={control_plane_id}"
        self._lock = asyncio.Lock()
        self._stream: EventStream | None = None
        self._reader: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Close the stream; may be called twice."""
        reader, self._reader = self._reader, None
        await cancel_task(reader)

    async def stream(self) -> EventStream:
        """The open stream, or a new one.

        Raises:
            EngineError: the engine does not answer.
        """
        async with self._lock:
            if self._stream is None or self._stream.ended:
                await self.close()
                self._stream = await self._opened()
            return self._stream

    def forget(self, container: str) -> None:
        """Drop the state of a container that was removed."""
        if self._stream is not None:
            self._stream.forget(container)

    async def is_up(self, stream: EventStream) -> bool:
        """Whether the process behind the stream still takes requests.

        One that stops takes none from before it ends its containers.
        """
        try:
            await self._engine.call("GET", "/_ping", limit=_PING)
        except EngineError:
            return False
        return not stream.ended

    async def saw_start_and_end(self, container: str, marker: str | None) -> bool:
        """Whether the present process saw a container's whole life.

        The end must have been reported by the engine before this call.
        """
        if marker and (await self._marker_call(marker)).status != _NOT_FOUND:
            return True
        return {"start", "die"} <= {
            str(event.get("Action")) for event in await self.past(container)
        }

    async def past(self, container: str) -> list[dict[str, Any]]:
        """Events of a container that the present process remembers, of its last 256 events."""
        until = datetime.now(UTC).timestamp()  # a later time would be waited for
        filters = {"container": [container], "event": ["start", "kill", "die"]}
        async with aclosing(self._events(filters, str(until))) as events:
            return [event async for event in events if event]

    async def _opened(self) -> EventStream:
        stream = EventStream()
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read(stream, opened), name="engine-events")
        await opened
        stream.marker = await self._ensure_marker()
        return stream

    async def _read(self, stream: EventStream, opened: asyncio.Future[None]) -> None:
        filters = {
            "type": ["container"],
            "event": ["start", "kill", "die"],
            "label": [self._label],
        }
        try:
            async with aclosing(self._events(filters, None)) as events:
                async for event in events:
                    if not opened.done():
                        opened.set_result(None)
                    if event:
                        stream.take(event)
        except EngineError as error:
            if not opened.done():
                opened.set_exception(error)
        finally:
            stream.end()

    async def _events(
        self, filters: dict[str, list[str]], until: str | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield an empty event once the request is accepted, then events."""
        params = {"since": _ALL, "filters": json.dumps(filters)}
        if until is not None:
            params["until"] = until
        async with self._engine.stream("/events", params) as response:
            if response.status >= _ERROR:
                text = await response.text()
                raise EngineRefusedError(self._engine.address.given, response.status, text)
            yield {}
            buffer = b""
            while chunk := await response.content.read(_CHUNK):
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)

    async def _ensure_marker(self) -> str:
        params = {"name": _MARKER}
        for _ in range(_MARKER_TRIES):
            answer = await self._engine.call(
                "POST", "/containers/create", params=params, body=_MARKER_BODY
            )
            if answer.status == _CONFLICT:
                answer = await self._marker_call(_MARKER)
            if answer.ok:
                return str(answer.body["Id"])
            if answer.status != _NOT_FOUND:
                break
            await asyncio.sleep(_MARKER_PAUSE)
        structlog.get_logger().warning(
            "the engine takes no marker container: the exit codes of jobs that end while the "
            "agent is restarted may be lost",
            error=answer.message,
        )
        return ""

    async def _marker_call(self, marker: str) -> EngineResponse:
        return await self._engine.call("GET", f"/containers/{marker}/json")
