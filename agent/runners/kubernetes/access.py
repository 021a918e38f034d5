"""What the agent's account must be allowed in a namespace, and whether a cluster can be used."""

import asyncio
from dataclasses import dataclass
from typing import Final

from agent.config.execution import KubernetesRunnerConfig
from agent.model.errors import ConfigError, JobError
from agent.runners.kubernetes.api import ClusterApi

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
#: Seconds in which a cluster must answer at the start.
_PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Right:
    """One permission: a verb on a resource."""

    verb: str
    #: As roles name it: `jobs`, `pods/log`.
    resource: str
    #: API group; the core group has no name.
    group: str
    #: What the agent does with it.
    purpose: str

    @property
    def title(self) -> str:
        """As `kubectl auth can-i` takes it."""
        resource, _, subresource = self.resource.partition("/")
        qualified = f"{resource}.{self.group}" if self.group else resource
        return f"{self.verb} {qualified}" + (f" --subresource={subresource}" if subresource else "")


NAMESPACE: Final = Right("get", "namespaces", "", "tells this cluster from others")
#: Of the agent, in the jobs' namespace. docs/kubernetes.md and deploy/kubernetes.yaml repeat them.
RIGHTS: Final = (
    Right("create", "jobs", "batch", "starts a job"),
    Right("get", "jobs", "batch", "finds a job after a restart"),
    Right("list", "jobs", "batch", "finds what it left running"),
    Right("watch", "jobs", "batch", "sees a job's end"),
    Right("patch", "jobs", "batch", "stops a job without a replacement of its pods"),
    Right("delete", "jobs", "batch", "removes a job whose result was reported"),
    Right("list", "pods", "", "sees what a job waits for, its exit code and node"),
    Right("watch", "pods", "", "the same, as it changes"),
    Right("delete", "pods", "", "stops a job with a grace period"),
    Right("get", "pods/log", "", "reads a job's output"),
    Right("create", "secrets", "", "keeps a job's variables, files and token"),
    Right("get", "secrets", "", "starts a prepared job after a restart"),
    Right("list", "secrets", "", "finds what it prepared (names and labels only)"),
    Right("patch", "secrets", "", "lets the Secret go with its job"),
    Right("delete", "secrets", "", "removes the Secret of a finished job"),
    Right("list", "events", "", "says why a job waits"),
    Right("watch", "events", "", "the same, as it changes"),
    NAMESPACE,
)


async def missing_rights(api: ClusterApi) -> list[Right]:
    """Those of `RIGHTS` that the account has not, in their order.

    Raises:
        ClusterUnreachableError, ClusterRefusedError: the cluster cannot be asked.
    """
    allowed = await asyncio.gather(*(has_right(api, each, api.namespace) for each in RIGHTS))
    return [right for right, has in zip(RIGHTS, allowed, strict=True) if not has]


async def has_right(api: ClusterApi, right: Right, namespace: str) -> bool:
    """Whether the account has a right in a namespace; in all of them where that is empty.

    Raises:
        ClusterUnreachableError, ClusterRefusedError: the cluster cannot be asked.
    """
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "namespace": namespace,
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await api.create(_REVIEWS, review)
    return answer is not None and bool(answer["status"].get("allowed"))


async def check_cluster(config: KubernetesRunnerConfig) -> None:
    """Whether jobs can run on the configured cluster.

    Raises:
        ConfigError: it does not answer, or refuses the credentials; the namespace does not
            exist; the account lacks a right, which the message names.
    """
    async with ClusterApi(config, patience=_PATIENCE) as api:
        try:
            missing = await missing_rights(api)
            may_look = NAMESPACE not in missing
            namespace = await api.get(f"/api/v1/namespaces/{api.namespace}") if may_look else None
        except JobError as error:
            raise ConfigError(f"`runners.kubernetes`: {error.message}", hint=error.hint) from None
        if may_look and namespace is None:
            message = f"The cluster at {api.server} has no namespace '{api.namespace}'."
            hint = (
                f"Create it (`kubectl create namespace {api.namespace}`), or correct "
                "`runners.kubernetes.namespace`."
            )
            raise ConfigError(message, hint=hint)
        if missing:
            names = ", ".join(f"`{right.title}`" for right in missing)
            message = (
                f"The agent's account at {api.server} lacks rights in the namespace "
                f"'{api.namespace}': {names}."
            )
            hint = "Grant them as deploy/kubernetes.yaml does; docs/kubernetes.md says what for."
            raise ConfigError(message, hint=hint)
