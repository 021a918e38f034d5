"""The Job and the Secret of one build's BuildKit. Pure."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from agent.config.execution import BuildPodConfig
from agent.model.spec import Json
from agent.model.work import LABEL_KIND

Mode = Literal["user-namespace", "rootless", "privileged"]

#: The name in the daemon's certificate, and of its container.
BUILDKITD: Final = "buildkitd"
PORT: Final = 1234
_CERTIFICATES: Final = "/run/launch/certificates"
#: Numbers of the official image's user.
_ROOTLESS_ID: Final = 1000
#: What the mode adds to the daemon's container.
_SECURITY: Final[Mapping[Mode, Json]] = {
    # Of the user namespace only.
    "user-namespace": {"privileged": True},
    "rootless": {
        "runAsUser": _ROOTLESS_ID,
        "runAsGroup": _ROOTLESS_ID,
        "seccompProfile": {"type": "Unconfined"},
        "appArmorProfile": {"type": "Unconfined"},
    },
    "privileged": {"privileged": True},
}


def job_of(
    name: str,
    mode: Mode,
    config: BuildPodConfig,
    *,
    platform: str | None,
    pull_secrets: Sequence[str],
    lifetime: float,
    authorities: bool = False,
) -> Json:
    """The Job; the cluster ends it after `lifetime` seconds and removes it by itself.

    With `authorities`, its Secret has `authorities.pem`, which the daemon trusts, too.
    """
    rootless = mode == "rootless"
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        **({"hostUsers": False} if mode == "user-namespace" else {}),
        **({"securityContext": {"fsGroup": _ROOTLESS_ID}} if rootless else {}),
        **({"nodeSelector": _nodes(platform)} if platform else {}),
        "imagePullSecrets": [{"name": each} for each in pull_secrets],
        "containers": [_container(mode, config, authorities=authorities)],
        "volumes": [
            {"name": "certificates", "secret": {"secretName": name, "defaultMode": 0o440}},
            {"name": "layers", "emptyDir": {}},
        ],
    }
    labels = {LABEL_KIND: "build"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(lifetime),
            # Until then an agent can see why it ended.
            "ttlSecondsAfterFinished": 60,
            "template": {"metadata": {"labels": labels}, "spec": merged(spec, config.spec)},
        },
    }


def _container(mode: Mode, config: BuildPodConfig, *, authorities: bool) -> Json:
    rootless = mode == "rootless"
    layers = "/home/user/.local/share/buildkit" if rootless else "/var/lib/buildkit"
    return {
        "name": BUILDKITD,
        "image": config.rootless_image if rootless else config.image,
        "args": [
            f"--addr=tcp://0.0.0.0:{PORT}",
            f"--tlscacert={_CERTIFICATES}/ca.pem",
            f"--tlscert={_CERTIFICATES}/cert.pem",
            f"--tlskey={_CERTIFICATES}/key.pem",
            *(["--oci-worker-no-process-sandbox"] if rootless else []),
        ],
        # Read besides the usual file.
        "env": [{"name": "SSL_CERT_DIR", "value": f"/etc/ssl/certs:{_CERTIFICATES}"}]
        if authorities
        else [],
        "ports": [{"name": "buildkit", "containerPort": PORT}],
        "startupProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1, "failureThreshold": 60},
        "securityContext": _SECURITY[mode],
        "volumeMounts": [
            {"name": "certificates", "mountPath": _CERTIFICATES, "readOnly": True},
            {"name": "layers", "mountPath": layers},
        ],
    }


def secret_of(job: Json, files: Mapping[str, bytes]) -> Json:
    """The daemon's certificates; they go with the Job."""
    owner = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": job["metadata"]["name"], "ownerReferences": [owner]},
        "data": {name: base64.b64encode(data).decode() for name, data in files.items()},
    }


def merged(ours: Any, theirs: Any) -> Any:
    """Theirs over ours: mappings by key, lists of named things by name, the rest as a whole."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        both = {key: merged(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()}
        return {**ours, **theirs, **both}
    if _are_named(ours) and _are_named(theirs):
        by_name = {each["name"]: each for each in ours}
        for each in theirs:
            by_name[each["name"]] = merged(by_name.get(each["name"], {}), each)
        return list(by_name.values())
    return theirs


def _are_named(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(each, Mapping) and "name" in each for each in value
    )


def _nodes(platform: str) -> Json:
    system, _, architecture = platform.partition("/")
    return {"kubernetes.io/os": system, "kubernetes.io/arch": architecture}
