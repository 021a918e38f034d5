"""Kueue's Workloads, which say why it has not admitted a job.

They are followed once a suspended Job names one of Kueue's queues: by one watch for all jobs.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from agent.model.errors import JobError
from agent.model.spec import Json
from agent.runners.kubernetes.api import ClusterApi, Kind
from agent.runners.kubernetes.reflector import Reflector

_QUEUE: Final = "kueue.x-k8s.io/queue-name"
_GROUP: Final = "/apis/kueue.x-k8s.io"
#: Seconds before a cluster without Kueue, or one that refuses, is asked again.
_REPEAT_PAUSE: Final = 60.0


class Admissions:
    """Calls `changed` with a Job's name and its Workload, `None` when that is gone."""

    def __init__(self, api: ClusterApi, changed: Callable[[str, Json | None], None]) -> None:
        self._api = api
        self._changed = changed
        self._needed = asyncio.Event()

    def look_at(self, job: Json) -> None:
        """Begin to follow if Kueue has this Job."""
        if job["spec"].get("suspend") and _QUEUE in (job["metadata"].get("labels") or {}):
            self._needed.set()

    async def run(self) -> None:
        """Follow once needed; never returns."""
        await self._needed.wait()
        while True:
            try:
                kind = await self._served_kind()
            except JobError as error:
                structlog.get_logger().warning("Kueue's workloads are not seen", error=str(error))
                kind = None
            if kind is not None:
                await Reflector(self._api, kind, self._api.namespace, {}, self._on_workload).run()
            await asyncio.sleep(_REPEAT_PAUSE)

    async def _served_kind(self) -> Kind | None:
        """The kind in the version that the cluster prefers; `None` without Kueue.

        Raises:
            ClusterRefusedError: the account may not list them.
        """
        group = await self._api.get(_GROUP)
        if group is None:
            return None
        kind = Kind(f"/apis/{group['preferredVersion']['groupVersion']}", "workloads")
        await self._api.get(kind.path(self._api.namespace), {"limit": "1"})
        return kind

    def _on_workload(self, workload: Json, deleted: bool) -> None:  # noqa: FBT001  # a callback
        for owner in workload["metadata"].get("ownerReferences") or ():
            if owner["kind"] == "Job":
                self._changed(owner["name"], None if deleted else workload)
