"""Runs jobs as Kubernetes Jobs; see `agent.ports.runner` for the contract.

`create` makes a Secret, `start` the Job of the same name: a name exists once, so a start whose
answer was lost can be sent again. Jobs, pods and events of all attempts are followed by one
watch each.
"""

import asyncio
import base64
import json
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import structlog

from agent.config.execution import KubernetesRunnerConfig
from agent.model.capacity import Allocation, Demand
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, LaunchError, UnavailableError
from agent.model.names import KUBERNETES
from agent.model.spec import Json
from agent.model.work import (
    LABEL_CONTROL_PLANE,
    Image,
    Lease,
    workload_prefix,
)
from agent.ports.registry import Credentials
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
from agent.runners.kubernetes.access import ON_CUSTOM_RESOURCES, Rights
from agent.runners.kubernetes.api import (
    JOBS,
    PODS,
    SECRETS,
    ClusterApi,
    ClusterUnreachableError,
    Kind,
)
from agent.runners.kubernetes.custom_status import is_custom
from agent.runners.kubernetes.discovery import Kinds
from agent.runners.kubernetes.job_log import JobLog
from agent.runners.kubernetes.job_states import (
    JobState,
    JobStates,
    job_of_pod,
    listed,
    pods_of,
)
from agent.runners.kubernetes.manifest import (
    SIDE_SERVICE_OF,
    ManifestSettings,
    Objects,
    beside_in,
    kind_in,
    label_value,
    manifest_in,
    objects_of,
    selector,
)
from agent.runners.kubernetes.pods import shown_pods
from agent.runners.kubernetes.policy import check_manifest, check_side_service
from agent.runners.kubernetes.removal import IN_BACKGROUND, Removals
from agent.runners.kubernetes.side_services import SideServices
from agent.runners.kubernetes.status import is_finished, progress_of, ran_since
from agent.runners.kubernetes.workloads import (
    WORKLOAD_UID,
    labels_of,
    secret_uid,
    unstarted_of,
    was_started,
    workload_of,
)
from agent.runners.local import is_outdated, same_attempt

T = TypeVar("T")
Login = Callable[[str], Awaitable[Credentials | None]]

_IN_FOREGROUND: Final = {"propagationPolicy": "Foreground"}
_NOWHERE: Final = Path()
#: Seconds by which the watch of pods may be later than that of Jobs, before pods are asked for.
_PODS_FOLLOW: Final = 3.0
#: Seconds without a change, after which what pods say is told.
_CALM: Final = 1.0
#: Seconds before a name is tried again whose object is being removed.
_REPEAT_PAUSE: Final = 0.2
#: Seconds for pods to be gone, beyond their grace.
_GONE_WITHIN: Final = 60.0


