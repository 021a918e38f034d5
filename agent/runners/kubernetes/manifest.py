"""The Secret and the workload (Job or custom resource) of a run request. Pure.

A custom resource has pod templates in it. The Secret exists from `create` on. It holds the
environment, the files and the workload's manifest, so that whoever has the start permit can
start the job from it. The workload's name is the fence of the start: it exists once.

Which container gets what follows W&B's agent (`wandb/sdk/launch/runner/kubernetes_runner.py`
in 0.31.0).
"""

import base64
import copy
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.errors import InvalidInputError, PolicyError
from agent.model.redact import is_telling_name
from agent.model.spec import Json
from agent.model.work import LABEL_CONTROL_PLANE, LABEL_PREFIX
from agent.ports.runner import RunRequest
from agent.runners.kubernetes.api import Kind
from agent.runners.kubernetes.code_mount import with_code
from agent.runners.kubernetes.fields import CODE_CONTAINER
from agent.runners.kubernetes.policy import JOB_VERSIONS, SELECTION

#: Keys of the Secret under which the workload's manifest and its side services are.
MANIFEST_KEY: Final = "job.json"
_BESIDE_KEY: Final = "services.json"
#: Key of a login of a registry, as the type of Secret demands it.
_LOGIN_KEY: Final = ".dockerconfigjson"
#: Label of a side service: name of the workload beside which it runs. Its pods do not have the
#: labels of the job's.
SIDE_SERVICE_OF: Final = f"{LABEL_PREFIX}.side-service-of"
#: Variables that side services get, as those of W&B's agent.
_OF_SIDE_SERVICES: Final = ("WANDB_API_KEY", "WANDB_CONFIG")
#: Annotation of the workload: uid of the Secret that it was started from.
SECRET_UID: Final = "launch-agent/created-as"  # noqa: S105  # the name of an annotation
#: Annotation: the name that the manifest asked for.
_NAME_ASKED: Final = "launch-agent/requested-name"
#: Annotation of the Secret: path and plural of the workload's kind.
_KIND: Final = "launch-agent/workload-kind"
_FILES: Final = "launch-files"
#: Bytes of all values of a Secret (Kubernetes' limit).
_MAX_SECRET: Final = 1024 * 1024
#: What every container gets; keys that the administrator allows replace it.
_SECURITY_CONTEXT: Final[Json] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER_LISTS: Final = ("containers", "initContainers", "ephemeralContainers")
#: W&B's keys beside a manifest; they describe how it is handled.
_BESIDE: Final = frozenset({"namespace", "wait_for_ready", "wait_timeout"})
_OF_A_JOB: Final = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
#: Objects are removed when their outcome was acknowledged, not by time.
_DROPPED: Final = frozenset({"ttlSecondsAfterFinished"})
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME_PREFIX: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,252}")
_NO_NAME: Final = re.compile(r"[^a-z0-9-]+")
_NO_LABEL: Final = re.compile(r"[^A-Za-z0-9._-]+")
_LABEL_LENGTH: Final = 63
#: Parts of the label by which W&B's users find the side services of a run.
_RUN: Final = ("ENTITY", "PROJECT", "RUN_ID")
_SECONDS_TO_BE_READY: Final = 300.0
_GPU: Final = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class ManifestSettings:
    """What the agent adds to every manifest."""

    #: Empty where the cluster was not asked: for a preview.
    namespace: str
    #: For the label by which W&B's users select an agent's jobs.
    agent_name: str = ""
    #: Names of Secrets with logins of registries.
    pull_secrets: tuple[str, ...] = ()
    run_as_non_root: bool = False
    #: See `KubernetesRunnerConfig`.
    code_image: str = ""
    #: With which nodes pull: in the form of Docker's configuration file.
    registry_login: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Beside:
    """The side services of a job."""

    #: Objects, without their owner.
    services: Sequence[Json]
    #: Whether the job is started once they are ready; W&B's `wait_for_ready`.
    wait: bool
    #: Seconds for that; W&B's `wait_timeout`.
    seconds: float


