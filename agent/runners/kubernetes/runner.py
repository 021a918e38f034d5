"""Runs jobs as Kubernetes Jobs; see `agent.ports.runner` for the contract.

`create` makes a Secret, `start` the Job of the same name: a name exists once, so a start whose
answer was lost can be sent again. Jobs, pods and events of all attempts are followed by one
watch each.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from agent.config.execution import KubernetesRunnerConfig
from agent.model.capacity import Allocation, Demand
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, LaunchError
from agent.model.names import KUBERNETES
from agent.model.spec import Json
from agent.model.work import LABEL_CONTROL_PLANE, Image, Lease, lease_from_labels
from agent.ports.runner import (
    Ended,
    Ending,
    LogPiece,
    LogPosition,
    NeverStarted,
    Pending,
    Progress,
    Running,
    RunRequest,
    Started,
    StartResult,
    StartUnknown,
    Workload,
    WorkloadState,
)
from agent.runners.kubernetes.api import EVENTS, JOBS, PODS, SECRETS, ClusterApi
from agent.runners.kubernetes.logs import ContainerLog
from agent.runners.kubernetes.manifest import CREATED_AS, job_of, manifest_in, secret_of, selector
from agent.runners.kubernetes.policy import check_manifest
from agent.runners.kubernetes.reflector import Reflector
from agent.runners.kubernetes.status import Observed, progress_of, ran_since
from agent.runners.local import is_outdated, same_attempt
from agent.system.tasks import cancel_task

_NAME_OF_JOB: Final = "batch.kubernetes.io/job-name"
_REFUSALS: Final = {"fieldSelector": "reason=FailedCreate,involvedObject.kind=Job"}
_IN_BACKGROUND: Final = {"propagationPolicy": "Background"}
_NOWHERE: Final = Path()
#: Seconds in which a watch shows what was just created, before it is asked for.
_SEEN_WITHIN: Final = 5.0
#: Seconds between looks at pods that are being deleted.
_LOOK_AGAIN: Final = 0.2
#: Seconds for pods to be gone, beyond their grace.
_GONE_WITHIN: Final = 60.0


class KubernetesRunner:
    """`RunnerPort` for one namespace of a cluster; an async context manager."""

    resource = KUBERNETES

    def __init__(self, control_plane_id: str, config: KubernetesRunnerConfig) -> None:
        self._control_plane_id = control_plane_id
        self._config = config
        self._api = ClusterApi(config)
        self._manifests: dict[str, Json] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._changed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        #: Last state of jobs and pods by job name, kept until `destroy`.
        self._jobs: dict[str, Json] = {}
        self._deleted: set[str] = set()
        self._pods: dict[str, dict[str, Json]] = defaultdict(dict)
        self._refusals: dict[str, str] = {}
        self._reflectors: tuple[Reflector, ...] = ()

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        if self._control_plane_id:
            self._follow_cluster()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop following the cluster; jobs are not touched."""
        for task in self._tasks:
            await cancel_task(task)
        await self._api.__aexit__(None, None, None)

    # ------------------------------------------------------------------ before the start

    async def backend_id(self) -> str:
        """See the port: the uid of the jobs' namespace, which no other cluster has."""
        found = await self._api.get(f"/api/v1/namespaces/{self._namespace}")
        if found is None:
            message = f"The cluster at {self._api.server} has no namespace '{self._namespace}'."
            hint = f"Create it (`kubectl create namespace {self._namespace}`), or correct "
            raise ConfigError(message, hint=hint + "`runners.kubernetes.namespace`.")
        return str(found["metadata"]["uid"])

    def check(self, arguments: dict[str, Any]) -> None:
        """See the port."""
        check_manifest(arguments, self._config.allow)
        empty = RunRequest(
            Lease("", 0, 0), "", {}, Image("image", "", reused=True), (), (), {}, arguments,
            Allocation(), _NOWHERE,
        )  # fmt: skip
        job_of(empty, "")

    def demand(self, arguments: dict[str, Any]) -> Demand | None:
        """See the port: the cluster schedules by itself."""
        del arguments
        return None

    def preview(self, request: RunRequest) -> Json:
        """See the port: the Job's manifest."""
        check_manifest(request.arguments, self._config.allow)
        return job_of(request, self._namespace)

    async def create(self, request: RunRequest) -> Workload:
        """See the port."""
        check_manifest(request.arguments, self._config.allow)
        body = secret_of(request, self._namespace)
        path = SECRETS.path(self._namespace)
        while True:
            made = await self._api.create(path, body)
            if made is not None:
                return self._created(made)
            existing = await self._observe(request.name)
            if existing is None:
                continue  # it was deleted meanwhile
            labels, workload = existing
            if workload is None or not same_attempt(labels, request.labels):
                message = f"The name '{request.name}' is taken by another object of the cluster."
                hint = (
                    f"Remove it (`kubectl delete secret,job {request.name}`), then retry the item."
                )
                raise JobError(Cause.START_FAILED, message, hint=hint)
            if not is_outdated(workload, request.lease):
                return workload
            await self._delete_secret(workload)

    # ----------------------------------------------------------------------- the start

    async def start(self, workload: Workload) -> StartResult:
        """See the port. The Job's name is the fence: sending it again is safe."""
        try:
            manifest = self._manifests.get(workload.id) or await self._stored_manifest(workload)
            if manifest is None:
                return await self._started_before(workload)
            made = await self._api.create(JOBS.path(self._namespace), manifest)
            if made is None:
                return await self._started_before(workload)
            self._manifests.pop(workload.id, None)
            self._take_job(made, deleted=False)
            await self._hand_over(workload, made)
        except JobError as error:
            if error.cause is Cause.LOST_ENGINE:
                return StartUnknown(error.cause, str(error))
            return NeverStarted(error)
        except LaunchError as error:
            return NeverStarted(error)
        return Started(replace(workload, state=WorkloadState.PENDING))

    async def settle(self, workload: Workload) -> StartResult:
        """See the port: no Job shows a start only while the Job exists."""
        try:
            return await self._started_before(workload)
        except JobError as error:
            return StartUnknown(error.cause, str(error))

    async def _started_before(self, workload: Workload) -> StartResult:
        observed = await self._observe(workload.name)
        found = None if observed is None else observed[1]
        if observed is not None and found is None:
            message = f"The name '{workload.name}' is taken by another Job of the cluster."
            return NeverStarted(JobError(Cause.START_FAILED, message))
        if found is None or found.state is WorkloadState.CREATED:
            message = f"the cluster has no Job '{workload.name}'"
            return StartUnknown(Cause.LOST_WORKLOAD, message)
        return Started(found, before=True)

    async def _stored_manifest(self, workload: Workload) -> Json | None:
        secret = await self._api.get(SECRETS.path(self._namespace, workload.name))
        if secret is None or secret["metadata"]["uid"] != workload.id:
            return None
        return manifest_in(secret)

    async def _hand_over(self, workload: Workload, job: Json) -> None:
        """Let the Secret go with its Job."""
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": workload.name,
            "uid": job["metadata"]["uid"],
        }
        change = {"metadata": {"ownerReferences": [owner]}}
        await self._api.patch(SECRETS.path(self._namespace, workload.name), change)

    # ----------------------------------------------------------------------- the run

    async def watch(self, workload: Workload) -> AsyncGenerator[Progress, None]:
        """See the port. While the API server is away, nothing is yielded."""
        name = workload.name
        if name not in self._jobs and not await self._appears(name):
            yield Ended(_vanished(name))
            return
        last: Progress | None = None
        while True:
            changed = self._changed[name]
            changed.clear()
            observed = self._observed(name)
            progress = progress_of(observed)
            if await self._was_deleted(name, observed, progress):
                progress = Ended(_vanished(name))
            if isinstance(progress, Ended):
                if not isinstance(last, Running) and (since := ran_since(observed)) is not None:
                    yield Running(since)
                yield progress
                return
            if _is_news(progress, last):
                last = progress
                yield progress
            await changed.wait()

    async def _was_deleted(self, name: str, observed: Observed, progress: Progress) -> bool:
        """Whether the Job was deleted before its end, and what ended its pods was that."""
        if not isinstance(progress, Ended):
            return name in self._deleted
        if not any("deletionTimestamp" in pod["metadata"] for pod in observed.pods):
            return False
        job = await self._api.get(JOBS.path(self._namespace, name))
        return job is None or "deletionTimestamp" in job["metadata"]

    async def logs(
        self, workload: Workload, position: LogPosition
    ) -> AsyncGenerator[LogPiece, None]:
        """See the port."""
        name = workload.name
        if name not in self._jobs and not await self._appears(name):
            return
        while (pod := self._started_pod(name)) is None:
            changed = self._changed[name]
            changed.clear()
            if self._has_ended(name):
                return
            await changed.wait()
        log = ContainerLog(
            self._api,
            self._namespace,
            pod["metadata"]["name"],
            pod["spec"]["containers"][0]["name"],
            lambda: self._has_ended(name),
        )
        async with aclosing(log.pieces(position)) as pieces:
            async for piece in pieces:
                yield piece

    async def stop(self, workload: Workload, grace: float) -> None:
        """See the port. The kubelet sends SIGTERM, then SIGKILL after `grace` seconds."""
        job = await self._api.get(JOBS.path(self._namespace, workload.name))
        if job is None or not self._is_ours(job):
            return
        # Its controller must not replace what is deleted.
        await self._api.patch(
            JOBS.path(self._namespace, workload.name), {"spec": {"backoffLimit": 0}}
        )
        if job["spec"].get("suspend"):
            await self._api.delete(JOBS.path(self._namespace, workload.name), _IN_BACKGROUND)
        options = {"gracePeriodSeconds": max(1, round(grace))}
        query = {"labelSelector": f"{_NAME_OF_JOB}={workload.name}"}
        for pod in await self._running_pods(query):
            await self._api.delete(PODS.path(self._namespace, pod), options)
        async with asyncio.timeout(grace + _GONE_WITHIN):
            while await self._running_pods(query):  # noqa: ASYNC110  # the cluster has no event
                await asyncio.sleep(_LOOK_AGAIN)

    async def destroy(self, workload: Workload) -> None:
        """See the port."""
        if not await self._delete_secret(workload):
            return  # created again under a later lease
        job = await self._api.get(JOBS.path(self._namespace, workload.name))
        if job is None or not self._is_ours(job) or _created_as(job) != workload.id:
            return
        query = {"labelSelector": f"{_NAME_OF_JOB}={workload.name}"}
        for pod in await self._running_pods(query):
            await self._api.delete(PODS.path(self._namespace, pod), {"gracePeriodSeconds": 0})
        await self._api.delete(JOBS.path(self._namespace, workload.name), _IN_BACKGROUND)
        self._forget(workload.name)

    # ------------------------------------------------------------------------- finding

    async def find(self, name: str) -> Workload | None:
        """See the port."""
        observed = await self._observe(name)
        return None if observed is None else observed[1]

    async def owned(self) -> list[Workload]:
        """See the port."""
        query = {"labelSelector": selector(self._control_plane_id)}
        jobs = await self._listed(JOBS.path(self._namespace), query)
        pods = await self._listed(PODS.path(self._namespace), query)
        found = {
            job["metadata"]["name"]: self._workload(job, _pods_of(job, pods))
            for job in jobs
            if "deletionTimestamp" not in job["metadata"]
        }
        for secret in await self._listed(SECRETS.path(self._namespace), query):
            name = secret["metadata"]["name"]
            if name not in found:
                found[name] = _unstarted(secret)
        return [workload for workload in found.values() if workload is not None]

    async def _observe(self, name: str) -> tuple[dict[str, str], Workload | None] | None:
        """Labels and workload of a name; no workload if it is not ours; `None` if it is free."""
        job = await self._api.get(JOBS.path(self._namespace, name))
        if job is not None and "deletionTimestamp" not in job["metadata"]:
            query = {"labelSelector": f"{_NAME_OF_JOB}={name}"}
            pods = await self._listed(PODS.path(self._namespace), query)
            return _labels(job), self._workload(job, pods) if self._is_ours(job) else None
        secret = await self._api.get(SECRETS.path(self._namespace, name))
        if secret is None:
            return None
        return _labels(secret), _unstarted(secret) if self._is_ours(secret) else None

    def _workload(self, job: Json, pods: list[Json]) -> Workload | None:
        lease = lease_from_labels(_labels(job))
        if lease is None:
            return None
        observed = Observed(job, tuple(pods))
        progress = progress_of(observed)
        match progress:
            case Pending():
                state = WorkloadState.PENDING
            case Running():
                state = WorkloadState.RUNNING
            case Ended():
                state = WorkloadState.EXITED
        return Workload(
            name=job["metadata"]["name"],
            id=_created_as(job),
            lease=lease,
            state=state,
            started_at=ran_since(observed),
            ending=progress.ending if isinstance(progress, Ended) else None,
        )

    async def _listed(self, path: str, query: dict[str, str]) -> list[Json]:
        found: list[Json] = []
        asked = {**query, "limit": "500"}
        while True:
            page = await self._api.get(path, asked)
            if page is None:
                return found
            found += page.get("items") or ()
            asked["continue"] = page["metadata"].get("continue") or ""
            if not asked["continue"]:
                return sorted(found, key=lambda one: str(one["metadata"]["creationTimestamp"]))

    async def _running_pods(self, query: dict[str, str]) -> list[str]:
        pods = await self._listed(PODS.path(self._namespace), query)
        return [
            pod["metadata"]["name"]
            for pod in pods
            if (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}
        ]

    async def _delete_secret(self, workload: Workload) -> bool:
        options = {"preconditions": {"uid": workload.id}} if workload.id else {}
        self._manifests.pop(workload.id, None)
        return await self._api.delete(SECRETS.path(self._namespace, workload.name), options)

    def _created(self, secret: Json) -> Workload:
        workload = _unstarted(secret)
        assert workload is not None  # noqa: S101  # the labels are the request's
        self._manifests[workload.id] = manifest_in(secret)
        return workload

    def _is_ours(self, item: Json) -> bool:
        return _labels(item).get(LABEL_CONTROL_PLANE) == self._control_plane_id

    # ---------------------------------------------------------------- following the cluster

    @property
    def _namespace(self) -> str:
        return self._api.namespace

    def _follow_cluster(self) -> None:
        owned = {"labelSelector": selector(self._control_plane_id)}
        self._reflectors = (
            Reflector(self._api, JOBS, self._namespace, owned, self._on_job),
            Reflector(self._api, PODS, self._namespace, owned, self._on_pod),
            Reflector(self._api, EVENTS, self._namespace, _REFUSALS, self._on_event),
        )
        for reflector in self._reflectors:
            self._tasks.append(asyncio.create_task(reflector.run(), name="reflector"))

    def _on_job(self, job: Json, deleted: bool) -> None:  # noqa: FBT001  # a callback
        self._take_job(job, deleted=deleted)

    def _take_job(self, job: Json, *, deleted: bool) -> None:
        name = job["metadata"]["name"]
        known = self._jobs.get(name)
        if known is not None and _version(known) > _version(job):
            return
        self._jobs[name] = job
        if deleted:
            self._deleted.add(name)
        self._changed[name].set()

    def _on_pod(self, pod: Json, deleted: bool) -> None:  # noqa: FBT001  # a callback
        del deleted  # its last state says how it ended
        name = _labels(pod).get(_NAME_OF_JOB)
        if name is not None:
            self._pods[name][pod["metadata"]["uid"]] = pod
            self._changed[name].set()

    def _on_event(self, event: Json, deleted: bool) -> None:  # noqa: FBT001  # a callback
        name = event["involvedObject"]["name"]
        if not deleted and name in self._jobs:
            self._refusals[name] = str(event.get("message") or "")
            self._changed[name].set()

    def _observed(self, name: str) -> Observed:
        pods = sorted(
            self._pods[name].values(), key=lambda pod: str(pod["metadata"]["creationTimestamp"])
        )
        return Observed(self._jobs[name], tuple(pods), self._refusals.get(name, ""))

    async def _appears(self, name: str) -> bool:
        """Wait until the watch shows a Job; ask for it when it does not."""
        while name not in self._jobs:
            changed = self._changed[name]
            changed.clear()
            try:
                async with asyncio.timeout(_SEEN_WITHIN):
                    await changed.wait()
            except TimeoutError:
                job = await self._api.get(JOBS.path(self._namespace, name))
                if job is None:
                    return False
                self._take_job(job, deleted=False)
        return True

    def _started_pod(self, name: str) -> Json | None:
        observed = self._observed(name)
        return next(
            (pod for pod in observed.pods if ran_since(Observed(observed.job, (pod,)))), None
        )

    def _has_ended(self, name: str) -> bool:
        return name in self._deleted or isinstance(progress_of(self._observed(name)), Ended)

    def _forget(self, name: str) -> None:
        for known in (self._jobs, self._pods, self._refusals, self._changed):
            known.pop(name, None)
        self._deleted.discard(name)


