"""Where the cluster is and who the agent is there: a kubeconfig, or its pod's service account."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from agent.config.execution import KubernetesRunnerConfig
from agent.model.errors import ConfigError
from agent.model.names import did_you_mean

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

#: What the kubelet mounts into every pod that has a service account.
SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_DEFAULT_FILE: Final = "~/.kube/config"
_DEFAULT_NAMESPACE: Final = "default"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client of the cluster is made from."""

    #: The library's; it renews the token of a service account by itself.
    settings: "Configuration"
    #: The configured namespace, else that of the context or of the pod.
    namespace: str


async def read_credentials(
    config: KubernetesRunnerConfig, service_account: Path = SERVICE_ACCOUNT
) -> Credentials:
    """Read them anew: files and the programs that they name are asked each time.

    Raises:
        ConfigError: there are none, or they cannot be used.
    """
    from kubernetes.aio.client import Configuration
    from kubernetes.aio.config import ConfigException

    settings = Configuration()
    try:
        own: str | None
        if config.in_cluster:
            own = _read_service_account(settings, service_account)
        else:
            own = await _read_kubeconfig(settings, config)
    except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError) as error:
        where = "in_cluster" if config.in_cluster else "kubeconfig"
        reason = str(error).rstrip(".")
        message = f"`runners.kubernetes.{where}`: the credentials cannot be used: {reason}."
        hint = "Set `kubeconfig` and `context`, or `in_cluster: true` for an agent in a pod."
        raise ConfigError(message, hint=hint) from None
    return Credentials(settings, config.namespace or own or _DEFAULT_NAMESPACE)


def _read_service_account(settings: "Configuration", folder: Path) -> str:
    from kubernetes.aio.config.incluster_config import InClusterConfigLoader

    loader = InClusterConfigLoader(str(folder / "token"), str(folder / "ca.crt"))  # type: ignore[no-untyped-call]
    loader.load_and_set(settings)  # type: ignore[no-untyped-call]
    return (folder / "namespace").read_text(encoding="utf-8").strip()


async def _read_kubeconfig(settings: "Configuration", config: KubernetesRunnerConfig) -> str | None:
    from kubernetes.aio.config import kube_config

    paths = str(config.kubeconfig or os.environ.get("KUBECONFIG") or _DEFAULT_FILE)
    merged = kube_config.KubeConfigMerger(paths).config  # type: ignore[no-untyped-call]
    if merged is None:
        message = f"`runners.kubernetes`: there is no kubeconfig at {paths}."
        hint = "Set `kubeconfig`, or `in_cluster: true` for an agent in a pod."
        raise ConfigError(message, hint=hint)
    _check_context(merged.value, paths, config.context)
    loader = await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=paths, context=config.context, client_configuration=settings
    )
    namespace: str | None = loader.current_context["context"].get("namespace")
    return namespace


def _check_context(document: dict[str, Any], paths: str, wanted: str | None) -> None:
    known = [str(each["name"]) for each in document["contexts"]]
    chosen = wanted or document.get("current-context")
    if not chosen:
        message = f"`runners.kubernetes.context` is not set, and {paths} has no current context."
        raise ConfigError(message, hint=f"Set it. {did_you_mean('', known, 'context')}")
    if chosen not in known:
        where = "`runners.kubernetes.context`" if wanted else f"The current context of {paths}"
        message = f"{where}: there is no context '{chosen}' in {paths}."
        raise ConfigError(message, hint=did_you_mean(chosen, known, "context"))