class KubernetesRunner:
    """`RunnerPort` for one namespace of a cluster; an async context manager."""

    resource = KUBERNETES

    def __init__(
        self,
        control_plane_id: str,
        config: KubernetesRunnerConfig,
        agent_name: str = "",
        login: Login | None = None,
    ) -> None:
        """`login`: the agent's own login for the registry of an image."""
        self._login = login
        self._control_plane_id = control_plane_id
        self._agent_name = agent_name
        self._config = config
        self._api = ClusterApi(config)
        self._is_open = False
        #: Kind and manifest of what was created and not started, by id.
        self._manifests: dict[str, tuple[Kind, Json]] = {}
        self._kinds = Kinds(self._api)
        self._rights = Rights(self._api)
        self._side_services = SideServices(self._api, self._kinds, self._rights)
        #: Ids of workloads whose Secret goes with the Job.
        self._handed_over: set[str] = set()
        self._states: JobStates | None = None
        self._removals = Removals(self._api, control_plane_id)

    async def __aenter__(self) -> Self:
        await self._api.__aenter__()
        self._is_open = True
        if self._control_plane_id:
            self._states = JobStates(self._api, self._control_plane_id)
            self._states.open()
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
        await self._removals.close()
        if self._states is not None:
            await self._states.close()
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

    def check(self, arguments: Json, template: Json) -> None:
        """See the port."""
        empty = RunRequest(
            Lease("", 0, 0), "", {}, Image("image", "", reused=True), (), (), {}, arguments,
            Allocation(), _NOWHERE, template=template,
        )  # fmt: skip
        self._objects(empty)

    def demand(self, arguments: dict[str, Any]) -> Demand | None:
        """See the port: the cluster schedules by itself."""
        del arguments
        return None

    def preview(self, request: RunRequest) -> Json:
        """See the port: the workload's manifest."""
        return self._objects(request).workload

    def _objects(self, request: RunRequest, registry_login: str = "") -> Objects:
        config = self._config
        check_manifest(request.arguments, request.template, config.allow)
        for number, service in enumerate(request.services):
            check_side_service(service, number, config.allow)
        # Without a connection, only what the configuration says is known.
        namespace = self._namespace if self._is_open else config.namespace or ""
        settings = ManifestSettings(
            namespace,
            self._agent_name,
            config.pull_secrets,
            config.run_as_non_root,
            config.code_image or "",
            registry_login,
        )
        return objects_of(request, settings)

    def side_services(self, request: RunRequest) -> Sequence[Json]:
        """The manifests of what `create` would create beside the workload, as `preview`."""
        beside = self._objects(request).beside
        return () if beside is None else beside.services

    async def dry_run(self, request: RunRequest) -> list[Json]:
        """What the API server would make of the workload and of each side service, in this order.

        Nothing is created. Connects for this call; for a runner that is not open.

        Raises:
            PolicyError, ClusterRefusedError: it would be refused.
            ClusterUnreachableError: the API server does not answer.
        """
        named = replace(request, name=f"launch-preview-{uuid.uuid4().hex[:12]}", labels={})
        async with self:
            manifests = [self._objects(named).workload, *self.side_services(named)]
            made = [await self._dry_run(each) for each in manifests]
        made[0]["metadata"]["name"] = request.name
        for service in made[1:]:
            service["metadata"]["labels"][SIDE_SERVICE_OF] = label_value(request.name)
        return made

    async def _dry_run(self, manifest: Json) -> Json:
        path = (await self._kinds.of(manifest)).path(self._namespace)
        made = await self._api.create(path, manifest, dry_run=True) or manifest
        for key in ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"):
            made["metadata"].pop(key, None)
        made.pop("status", None)
        return made

    async def create(self, request: RunRequest) -> Workload:
        """See the port."""
        objects = self._objects(request, await self._registry_login(request))
        kind = await self._kinds.of(objects.workload)
        if kind != JOBS:
            why = f"The job is a {objects.workload['kind']}"
            await self._rights.require(kind, ON_CUSTOM_RESOURCES, why)
        workload = await self._create(request, objects.secret(request, self._namespace, kind))
        if objects.beside is None or workload.state is not WorkloadState.CREATED:
            return workload
        try:
            await self._side_services.run(objects.beside, workload)
        except BaseException:
            # They go with the Secret; if it cannot be deleted now, pruning finds it.
            with suppress(LaunchError):
                await asyncio.shield(self._delete_secret(workload))
            raise
        return workload

    async def _registry_login(self, request: RunRequest) -> str:
        """For an image that the agent has pushed, as Docker keeps it; empty if there is none."""
        config = self._config
        built = not request.brings_image and request.mounted_code is None
        if not built or config.pull_secrets or not config.share_login:
            return ""
        found = None if self._login is None else await self._login(request.image.reference)
        if found is None or not found.password:
            return ""
        pair = base64.b64encode(f"{found.username}:{found.password}".encode()).decode()
        entry = {"username": found.username, "password": found.password, "auth": pair}
        return json.dumps({"auths": {found.server: entry}})

    async def _create(self, request: RunRequest, body: Json) -> Workload:
        path = SECRETS.path(self._namespace)
        while True:
            made = await self._api.create(path, body)
            if made is not None:
                return self._created(made)
            existing = await self._observe(request.name)
            if existing is None:
                await asyncio.sleep(_REPEAT_PAUSE)  # it is being deleted
                continue
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
        while True:
            try:
                return await self._start(workload)
            except ClusterUnreachableError as error:
                structlog.get_logger().warning("a start is sent again", error=str(error))
            except LaunchError as error:
                return await self._refused(workload, error)

    async def settle(self, workload: Workload) -> StartResult:
        """See the port. May send the start: its name lets the cluster create the workload once.

        One that exists, or existed (annotation of the Secret), is not created again.
        """
        return await self.start(workload)

    async def _start(self, workload: Workload) -> StartResult:
        found = self._manifests.get(workload.id) or await self._stored_manifest(workload)
        made = None
        if found is not None:
            kind, manifest = found
            self._followed.set_kind(workload.name, kind)
            made = await self._api.create(kind.path(self._namespace), manifest)
        if not made:
            return await self._started_before(workload)
        self._manifests.pop(workload.id, None)
        self._followed.update_job(made)
        await self._hand_over(workload, made)
        return Started(replace(workload, state=WorkloadState.PENDING))

    async def _refused(self, workload: Workload, error: LaunchError) -> StartResult:
        """An earlier try may have taken effect, and used up the quota that refuses the next."""
        observed = await self._answered(lambda: self._observe(workload.name))
        found = None if observed is None else observed[1]
        if found is None or found.state is WorkloadState.CREATED:
            return NeverStarted(error)
        return Started(found, before=True)

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

    async def _stored_manifest(self, workload: Workload) -> tuple[Kind, Json] | None:
        secret = await self._api.get(SECRETS.path(self._namespace, workload.name))
        if secret is None or secret["metadata"]["uid"] != workload.id:
            return None
        if was_started(secret):  # which was created, even if it is gone by now
            return None
        if (beside := beside_in(secret)) is not None:
            # An earlier process may have ended before it had created them all.
            await self._side_services.run(beside, workload)
        return kind_in(secret) or JOBS, manifest_in(secret)

    async def _hand_over(self, workload: Workload, job: Json) -> None:
        """Let the Secret go with its Job."""
        owner = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": workload.name,
            "uid": job["metadata"]["uid"],
        }
        # Whoever deletes the Job and keeps its dependents takes the reference away.
        annotations = {WORKLOAD_UID: job["metadata"]["uid"]}
        change = {"metadata": {"ownerReferences": [owner], "annotations": annotations}}
        try:
            await self._api.patch(SECRETS.path(self._namespace, workload.name), change)
        except LaunchError as error:
            # The job runs; `destroy` removes the Secret.
            log = structlog.get_logger().bind(workload=workload.name)
            log.warning("the Secret of a job is not handed over to it", error=str(error))
        else:
            self._handed_over.add(workload.id)

    # ----------------------------------------------------------------------- the run

    async def watch(self, workload: Workload) -> AsyncGenerator[Progress, None]:
        """See the port. While the API server is away, nothing is yielded."""
        async with self._followed.following(workload.name) as state:
            if state is None:
                yield Ended(_vanished(workload.name))
                return
            last: Progress | None = None
            calm = False
            while not isinstance(last, Ended):
                version = state.version
                progress = await self._progress(workload.name, state)
                progress = replace(progress, pods=shown_pods(state.observed))
                if isinstance(progress, Ended) and not isinstance(last, Running):
                    since = ran_since(state.observed)
                    if since is not None:
                        yield Running(since, progress.pods)
                shown = last.pods if last is not None else ()
                if _is_news(progress, last) or (calm and progress.pods != shown):
                    last = progress
                    yield progress
                if isinstance(last, Ended):
                    return
                # What pods say changes often while they start; it is told once it is calm.
                unsaid = last is not None and progress.pods != last.pods
                if unsaid and state.version == version:
                    calm = not await state.changes_within(_CALM)
                elif not unsaid:
                    calm = False
                    await state.newer_or_silent(version)

    async def _progress(self, name: str, state: JobState) -> Progress:
        progress = progress_of(state.observed)
        if not isinstance(progress, Ended):
            return Ended(_vanished(name)) if state.deleted else progress
        if is_finished(state.observed.job) and not state.has_ended_pod:
            # Jobs and pods come by two watches, in any order.
            if not await state.shows_ended_pod(_PODS_FOLLOW):
                await self._answered(lambda: self._followed.list_pods(state))
            return progress_of(state.observed)
        return progress

    async def _answered(self, call: Callable[[], Awaitable[T]]) -> T:
        """The answer to a call, however long the API server is away."""
        while True:
            try:
                return await call()
            except ClusterUnreachableError as error:
                structlog.get_logger().warning("a job is not looked at yet", error=str(error))

    async def logs(
        self, workload: Workload, position: LogPosition
    ) -> AsyncGenerator[LogPiece, None]:
        """See the port."""
        async with self._followed.following(workload.name) as state:
            if state is None:
                return
            log = JobLog(self._api, self._namespace, workload.name, state)
            async with aclosing(log.pieces(position)) as pieces:
                async for piece in pieces:
                    yield piece

    async def stop(self, workload: Workload, grace: float) -> None:
        """See the port. The kubelet sends SIGTERM, then SIGKILL after `grace` seconds."""
        async with self._followed.following(workload.name) as state:
            if state is None or (state.has_finished and not state.running_pods):
                return
            path, custom = self._followed.path(workload.name), is_custom(state.observed.job)
            if not custom:
                # Its controller must not replace what is deleted.
                await self._api.patch(path, {"spec": {"backoffLimit": 0}})
            await self._followed.list_pods(state)
            if never_ran := not state.running_pods:
                # Its controller may be about to create the first pod.
                await self._api.delete(path, _IN_FOREGROUND)
            options = {"gracePeriodSeconds": max(1, round(grace))}
            for pod in state.running_pods:
                await self._api.delete(PODS.path(self._namespace, pod), options)
            if custom and not never_ran:
                # Its operator would replace what is deleted. The pods keep their grace.
                await self._api.delete(path, IN_BACKGROUND)
            try:
                async with asyncio.timeout(grace + _GONE_WITHIN):
                    # Why a deleted pod ended is for the Job's controller to say.
                    removed = never_ran or custom
                    while state.running_pods or not _is_over_or_gone(state, removed=removed):
                        await state.newer_than(state.version)
            except TimeoutError:
                message = f"The pods of the Job '{workload.name}' do not end."
                hint = "Look at the node that they are on (`kubectl get pods -o wide`)."
                raise UnavailableError(Cause.LOST_NODE, message, hint=hint) from None

    async def destroy(self, workload: Workload) -> None:
        """See the port. What belongs to the Job goes with it."""
        name = workload.name
        async with self._followed.following(name) as state:
            if state is None or secret_uid(state.observed.job) != workload.id:
                await self._delete_secret(workload)
                return
            for pod in state.running_pods:
                await self._api.delete(PODS.path(self._namespace, pod), {"gracePeriodSeconds": 0})
            if workload.id not in self._handed_over:
                await self._delete_secret(workload)
            self._handed_over.discard(workload.id)
            if not is_custom(job := state.observed.job):
                await self._removals.delete(job)
                return
            options = {**IN_BACKGROUND, "preconditions": {"uid": job["metadata"]["uid"]}}
            await self._api.delete(self._followed.path(name), options)

    # ------------------------------------------------------------------------- finding

    async def find(self, name: str) -> Workload | None:
        """See the port. The server is hardly asked for a name that no workload of ours can have."""
        if not name.startswith(workload_prefix(self._control_plane_id)):
            await self._api.see_that_it_answers()
            return None
        observed = await self._observe(name)
        return None if observed is None else observed[1]

    async def owned(self) -> list[Workload]:
        """See the port."""
        query = {"labelSelector": selector(self._control_plane_id)}
        secrets = await listed(self._api, SECRETS.path(self._namespace), query, metadata_only=True)
        for secret in secrets:
            self._followed.set_kind(secret["metadata"]["name"], kind_in(secret) or JOBS)
            if was_started(secret) and secret["metadata"].get("ownerReferences"):
                self._handed_over.add(secret["metadata"]["uid"])
        pods: dict[str | None, list[Json]] = defaultdict(list)
        for pod in await listed(self._api, PODS.path(self._namespace), query):
            pods[job_of_pod(pod)].append(pod)
        found: dict[str, Workload | None] = {}
        for kind in self._followed.kinds:
            for job in await listed(self._api, kind.path(self._namespace), query):
                name = job["metadata"]["name"]
                # Operators give their own objects the labels of what they make them for.
                if "deletionTimestamp" not in job["metadata"] and secret_uid(job):
                    found[name] = workload_of(job, pods[name])
        for secret in secrets:
            found.setdefault(secret["metadata"]["name"], unstarted_of(secret))
        return [workload for workload in found.values() if workload is not None]

    async def _observe(self, name: str) -> tuple[dict[str, str], Workload | None] | None:
        """Labels and workload of a name; no workload if it is not ours; `None` if it is free."""
        job = await self._existing(self._followed.kind(name), name)
        secret = None
        if job is None:
            secret = await self._api.get(SECRETS.path(self._namespace, name))
            kind = None if secret is None else kind_in(secret)
            if kind is not None and kind != self._followed.kind(name):
                self._followed.set_kind(name, kind)
                job = await self._existing(kind, name)
        if job is not None:
            if not self._is_ours(job):
                return labels_of(job), None
            return labels_of(job), workload_of(job, await pods_of(self._api, job))
        if secret is None or was_started(secret):
            return None
        return labels_of(secret), unstarted_of(secret) if self._is_ours(secret) else None

    async def _existing(self, kind: Kind, name: str) -> Json | None:
        job = await self._api.get(kind.path(self._namespace, name))
        return None if job is None or "deletionTimestamp" in job["metadata"] else job

    async def _delete_secret(self, workload: Workload) -> bool:
        options = {"preconditions": {"uid": workload.id}} if workload.id else {}
        self._manifests.pop(workload.id, None)
        return await self._api.delete(SECRETS.path(self._namespace, workload.name), options)

    def _created(self, secret: Json) -> Workload:
        workload = unstarted_of(secret)
        assert workload is not None  # noqa: S101  # the labels are the request's
        self._manifests[workload.id] = kind_in(secret) or JOBS, manifest_in(secret)
        return workload

    def _is_ours(self, item: Json) -> bool:
        return labels_of(item).get(LABEL_CONTROL_PLANE) == self._control_plane_id

    @property
    def _namespace(self) -> str:
        return self._api.namespace

    @property
    def _followed(self) -> JobStates:
        if self._states is None:
            message = "KubernetesRunner is used outside its `async with`, or for a preview."
            raise RuntimeError(message)
        return self._states


def _is_over_or_gone(state: JobState, *, removed: bool) -> bool:
    return state.deleted or (not removed and is_finished(state.observed.job))


def _is_news(progress: Progress, last: Progress | None) -> bool:
    match progress, last:
        case Pending(), Pending():
            return replace(progress, since=None) != replace(last, since=None)
        case Running(), Running():
            return False
        case _:
            return True


def _vanished(name: str) -> Ending:
    message = (
        f"the Job '{name}' was deleted before its end was seen; check what else manages Jobs in "
        "that namespace"
    )
    return Ending(None, cause=Cause.LOST_WORKLOAD, message=message)
