"""A local copy of the objects of one kind: list, then watch, for as long as it is open.

One watch serves all jobs. A watch that ends is ordinary: the server closes it after minutes,
and when its reader is slow; it goes on from the last resource version. After `410 Gone`, an
error or silence everything is listed again, and deletions are found by comparing.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from time import monotonic
from typing import Any, Final

import structlog

from agent.model.errors import JobError
from agent.model.spec import Json
from agent.runners.kubernetes.api import (
    EVENTS,
    PODS,
    ClusterApi,
    ClusterRefusedError,
    ClusterSilentError,
    Kind,
)
from agent.runners.kubernetes.fields import lean, lean_pod
from agent.system.backoff import Backoff, Sleep

#: Seconds that the server keeps a watch open.
_WATCH_SECONDS: Final = 300
#: Seconds without a byte after which a watch is dead; bookmarks come each minute.
_SILENCE: Final = 70.0
#: Seconds that a watch of events is kept open: they are not cached, so no bookmarks come.
_WITHOUT_BOOKMARKS: Final = 60
#: Seconds after which the end of a watch is no sign of trouble.
_LASTED: Final = 30.0
_PAGE: Final = "500"


class _RelistError(Exception):
    """The watch cannot go on from where it is."""


class Reflector:
    """The objects of one kind, by uid, kept up to date by `run`.

    `changed` is called with the new object, or with the last one and True: deleted.
    """

    def __init__(
        self,
        api: ClusterApi,
        kind: Kind,
        namespace: str,
        query: Mapping[str, str],
        changed: Callable[[Json, bool], None],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._api = api
        self._path = kind.path(namespace)
        self._plural = kind.plural
        #: Events are many, and nobody asks for them again.
        self._keeps = kind != EVENTS
        self._seconds = _WATCH_SECONDS if self._keeps else _WITHOUT_BOOKMARKS
        self._query = query
        self._changed = changed
        self._lean = lean_pod if kind == PODS else lean
        self._sleep = sleep
        self._version: str | None = None
        #: By uid.
        self.objects: dict[str, Json] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List and watch; never returns. The API server may be away for any time."""
        backoff = Backoff()
        log = structlog.get_logger().bind(resource=self._plural)
        while True:
            began, before = monotonic(), self._version
            try:
                await self._follow()
            except _RelistError:
                self._version = None
            except JobError as error:
                log.warning("the watch of the cluster broke; trying again", error=str(error))
                if isinstance(error, ClusterRefusedError | ClusterSilentError):
                    self._version = None
            except Exception:
                # An object that we cannot read must not end the watch of all the others.
                log.exception("a change of the cluster could not be read; listing again")
                self._version = None
            if monotonic() - began > _LASTED or self._version not in {None, before}:
                backoff.reset()
            await self._sleep(backoff.pause())

    def add(self, item: Json) -> None:
        """An object that a call has returned, before the watch shows it."""
        self.objects.setdefault(item["metadata"]["uid"], self._lean(item))

    async def _follow(self) -> None:
        """List, unless the version to go on from is known; watch until the watch ends."""
        if self._version is None:
            self._version = await self._list()
            self.synced.set()
        async with aclosing(self._watch(self._version)) as events:
            async for event in events:
                self._version = self._take(event)

    async def _list(self) -> str:
        found: dict[str, Json] = {}
        query = {**self._query, "limit": _PAGE}
        while True:
            page = await self._api.get(self._path, query)
            if page is None:
                raise _RelistError
            for item in page.get("items") or ():
                found[item["metadata"]["uid"]] = self._lean(item)
            token = page["metadata"].get("continue")
            if not token:
                break
            query["continue"] = token
        self._compare(found, version := page["metadata"]["resourceVersion"])
        return str(version)

    def _compare(self, found: dict[str, Json], version: str) -> None:
        for uid in self.objects.keys() - found.keys():
            # What was created after the list was made is not missing from it.
            if resource_version(self.objects[uid]) <= _number(version):
                self._changed(self.objects.pop(uid), True)
        for uid, item in found.items():
            if self.objects.get(uid) != item:
                if self._keeps:
                    self.objects[uid] = item
                self._changed(item, False)

    async def _watch(self, version: str) -> AsyncGenerator[Json, None]:
        query = {
            **self._query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(self._seconds),
        }
        async with self._api.stream(self._path, query, _SILENCE) as response:
            async for line in response.content:
                # The last line of a connection that broke may be half a line.
                if line.endswith(b"\n"):
                    yield _event(line)
                # A burst of changes must not keep the other tasks waiting.
                await asyncio.sleep(0)

    def _take(self, event: Mapping[str, Any]) -> str:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise _RelistError
        metadata = item["metadata"]
        if kind != "BOOKMARK":
            deleted, read = kind == "DELETED", self._lean(item)
            if deleted:
                self.objects.pop(metadata["uid"], None)
            elif self._keeps:
                self.objects[metadata["uid"]] = read
            self._changed(read, deleted)
        return str(metadata["resourceVersion"])


def _event(line: bytes) -> Json:
    try:
        found: Json = json.loads(line)
    except ValueError:
        raise _RelistError from None
    return found


def resource_version(item: Json) -> int:
    """Orders the versions of objects of one kind: so by contract since Kubernetes 1.35."""
    return _number(item["metadata"].get("resourceVersion", "0"))


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0
