"""The job network: the agent's own Docker bridge, and the host's address on it.

Which URL of the control plane jobs get: `compose/job_urls.py`.
"""

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from agent.config.execution import DockerRunnerConfig
from agent.docker.client import Engine
from agent.docker.sdk import DockerSdk
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError
from agent.model.work import LABEL_KIND

if TYPE_CHECKING:
    from docker.api.client import APIClient

_CONFLICT: Final = 409
#: Jobs cannot reach each other, only the host and other networks.
_OPTIONS: Final = {"com.docker.network.bridge.enable_icc": "false"}
_LOOPBACK: Final = "127.0.0.1"


class JobNetwork:
    """Created once and kept across jobs, agents and engine restarts.

    An existing bridge of that name is used as it is.
    """

    def __init__(self, config: DockerRunnerConfig, engine: Engine, sdk: DockerSdk) -> None:
        self._config = config
        self._engine = engine
        self._sdk = sdk
        self._lock = asyncio.Lock()
        #: Address of the host on it, once known.
        self.gateway: str | None = _LOOPBACK if config.host_network else None

    @property
    def mode(self) -> str:
        """`NetworkMode` of containers."""
        return "host" if self._config.host_network else self._config.network

    async def ensure(self) -> str:
        """Create it unless it exists; returns the host's address on it.

        Raises:
            ConfigError: the network of that name is not a bridge, or has no gateway.
            JobError: `START_FAILED`: the engine refused; `LOST_ENGINE`.
        """
        if self._config.host_network:
            return _LOOPBACK
        name = self._config.network
        async with self._lock:
            found = await self._look()
            if found is None:
                await self._sdk.call(lambda client: _create(client, name))
                found = await self._look() or {}
            self.gateway = _gateway(name, found)
        return self.gateway

    async def _look(self) -> dict[str, Any] | None:
        """By exact name; the engine's own filter also finds names that only contain it."""
        filters = json.dumps({"name": [self._config.network]})
        listed = await self._engine.get("/networks", {"filters": filters})
        named = (row for row in listed.rows if row["Name"] == self._config.network)
        return next(named, None)


def _create(client: "APIClient", name: str) -> None:
    from docker.errors import APIError

    try:
        client.create_network(
            name, driver="bridge", options=_OPTIONS, labels={LABEL_KIND: "network"}
        )
    except APIError as error:
        # Another agent on this engine may have created it in the meantime.
        if error.status_code != _CONFLICT:
            message = f"The network '{name}' cannot be created: {error.explanation}."
            raise JobError(Cause.START_FAILED, message) from error


def _gateway(name: str, network: dict[str, Any]) -> str:
    ranges = (network.get("IPAM") or {}).get("Config") or []
    gateways = [entry["Gateway"] for entry in ranges if entry.get("Gateway")]
    # A dual-stack bridge has two; every image can use the first IPv4 one.
    gateways.sort(key=lambda address: ":" in address)
    if network.get("Driver") != "bridge" or not gateways:
        message = (
            f"`runners.local-container.network`: '{name}' is a {network.get('Driver')} network "
            "without the host's address on it."
        )
        raise ConfigError(message, hint="Name a bridge network, or one that does not exist yet.")
    return str(gateways[0]).partition("/")[0]
