"""What the watches of the cluster have shown of each job.

A job is a Job or a custom resource. All attempts are followed by one watch of each kind, of pods
and of events. A job's state is kept until it was deleted and nobody follows it any more; the last
state of its pods stays with it, since they say how it ended.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog

from agent.model.spec import Json
from agent.model.work import (
    LABEL_ATTEMPT,
    LABEL_CONTROL_PLANE,
    LABEL_ITEM,
    lease_from_labels,
    workload_name,
)
from agent.ports.runner import Ended
from agent.runners.kubernetes.api import (
    EVENTS,
    JOBS,
    PODS,
    SECRETS,
    ClusterApi,
    ClusterUnreachableError,
    Kind,
)
from agent.runners.kubernetes.custom_status import is_custom
from agent.runners.kubernetes.fields import (
    has_terminated,
    is_deleted,
    is_over,
    lean,
    lean_pod,
    time_of,
)
from agent.runners.kubernetes.kueue import Admissions
from agent.runners.kubernetes.manifest import kind_in, selector
from agent.runners.kubernetes.pending import WARNINGS, Observed, Warned
from agent.runners.kubernetes.reflector import Reflector, resource_version
from agent.runners.kubernetes.status import progress_of
from agent.system.tasks import cancel_task

#: Seconds for a node to say that a deleted pod has ended, beyond its grace.
_SAID_WITHIN: Final = 20.0


class JobState:
    """One job as far as it has been seen."""

    def __init__(self) -> None:
        self.job: Json | None = None
        #: The Job is gone from the cluster.
        self.deleted = False
        #: Number of changes; see `newer_than`.
        self.version = 0
        #: How many callers follow it.
        self.followers = 0
        #: By uid, also those that are gone from the cluster.
        self._pods: dict[str, Json] = {}
        self._existing: set[str] = set()
        #: By uid of the Job or a pod, then by reason.
        self._warnings: dict[str, dict[str, Warned]] = defaultdict(dict)
        #: By uid of a pod: its newest event that is no warning.
        self._news: dict[str, Warned] = {}
        #: Pods, by uid, that should have ended.
        self._silent: set[str] = set()
        self._admission: Json | None = None
        self._changed = asyncio.Event()

    @property
    def observed(self) -> Observed:
        """For `status`; only once the Job was seen."""
        assert self.job is not None  # noqa: S101  # `JobStates.following` waits for it
        pods = in_order(self._pods.values())
        silent = frozenset(self._silent)
        return Observed(self.job, pods, self._warnings, self._admission, silent, self._news)

    @property
    def running_pods(self) -> list[str]:
        """Names of its pods that exist and have not ended."""
        existing = (self._pods[uid] for uid in self._existing)
        return [pod["metadata"]["name"] for pod in existing if not is_over(pod)]

    @property
    def has_finished(self) -> bool:
        """Whether the job has ended, or was deleted."""
        return self.deleted or isinstance(progress_of(self.observed), Ended)

    def pod(self, uid: str) -> Json:
        """One of its pods as it was last seen."""
        return self._pods[uid]

    def exists(self, uid: str) -> bool:
        """Whether a pod is still in the cluster."""
        return uid in self._existing

    def has_ended(self, uid: str, container: str) -> bool:
        """Whether a container of a pod was seen to end, for good."""
        pod = self._pods.get(uid)
        return pod is None or is_over(pod) or has_terminated(pod, container)

    @property
    def has_ended_pod(self) -> bool:
        """Whether one of its pods was seen to end."""
        return any(map(is_over, self._pods.values()))

    @property
    def is_gone(self) -> bool:
        """Nothing of it is left in the cluster."""
        return (self.job is None or self.deleted) and not self._existing

    async def newer_than(self, version: int) -> None:
        """Wait until something changed after `version` was read."""
        while self.version == version:
            await self._changed.wait()

    async def shows_ended_pod(self, seconds: float) -> bool:
        """Whether one of its pods is seen to end within this time."""
        try:
            async with asyncio.timeout(seconds):
                while not self.has_ended_pod:
                    await self.newer_than(self.version)
        except TimeoutError:
            return False
        return True

    async def newer_or_silent(self, version: int) -> None:
        """As `newer_than`; also returns, with those pods marked silent, after too long a wait.

        That is when a node has not ended a deleted pod `_SAID_WITHIN` seconds after its grace.
        """
        ending = [self._pods[uid] for uid in self._existing - self._silent]
        ending = [pod for pod in ending if is_deleted(pod) and not is_over(pod)]
        if not ending:
            return await self.newer_than(version)
        grace = max(pod["metadata"].get("deletionGracePeriodSeconds") or 0 for pod in ending)
        try:
            async with asyncio.timeout(grace + _SAID_WITHIN):
                await self.newer_than(version)
        except TimeoutError:
            self._silent |= {pod["metadata"]["uid"] for pod in ending}
            self._note_change()

    def update_job(self, job: Json, *, deleted: bool) -> None:
        """A Job as the server gave it, perhaps later than a newer one."""
        if self.job is None or resource_version(self.job) <= resource_version(job):
            self.job = job
            self.deleted = self.deleted or deleted
            self._note_change()

    def update_pod(self, pod: Json, *, deleted: bool) -> None:
        """Keep the newer version of one of its pods, or note its deletion."""
        uid = pod["metadata"]["uid"]
        known = self._pods.get(uid)
        if known is None:
            self._existing.add(uid)
        if known is None or resource_version(known) <= resource_version(pod):
            self._pods[uid] = pod
        if deleted:
            self._existing.discard(uid)
        self._note_change()

    def note_event(self, event: Json) -> None:
        """Keep an event's message: the newest of each warning, and the newest of each pod."""
        uid, kind = event["involvedObject"]["uid"], event["involvedObject"].get("kind")
        series = event.get("series") or {}
        at = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
        told = Warned(str(event.get("message") or ""), time_of(at))
        if event.get("reason") in WARNINGS and event.get("type") == "Warning":
            self._warnings[uid][event["reason"]] = told
        elif kind == "Pod" and event.get("type") == "Normal" and told.is_newer(self._news.get(uid)):
            self._news[uid] = told
        else:
            return
        self._note_change()

    async def changes_within(self, seconds: float) -> bool:
        """Whether something changes in this time."""
        try:
            async with asyncio.timeout(seconds):
                await self.newer_than(self.version)
        except TimeoutError:
            return False
        return True

    def update_admission(self, admission: Json | None) -> None:
        """Kueue's object for the Job, or that it is gone."""
        self._admission = admission
        self._note_change()

    def _note_change(self) -> None:
        self.version += 1
        self._changed.set()
        # Whoever waits wakes up, however many they are; later ones wait for the next change.
        self._changed = asyncio.Event()


