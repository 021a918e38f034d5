"""What the agent's account must be allowed in a namespace, and whether a cluster can be used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from agent.config.execution import KubernetesRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError
from agent.runners.kubernetes.api import (
    ClusterApi,
    ClusterCredentialsError,
    ClusterUnreachableError,
    Kind,
)
from agent.system.tasks import task_group

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
#: Seconds in which a cluster must answer at the start, or between two calls of `on_wait`.
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
    Right("deletecollection", "jobs", "batch", "removes several such jobs in one request"),
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

#: What the agent does with jobs that are custom resources.
ON_CUSTOM_RESOURCES: Final = ("create", "get", "list", "watch", "delete")


class Rights:
    """Rights on kinds that jobs name, in the jobs' namespace; asked for when one needs them."""

    def __init__(self, api: ClusterApi) -> None:
        self._api = api
        self._granted: set[Right] = set()

    async def require(self, kind: Kind, verbs: tuple[str, ...], why: str) -> None:
        """See that the account has the rights; `why`, in a few words, it needs them.

        Raises:
            JobError: `START_FAILED`: it lacks some, which the message names.
        """
        needed = rights_on(kind, verbs, why)
        asked = [right for right in needed if right not in self._granted]
        missing = await missing_rights(self._api, tuple(asked))
        self._granted |= set(asked) - set(missing)
        if missing:
            names = ", ".join(f"`{right.title}`" for right in missing)
            message = f"{why}, and the agent's account lacks rights in '{self._api.namespace}': "
            hint = "The administrator grants them by a rule of the agent's role."
            raise JobError(Cause.START_FAILED, f"{message}{names}.", hint=hint)


def rights_on(kind: Kind, verbs: tuple[str, ...], purpose: str) -> tuple[Right, ...]:
    """The rights to do these things with objects of a kind."""
    group = kind.prefix.split("/")[2] if kind.prefix.startswith("/apis/") else ""
    return tuple(Right(verb, kind.plural, group, purpose) for verb in verbs)


async def missing_rights(
    api: ClusterApi, rights: tuple[Right, ...] = RIGHTS, namespace: str | None = None
) -> list[Right]:
    """Those that the account has not, in their order; by default in the jobs' namespace.

    Raises:
        ClusterUnreachableError, ClusterRefusedError: the cluster cannot be asked.
    """
    where = namespace or api.namespace
    async with task_group() as group:
        asked = [group.create_task(has_right(api, each, where)) for each in rights]
    return [right for right, has in zip(rights, asked, strict=True) if not has.result()]


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


async def check_cluster(
    config: KubernetesRunnerConfig, on_wait: Callable[[], None] | None = None
) -> None:
    """Whether jobs can run on the configured cluster.

    `on_wait`: wait for an API server that does not answer, and call this every few seconds.
    Without it, that is an error.

    Raises:
        ConfigError: it does not answer, or refuses the credentials; the namespace does not
            exist; the account lacks a right, which the message names.
    """
    for namespace in (config.namespace, *config.namespaces):
        one = config.model_copy(update={"namespace": namespace})
        async with ClusterApi(one, patience=_PATIENCE) as api:
            await _check_namespace(api, on_wait)


async def _check_namespace(api: ClusterApi, on_wait: Callable[[], None] | None) -> None:
    try:
        missing, exists = await _seen(api, on_wait)
    except JobError as error:
        raise ConfigError(f"`runners.kubernetes`: {error.message}", hint=error.hint) from None
    if not exists:
        message = f"The cluster at {api.server} has no namespace '{api.namespace}'."
        hint = (
            f"Create it (`kubectl create namespace {api.namespace}`), or correct `namespace` and "
            "`namespaces` of `runners.kubernetes`."
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


async def _seen(api: ClusterApi, on_wait: Callable[[], None] | None) -> tuple[list[Right], bool]:
    """The rights that are missing, and whether the namespace exists as far as that can be seen."""
    log, waited = structlog.get_logger().bind(server=api.server), False
    while True:
        try:
            missing = await missing_rights(api)
            if NAMESPACE in missing:
                return missing, True
            namespace = await api.get(f"/api/v1/namespaces/{api.namespace}")
        except ClusterCredentialsError:
            raise
        except ClusterUnreachableError as error:
            if on_wait is None:
                raise
            if not waited:
                log.warning("waiting for the Kubernetes API, to start then", error=error.message)
            waited = True
            on_wait()
            continue
        if waited:
            log.info("the Kubernetes API answers")
        return missing, namespace is not None
