"""`BuildDaemonsPort` in a cluster: for each build a Job whose pod runs `buildkitd`.

Which pods a cluster permits is found out by starting one: user-namespaced, rootless, privileged.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from agent.config.execution import BuilderConfig, KubernetesRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import JobError, UnavailableError
from agent.model.spec import Json
from agent.ports.build_daemon import BuildDaemon
from agent.ports.log import LogSink, write_line
from agent.runners.kubernetes.access import Right, has_right
from agent.runners.kubernetes.api import (
    AT_FAULT,
    EVENTS,
    JOBS,
    PODS,
    SECRETS,
    ClusterApi,
    ClusterRefusedError,
)
from agent.runners.kubernetes.build_pod_manifest import (
    BUILDKITD,
    PORT,
    Mode,
    job_of,
    secret_of,
)
from agent.runners.kubernetes.fields import containers, state, status
from agent.runners.kubernetes.pending import WARNINGS, Observed, Warned, pending_of
from agent.runners.kubernetes.port_forward import port_forward
from agent.system.mutual_tls import make_mutual_tls

#: Besides those that jobs need. WebSockets are opened by `get`, and newer servers ask for both.
PORT_FORWARD: Final = tuple(
    Right(verb, "pods/portforward", "", "reaches the pod of a build") for verb in ("create", "get")
)
#: From the least that a pod is allowed to the most.
MODES: Final[tuple[Mode, ...]] = ("user-namespace", "rootless", "privileged")
#: Seconds between looks at a pod that starts.
_LOOK_EVERY: Final = 0.25
#: Seconds that a Job may live beyond the longest build.
_MARGIN: Final = 300.0
#: How often it is looked for why a pod ended.
_LOOKS_AT_AN_END: Final = 40
_IN_BACKGROUND: Final[Json] = {"propagationPolicy": "Background"}
#: What container runtimes say of pods that they cannot give a user namespace.
_NO_NAMESPACES: Final = re.compile(r"user namespace|idmap|hostUsers", re.IGNORECASE)
#: What kubelet says of pods that it evicts for what they have written.
_DISK: Final = re.compile(r"ephemeral[ -](local )?storage|emptydir", re.IGNORECASE)
_LOG_LINES: Final = "3"


@dataclass(frozen=True, slots=True)
class Choice:
    """The mode in which build pods run, and why no other before it."""

    mode: Mode
    #: Why each mode before it is not possible.
    refused: dict[Mode, str]

    def __str__(self) -> str:
        reasons = "; ".join(f"{mode}: {reason}" for mode, reason in self.refused.items())
        return self.mode + (f", as the cluster does not permit {reasons}" if reasons else "")


class _NotPermittedError(Exception):
    """The cluster does not let a pod of this mode start; the text says why."""


class BuildPods:
    """See the module. `api` is closed by the caller."""

    def __init__(
        self, api: ClusterApi, runner: KubernetesRunnerConfig, config: BuilderConfig
    ) -> None:
        self._api = api
        self._runner = runner
        self._config = config
        self._choice: Choice | None = None
        self._choosing = asyncio.Lock()

    @asynccontextmanager
    async def open(self, folder: Path, log: LogSink) -> AsyncIterator[BuildDaemon]:
        """See `BuildDaemonsPort`."""
        choice, name, pod = await self._start(folder)
        try:
            await write_line(log, f"builds in a pod of its own ({choice})")
            async with self._address(pod) as address:
                yield BuildDaemon(f"BuildKit in a {choice.mode} pod", address, folder, BUILDKITD)
        except JobError as error:
            lost = error.cause is Cause.BUILD_UNAVAILABLE
            raise (await self._end_of(pod) if lost else None) or error from None
        finally:
            await self._remove(name)

    async def preflight(self) -> Choice:
        """Start a pod, remove it, and say which mode it was.

        Raises:
            UnavailableError: none can be started; the message has the reason for each mode.
        """
        choice, name, _ = await self._start(None)
        await self._remove(name)
        return choice

    async def _start(self, folder: Path | None) -> tuple[Choice, str, Json]:
        """The mode, the Job's name, and the pod that is ready."""
        async with self._choosing:
            if self._choice is None:
                self._choice, name, pod = await self._first(folder)
                return self._choice, name, pod
        choice = self._choice
        try:
            return choice, *await self._started(choice.mode, folder)
        except _NotPermittedError as error:
            # What the cluster permits has changed: the next build chooses again.
            self._choice = None
            raise self._unavailable(f"{choice.mode}: {error}") from None

    async def _first(self, folder: Path | None) -> tuple[Choice, str, Json]:
        await self._check_rights()
        wanted = self._config.pod.mode
        refused: dict[Mode, str] = {}
        for mode in MODES if wanted == "auto" else (wanted,):
            try:
                name, pod = await self._started(mode, folder)
            except _NotPermittedError as error:
                refused[mode] = str(error)
            else:
                return Choice(mode, refused), name, pod
        raise self._unavailable("; ".join(f"{mode}: {why}" for mode, why in refused.items()))

    async def _check_rights(self) -> None:
        """From outside, a pod is reached through the API server alone."""
        if self._runner.in_cluster:
            return
        for right in PORT_FORWARD:
            if not await has_right(self._api, right, self._api.namespace):
                message = (
                    f"the agent's account may not `{right.title}`, by which it {right.purpose}"
                )
                raise self._unavailable(message, "Grant it; docs/kubernetes.md has the rule.")

    async def _started(self, mode: Mode, folder: Path | None) -> tuple[str, Json]:
        name = f"launch-build-{secrets.token_hex(6)}"
        lifetime = self._config.timeout + self._config.pod.start_timeout + _MARGIN
        job = job_of(
            name,
            mode,
            self._config.pod,
            platform=self._config.platform,
            pull_secrets=self._runner.pull_secrets,
            lifetime=lifetime,
            authorities=self._config.ca_bundle is not None,
        )
        tls = await asyncio.to_thread(make_mutual_tls, BUILDKITD, timedelta(seconds=lifetime))
        try:
            made = await self._create(JOBS.path(self._api.namespace), job)
            if mode == "user-namespace":
                # Before there is its Secret, without which the pod's containers cannot start.
                _check_user_namespace(made["spec"]["template"])
            files = {**tls.server, **await asyncio.to_thread(_authorities, self._config.ca_bundle)}
            await self._create(SECRETS.path(self._api.namespace), secret_of(made, files))
            pod = await self._ready(made, mode)
            if folder is not None:
                await asyncio.to_thread(_write, folder, tls.client)
        except BaseException:
            await self._remove(name)
            raise
        return name, pod

    async def _create(self, path: str, body: Json) -> Json:
        try:
            made = await self._api.create(path, body)
        except ClusterRefusedError as error:
            if error.status in AT_FAULT:
                raise _NotPermittedError(error.detail) from None
            raise self._unavailable(error.detail, error.hint) from error
        if made is not None:
            return made
        # An answer was lost: names are random, so it is ours.
        found = await self._api.get(f"{path}/{body['metadata']['name']}")
        if found is None:
            raise self._unavailable("somebody deletes it as soon as it is made")
        return found

    async def _ready(self, job: Json, mode: Mode) -> Json:
        """The pod as soon as its daemon takes connections."""
        reason = "the cluster has not begun with it"
        try:
            async with asyncio.timeout(self._config.pod.start_timeout):
                while True:
                    observed = await self._observe(job)
                    ready = [pod for pod in observed.pods if await self._is_ready(pod, mode)]
                    if ready:
                        return ready[0]
                    reason = _reason(observed, mode)
                    await asyncio.sleep(_LOOK_EVERY)
        except TimeoutError:
            raise self._unavailable(reason) from None

    async def _observe(self, job: Json) -> Observed:
        namespace = self._api.namespace
        of_job = {"labelSelector": f"batch.kubernetes.io/job-name={job['metadata']['name']}"}
        pods = tuple((await self._api.get(PODS.path(namespace), of_job) or {})["items"])
        warnings: dict[str, dict[str, Warned]] = {}
        for each in (job, *pods):
            selector = {
                "fieldSelector": f"type=Warning,involvedObject.uid={each['metadata']['uid']}"
            }
            events = (await self._api.get(EVENTS.path(namespace), selector) or {})["items"]
            warnings[each["metadata"]["uid"]] = {
                event["reason"]: Warned(str(event.get("message")), None)
                for event in events
                if event["reason"] in WARNINGS
            }
        return Observed(job, pods, warnings)

    async def _is_ready(self, pod: Json, mode: Mode) -> bool:
        """Raises _NotPermittedError where the daemon ended, or lacks what the mode is."""
        if mode == "user-namespace":
            _check_user_namespace(pod)
        daemon = next((each for each in containers(pod) if each["name"] == BUILDKITD), None)
        if daemon is None:
            return False
        ended = state(daemon, "terminated")
        if ended is not None:
            said = await self._last_words(pod) or str(ended.get("message") or ended.get("reason"))
            message = f"buildkitd ended with exit code {ended['exitCode']}: {said}"
            raise _NotPermittedError(message)
        return bool(daemon.get("started")) and "podIP" in status(pod)

    async def _last_words(self, pod: Json) -> str:
        path = PODS.path(self._api.namespace, pod["metadata"]["name"], "log")
        query = {"container": BUILDKITD, "tailLines": _LOG_LINES}
        try:
            async with self._api.stream(path, query, 10.0) as response:
                text = await response.text()
        except JobError:
            return ""
        return " ".join(text.split())[-500:]

    @asynccontextmanager
    async def _address(self, pod: Json) -> AsyncIterator[str]:
        """How this process reaches the daemon: directly from within the cluster."""
        if self._runner.in_cluster:
            address = status(pod)["podIP"]
            yield f"tcp://[{address}]:{PORT}" if ":" in address else f"tcp://{address}:{PORT}"
            return
        async with port_forward(self._api, pod["metadata"]["name"], PORT) as port:
            yield f"tcp://127.0.0.1:{port}"

    async def _end_of(self, pod: Json) -> JobError | None:
        """Why the daemon ended, if the cluster ended it. Its node tells that a little later."""
        name = pod["metadata"]["name"]
        for _ in range(_LOOKS_AT_AN_END):
            named = {"fieldSelector": f"metadata.name={name}"}
            found = await self._api.get(PODS.path(self._api.namespace), named) or {}
            if not found["items"]:
                message = f"The build's pod '{name}' was deleted by somebody else."
                return UnavailableError(Cause.BUILD_UNAVAILABLE, message)
            if (end := _end_in(found["items"][0])) is not None:
                return end
            await asyncio.sleep(_LOOK_EVERY)
        return None

    async def _remove(self, name: str) -> None:
        """Remove the Job, with its Secret and pod; the cluster does it later if this fails."""
        try:
            await self._api.delete(JOBS.path(self._api.namespace, name), _IN_BACKGROUND)
        except JobError:
            return

    def _unavailable(self, reason: str, hint: str | None = None) -> UnavailableError:
        return UnavailableError(
            Cause.BUILD_UNAVAILABLE,
            f"No pod can be started to build in, in the namespace '{self._api.namespace}' "
            f"({reason.rstrip('.')}).",
            hint=hint
            or "See `builder.pod` in the agent's configuration; a BuildKit elsewhere is "
            "named by `builder.buildkit` (docs/kubernetes.md, “Building in the cluster”).",
        )


