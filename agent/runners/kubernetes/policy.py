"""What a job's manifest may not hold, unless the administrator's configuration allows it.

The refused keys are those of W&B's agent (`wandb/sdk/launch/utils.py`, checked in 0.25.1),
looked for at every depth, in lists and in custom resources alike.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.model.spec import Json

_Refused = Callable[[Any], bool]

_PRESENT: Final = ("securityContext", "hostPath", "serviceAccountToken")
_TRUTHY: Final = (
    "hostPID",
    "hostIPC",
    "hostNetwork",
    "shareProcessNamespace",
    "hostUsers",
    "automountServiceAccountToken",
    "hostPort",
    "serviceAccountName",
    "serviceAccount",
)
_REFUSED: Final[dict[str, _Refused]] = {
    **dict.fromkeys(_PRESENT, lambda _: True),
    **dict.fromkeys(_TRUTHY, bool),
    "mountPropagation": lambda value: value == "Bidirectional",
}
_CONFINEMENT: Final = (
    "apparmor.security.beta.kubernetes.io",
    "seccomp.security.alpha.kubernetes.io",
)

#: What every container gets.
SECURITY_CONTEXT: Final[Json] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def check_manifest(manifest: Json, allowed: tuple[str, ...]) -> None:
    """Refuse what reaches beyond the job's own pods; `allowed` are keys that may be set.

    Raises:
        PolicyError: `POLICY_RESOURCE`, naming the path.
    """
    for path, key, value in _entries(manifest, ()):
        refused = _REFUSED.get(key)
        if key in allowed:
            continue
        if (refused is not None and refused(value)) or _lifts_confinement(key, value):
            where = ".".join(map(str, path))
            message = f"`{where}` may not be set by a job or its queue."
            hint = f"The administrator allows it with `runners.kubernetes.allow: [{key}]`."
            raise PolicyError(Cause.POLICY_RESOURCE, message, hint=hint)


def _lifts_confinement(key: str, value: Any) -> bool:
    return key.startswith(_CONFINEMENT) and "unconfined" in str(value)


def _entries(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[Any, str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield (*path, key), str(key), each
            yield from _entries(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _entries(each, (*path, index))
