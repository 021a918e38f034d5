"""The log of a job: of one container as it is, of several merged line by line.

Merged lines begin with the names of pod and container, as far as they are needed to tell them
apart. A position in a merged log is that in each container's log before a piece, and the
container that the piece is from: reading again begins with that container.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from agent.model.spec import Json
from agent.ports.runner import LOG_START, MAYBE_MISSING, LogPiece, LogPosition
from agent.runners.kubernetes.api import ClusterApi
from agent.runners.kubernetes.custom_status import Stage, custom_status, is_custom
from agent.runners.kubernetes.fields import all_containers, started_containers
from agent.runners.kubernetes.job_states import JobState
from agent.runners.kubernetes.logs import Container, ContainerLog
from agent.system.tasks import cancel_task, task_group

_PIECE: Final = 64 * 1024
#: Bytes after which a line is broken, so that one without an end does not fill the memory.
_LONGEST_LINE: Final = 256 * 1024
#: In place of a position: the container's log was read to its end.
_END: Final = "end"


class JobLog:
    """The log of one job, from the first container that is started to the end of the last."""

    def __init__(self, api: ClusterApi, namespace: str, name: str, state: JobState) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._state = state

    async def pieces(self, position: LogPosition) -> AsyncGenerator[LogPiece, None]:
        """See `agent.ports.runner.RunnerPort.logs`."""
        while not (containers := self.containers()):
            version = self._state.version
            if self._state.has_finished:
                if _has_run(self._state.observed.job) and not self._state.observed.pods:
                    # Its pods were removed.
                    yield LogPiece(position, b"", MAYBE_MISSING)
                return
            await self._state.newer_than(version)
        if self.label(containers[0]):
            reading = _MergedLog(self, self._state, position).pieces()
        else:
            reading = self.read(containers[0], position)
        async with aclosing(reading) as pieces:
            async for piece in pieces:
                yield piece

    def containers(self) -> list[Container]:
        """All that run or ran."""
        return [
            Container(pod["metadata"]["uid"], pod["metadata"]["name"], name)
            for pod in self._state.observed.pods
            for name in started_containers(pod)
        ]

    def label(self, container: Container) -> bytes:
        """What its lines begin with; nothing if the job has no other container."""
        siblings = all_containers(self._state.pod(container.pod_uid))
        parts = []
        if _has_many_pods(self._state.observed.job):
            parts.append(container.pod.removeprefix(f"{self._name}-"))
        if len(siblings) > 1:
            parts.append(container.name)
        return f"[{'/'.join(parts)}] ".encode() if parts else b""

    def read(self, container: Container, position: LogPosition) -> AsyncGenerator[LogPiece, None]:
        """The log of one container."""
        return ContainerLog(self._api, self._namespace, container, self._state).pieces(position)


def _has_many_pods(job: Json) -> bool:
    if is_custom(job):
        return True  # how many its operator makes is not known
    spec = job["spec"]
    one = spec.get("parallelism", 1) == 1 and spec.get("completions", 1) == 1
    return not one or spec.get("backoffLimit") != 0 or "podFailurePolicy" in spec


def _has_run(job: Json) -> bool:
    if is_custom(job):
        return custom_status(job).stage >= Stage.RUNNING
    status = job.get("status") or {}
    return any(status.get(count) for count in ("active", "succeeded", "failed"))


class _Lines:
    """One container's part of a merged log."""

    def __init__(self, key: str, label: bytes, position: LogPosition) -> None:
        self.key = key
        self._label = label
        #: Of the first byte that was not given in a line.
        self.position = position
        self._open = bytearray()

    def feed(self, piece: LogPiece) -> bytes:
        """The lines that a piece completes, with labels."""
        lines = self.rest() if piece.missing else b""
        before = len(self._open)
        if not before:
            self.position = piece.position
        self._open += piece.data
        taken = 0
        while (end := self._end_of_line()) > 0:
            line = bytes(self._open[:end])
            del self._open[:end]
            taken += end
            lines += self._label + line.removesuffix(b"\n") + b"\n"
        # Marks of later pieces are closer to the bytes that follow.
        after = taken - before
        self.position = piece.position.after(after) if after >= 0 else self.position.after(taken)
        return lines

    def rest(self) -> bytes:
        """The last line, if it has no end."""
        line = bytes(self._open)
        self._open.clear()
        self.position = self.position.after(len(line))
        return self._label + line + b"\n" if line else b""

    def _end_of_line(self) -> int:
        end = self._open.find(b"\n", 0, _LONGEST_LINE) + 1
        return end or (_LONGEST_LINE if len(self._open) >= _LONGEST_LINE else 0)


