"""Deletes Jobs whose outcome was reported: in one request, all that wait for it.

A single one waits for nothing. Those that come while a deletion is under way are deleted
together, so that many short jobs that end at once cost less than one such request each.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from agent.model.spec import Json
from agent.model.work import LABEL_ATTEMPT, LABEL_EPOCH, LABEL_ITEM
from agent.runners.kubernetes.api import JOBS, ClusterApi
from agent.runners.kubernetes.manifest import selector
from agent.system.tasks import cancel_task

IN_BACKGROUND: Final = {"propagationPolicy": "Background"}
#: Jobs of one request, whose URL has all of their items.
_TOGETHER: Final = 50


@dataclass(slots=True)
class _Batch:
    jobs: list[Json] = field(default_factory=list)
    deleting: asyncio.Task[None] | None = None


class Removals:
    """Deletes Jobs of one control plane in one namespace; what belongs to them goes with them."""

    def __init__(self, api: ClusterApi, control_plane_id: str) -> None:
        self._api = api
        self._control_plane_id = control_plane_id
        self._busy = asyncio.Lock()
        #: Those that take more Jobs, by attempt and epoch: a selector of items with one number of
        #: attempt and of epoch names no other attempt of these items.
        self._open: dict[tuple[str, str], _Batch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def delete(self, job: Json) -> None:
        """Delete a Job as it was last seen.

        Raises:
            ClusterUnreachableError, ClusterRefusedError: it may exist still.
        """
        labels = job["metadata"]["labels"]
        key = labels[LABEL_ATTEMPT], labels[LABEL_EPOCH]
        batch = self._open.get(key)
        if batch is None or batch.deleting is None or len(batch.jobs) == _TOGETHER:
            batch = self._open[key] = _Batch()
            batch.deleting = asyncio.create_task(self._delete(key, batch), name="removal")
            self._tasks.add(batch.deleting)
            batch.deleting.add_done_callback(self._forget)
        batch.jobs.append(job)
        # The others' deletion does not end with one of the callers.
        await asyncio.shield(batch.deleting)

    async def close(self) -> None:
        """Give up what was not sent."""
        for task in list(self._tasks):
            await cancel_task(task)

    async def _delete(self, key: tuple[str, str], batch: _Batch) -> None:
        async with self._busy:
            if self._open.get(key) is batch:
                del self._open[key]
            if len(batch.jobs) == 1:
                metadata = batch.jobs[0]["metadata"]
                options = {**IN_BACKGROUND, "preconditions": {"uid": metadata["uid"]}}
                path = JOBS.path(self._api.namespace, metadata["name"])
                await self._api.delete(path, options)
                return
            items = ",".join(job["metadata"]["labels"][LABEL_ITEM] for job in batch.jobs)
            attempt, epoch = key
            labels = (
                f"{selector(self._control_plane_id)},{LABEL_ITEM} in ({items}),"
                f"{LABEL_ATTEMPT}={attempt},{LABEL_EPOCH}={epoch}"
            )
            path = JOBS.path(self._api.namespace)
            await self._api.delete(path, IN_BACKGROUND, {"labelSelector": labels})

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved: every caller may have been cancelled
