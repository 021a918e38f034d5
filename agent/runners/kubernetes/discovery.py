"""What the cluster calls the kinds of custom resources."""

from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.model.spec import Json
from agent.runners.kubernetes.api import ClusterApi, Kind


async def discovered_kind(api: ClusterApi, version: str, name: str) -> Kind:
    """The kind `name` of the API version `version` (`<group>/<version>`).

    Raises:
        PolicyError: `POLICY_SPEC`: the cluster has no such API version or kind, or objects of
            that kind are in no namespace.
    """
    prefix = f"/apis/{version}"
    found = await api.get(prefix)
    if found is None:
        raise await _unknown_version(api, version, name)
    kinds = {each["kind"]: each for each in found["resources"] if "/" not in each["name"]}
    if name not in kinds:
        message = f"`kubernetes.kind`: the cluster's API '{version}' has no kind '{name}'."
        known = ", ".join(sorted(kinds)) or "none"
        raise PolicyError(Cause.POLICY_SPEC, message, hint=f"It has {known}.")
    if not kinds[name]["namespaced"]:
        message = f"`kubernetes.kind`: objects of the kind '{name}' are in no namespace."
        raise PolicyError(Cause.POLICY_SPEC, message, hint="A job is an object of a namespace.")
    return Kind(prefix, kinds[name]["name"])


async def _unknown_version(api: ClusterApi, version: str, name: str) -> PolicyError:
    group = version.partition("/")[0]
    found: Json | None = await api.get(f"/apis/{group}")
    message = f"`kubernetes.apiVersion`: the cluster has no API '{version}', for the kind '{name}'."
    if found is None:
        hint = f"Install the operator that serves '{group}', or correct the name."
    else:
        served = ", ".join(each["groupVersion"] for each in found["versions"])
        hint = f"It has {served}."
    return PolicyError(Cause.POLICY_SPEC, message, hint=hint)
