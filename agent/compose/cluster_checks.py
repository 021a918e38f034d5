"""`launch doctor` for a Kubernetes cluster: rights, the registry as its nodes see it, GPUs."""

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Final

from agent.builders.buildkit import docker_environment, find_buildkit
from agent.compose.backends import builder_config, engine_failure, image_destination
from agent.compose.cluster_builder import build_pods, choose_cluster_builder
from agent.compose.doctor import Finding
from agent.config.agent import AgentConfig
from agent.config.choose_server import RemoteServer
from agent.model.errors import ConfigError, JobError, LaunchError, PolicyError
from agent.model.names import DEFAULT_QUEUE
from agent.model.spec import Json
from agent.registries.destination import Destination
from agent.remote.client import ControlPlaneClient, Endpoint
from agent.remote.user_operations import UserOperations
from agent.runners.kubernetes.access import (
    ON_CUSTOM_RESOURCES,
    RIGHTS,
    Right,
    has_right,
    missing_rights,
    rights_on,
)
from agent.runners.kubernetes.api import EVENTS, JOBS, PODS, ClusterApi
from agent.runners.kubernetes.code_mount import FETCH_CODE
from agent.runners.kubernetes.custom_status import is_custom
from agent.runners.kubernetes.discovery import Kinds
from agent.runners.kubernetes.manifest import namespace_asked
from agent.runners.kubernetes.side_services import ON_SIDE_SERVICES, SLICES

#: Seconds for a cluster to answer.
_PATIENCE: Final = 10.0
#: Seconds for a node to try to pull, and between looks.
_PROBE_SECONDS: Final = 60
_LOOK_EVERY: Final = 0.5
#: A registry's answers that it has no such image: it was reached, and takes the login.
_ABSENT: Final = re.compile(r"(?i)not found|manifest unknown|name unknown")
_PULL_ERRORS: Final = frozenset({"ErrImagePull", "ImagePullBackOff"})
#: What the strictest of Kubernetes' Pod Security Standards asks for.
_RESTRICTED: Final[Json] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_NO_POD: Final = "The cluster starts no pod."
_SEE_EVENTS: Final = "See `kubectl get events`."
_LIST_NODES: Final = Right("list", "nodes", "", "")
_READ_SECRETS: Final = Right("get", "secrets", "", "")


async def examine_cluster(
    config: AgentConfig, server: RemoteServer | None, environment: Mapping[str, str]
) -> list[Finding]:
    """Look at the cluster, if the configuration has one, and at the queues on the server for it.

    A pod that no node can start is created and removed, to learn whether nodes reach the
    registry, one with the image that fetches code, and where pods build images, one of those.
    """
    if not config.runners.kubernetes.enabled:
        return []
    try:
        async with ClusterApi(config.runners.kubernetes, patience=_PATIENCE) as api:
            found = [finding async for finding in _findings(config, api)]
            if server is not None:
                found += [finding async for finding in _queues(config, server, api)]
        return [*found, await _builds(config, environment)]
    except (ConfigError, JobError) as error:
        return [Finding("problem", "cluster", error.message, error.hint or "")]


async def _findings(config: AgentConfig, api: ClusterApi) -> AsyncIterator[Finding]:
    version = await api.get("/version") or {}
    yield Finding("ok", "cluster", f"{api.server} answers, with {version.get('gitVersion')}.")
    further = config.runners.kubernetes.namespaces
    missing = [
        (namespace, right)
        for namespace in dict.fromkeys((api.namespace, *further))
        for right in await missing_rights(api, namespace=namespace)
    ]
    for namespace, right in missing:
        message = f"The agent's account may not `{right.title}` in the namespace '{namespace}'"
        yield Finding(
            "problem", "rights in the cluster", f"{message}; it {right.purpose}.",
            "Grant it as deploy/kubernetes.yaml does.",
        )  # fmt: skip
    if not missing:
        names = "', '".join(dict.fromkeys((api.namespace, *further)))
        message = f"The account has all {len(RIGHTS)} that it needs in '{names}'."
        yield Finding("ok", "rights in the cluster", message)
    if await has_right(api, _READ_SECRETS, ""):
        yield Finding(
            "note", "rights in the cluster", "The account may read the Secrets of every namespace.",
            "Give the agent an account of its own, as deploy/kubernetes.yaml does.",
        )  # fmt: skip
    destination = image_destination(config)
    if destination is None:
        yield Finding(
            "note", "images for the cluster",
            "`builder.destination` is not set, so that only ready images can run there.",
            "Set it to a repository from which the cluster's nodes pull.",
        )  # fmt: skip
    elif not missing:
        yield await _registry_from_a_node(api, destination)
    if not missing:
        yield await _code_in_a_pod(api, config.runners.kubernetes.code_image)
    async for finding in _gpus(api):
        yield finding


