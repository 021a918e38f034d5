"""The network of the agent's own, by which jobs reach an embedded control plane."""

import asyncio
from typing import TYPE_CHECKING, Any, Final

from agent.config.execution import DockerRunnerConfig
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError
from agent.model.names import LABEL_KIND
from agent.runners.docker.sdk import Sdk

if TYPE_CHECKING:
    from docker.api.client import APIClient

_CONFLICT: Final = 409
#: Jobs do not reach each other, only the host and what lies behind it.
_OPTIONS: Final = {"com.docker.network.bridge.enable_icc": "false"}
_LOOPBACK: Final = "127.0.0.1"


class JobNetwork:
    """Made once and kept: it survives jobs, agents and restarts of the engine.

    A bridge of that name that somebody else made is used as it is.
    """

    def __init__(self, config: DockerRunnerConfig, sdk: Sdk) -> None:
        self._config = config
        self._sdk = sdk
        self._lock = asyncio.Lock()
        #: Address of the host on it, once known.
        self.gateway: str | None = _LOOPBACK if config.host_network else None

    @property
    def mode(self) -> str:
        """`NetworkMode` of containers."""
        return "host" if self._config.host_network else self._config.network

    async def ensure(self) -> str:
        """Make it unless it is there, and give the host's address on it.

        Raises:
            ConfigError: a network of that name is no bridge, or has no gateway.
            JobError: `START_FAILED`: the engine refused; `LOST_ENGINE`.
        """
        if self._config.host_network:
            return _LOOPBACK
        async with self._lock:
            self.gateway = await self._sdk.call(self._ensure)
        return self.gateway

    def _ensure(self, client: "APIClient") -> str:
        from docker.errors import APIError

        name = self._config.network
        found = _look(client, name)
        if found is None:
            try:
                client.create_network(
                    name, driver="bridge", options=_OPTIONS, labels={LABEL_KIND: "network"}
                )
            except APIError as error:
                # Another agent on this engine may have made it a moment ago.
                if error.status_code != _CONFLICT:
                    message = f"The network «{name}» cannot be made: {error.explanation}."
                    raise JobError(Cause.START_FAILED, message) from error
            found = _look(client, name) or {}
        return _gateway(name, found)


def _look(client: "APIClient", name: str) -> dict[str, Any] | None:
    """By exact name; the engine's own filter also finds names that only contain it."""
    for network in client.networks(names=[name]):
        if network["Name"] == name:
            return dict(network)
    return None


def _gateway(name: str, network: dict[str, Any]) -> str:
    ranges = (network.get("IPAM") or {}).get("Config") or []
    gateways = [entry["Gateway"] for entry in ranges if entry.get("Gateway")]
    # A dual-stack bridge has two; the first IPv4 one is what every image can speak to.
    gateways.sort(key=lambda address: ":" in address)
    if network.get("Driver") != "bridge" or not gateways:
        message = (
            f"`runners.local-container.network`: «{name}» is a {network.get('Driver')} network "
            "without the host's address on it."
        )
        raise ConfigError(message, hint="Name a bridge network, or one that does not exist yet.")
    return str(gateways[0]).partition("/")[0]