def _is_news(progress: Progress, last: Progress | None) -> bool:
    match progress, last:
        case Pending(), Pending():
            return (progress.cause, progress.message) != (last.cause, last.message)
        case Running(), Running():
            return False
        case _:
            return True


def _pods_of(job: Json, pods: list[Json]) -> list[Json]:
    return [pod for pod in pods if _labels(pod).get(_NAME_OF_JOB) == job["metadata"]["name"]]


def _unstarted(secret: Json) -> Workload | None:
    lease = lease_from_labels(_labels(secret))
    if lease is None:
        return None
    metadata = secret["metadata"]
    return Workload(metadata["name"], metadata["uid"], lease, WorkloadState.CREATED)


def _labels(item: Json) -> dict[str, str]:
    return dict(item["metadata"].get("labels") or {})


def _created_as(job: Json) -> str:
    return str((job["metadata"].get("annotations") or {}).get(CREATED_AS, ""))


def _version(item: Json) -> int:
    # Ordered since Kubernetes 1.35; before, it was so in practice.
    version = str(item["metadata"].get("resourceVersion", "0"))
    return int(version) if version.isdigit() else 0


def _vanished(name: str) -> Ending:
    message = (
        f"the Job '{name}' was deleted before its end was seen; check what else manages Jobs in "
        "that namespace"
    )
    return Ending(None, cause=Cause.LOST_WORKLOAD, message=message)
