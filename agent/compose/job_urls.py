"""The control plane's URLs that jobs get: containers and pods cannot call a loopback address."""

from typing import TYPE_CHECKING

import structlog
from yarl import URL

from agent.model.errors import ConfigError
from agent.system.network import is_loopback

if TYPE_CHECKING:
    from agent.compose.backends import BackendContext


async def url_for_containers(context: "BackendContext", gateway: str) -> str:
    """The control plane's URL from inside containers; `gateway` is that of the job network."""
    host_network = context.config.runners.local_container.host_network
    if context.embedded_elsewhere and not host_network:
        return str(URL(context.url).with_host(gateway))
    if context.control_plane is None or host_network:
        return context.url
    try:
        return await context.control_plane.listen_for_jobs(gateway)
    except ConfigError as error:
        # The engine is in another network or on another machine, so that its gateway is not an
        # address of this one. Jobs that do not use the control plane's API still run.
        url = context.config.control.external_url or context.url
        structlog.get_logger().warning(
            "containers may not reach the control plane; set control.external_url",
            tried=gateway,
            given_to_jobs=url,
            error=error.message,
        )
        return url


def url_for_people(context: "BackendContext") -> str:
    """Where the pages are that W&B's library prints links to."""
    external = context.config.control.external_url if context.embedded else None
    return external or context.url


def url_for_pods(context: "BackendContext") -> str:
    """The control plane's URL from inside pods.

    Raises:
        ConfigError: only loopback addresses of it are known.
    """
    url = URL(context.url)
    if not is_loopback(url.host):
        return context.url
    if not context.embedded:
        message = (
            f"Jobs on Kubernetes cannot reach the control plane at {context.url}: inside a pod "
            "that address means the pod."
        )
        hint = "Name the server by an address that the cluster's nodes reach."
        raise ConfigError(message, hint=hint)
    control = context.config.control
    if control.external_url is not None:
        return control.external_url
    for address in (control.listen, *control.also_listen):
        if not is_loopback(address) and address not in {"0.0.0.0", "::"}:  # noqa: S104
            return str(url.with_host(address))
    message = (
        f"Jobs on Kubernetes cannot reach the embedded control plane at {context.url}: inside a "
        "pod that address means the pod."
    )
    hint = (
        "Set `control.also_listen` to an address of this machine that the cluster's nodes reach, "
        "or `control.external_url`."
    )
    raise ConfigError(message, hint=hint)