@dataclass(frozen=True, slots=True)
class Objects:
    """What a request becomes."""

    workload: Json
    #: Its data are raw bytes.
    secret_data: dict[str, bytes] = field(repr=False)
    beside: Beside | None = None

    def secret(self, request: RunRequest, namespace: str, kind: Kind) -> Json:
        """The body of the Secret; `kind` is the workload's.

        Raises:
            InvalidInputError: environment and files are larger than a Secret may be.
        """
        data = self.secret_data | {MANIFEST_KEY: json.dumps(self.workload).encode()}
        if self.beside is not None:
            data[_BESIDE_KEY] = json.dumps(asdict(self.beside)).encode()
        size = sum(map(len, data.values()))
        if size > _MAX_SECRET:
            message = (
                f"Environment, files and manifest of the job have {size} bytes; a Kubernetes "
                f"Secret holds {_MAX_SECRET}."
            )
            hint = "Put large inputs into an artifact or a volume."
            raise InvalidInputError(message, hint=hint)
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            # Nodes pull with it, if it has a login.
            "type": f"kubernetes.io/{_LOGIN_KEY[1:]}" if _LOGIN_KEY in data else "Opaque",
            "immutable": True,
            "metadata": {
                "name": request.name,
                "namespace": namespace,
                "labels": request.labels,
                "annotations": {_KIND: f"{kind.prefix} {kind.plural}"},
            },
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }


def objects_of(request: RunRequest, settings: ManifestSettings) -> Objects:
    """The workload and the data of its Secret.

    Raises:
        InvalidInputError: the manifest has no container to run the image in, or a wrong form.
        PolicyError: it sets what only the agent sets.
    """
    return _Composer(request, settings).objects()


def namespace_asked(manifest: Json) -> str:
    """The namespace that a manifest names; empty if it names none."""
    return str(_mapping(manifest, "metadata").get("namespace") or manifest.get("namespace") or "")


def manifest_in(secret: Json) -> Json:
    """The workload's manifest that a Secret holds."""
    text: Any = base64.b64decode(secret["data"][MANIFEST_KEY])
    found: Json = json.loads(text)
    metadata = found["metadata"]
    metadata["annotations"] = {**metadata["annotations"], SECRET_UID: secret["metadata"]["uid"]}
    return found


def beside_in(secret: Json) -> Beside | None:
    """The side services that a Secret holds."""
    text = secret["data"].get(_BESIDE_KEY)
    return Beside(**json.loads(base64.b64decode(text))) if text else None


def kind_in(secret: Json) -> Kind | None:
    """The kind of the workload of a Secret; `None` if it is none of ours."""
    written = (secret["metadata"].get("annotations") or {}).get(_KIND, "").split(" ")
    return Kind(*written) if len(written) == 2 else None  # noqa: PLR2004  # prefix, plural


def selector(control_plane_id: str) -> str:
    """The label selector of everything that a control plane owns."""
    return f"{LABEL_CONTROL_PLANE}={control_plane_id}"


