"""Objects that run beside a job (W&B's `additional_services`): created before it, waited for.

The attempt's Secret owns them, and the Job owns the Secret: they go with the job, whoever
removes it, and whether it was started or not.
"""

import asyncio
from typing import Final

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.spec import Json
from agent.ports.runner import Workload
from agent.runners.kubernetes.access import Rights
from agent.runners.kubernetes.api import ClusterApi, Kind
from agent.runners.kubernetes.discovery import Kinds
from agent.runners.kubernetes.fields import condition, sentence, status
from agent.runners.kubernetes.manifest import SIDE_SERVICE_OF, Beside
from agent.system.tasks import task_group

#: What the agent does with side services of any kind.
ON_SIDE_SERVICES: Final = ("create", "get")
#: Where it looks, by `list`, whether a Service has addresses.
SLICES: Final = Kind("/apis/discovery.k8s.io/v1", "endpointslices")
#: Seconds between looks.
_LOOK_EVERY: Final = 1.0
_REPLICATED: Final = frozenset({"Deployment", "StatefulSet"})


class SideServices:
    """Creates the side services of workloads in one namespace."""

    def __init__(self, api: ClusterApi, kinds: Kinds, rights: Rights) -> None:
        self._api = api
        self._kinds = kinds
        self._rights = rights

    async def run(self, beside: Beside, workload: Workload) -> None:
        """Create those that do not exist and wait until all are ready.

        Raises:
            JobError: `START_SERVICE`: a name is taken, or one is not ready in time.
            ClusterRefusedError: the cluster refuses one.
        """
        #: What each lacks, by its name, as long as it is not ready.
        missing = {each["metadata"]["name"]: "it is not created" for each in beside.services}
        try:
            async with asyncio.timeout(beside.seconds), task_group() as group:
                for service in beside.services:
                    group.create_task(self._run(service, workload, missing, wait=beside.wait))
        except TimeoutError:
            name, why = next(iter(missing.items()))
            message = f"The side service '{name}' is not ready after {beside.seconds:g} s: {why}."
            hint = "Look at its pods (`kubectl describe`), or set `kubernetes.wait_timeout`."
            raise JobError(Cause.START_SERVICE, message, hint=hint) from None

    async def _run(
        self, service: Json, workload: Workload, missing: dict[str, str], *, wait: bool
    ) -> None:
        name = service["metadata"]["name"]
        kind = await self._kinds.of(service)
        why = f"`additional_services` has a {service['kind']}"
        await self._rights.require(kind, ON_SIDE_SERVICES, why)
        await self._create(kind, service, workload)
        while wait and (why := await self._lacks(kind, service["kind"], name)):
            missing[name] = why
            await asyncio.sleep(_LOOK_EVERY)
        missing.pop(name, None)

    async def _create(self, kind: Kind, service: Json, workload: Workload) -> None:
        owner = {"apiVersion": "v1", "kind": "Secret", "name": workload.name, "uid": workload.id}
        name = service["metadata"]["name"]
        body = {**service, "metadata": {**service["metadata"], "ownerReferences": [owner]}}
        while await self._api.create(kind.path(self._api.namespace), body) is None:
            found = await self._api.get(kind.path(self._api.namespace, name))
            metadata = {} if found is None else found["metadata"]
            owners = {each["uid"] for each in metadata.get("ownerReferences") or ()}
            if workload.id in owners and "deletionTimestamp" not in metadata:
                return
            # One of an earlier lease of this attempt is being removed with its Secret.
            labels = metadata.get("labels") or {}
            if found and labels.get(SIDE_SERVICE_OF) != body["metadata"]["labels"][SIDE_SERVICE_OF]:
                message = f"The name '{name}' of a side service is taken by another {found['kind']}"
                hint = "Give it a name of its own: `${run_id}` stands for the run's id."
                raise JobError(Cause.START_SERVICE, f"{message}.", hint=hint)
            await asyncio.sleep(_LOOK_EVERY)

    async def _lacks(self, kind: Kind, kind_name: str, name: str) -> str:
        """What it lacks to be ready; empty if it is. Kinds that do not tell are ready."""
        if kind_name not in {*_REPLICATED, "Pod", "Service"}:
            return ""
        found = await self._api.get(kind.path(self._api.namespace, name))
        if found is None:
            return "it was deleted"
        if kind_name in _REPLICATED:
            wanted, has = found["spec"].get("replicas", 1), status(found).get("readyReplicas", 0)
            unavailable = condition(found, "Available", "False")
            why = f" ({sentence(unavailable)})" if unavailable else ""
            return "" if has >= wanted else f"{has} of {wanted} replicas are ready{why}"
        if kind_name == "Pod":
            unready = condition(found, "Ready", "False") or {"message": status(found).get("phase")}
            return "" if condition(found, "Ready") else sentence(unready)
        if not found["spec"].get("selector"):
            return ""  # what it leads to is nobody's to know
        return await self._lacks_addresses(name)

    async def _lacks_addresses(self, name: str) -> str:
        await self._rights.require(SLICES, ("list",), "`additional_services` has a Service")
        query = {"labelSelector": f"kubernetes.io/service-name={name}"}
        found = await self._api.get(SLICES.path(self._api.namespace), query) or {}
        ready = any(
            (endpoint.get("conditions") or {}).get("ready")
            for each in found.get("items") or ()
            for endpoint in each.get("endpoints") or ()
        )
        return "" if ready else "no pod that it selects is ready"
