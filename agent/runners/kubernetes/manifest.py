"""A run request as Kubernetes objects: a Secret, and a Job that uses it. Pure.

The Secret exists from `create` on. It holds the environment, the files and the Job's manifest,
so that whoever has the start permit can start the job from it. The Job's name is the fence of
the start: it exists once.
"""

import base64
import copy
import json
from typing import Any, Final

from agent.model.errors import InvalidInputError
from agent.model.spec import Json
from agent.model.work import LABEL_CONTROL_PLANE
from agent.ports.runner import RunRequest
from agent.runners.kubernetes.policy import SECURITY_CONTEXT

#: Key of the Secret under which the Job's manifest is.
MANIFEST_KEY: Final = "job.json"
#: Annotation of the Job: uid of the Secret that it was started from.
CREATED_AS: Final = "launch-agent/created-as"
#: Annotation: the name that the manifest asked for.
_NAME_ASKED: Final = "launch-agent/requested-name"
_FILES: Final = "launch-files"
#: Bytes of all values of a Secret (Kubernetes' limit).
_MAX_SECRET: Final = 1024 * 1024
#: Set by this runner, whatever the manifest says.
_OWN_SPEC: Final = ("ttlSecondsAfterFinished", "suspend")


def secret_of(request: RunRequest, namespace: str) -> Json:
    """The body of the Secret.

    Raises:
        InvalidInputError: environment and files are larger than a Secret may be.
    """
    data = {f"env.{index}": value.encode() for index, value in enumerate(_values(request))}
    data |= {f"file.{index}": each for index, each in enumerate(request.files.values())}
    data[MANIFEST_KEY] = json.dumps(job_of(request, namespace)).encode()
    size = sum(map(len, data.values()))
    if size > _MAX_SECRET:
        message = (
            f"Environment, files and manifest of the job have {size} bytes; a Kubernetes Secret "
            f"holds {_MAX_SECRET}."
        )
        hint = "Put large inputs into an artifact or a volume."
        raise InvalidInputError(message, hint=hint)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": request.name, "namespace": namespace, "labels": request.labels},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def job_of(request: RunRequest, namespace: str) -> Json:
    """The body of the Job.

    Raises:
        InvalidInputError: the manifest is no Job, or has no container to run the image in.
    """
    manifest = copy.deepcopy(request.arguments)
    manifest.pop("namespace", None)
    metadata, spec = manifest.get("metadata") or {}, manifest.get("spec") or {}
    template = spec.get("template") or {}
    pod = template.get("spec") or {}
    labels = {**_wandb_labels(request), **request.labels}
    asked = metadata.get("name") or metadata.get("generateName")
    annotations = {**(metadata.get("annotations") or {}), **({_NAME_ASKED: asked} if asked else {})}
    pod_metadata = template.get("metadata") or {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": request.name,
            "namespace": namespace,
            "labels": {**(metadata.get("labels") or {}), **labels},
            "annotations": annotations,
        },
        "spec": {
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            **{key: value for key, value in spec.items() if key not in _OWN_SPEC},
            "template": {
                **template,
                "metadata": {
                    **pod_metadata,
                    "labels": {**(pod_metadata.get("labels") or {}), **labels},
                },
                "spec": _pod(pod, request),
            },
        },
    }


def selector(control_plane_id: str) -> str:
    """The label selector of everything that a control plane owns."""
    return f"{LABEL_CONTROL_PLANE}={control_plane_id}"


def _wandb_labels(request: RunRequest) -> dict[str, str]:
    run = request.environment.get("WANDB_RUN_ID")
    return {"wandb.ai/monitor": "true", **({"wandb.ai/run-id": run} if run else {})}


def _pod(pod: Json, request: RunRequest) -> Json:
    containers = pod.get("containers") or [{}]
    if not isinstance(containers, list) or not all(isinstance(each, dict) for each in containers):
        message = "`kubernetes.spec.template.spec.containers` must be a list of containers."
        raise InvalidInputError(message)
    takes_image = not any(container.get("image") for container in containers)
    made = [
        _container(container, request, index, takes_image=takes_image and index == 0)
        for index, container in enumerate(containers)
    ]
    without = [container["name"] for container in made if not container.get("image")]
    if without:
        message = f"The container '{without[0]}' of the Kubernetes manifest has no image."
        hint = "Give each container one; `${image_uri}` stands for the job's."
        raise InvalidInputError(message, hint=hint)
    volumes = list(pod.get("volumes") or [])
    if request.files:
        volumes.append({"name": _FILES, "secret": {"secretName": request.name}})
    return {
        "restartPolicy": "Never",
        **pod,
        **({"volumes": volumes} if volumes else {}),
        "containers": made,
        **(
            {"initContainers": [_secured(each) for each in pod["initContainers"]]}
            if pod.get("initContainers")
            else {}
        ),
    }


def _container(container: Json, request: RunRequest, index: int, *, takes_image: bool) -> Json:
    made = _secured({"name": f"launch{index}", **container})
    if takes_image:
        made["image"] = request.image.reference
    if request.command and not made.get("command"):
        made["command"] = list(request.command)
    if request.args:
        made["args"] = list(request.args)
    names = set(request.environment)
    kept = [each for each in made.get("env") or [] if each.get("name") not in names]
    made["env"] = [*kept, *_environment(request)]
    if request.files:
        made["volumeMounts"] = [*(made.get("volumeMounts") or []), *_file_mounts(request)]
    return made


def _secured(container: Json) -> Json:
    return {**container, "securityContext": container.get("securityContext") or SECURITY_CONTEXT}


def _environment(request: RunRequest) -> list[Json]:
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": request.name, "key": f"env.{index}"}}}
        for index, name in enumerate((*request.environment, *request.file_variables))
    ]


def _values(request: RunRequest) -> tuple[str, ...]:
    # A file is mounted at the path that it has in the job.
    return (*request.environment.values(), *request.file_variables.values())


def _file_mounts(request: RunRequest) -> list[Json]:
    return [
        {"name": _FILES, "mountPath": target, "subPath": f"file.{index}", "readOnly": True}
        for index, target in enumerate(request.files)
    ]


def manifest_in(secret: Json) -> Json:
    """The Job's manifest that a Secret holds."""
    text: Any = base64.b64decode(secret["data"][MANIFEST_KEY])
    found: Json = json.loads(text)
    metadata = found["metadata"]
    metadata["annotations"] = {**metadata["annotations"], CREATED_AS: secret["metadata"]["uid"]}
    return found
