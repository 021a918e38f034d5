"""A local copy of the objects of one kind: list, then watch, for as long as it is open.

One watch serves all jobs. A watch that ends is ordinary: the server closes it after minutes and
when its reader is slow; it goes on from the last resource version. After `410 Gone`, an error
or silence everything is listed again, and deletions are found by comparing.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import structlog

from agent.model.errors import JobError
from agent.model.spec import Json
from agent.runners.kubernetes.api import ClusterApi, ClusterRefusedError, Kind
from agent.system.backoff import Backoff

#: Seconds that the server keeps a watch open, and without a byte (bookmarks come each minute).
_WATCH_SECONDS: Final = 300
_SILENCE: Final = 70.0
_PAGE: Final = "500"
_GONE: Final = 410
#: Bytes of one line of a watch: objects have up to 1.5 MiB.
_LONGEST_LINE: Final = 8 * 1024 * 1024


class _RelistError(Exception):
    """The watch cannot go on from where it is."""


class Reflector:
    """`changed` is called with the new object, or with the old one and `deleted=True`."""

    def __init__(
        self,
        api: ClusterApi,
        kind: Kind,
        namespace: str,
        query: Mapping[str, str],
        changed: Callable[[Json, bool], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._path = kind.path(namespace)
        self._plural = kind.plural
        self._query = query
        self._changed = changed
        self._sleep = sleep
        #: By uid.
        self.objects: dict[str, Json] = {}
        self.synced = asyncio.Event()

    async def run(self) -> None:
        """List and watch; never returns. The API server may be away for any time."""
        backoff = Backoff()
        version: str | None = None
        while True:
            try:
                if version is None:
                    version = await self._list()
                    self.synced.set()
                async for event in self._watch(version):
                    version = self._take(event)
                    backoff = Backoff()
            except _RelistError:
                version = None
            except JobError as error:
                log = structlog.get_logger().bind(resource=self._plural)
                log.warning("the watch of the cluster broke; trying again", error=str(error))
                if not isinstance(error, ClusterRefusedError) or error.status == _GONE:
                    version = None
                await self._sleep(backoff.pause())

    async def _list(self) -> str:
        found: dict[str, Json] = {}
        query = {**self._query, "limit": _PAGE}
        while True:
            page = await self._api.get(self._path, query)
            if page is None:
                raise _RelistError
            for item in page.get("items") or ():
                found[item["metadata"]["uid"]] = _lean(item)
            token = page["metadata"].get("continue")
            if not token:
                break
            query["continue"] = token
        for uid in self.objects.keys() - found.keys():
            self._changed(self.objects.pop(uid), True)
        for uid, item in found.items():
            if self.objects.get(uid) != item:
                self.objects[uid] = item
                self._changed(item, False)
        return str(page["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> AsyncIterator[Json]:
        query = {
            **self._query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        async with self._api.stream(self._path, query, _SILENCE) as response:
            pending = b""
            async for chunk in response.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                if len(pending) > _LONGEST_LINE:
                    raise _RelistError
                for line in lines:
                    if line:
                        yield json.loads(line)

    def _take(self, event: Mapping[str, Any]) -> str:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise _RelistError
        metadata = item["metadata"]
        if kind != "BOOKMARK":
            deleted = kind == "DELETED"
            if deleted:
                self.objects.pop(metadata["uid"], None)
            else:
                self.objects[metadata["uid"]] = _lean(item)
            self._changed(_lean(item), deleted)
        return str(metadata["resourceVersion"])


def _lean(item: Json) -> Json:
    item["metadata"].pop("managedFields", None)
    return item