def _reason(observed: Observed, mode: Mode) -> str:
    """What the pod waits for.

    Raises:
        _NotPermittedError: it will not start, in this mode.
    """
    pending = pending_of(observed)
    no_namespaces = mode == "user-namespace" and _NO_NAMESPACES.search(pending.message)
    if no_namespaces or pending.permanent or pending.cause is Cause.START_REFUSED:
        raise _NotPermittedError(pending.message)
    return pending.message


def _check_user_namespace(pod: Json) -> None:
    if pod["spec"].get("hostUsers") is not False:
        message = "the API server does not know `hostUsers`"
        raise _NotPermittedError(message)


def _end_in(pod: Json) -> JobError | None:
    """What a pod that ended says about it.

    An eviction and an end of the daemon itself may be the build's doing: their causes are counted
    (`release_rules`). A pod that is being deleted is not.
    """
    name = pod["metadata"]["name"]
    ends = (state(each, "terminated") for each in containers(pod) if each["name"] == BUILDKITD)
    end = next((each for each in ends if each is not None), None)
    if end is not None and end.get("reason") == "OOMKilled":
        return JobError(
            Cause.BUILD_OUT_OF_MEMORY,
            f"The build's pod '{name}' used more memory than it may have.",
            hint="Raise `resources.limits.memory` of the container `buildkitd` in "
            "`builder.pod.spec` on the agent, or let the build use less.",
        )
    reason = status(pod).get("reason") or (end and f"exit code {end['exitCode']}")
    if reason is None:
        return None
    said = status(pod).get("message") or "the cluster says no more"
    message = f"The build's pod '{name}' was ended ({reason}: {said})."
    if _DISK.search(said):
        hint = (
            "Raise the limit of `ephemeral-storage` of the container `buildkitd` in "
            "`builder.pod.spec` on the agent, or let the build write less."
        )
        return UnavailableError(Cause.DISK_FULL, message, hint=hint)
    by_itself = reason == "Evicted" or "reason" not in status(pod)
    deleted = "deletionTimestamp" in pod["metadata"]
    cause = Cause.BUILD_FAILED if by_itself and not deleted else Cause.BUILD_UNAVAILABLE
    return UnavailableError(cause, message)


def _authorities(bundle: Path | None) -> dict[str, bytes]:
    return (
        {} if bundle is None or not bundle.is_file() else {"authorities.pem": bundle.read_bytes()}
    )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(data)
