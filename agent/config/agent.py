"""The agent's configuration file as a whole, W&B's own keys included."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from agent.config.base import (
    Model,
    Seconds,
    Size,
    UserPath,
    WrittenForm,
    read_secret_file,
)
from agent.config.control import ControlConfig
from agent.config.execution import (
    BuilderConfig,
    JobSecret,
    MountConfig,
    OfferedResources,
    PendingTimeouts,
    PruneConfig,
    RunnersConfig,
    SourcesConfig,
)


class ServerConfig(Model):
    """Which control plane: address and key are one pair."""

    url: Annotated[
        str,
        Field(pattern=r"^https?://[^/\s]+"),
        WrittenForm("an address such as https://launch.example.org"),
    ]
    api_key: SecretStr | None = None
    #: A file that holds nothing but the key.
    api_key_file: UserPath | None = None
    #: PEM bundle of the authorities that sign the server's certificate.
    ca_bundle: UserPath | None = None

    def read_key(self) -> SecretStr | None:
        """The key of this pair, from the file or as written.

        Raises:
            ConfigError: `api_key_file` cannot be read.
        """
        return read_secret_file(self.api_key_file) if self.api_key_file else self.api_key


class LogConfig(Model):
    """The agent's own log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    #: `auto`: `console` on a terminal, `json` otherwise.
    format: Literal["auto", "console", "json"] = "auto"
    #: Destination; `-` is standard error.
    file: str = "-"


class HealthConfig(Model):
    """`/healthz`, `/readyz` and `/metrics` of the agent."""

    listen: str = "127.0.0.1"
    #: 0 picks a free one; `None` switches it off.
    port: Annotated[int, Field(ge=0, le=65535)] | None = None


class AgentConfig(Model):
    """The whole configuration of `launch-agent`."""

    # Keys of W&B's launch-config.yaml.
    entity: str | None = None
    queues: tuple[str, ...] = ()
    #: -1 means unlimited.
    max_jobs: Annotated[int, Field(ge=-1)] = 4
    verbosity: Annotated[int, Field(ge=0)] = 0
    #: Grace between SIGTERM and SIGKILL when a job is stopped.
    stopped_run_timeout: Seconds = 60.0
    environment: dict[str, Any] | None = None
    registry: dict[str, Any] | None = None
    builder: BuilderConfig = BuilderConfig()

    # Ours.
    server: ServerConfig | None = None
    name: str | None = None
    #: Journal, caches, folders of attempts.
    state_dir: UserPath = Path("~/.local/state/launch-agent").expanduser()
    #: How long a started job may be pending on a backend that queues, for each reason.
    pending_timeout: PendingTimeouts = PendingTimeouts()
    #: What the first SIGTERM means for running jobs.
    on_stop: Literal["auto", "wait", "detach"] = "auto"
    resources: OfferedResources = OfferedResources()
    runners: RunnersConfig = RunnersConfig()
    sources: SourcesConfig = SourcesConfig()
    secrets: dict[str, JobSecret] = Field(default_factory=dict)
    mounts: dict[str, MountConfig] = Field(default_factory=dict)
    prune: PruneConfig = PruneConfig()
    log: LogConfig = LogConfig()
    health: HealthConfig = HealthConfig()
    #: The embedded control plane.
    control: ControlConfig = ControlConfig()
    #: Threads for work that blocks: files, archives, the Docker SDK.
    threads: Annotated[int, Field(gt=0)] = 8
    #: Free space below which no job is claimed.
    min_free_disk: Size = 512 * 1024**2
