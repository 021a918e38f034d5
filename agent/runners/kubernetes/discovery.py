"""What the cluster calls the kinds of custom resources and of side services."""

from typing import Final

from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.model.spec import Json
from agent.runners.kubernetes.api import JOBS, ClusterApi, Kind
from agent.runners.kubernetes.custom_status import is_custom

#: Of the core group, which has no name.
_CORE: Final = "v1"


class Kinds:
    """The kinds of manifests; each is asked for once."""

    def __init__(self, api: ClusterApi) -> None:
        self._api = api
        #: By API version and name.
        self._known: dict[tuple[str, str], Kind] = {}

    async def of(self, manifest: Json) -> Kind:
        """The kind of an object.

        Raises:
            PolicyError: `POLICY_SPEC`: the cluster has no such API version or kind, or objects
                of that kind are in no namespace.
        """
        if not is_custom(manifest):
            return JOBS
        name = manifest["apiVersion"], manifest["kind"]
        if name not in self._known:
            self._known[name] = await discovered_kind(self._api, *name)
        return self._known[name]


async def discovered_kind(api: ClusterApi, version: str, name: str) -> Kind:
    """The kind `name` of the API version `version` (`<group>/<version>`).

    Raises:
        PolicyError: see `Kinds.of`.
    """
    prefix = f"/api/{version}" if version == _CORE else f"/apis/{version}"
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