class JobStates:
    """The states of all jobs of a control plane in one namespace."""

    def __init__(self, api: ClusterApi, control_plane_id: str) -> None:
        self._api = api
        self._control_plane_id = control_plane_id
        self._states: dict[str, JobState] = {}
        owned = {"labelSelector": selector(control_plane_id)}
        namespace = api.namespace
        self._pods = Reflector(api, PODS, namespace, owned, self._on_pod)
        self._events = Reflector(api, EVENTS, namespace, {}, self._on_event)
        self._admissions = Admissions(api, self._on_admission)
        #: Of Jobs, and of each kind of custom resource that a job had.
        self._workloads: dict[Kind, Reflector] = {}
        #: Kinds of jobs that are no Jobs, by name.
        self._kinds: dict[str, Kind] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Begin to follow the cluster."""
        self._follow_kind(JOBS)
        for following in (self._pods.run(), self._follow_events(), self._admissions.run()):
            self._run(following)

    async def _follow_events(self) -> None:
        # Events about jobs that are not known are dropped.
        await self._follow_kind(JOBS).synced.wait()
        await self._events.run()

    def _follow_kind(self, kind: Kind) -> Reflector:
        if kind not in self._workloads:
            owned = {"labelSelector": selector(self._control_plane_id)}
            reflector = Reflector(self._api, kind, self._api.namespace, owned, self._on_job)
            self._workloads[kind] = reflector
            self._run(reflector.run())
        return self._workloads[kind]

    def _run(self, following: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(following, name="reflector"))

    async def close(self) -> None:
        """Stop following."""
        for task in self._tasks:
            await cancel_task(task)

    @asynccontextmanager
    async def following(self, name: str) -> AsyncIterator[JobState | None]:
        """The state of a job while the context lasts; `None` if there is no such Job.

        Waits while the API server does not answer.
        """
        state = self._states.setdefault(name, JobState())
        state.followers += 1
        try:
            yield state if await self._appears(name, state) else None
        finally:
            state.followers -= 1
            self._drop_if_gone(name, state)

    def kind(self, name: str) -> Kind:
        """The kind of a job that was created or found."""
        return self._kinds.get(name, JOBS)

    def set_kind(self, name: str, kind: Kind) -> None:
        """Note the kind of a job, and follow all of that kind."""
        if kind != JOBS:
            self._kinds[name] = kind
            self._follow_kind(kind)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of all jobs so far."""
        return tuple(self._workloads)

    def path(self, name: str) -> str:
        """The path of a job that was created or found."""
        return self.kind(name).path(self._api.namespace, name)

    def update_job(self, job: Json) -> None:
        """A Job that a call of ours has returned."""
        self._follow_kind(self.kind(job["metadata"]["name"])).add(job)
        self._on_job(lean(job), False)

    async def list_pods(self, state: JobState) -> None:
        """Ask for the pods of a job, which the watch of pods may show later than the Job's end."""
        for pod in await pods_of(self._api, state.observed.job):
            self._on_pod(lean_pod(pod), False)

    async def _appears(self, name: str, state: JobState) -> bool:
        # Without its pods, an ended Job would look as if they were gone.
        await self._pods.synced.wait()
        await self._follow_kind(self.kind(name)).synced.wait()
        while state.job is None:
            try:
                job = await self._api.get(self.path(name)) or await self._find_custom(name)
            except ClusterUnreachableError as error:
                structlog.get_logger().warning("a job is not found yet", error=str(error))
                continue
            labels = {} if job is None else job["metadata"].get("labels") or {}
            if job is None or labels.get(LABEL_CONTROL_PLANE) != self._control_plane_id:
                return False
            self.update_job(job)
        return True

    async def _find_custom(self, name: str) -> Json | None:
        """A job that is no Job; its Secret says what it is."""
        secret = await self._api.get(SECRETS.path(self._api.namespace, name))
        kind = None if secret is None else kind_in(secret)
        if kind is None or kind == self.kind(name):
            return None
        self.set_kind(name, kind)
        return await self._api.get(self.path(name))

    def _on_job(self, job: Json, deleted: bool) -> None:  # noqa: FBT001  # a callback
        self._take(job["metadata"]["name"], job, deleted=deleted, take=JobState.update_job)
        if not is_custom(job):
            self._admissions.look_at(job)

    def _on_admission(self, name: str, admission: Json | None) -> None:
        if name in self._states:
            self._states[name].update_admission(admission)

    def _on_pod(self, pod: Json, deleted: bool) -> None:  # noqa: FBT001  # a callback
        name = job_of_pod(pod)
        if name is not None:
            self._take(name, pod, deleted=deleted, take=JobState.update_pod)

    def _on_event(self, event: Json, deleted: bool) -> None:  # noqa: FBT001  # a callback
        # Events of some controllers are about no object with a name.
        name = event["involvedObject"].get("name") or ""
        # A pod's name is its Job's, perhaps an index, and a suffix.
        names = [name, *(name.rsplit("-", parts)[0] for parts in (1, 2))]
        state = next((self._states[one] for one in names if one in self._states), None)
        if state is not None and not deleted:
            state.note_event(event)

    def _take(self, name: str, item: Json, *, deleted: bool, take: Any) -> None:
        state = self._states.setdefault(name, JobState())
        take(state, item, deleted=deleted)
        self._drop_if_gone(name, state)

    def _drop_if_gone(self, name: str, state: JobState) -> None:
        if state.is_gone and not state.followers and self._states.get(name) is state:
            del self._states[name]
            self._kinds.pop(name, None)