class _Composer:
    """Composes one request's objects; use once."""

    def __init__(self, request: RunRequest, settings: ManifestSettings) -> None:
        self._request = request
        self._settings = settings
        names = (*request.environment, *request.file_variables)
        # A file is mounted at the path that it has in the job.
        values = (*request.environment.values(), *request.file_variables.values())
        self._environment = {name: f"env.{index}" for index, name in enumerate(names)}
        self._data = {f"env.{index}": value.encode() for index, value in enumerate(values)}
        self._data |= {f"file.{i}": each for i, each in enumerate(request.files.values())}
        self._pull_secrets = settings.pull_secrets
        if settings.registry_login:
            self._data[_LOGIN_KEY] = settings.registry_login.encode()
            self._pull_secrets += (request.name,)

    def objects(self) -> Objects:
        request = self._request
        if request.mounts:
            message = f"`mounts`: '{request.mounts[0]}' is a folder of the agent's machine."
            hint = "On a cluster, name a PersistentVolumeClaim in the queue's template."
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
        manifest = copy.deepcopy(request.arguments)
        metadata = _mapping(manifest, "metadata")
        namespace = self._checked_namespace(namespace_asked(manifest))
        body = {key: value for key, value in manifest.items() if key not in _BESIDE}
        body["metadata"] = self._metadata(metadata, namespace)
        if str(body.get("apiVersion") or "batch/v1") in JOB_VERSIONS:
            workload = self._job(body)
        else:
            workload = self._custom_resource(body)
        return Objects(workload, self._data, self._beside())

    def _checked_namespace(self, asked: str) -> str:
        if asked and self._settings.namespace and asked != self._settings.namespace:
            message = (
                f"`kubernetes.metadata.namespace` is '{asked}', and this agent runs jobs in "
                f"'{self._settings.namespace}'."
            )
            hint = "Leave it out; the administrator allows it with `runners.kubernetes.namespaces`."
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
        return self._settings.namespace or asked

    def _metadata(self, metadata: Json, namespace: str) -> Json:
        asked = _name_asked(metadata)
        run = self._request.environment.get("WANDB_RUN_ID")
        return {
            "name": self._request.name,
            **({"namespace": namespace} if namespace else {}),
            "labels": {
                **_mapping(metadata, "labels"),
                **({"wandb.ai/run-id": label_value(run)} if run else {}),
                **self._labels(),
            },
            "annotations": {
                **_mapping(metadata, "annotations"),
                **({_NAME_ASKED: asked} if asked else {}),
            },
        }

    def _labels(self) -> dict[str, str]:
        agent = label_value(self._settings.agent_name)
        return {
            "wandb.ai/monitor": "true",
            **({"wandb.ai/agent": agent} if agent else {}),
            **self._request.labels,
        }

    # ------------------------------------------------------------------------- the Job

    def _job(self, body: Json) -> Json:
        unknown = sorted(set(body) - _OF_A_JOB)
        if unknown:
            message = f"`kubernetes.{unknown[0]}` is no key of a Job's manifest."
            known = ", ".join(sorted(_OF_A_JOB | _BESIDE))
            raise InvalidInputError(message, hint=f"Known are {known}.")
        spec = _mapping(body, "spec")
        for key in sorted(SELECTION):
            if spec.get(key):
                message = f"`kubernetes.spec.{key}` would let the Job take pods of other jobs."
                raise PolicyError(Cause.POLICY_RESOURCE, message, hint="Leave it out.")
        template = _mapping(spec, "template")
        pod = self._job_pod(_mapping(template, "spec"))
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": body["metadata"],
            "spec": {
                "backoffLimit": 0,
                **{key: value for key, value in spec.items() if key not in _DROPPED},
                # A pod that is replaced has ended: two never run at a time.
                "podReplacementPolicy": "Failed",
                "template": {**template, "metadata": self._pod_metadata(template), "spec": pod},
            },
        }

    def _job_pod(self, pod: Json) -> Json:
        if pod.setdefault("restartPolicy", "Never") != "Never":
            message = (
                f"`kubernetes.spec.template.spec.restartPolicy` is {pod['restartPolicy']!r}: the "
                "node would run the job again in the same pod, over its log and exit code."
            )
            hint = "Leave it out; `backoffLimit` tries again in a pod of its own."
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
        request = self._request
        pod["containers"] = containers = _containers(pod, "containers") or [{}]
        if request.brings_image or not any(each.get("image") for each in containers):
            containers[0]["image"] = request.image.reference
        for index, container in enumerate(containers):
            container.setdefault("name", f"launch{index}")
            if request.command and (request.command_overrides or not container.get("command")):
                container["command"] = list(request.command)
            if request.args:
                container["args"] = list(request.args)
            self._give_inputs(container, self._environment)
        self._ask_for_resources(containers[0])
        return self._pod(pod)

    def _ask_for_resources(self, container: Json) -> None:
        """The launch spec's `resources`, where the manifest says nothing else."""
        demand = self._request.demand
        resources = _mapping(container, "resources")
        limits, requests = _mapping(resources, "limits"), _mapping(resources, "requests")
        asked: Json = {
            **({"cpu": f"{round(demand.cpus * 1000)}m"} if demand.cpus else {}),
            **({"memory": str(demand.memory)} if demand.memory else {}),
            **({_GPU: str(demand.gpus)} if demand.gpus else {}),
        }
        new = {key: asked[key] for key in asked.keys() - limits.keys() - requests.keys()}
        if new:
            made = {"limits": {**limits, **new}, "requests": {**requests, **new}}
            container["resources"] = {**resources, **made}

    # -------------------------------------------------------------- a custom resource

    def _custom_resource(self, body: Json) -> Json:
        body.pop("status", None)
        if not body.get("kind"):
            message = f"`kubernetes.kind` is missing; `apiVersion` is '{body['apiVersion']}'."
            raise InvalidInputError(message)
        environment = dict(self._environment)
        for owner, pod in pod_templates(body):
            for container in _containers(pod, "containers"):
                self._override(container)
                self._give_inputs(container, environment)
                # One process of several writes the run.
                environment.pop("WANDB_RUN_ID", None)
            pod.update(self._pod(pod))
            owner["metadata"] = self._pod_metadata(owner)
        for holder, key in _lists_of_containers(body):
            holder[key] = [self._secured(container) for container in holder[key]]
        return body

    def _override(self, container: Json) -> None:
        """The image comes by `${image_uri}`, and its entry point with it."""
        request = self._request
        fills = self._has_image_of_job(container) and not container.get("command")
        if request.command and (request.command_overrides or fills):
            container["command"] = list(request.command)
        if request.args:
            container["args"] = list(request.args)

    def _has_image_of_job(self, container: Json) -> bool:
        return container.get("image") in {self._request.image.reference, self._request.image.name}

    def _runs_job(self, container: Json) -> bool:
        """Whether it has the job's image or command."""
        command = list(self._request.command)
        return self._has_image_of_job(container) or container.get("command") == command

    # ------------------------------------------------------------------ side services

    def _beside(self) -> Beside | None:
        request = self._request
        if not request.services:
            return None
        wait = request.arguments.get("wait_for_ready", True)
        seconds = request.arguments.get("wait_timeout", _SECONDS_TO_BE_READY)
        if not isinstance(wait, bool):
            message = f"`kubernetes.wait_for_ready` is {wait!r}, neither true nor false."
            raise InvalidInputError(message)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds <= 0:
            message = f"`kubernetes.wait_timeout` is {seconds!r}, and no number of seconds."
            raise InvalidInputError(message)
        return Beside([self._side_service(each) for each in request.services], wait, seconds)

    def _side_service(self, given: Json) -> Json:
        for key in ("apiVersion", "kind"):
            if not given.get(key):
                raise InvalidInputError(f"`additional_services`: `config.{key}` is missing.")
        body = copy.deepcopy(given)
        body.pop("status", None)
        metadata = _mapping(body, "metadata")
        name = _service_name(metadata)
        run = {key: self._request.environment.get(f"WANDB_{key}", "") for key in _RUN}
        body["metadata"] = {
            **{key: value for key, value in metadata.items() if key != "generateName"},
            "name": name,
            **({"namespace": self._settings.namespace} if self._settings.namespace else {}),
            "labels": {
                **_mapping(metadata, "labels"),
                "wandb.ai/created-by": "launch-agent",
                "wandb.ai/run-id": label_value(run["RUN_ID"]),
                "wandb.ai/auxiliary-resource": label_value("-".join(("aux", *run.values()))),
                SIDE_SERVICE_OF: label_value(self._request.name),
            },
        }
        ours = {name: key for name, key in self._environment.items() if name in _OF_SIDE_SERVICES}
        for _, pod in pod_templates(body):
            for container in _containers(pod, "containers"):
                self._give_variables(container, ours)
            pod.update(self._pod(pod, files=False))
        for holder, key in _lists_of_containers(body):
            holder[key] = [self._secured(container) for container in holder[key]]
        if body.get("kind") == "StatefulSet":
            # Its claims would outlast it.
            retention = {"whenDeleted": "Delete", "whenScaled": "Retain"}
            _mapping(body, "spec")["persistentVolumeClaimRetentionPolicy"] = retention
        return body

    # ------------------------------------------------------------------------ every pod

    def _pod_metadata(self, template: Json) -> Json:
        metadata = _mapping(template, "metadata")
        return {**metadata, "labels": {**_mapping(metadata, "labels"), **self._labels()}}

    def _pod(self, pod: Json, *, files: bool = True) -> Json:
        made = dict(pod)
        for key in _CONTAINER_LISTS:
            if containers := _containers(pod, key):
                made[key] = [self._secured(_told(_with_image(each))) for each in containers]
        if self._request.mounted_code is not None and files:
            credential = [
                self._from_secret(name, self._environment[name])
                for name in ("WANDB_BASE_URL", "WANDB_API_KEY")
            ]
            code, image = self._request.mounted_code, self._settings.code_image
            made = with_code(made, code, image, credential, self._runs_job)
        if self._request.files and files:
            # Nothing else of the Secret can be mounted, whatever a container asks for.
            keys = [f"file.{index}" for index in range(len(self._request.files))]
            items = [{"key": key, "path": key} for key in keys]
            volume = {
                "name": _FILES,
                "secret": {"secretName": self._request.name, "items": items},
            }
            made["volumes"] = [*(pod.get("volumes") or []), volume]
        if self._pull_secrets:
            names = [{"name": name} for name in self._pull_secrets]
            made["imagePullSecrets"] = [*(pod.get("imagePullSecrets") or []), *names]
        if not pod.get("serviceAccountName") and not pod.get("serviceAccount"):
            # A job needs no rights in the cluster.
            made.setdefault("automountServiceAccountToken", False)
        return made

    def _secured(self, container: Json) -> Json:
        context = {
            **_SECURITY_CONTEXT,
            **({"runAsNonRoot": True} if self._settings.run_as_non_root else {}),
            **_mapping(container, "securityContext"),
        }
        return {**container, **self._hidden_values(container), "securityContext": context}

    def _hidden_values(self, container: Json) -> Json:
        """Values of variables whose names say that they are secret go into the Secret."""
        given = container.get("env")
        if not isinstance(given, list):
            return {}
        return {"env": [self._hidden(each) for each in given]}

    def _hidden(self, variable: Any) -> Any:
        match variable:
            # Only a plain value may refer to other variables.
            case {"name": str(name), "value": str(value)} if (
                is_telling_name(name) and value and "$(" not in value
            ):
                key = f"given.{len(self._data)}"
                self._data[key] = value.encode()
                return self._from_secret(name, key)
        return variable

    def _give_inputs(self, container: Json, environment: dict[str, str]) -> None:
        self._give_variables(container, environment)
        mounts = [
            {"name": _FILES, "mountPath": target, "subPath": f"file.{index}", "readOnly": True}
            for index, target in enumerate(self._request.files)
        ]
        if mounts:
            container["volumeMounts"] = [*(container.get("volumeMounts") or []), *mounts]

    def _give_variables(self, container: Json, environment: dict[str, str]) -> None:
        given = [each for each in container.get("env") or [] if _name_of(each) not in environment]
        ours = [self._from_secret(name, key) for name, key in environment.items()]
        if given or ours:
            container["env"] = [*given, *ours]

    def _from_secret(self, name: str, key: str) -> Json:
        reference = {"name": self._request.name, "key": key}
        return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def pod_templates(manifest: Any) -> Iterator[tuple[Json, Json]]:
    """What holds a pod's `metadata` and `spec`, and that spec, at any depth.

    A pod's spec is an object with a list of containers, as for W&B's agent.
    """
    if isinstance(manifest, list):
        for each in manifest:
            yield from pod_templates(each)
    elif isinstance(manifest, dict):
        pod = manifest.get("spec")
        if isinstance(pod, dict) and any(
            isinstance(pod.get(key), list) for key in _CONTAINER_LISTS
        ):
            yield manifest, pod
        for each in list(manifest.values()):
            yield from pod_templates(each)