async def _queues(
    config: AgentConfig, server: RemoteServer, api: ClusterApi
) -> AsyncIterator[Finding]:
    """What the templates of the agent's queues need besides what every job does."""
    endpoint = Endpoint(server.url, server.api_key.get_secret_value(), server.ca_bundle)
    try:
        async with ControlPlaneClient(endpoint) as client:
            operations = UserOperations(client, config.entity)
            queues = await operations.queues() if await client.has_leases() else []
    except LaunchError as error:
        yield Finding(
            "note", "queues", f"They could not be read: {error.message}", error.hint or ""
        )
        return
    kinds = Kinds(api)
    for queue in queues:
        if queue["resource"] == "kubernetes" and queue["name"] in (
            config.queues or {DEFAULT_QUEUE}
        ):
            async for finding in _queue(config, queue, api, kinds):
                yield finding


async def _queue(
    config: AgentConfig, queue: Json, api: ClusterApi, kinds: Kinds
) -> AsyncIterator[Finding]:
    template = queue["config"]
    manifest = (template.get("resource_args") or {}).get("kubernetes") or {}
    services = [each["config"] for each in template.get("additional_services") or ()]
    asked = namespace_asked(manifest)
    namespace = asked if asked in config.runners.kubernetes.namespaces else api.namespace
    needed = [
        (manifest, ON_CUSTOM_RESOURCES, "its jobs are of that kind"),
        *((each, ON_SIDE_SERVICES, "a side service is of that kind") for each in services),
    ]
    subject = f"queue {queue['name']}"
    rights: list[Right] = []
    for each, verbs, why in needed:
        # A template variable decides, or it is a Job.
        if "{{" in f"{each.get('apiVersion')} {each.get('kind')}" or not is_custom(each):
            continue
        try:
            rights += rights_on(await kinds.of(each), verbs, why)
        except PolicyError as error:
            yield Finding("problem", subject, error.message, error.hint or "")
    if any(each.get("kind") == "Service" for each in services):
        rights += rights_on(SLICES, ("list",), "a side service is a Service")
    missing = await missing_rights(api, tuple(dict.fromkeys(rights)), namespace)
    for right in missing:
        message = f"The agent's account may not `{right.title}` in the namespace '{namespace}'"
        yield Finding(
            "problem", subject, f"{message}; {right.purpose}.",
            "Add a rule for it to the role of the agent's account: docs/kubernetes.md, Rights.",
        )  # fmt: skip
    if rights and not missing:
        yield Finding("ok", subject, f"The account has the rights on its kinds in '{namespace}'.")


async def _builds(config: AgentConfig, environment: Mapping[str, str]) -> Finding:
    """What builds images for the cluster, tried."""
    subject = "builds for the cluster"
    builder = builder_config(config, image_destination(config))
    host = config.runners.local_container.host
    failure = await engine_failure(host, environment) if builder.type == "auto" else None
    chosen = choose_cluster_builder(builder, failure)
    try:
        match chosen.kind:
            case "nothing":
                return Finding("note", subject, f"None: {chosen.because}.", "")
            case "engine":
                made = "By the container engine of this machine"
            case "buildkitd":
                env = docker_environment(None, config.state_dir / "cache" / "builds", environment)
                made = f"By the {(await find_buildkit(None, builder, env)).title}"
            case "pods":
                async with AsyncExitStack() as stack:
                    pods = await build_pods(stack, config.runners.kubernetes, builder)
                    made = f"In a pod for each build: {await pods.preflight()}"
    except JobError as error:
        return Finding("problem", subject, error.message, error.hint or "")
    return Finding("ok", subject, f"{made} ({chosen.because}).")


async def _gpus(api: ClusterApi) -> AsyncIterator[Finding]:
    if not await has_right(api, _LIST_NODES, ""):
        message = "The account may not list nodes, so that GPUs cannot be looked for."
        yield Finding("note", "GPUs of the cluster", message)
        return
    nodes = await api.get("/api/v1/nodes") or {}
    found = Counter(name for node in nodes["items"] for name in _devices(node))
    if not found:
        yield Finding("ok", "GPUs of the cluster", "No node offers any.")
    for name, count in sorted(found.items()):
        message = f"`{name}` on {count} of {len(nodes['items'])} nodes."
        yield Finding("ok", "GPUs of the cluster", message)