def job_of_pod(pod: Json) -> str | None:
    """The name of the job that a pod belongs to, by the labels of its template."""
    labels = pod["metadata"].get("labels") or {}
    lease = lease_from_labels(labels)
    if lease is None or LABEL_CONTROL_PLANE not in labels:
        return None
    return workload_name(labels[LABEL_CONTROL_PLANE], lease.item_id, lease.attempt)


async def pods_of(api: ClusterApi, job: Json) -> list[Json]:
    """All pods of a job, in the order of their creation."""
    labels = job["metadata"]["labels"]
    names = (LABEL_CONTROL_PLANE, LABEL_ITEM, LABEL_ATTEMPT)
    query = {"labelSelector": ",".join(f"{name}={labels[name]}" for name in names)}
    return await listed(api, PODS.path(api.namespace), query)


async def listed(
    api: ClusterApi, path: str, query: dict[str, str], *, metadata_only: bool = False
) -> list[Json]:
    """All objects of a collection in the order of their creation."""
    found: list[Json] = []
    asked = {**query, "limit": "500"}
    while True:
        page = await api.get(path, asked, metadata_only=metadata_only)
        if page is None:
            return found
        found += page.get("items") or ()
        asked["continue"] = page["metadata"].get("continue") or ""
        if not asked["continue"]:
            return list(in_order(found))


def in_order(items: Iterable[Json]) -> tuple[Json, ...]:
    """By the time of their creation."""
    return tuple(sorted(items, key=lambda item: str(item["metadata"]["creationTimestamp"])))