def _lists_of_containers(manifest: Any) -> Iterator[tuple[Json, str]]:
    """Every list of containers, also one that is in no pod's spec."""
    if isinstance(manifest, list):
        for each in manifest:
            yield from _lists_of_containers(each)
    elif isinstance(manifest, dict):
        for key, each in list(manifest.items()):
            if key in _CONTAINER_LISTS and _containers(manifest, key):
                yield manifest, key
            yield from _lists_of_containers(each)


def label_value(text: str) -> str:
    """A text as the value of a label: what may not stand in one becomes `-`."""
    return _NO_LABEL.sub("-", text)[:_LABEL_LENGTH].strip("-._")


def _service_name(metadata: Json) -> str:
    """As asked for, since a job finds the service by it; made to fit as W&B's agent does."""
    asked = str(metadata.get("name") or metadata.get("generateName") or "")
    name = _NO_NAME.sub("-", asked.lower())[:_LABEL_LENGTH].strip("-")
    if not name:
        message = f"`additional_services`: `metadata.name` cannot be a name: {asked[:80]!r}."
        raise InvalidInputError(message, hint="Give each service the name that the job uses.")
    return name


def _name_asked(metadata: Json) -> str | None:
    for key, form in (("name", _NAME), ("generateName", _NAME_PREFIX)):
        name = metadata.get(key)
        if name is None or name == "":
            continue
        if not isinstance(name, str) or not form.fullmatch(name):
            message = f"`kubernetes.metadata.{key}` cannot be a name: {str(name)[:80]!r}."
            hint = "A Job's name has at most 63 lower-case letters, digits and hyphens."
            raise InvalidInputError(message, hint=hint)
        return name
    return None


def _mapping(above: Json, key: str) -> Json:
    """The object at a key; empty where there is none."""
    value = above.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        message = f"`{key}` of the Kubernetes manifest must be an object, not {str(value)[:60]!r}."
        raise InvalidInputError(message)
    return value


def _containers(pod: Json, key: str) -> list[Json]:
    value = pod.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InvalidInputError(f"`{key}` of the Kubernetes manifest must be a list of containers.")
    return value


def _told(container: Json) -> Json:
    # What a runtime says of an image that the node cannot execute is in the log alone.
    return {"terminationMessagePolicy": "FallbackToLogsOnError", **container}


def _with_image(container: Json) -> Json:
    if container.get("name") == CODE_CONTAINER:
        message = f"The name '{CODE_CONTAINER}' is for the agent's own container."
        raise PolicyError(Cause.POLICY_RESOURCE, message, hint="Give yours another name.")
    if not container.get("image"):
        name = container.get("name") or "without a name"
        message = f"The container '{name}' of the Kubernetes manifest has no image."
        hint = "Give each container one; `${image_uri}` stands for the job's."
        raise InvalidInputError(message, hint=hint)
    return container


def _name_of(variable: Any) -> str | None:
    return variable.get("name") if isinstance(variable, dict) else None
