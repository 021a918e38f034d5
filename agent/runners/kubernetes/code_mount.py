"""A job's code in its pod without a build: an init container fetches it into a volume. Pure.

The volume becomes the home folder of the job's user, the code the folder in which it starts, at
the paths that built images have. The init container has the run's own credential, no rights on
the node, and nothing of the job's image: its image is the administrator's.
"""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, Final

from agent.model.spec import Json
from agent.model.work import MountedCode
from agent.runners.kubernetes.fields import CODE_CONTAINER

#: Not from the folder in which it runs, and without writing byte code.
FETCH_CODE: Final = ("python3", "-P", "-B", "-m", "agent.compose.fetch_code")
HOME: Final = "/home/launch"
#: As in `agent.builders.image.plan`.
WORKDIR: Final = f"{HOME}/src"
_VOLUME: Final = "launch-code"
_TARGET: Final = "/launch-code"
#: Of the volume: what the job sees.
_HOME_PATH: Final = "home"
#: Variables of the job's container by which the fetch, too, reaches the control plane.
_CERTIFICATES: Final = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR"})
_WAY: Final = _CERTIFICATES | {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
_RESOURCES: Final[Json] = {
    "requests": {"cpu": "50m", "memory": "96Mi"},
    "limits": {"cpu": "1", "memory": "512Mi"},
}
_CONFINED: Final[Json] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def with_code(
    pod: Json,
    code: MountedCode,
    image: str,
    variables: list[Json],
    runs_job: Callable[[Json], bool],
) -> Json:
    """A pod's specification with the code in each container that runs the job.

    `variables`: address and credential for the fetch.
    """
    given = pod.get("securityContext")
    # The cluster refuses what is no object.
    of_pod = given if isinstance(given, dict) else {}
    containers = [
        _with_mount(each, of_pod, code.user_id) if runs_job(each) else each
        for each in pod.get("containers") or ()
    ]
    first = next(filter(runs_job, containers), None)
    if first is None:
        return pod
    user = {**of_pod, **first["securityContext"]}
    way, certificates = _way_of(first)
    # Kubernetes would put variables in place of `$(NAME)`.
    names = [part.replace("$", "$$") for part in (code.version.reference, code.context)]
    fetch: Json = {
        "name": CODE_CONTAINER,
        "image": image,
        "command": list(FETCH_CODE),
        "args": [names[0], code.version.digest, names[1], _TARGET],
        "workingDir": "/",
        "env": [*variables, *way],
        "resources": _RESOURCES,
        "securityContext": {
            **_CONFINED,
            "runAsUser": user["runAsUser"],
            "runAsGroup": user.get("runAsGroup", user["runAsUser"]),
            "runAsNonRoot": user["runAsUser"] != 0,
        },
        # What it says of a failure is the outcome's sentence.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [*certificates, {"name": _VOLUME, "mountPath": _TARGET}],
    }
    return {
        **pod,
        "containers": containers,
        "initContainers": [*(pod.get("initContainers") or []), fetch],
        "volumes": [*(pod.get("volumes") or []), {"name": _VOLUME, "emptyDir": {}}],
    }


def _with_mount(container: Json, of_pod: Json, user_id: int) -> Json:
    context = container["securityContext"]
    if "runAsUser" not in of_pod:
        # The files belong to the job's user, as in built images.
        context = {"runAsUser": user_id, "runAsGroup": user_id, **context}
    mount = {"name": _VOLUME, "mountPath": HOME, "subPath": _HOME_PATH}
    return {
        "workingDir": WORKDIR,
        **container,
        "securityContext": context,
        "env": _with_defaults(container.get("env") or []),
        "volumeMounts": [*(container.get("volumeMounts") or []), mount],
    }


def _with_defaults(variables: list[Any]) -> list[Any]:
    names = {each.get("name") for each in variables if isinstance(each, dict)}
    defaults = {"HOME": HOME, "PYTHONUNBUFFERED": "1"}
    ours = [{"name": name, "value": value} for name, value in defaults.items() if name not in names]
    return [*variables, *ours]


def _way_of(container: Json) -> tuple[list[Json], list[Json]]:
    """Variables for proxies and certificates, and the mounts in which those certificates are."""
    variables = [each for each in container["env"] if isinstance(each, dict)]
    way = [each for each in variables if str(each.get("name")).upper() in _WAY]
    files = [PurePosixPath(str(each.get("value"))) for each in way if each["name"] in _CERTIFICATES]
    mounts = [
        each
        for each in container["volumeMounts"]
        if isinstance(each, dict)
        and each.get("name") != _VOLUME
        and any(file.is_relative_to(str(each.get("mountPath"))) for file in files)
    ]
    return way, mounts