def _devices(node: Json) -> Iterator[str]:
    """Names of extended resources that look like GPUs: `nvidia.com/gpu`."""
    for name, amount in (node["status"].get("allocatable") or {}).items():
        if "gpu" in name.rpartition("/")[2] and "/" in name and amount != "0":
            yield name


async def _registry_from_a_node(api: ClusterApi, destination: Destination) -> Finding:
    """Whether a node reaches the registry: it is made to pull an image that does not exist."""
    subject = "registry from a node"
    absent = f"{destination.repository}:launch-doctor-{secrets.token_hex(4)}"
    try:
        seen = await _probed(api, {"image": absent, "imagePullPolicy": "Always"})
    except TimeoutError:
        message = f"No node tried to pull from {destination.host} within {_PROBE_SECONDS} s."
        return Finding("note", subject, message, _SEE_EVENTS)
    if seen is None:
        return Finding("note", subject, _NO_POD, _SEE_EVENTS)
    answer = _said(seen)
    if _ABSENT.search(answer):
        return Finding("ok", subject, f"A node reaches {destination.host} and may pull.")
    return Finding(
        "problem", subject, f"A node cannot pull from {destination.repository}: {answer}",
        "Nodes pull by that address too; a login is given by `imagePullSecrets` of the queue's "
        "template or of the namespace's service account.",
    )  # fmt: skip


async def _code_in_a_pod(api: ClusterApi, image: str | None) -> Finding:
    """Whether pods can fetch code: the program for it is started without anything to fetch."""
    subject = "code without a build"
    if not image:
        message = "`runners.kubernetes.code_image` is not set: code in base images is built."
        return Finding("note", subject, message, "Set it to the image of deploy/Dockerfile.")
    try:
        seen = await _probed(api, {"image": image, "command": list(FETCH_CODE)})
    except TimeoutError:
        message = f"No node started {image} within {_PROBE_SECONDS} s."
        return Finding("note", subject, message, _SEE_EVENTS)
    if seen is None:
        return Finding("note", subject, _NO_POD, _SEE_EVENTS)
    if seen.get("exitCode") == 0:
        return Finding("ok", subject, f"A node starts {image}, which fetches it.")
    return Finding(
        "problem", subject, f"{image} (`runners.kubernetes.code_image`) does not start: "
        f"{_said(seen)}", "Push the image of this version's deploy/Dockerfile there.",
    )  # fmt: skip


async def _probed(api: ClusterApi, container: Json) -> Json | None:
    """What a node says of a container of a Job that is removed; `None`: it gets no pod.

    Raises:
        TimeoutError: nothing in time.
    """
    name = f"launch-doctor-{secrets.token_hex(4)}"
    await api.create(JOBS.path(api.namespace), _probe(name, container))
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            return await _answer(api, name)
    finally:
        await api.delete(JOBS.path(api.namespace, name), {"propagationPolicy": "Background"})


def _probe(name: str, container: Json) -> Json:
    resources = {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"memory": "256Mi"}}
    made = {
        "name": "probe",
        "securityContext": _RESTRICTED,
        "resources": resources,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **container,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "activeDeadlineSeconds": 2 * _PROBE_SECONDS,
            "ttlSecondsAfterFinished": 0,
            "backoffLimit": 0,
            "template": {"spec": {"restartPolicy": "Never", "containers": [made]}},
        },
    }


async def _answer(api: ClusterApi, name: str) -> Json | None:
    """The state of a container that ended or cannot be pulled; `None`: the pod is refused."""
    pods = {"labelSelector": f"batch.kubernetes.io/job-name={name}"}
    refusals = {"fieldSelector": f"reason=FailedCreate,involvedObject.name={name}"}
    while True:
        for pod in (await api.get(PODS.path(api.namespace), pods) or {})["items"]:
            for status in pod["status"].get("containerStatuses") or ():
                state: Json = status["state"].get("terminated") or status["state"].get("waiting")
                if state and ("exitCode" in state or state.get("reason") in _PULL_ERRORS):
                    return state
        if (await api.get(EVENTS.path(api.namespace), refusals) or {})["items"]:
            return None
        await asyncio.sleep(_LOOK_EVERY)


def _said(state: Json) -> str:
    return str(state.get("message") or state.get("reason")).strip(" .\n")
