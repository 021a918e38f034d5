"""What a manifest may hold, by who wrote it.

Three rules, for every key at every depth, whatever its case:

- *Refused* unless the administrator's configuration allows it: what W&B's agent refuses
  (`wandb/sdk/launch/utils.py` in 0.31.0), and its siblings: hosts in probes, finalizers, owners.
- *Granted*: names of objects of the namespace (Secrets, claims, …), volumes that need rights on
  the node or in the network, priority classes, kinds other than Job. A queue's template may set
  them, and a job or submitter only what the template sets the same.
- *Reserved* for this agent: its labels and those of Kubernetes' controllers, Secrets of attempts.

The administrator's list has entries `key`, `key=value`, `path.to.*.key` and `path.to.key=value`.
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.model.spec import Json
from agent.model.work import LABEL_PREFIX

JOB_VERSIONS: Final = frozenset({"batch/v1", "batch/v1beta1"})

#: They would let a Job take pods of others.
SELECTION: Final = frozenset({"selector", "manualSelector"})
_MOST_LEVELS: Final = 64
_Path = tuple[str, ...]

#: Lower-case key → whether any value is refused, or only one that is not false, 0 or empty.
_REFUSED: Final[dict[str, bool]] = {
    **dict.fromkeys(
        ("securitycontext", "hostpath", "serviceaccounttoken", "finalizers", "ownerreferences"),
        True,
    ),
    **dict.fromkeys(
        (
            "hostpid", "hostipc", "hostnetwork", "shareprocessnamespace", "hostusers",
            "automountserviceaccounttoken", "hostport", "serviceaccountname", "serviceaccount",
        ),
        False,
    ),
}  # fmt: skip
#: The kubelet would send the request from the node's network.
_HOST_OF_PROBE: Final = frozenset({"httpget", "tcpsocket"})
#: Lower-case key of a reference → the field that names what it refers to.
_GRANTED: Final[dict[str, tuple[str, ...]]] = {
    "secretkeyref": ("name",),
    "secretref": ("name",),
    "secret": ("secretName", "name"),
    "configmapkeyref": ("name",),
    "configmapref": ("name",),
    "configmap": ("name",),
    "persistentvolumeclaim": ("claimName",),
    "imagepullsecrets": (),
    # Of a claim: what its volume is a copy of, and a volume of the cluster.
    "datasource": ("name",),
    "datasourceref": ("name",),
    "volumename": (),
    "csi": ("driver",),
    "nfs": ("server",),
    **dict.fromkeys(
        (
            "awselasticblockstore", "azuredisk", "azurefile", "cephfs", "cinder", "fc",
            "flexvolume", "flocker", "gcepersistentdisk", "gitrepo", "glusterfs", "iscsi",
            "photonpersistentdisk", "portworxvolume", "quobyte", "rbd", "scaleio", "storageos",
            "vspherevolume",
        ),
        (),
    ),
    "priorityclassname": (),
    "nodename": (),
    "runtimeclassname": (),
    # Of a Service: they open it to others than the pods of the cluster, or lead out of it.
    "externalips": (),
    "externalname": (),
    "loadbalancerip": (),
}  # fmt: skip
#: Named by a plain value; the others are objects or lists.
_GRANTED_VALUES: Final = frozenset(
    {
        "priorityclassname",
        "nodename",
        "runtimeclassname",
        "externalname",
        "loadbalancerip",
        "volumename",
    }
)
#: Of a Service, types that open it to others than the pods of the cluster.
_OPEN_TYPES: Final = frozenset({"nodeport", "loadbalancer", "externalname"})
_KINDS: Final = {
    "jobs": "A job is a Job of `batch/v1`, or a custom resource.",
    "side services": (
        "A side service is a Deployment, StatefulSet, Service, Pod, ConfigMap or Job, or a custom "
        "resource that the administrator allows."
    ),
}
#: What may run beside a job, besides custom resources that the administrator allows.
_SIDE_SERVICES: Final = frozenset(
    {
        ("v1", "ConfigMap"),
        ("v1", "Pod"),
        ("v1", "Service"),
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
    }
)
_CONFINEMENT: Final = ("apparmor", "seccomp")
_LABELS_OF_CONTROLLERS: Final = frozenset({"job-name", "controller-uid"})
_SECRET_OF_ATTEMPT: Final = re.compile(r"launch-[a-z0-9]{1,8}-.+-[0-9]+")
#: Where text is the job's own, and no part of a manifest.
_FREE_TEXT: Final = frozenset({"command", "args", "env"})
_ESCAPED: Final = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U(000[0-9A-Fa-f]{5}))")
_KEY_IN_TEXT: Final = re.compile(r"[A-Za-z]+(?=['\"]?\s*:)")


def check_manifest(manifest: Json, template: Json, allowed: tuple[str, ...]) -> None:
    """Refuse what reaches beyond the job's own pods.

    `template`: what the queue's template sets of it. `allowed`: the administrator's list.

    Raises:
        PolicyError: `POLICY_RESOURCE`, naming the path.
    """
    granted = {(path[-1].lower(), _text(value)) for path, value in _entries(template)}
    custom = not _is_job(manifest)
    if custom:
        _check_kind(manifest, template, allowed)
    _check_entries(manifest, granted, allowed, custom=custom)


def check_namespace(asked: str, granted: str, allowed: tuple[str, ...]) -> None:
    """Another namespace than the agent's has Secrets and quotas of its own.

    `granted`: what the queue's template names.

    Raises:
        PolicyError: `POLICY_RESOURCE`: the template does not name it.
    """
    path = ("metadata", "namespace")
    if asked != granted and not _is_allowed(path, asked, allowed):
        raise _refusal(path, "may be set by the queue's template only", f"namespace={asked}")


def check_side_service(manifest: Json, number: int, allowed: tuple[str, ...]) -> None:
    """As `check_manifest`, for an object of `additional_services`, which no template has.

    Raises:
        PolicyError: `POLICY_RESOURCE`, naming the path.
    """
    version, kind = str(manifest.get("apiVersion") or ""), str(manifest.get("kind") or "")
    custom = (version, kind) not in _SIDE_SERVICES
    if custom:
        _check_kind(manifest, {}, allowed, "side services")
    whole = {"additional_services": {str(number): {"config": manifest}}}
    if _is_job(manifest):
        for key in SELECTION & set(manifest.get("spec") or {}):
            path = ("additional_services", str(number), "config", "spec", key)
            message = f"`{_shown(path)}`: the pods of a Job are selected by Kubernetes alone."
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint="Leave it out.")
    _check_entries(whole, set(), allowed, custom=custom)


def _check_entries(
    manifest: Json, granted: set[tuple[str, str]], allowed: tuple[str, ...], *, custom: bool
) -> None:
    for path, value in _entries(manifest):
        _check_reserved(path, value)
        key = path[-1].lower()
        if _is_refused(path, value) and not _is_allowed(path, value, allowed):
            raise _refusal(path, "may not be set by a job or its queue")
        if (
            _needs_grant(key, value)
            and (key, _text(value)) not in granted
            and not _is_allowed(path, value, allowed)
        ):
            raise _refusal(path, "may be set by the queue's template only")
        if custom and isinstance(value, str):
            _check_text(path, value, allowed)


def _check_kind(
    manifest: Json, template: Json, allowed: tuple[str, ...], what: str = "jobs"
) -> None:
    """Kinds of the cluster itself grant rights; others are what an operator makes of them."""
    version, kind = str(manifest.get("apiVersion") or ""), str(manifest.get("kind") or "")
    group = version.partition("/")[0] if "/" in version else ""
    if version in JOB_VERSIONS or "." not in group or group.endswith(".k8s.io"):
        message = f"`kubernetes`: {what} cannot be objects of the kind '{kind}' of `{version}`."
        raise PolicyError(Cause.POLICY_RESOURCE, message, hint=_KINDS[what])
    same = (template.get("apiVersion"), template.get("kind")) == (version, kind)
    if not same and not _is_allowed(("kind",), kind, allowed):
        raise _refusal(("kind",), "may be set by the queue's template only", f"kind={kind}")


def _is_job(manifest: Json) -> bool:
    version, kind = manifest.get("apiVersion"), manifest.get("kind")
    return (not version or version in JOB_VERSIONS) and (not kind or kind == "Job")


def _is_refused(path: _Path, value: Any) -> bool:
    key = path[-1].lower()
    if key in _REFUSED:
        return _REFUSED[key] or bool(value)
    if key == "mountpropagation":
        return str(value).strip().lower() == "bidirectional"
    if key == "host":
        return bool(value) and len(path) > 1 and path[-2].lower() in _HOST_OF_PROBE
    return any(word in key for word in _CONFINEMENT) and "unconfined" in str(value).lower()


def _needs_grant(key: str, value: Any) -> bool:
    if key in _GRANTED_VALUES:
        return bool(value)
    if key == "type":
        return str(value).lower() in _OPEN_TYPES
    return key in _GRANTED and isinstance(value, (dict, list)) and bool(value)


def _check_reserved(path: _Path, value: Any) -> None:
    key = path[-1].lower()
    if key.startswith((f"{LABEL_PREFIX}.", f"{LABEL_PREFIX}/", "batch.kubernetes.io/")) or (
        key in _LABELS_OF_CONTROLLERS and len(path) > 1 and path[-2].lower() == "labels"
    ):
        message = f"`{_shown(path)}`: this label is set by the agent or by Kubernetes alone."
        hint = "Leave it out; jobs are found by `wandb.ai/run-id` or by labels of your own."
        raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)
    references = [value] if isinstance(value, dict) else value
    if key in {"secretkeyref", "secretref", "secret", "imagepullsecrets"} and isinstance(
        references, list
    ):
        for name in _subjects(references, ("secretName", "name")):
            if _SECRET_OF_ATTEMPT.fullmatch(name):
                message = f"`{_shown(path)}`: '{name}' has the name of a Secret of another job."
                raise PolicyError(Cause.POLICY_RESOURCE, message, hint="Give the Secret another.")


def _check_text(path: _Path, text: str, allowed: tuple[str, ...]) -> None:
    """Manifests within texts, as operators take them for patches and templates."""
    if any(part.lower() in _FREE_TEXT for part in path):
        return
    plain = _ESCAPED.sub(lambda found: chr(int(found[1] or found[2] or found[3], 16)), text)
    for found in _KEY_IN_TEXT.findall(plain):
        key = found.lower()
        if (key in _REFUSED or key in _GRANTED) and not _is_allowed((*path, found), "", allowed):
            raise _refusal((*path, found), "may not be set in a text within a manifest", found)


def _is_allowed(path: _Path, value: Any, allowed: tuple[str, ...]) -> bool:
    for entry in allowed:
        pattern, equals, wanted = entry.partition("=")
        parts = pattern.split(".")
        if len(parts) == 1:
            same = parts[0].lower() == path[-1].lower()
        else:
            same = len(parts) == len(path) and all(map(fnmatchcase, path, parts))
        if same and (not equals or _is_named(path[-1].lower(), value, wanted)):
            return True
    return False


def _is_named(key: str, value: Any, wanted: str) -> bool:
    if not isinstance(value, (dict, list)):
        return fnmatchcase(str(value), wanted)
    fields = ("path",) if key == "hostpath" else _GRANTED.get(key) or ("name",)
    references = value if isinstance(value, list) else [value]
    names = list(_subjects(references, fields))
    return len(names) == len(references) and all(fnmatchcase(name, wanted) for name in names)


def _subjects(references: list[Any], fields: tuple[str, ...]) -> Iterator[str]:
    for each in references:
        if isinstance(each, dict):
            yield from (str(each[field]) for field in fields if each.get(field))


def _refusal(path: _Path, rule: str, entry: str | None = None) -> PolicyError:
    message = f"`{_shown(path)}` {rule}."
    hint = f"The administrator allows it with `runners.kubernetes.allow: [{entry or path[-1]}]`."
    return PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)


def _shown(path: _Path) -> str:
    beside = path[:1] == ("additional_services",)
    return ".".join(path if beside else ("kubernetes", *path))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _entries(manifest: Json) -> Iterator[tuple[_Path, Any]]:
    """Every key and every text of a list, with its path."""
    waiting: list[tuple[_Path, Any]] = [((), manifest)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > _MOST_LEVELS:
            message = f"`{_shown(path[:4])}…` is nested deeper than {_MOST_LEVELS} levels."
            raise PolicyError(Cause.POLICY_RESOURCE, message)
        if path:
            yield path, value
        if isinstance(value, dict):
            waiting += [((*path, str(key)), each) for key, each in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [((*path, str(i)), each) for i, each in reversed([*enumerate(value)])]