class _MergedLog:
    """Lines of a job's containers in the order in which they arrive; use once."""

    def __init__(self, log: JobLog, state: JobState, position: LogPosition) -> None:
        self._log = log
        self._state = state
        self._position = position
        found = json.loads(position.mark) if position.mark else {"at": {}, "next": None}
        #: Where to begin in each container's log: a position, or `_END`.
        self._at: dict[str, str] = found["at"]
        #: The container to begin with, and how many bytes of its lines were given before.
        self._next = found["next"]
        self._given = position.skip
        self._caught_up = asyncio.Event()
        self._started: set[str] = set()
        self._arrived: asyncio.Queue[tuple[_Lines, LogPiece | None] | None] = asyncio.Queue(1)

    async def pieces(self) -> AsyncGenerator[LogPiece, None]:
        existing = {_key(container) for container in self._log.containers()}
        if any(at != _END and key not in existing for key, at in self._at.items()):
            yield LogPiece(self._position, b"", MAYBE_MISSING)
        if self._next not in existing:
            self._given = 0
        reading = asyncio.create_task(self._read_all(), name="merged-log")
        try:
            while (arrived := await self._arrived.get()) is not None:
                for piece in self._merged(*arrived):
                    yield piece
            await reading
        finally:
            await cancel_task(reading)

    def _merged(self, part: _Lines, piece: LogPiece | None) -> list[LogPiece]:
        """What a piece adds, without what was given before; `None`: the container's log ends."""
        mark = json.dumps({"at": self._at, "next": part.key}, separators=(",", ":"))
        lines = part.rest() if piece is None else part.feed(piece)
        missing = 0 if piece is None else piece.missing
        begin = 0
        if part.key == self._next and not missing:
            begin = min(self._given, len(lines))
            self._given -= begin
        if missing or piece is None or not self._given:
            self._given = 0
            self._caught_up.set()
        self._at[part.key] = _END if piece is None else part.position.to_text()
        given = [
            LogPiece(LogPosition(mark, place), lines[place : place + _PIECE])
            for place in range(begin, len(lines), _PIECE)
        ]
        if missing:
            given.insert(0, LogPiece(LogPosition(mark, begin), b"", missing))
        return given

    async def _read_all(self) -> None:
        try:
            async with task_group() as group:
                await self._begin_reading(group)
        except Exception:  # the reader must not wait for ever
            await self._arrived.put(None)
            raise
        await self._arrived.put(None)

    async def _begin_reading(self, group: asyncio.TaskGroup) -> None:
        """Read each container as soon as it is started; first the one to go on with."""
        while True:
            version = self._state.version
            found = self._log.containers()
            for container in sorted(found, key=lambda one: _key(one) != self._next):
                await self._begin_container(group, container)
            if self._state.has_finished:
                return
            await self._state.newer_than(version)

    async def _begin_container(self, group: asyncio.TaskGroup, container: Container) -> None:
        key = _key(container)
        at = self._at.setdefault(key, LOG_START.to_text())
        if key in self._started or at == _END:
            return
        self._started.add(key)
        part = _Lines(key, self._log.label(container), LogPosition.from_text(at))
        group.create_task(self._read(container, part))
        if self._given:
            await self._caught_up.wait()

    async def _read(self, container: Container, part: _Lines) -> None:
        async with aclosing(self._log.read(container, part.position)) as pieces:
            async for piece in pieces:
                await self._arrived.put((part, piece))
        await self._arrived.put((part, None))


def _key(container: Container) -> str:
    return f"{container.pod}/{container.name}"
