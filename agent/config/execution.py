"""Models of sources, builders, runners and what administrators offer to jobs."""

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, model_validator

from agent.config.base import Duration, Model, SecretReference, Size, UserPath, WrittenForm
from agent.model.cause import WAITING, Cause

_MAX_UIDS: Final = 65536
_QUEUE_FORM: Final = "`ENTITY/QUEUE`, or `*` for all queues"
_UID_RANGE: Final = re.compile(r"([1-9][0-9]{2,8})-([1-9][0-9]{2,8})")


class GitCredential(Model):
    """A user name and password for all remotes below a URL."""

    #: `https://git.example.org/` or a longer prefix.
    url: str
    username: str
    password: SecretReference


class GitConfig(Model):
    """The git source."""

    protocols: tuple[Literal["https", "ssh", "http", "file"], ...] = ("https", "ssh")
    credentials: tuple[GitCredential, ...] = ()
    #: OpenSSH `known_hosts`; the user's own by default. Host keys are always checked.
    known_hosts: UserPath | None = None
    ssh_key: UserPath | None = None
    #: PEM bundle for HTTPS remotes; else the environment's.
    ca_bundle: UserPath | None = None
    #: Of the files of one commit with its submodules; the size also of one transfer.
    max_size: Size = 20 * 1024**3
    max_files: Annotated[int, Field(gt=0)] = 500_000
    #: Of the files in Git LFS of one commit with its submodules.
    max_lfs_size: Size = 50 * 1024**3
    max_lfs_files: Annotated[int, Field(gt=0)] = 100_000
    #: For one fetch.
    timeout: Duration = 600.0
    #: Without any progress of the transfer.
    stall_timeout: Duration = 30.0


class CodeConfig(Model):
    """The source of stored code (artifacts): limits of one job's files."""

    max_size: Size = 4 * 1024**3
    max_files: Annotated[int, Field(gt=0)] = 100_000


class SourcesConfig(Model):
    """All sources."""

    #: Networks or host names whose private addresses may be reached by what users name: Git
    #: remotes, packages, registries; `["*"]` allows all. `None`: all with an embedded control
    #: plane, none otherwise.
    private_hosts: tuple[str, ...] | None = None
    #: Public keys (PEM): ready images must be signed by one of them. None: signatures are not
    #: asked for.
    image_keys: tuple[UserPath, ...] = ()
    git: GitConfig = GitConfig()
    code: CodeConfig = CodeConfig()


class Accelerator(Model):
    """W&B's `builder.accelerator`."""

    base_image: str


class ForQueues(Model):
    """What only items of the listed queues get."""

    queues: Annotated[
        tuple[
            Annotated[str, Field(pattern=r"^(\*|[^/\s]+/[^/\s][^/]*)$"), WrittenForm(_QUEUE_FORM)],
            ...,
        ],
        Field(min_length=1),
    ]

    def is_for(self, queue: str) -> bool:
        """Whether items of a queue, written `entity/queue`, get it."""
        return queue in self.queues or "*" in self.queues


class BuildSecret(ForQueues, SecretReference):
    """A secret that builds get."""


class BuildPodConfig(Model):
    """A BuildKit of its own for each build, in a pod of the jobs' namespace."""

    #: `auto`: the first that the cluster permits, in this order.
    mode: Literal["auto", "user-namespace", "rootless", "privileged"] = "auto"
    image: str = "moby/buildkit:v0.13.2"
    #: For the mode `rootless`.
    rootless_image: str = "moby/buildkit:v0.13.2-rootless"
    #: A partial pod specification, merged into the agent's: lists of named things by name, such as
    #: the container `buildkitd`.
    spec: dict[str, Any] = Field(default_factory=dict)
    #: Until the pod takes connections.
    start_timeout: Duration = 300.0


class BuilderConfig(Model):
    """How images are made. W&B's keys keep their names."""

    #: `auto`: docker where an engine answers, else virtual environments. `kubernetes`: BuildKit in
    #: the jobs' cluster; `kaniko` is W&B's word for it.
    type: Literal["auto", "docker", "kubernetes", "virtualenv", "noop", "kaniko"] = "auto"
    #: Repository that images are pushed to; `None` keeps them in the local engine.
    destination: str | None = None
    #: A `buildkitd` of one's own instead of the engine's BuildKit.
    buildkit: Annotated[
        str | None,
        Field(pattern=r"^(tcp|unix)://\S+$"),
        WrittenForm("tcp://host:port or unix:///path"),
    ] = None
    #: Folder with `ca.pem`, `cert.pem` and `key.pem` for a `buildkitd` behind TLS.
    buildkit_certs: UserPath | None = None
    #: With `type: kubernetes` and no `buildkit`.
    pod: BuildPodConfig = BuildPodConfig()
    platform: Literal["linux/amd64", "linux/arm64"] | None = None
    base_image: str | None = None
    accelerator: Accelerator | None = None
    #: Python for generated images whose job names none.
    python: str = "3.11"
    timeout: Duration = 3600.0
    #: Package index, proxies and CA come from the agent's environment unless given here.
    index_url: SecretStr | None = None
    extra_index_urls: tuple[SecretStr, ...] = ()
    ca_bundle: UserPath | None = None
    proxy: SecretStr | None = None
    #: Secrets for Dockerfiles, by the id that `RUN --mount=type=secret` names.
    secrets: dict[str, BuildSecret] = Field(default_factory=dict)
    #: Repositories of the images that `# syntax=` may name.
    frontends: tuple[str, ...] = ("docker/dockerfile",)
    #: What `ADD` may fetch, with `*` for any characters: BuildKit fetches it from the engine's
    #: own network.
    add_urls: tuple[str, ...] = ()
    #: Network of build steps: `default`, `none`, or `host`.
    network: Literal["default", "none", "host"] = "default"
    concurrency: Annotated[int, Field(gt=0)] = 2


class DockerRunnerConfig(Model):
    """The docker runner."""

    enabled: bool | Literal["auto"] = "auto"
    #: `None`: `DOCKER_HOST`, else the default socket.
    host: str | None = None
    #: The network that the agent makes for its jobs.
    network: str = "launch-agent"
    #: Jobs share the host's network; an administrator's decision.
    host_network: bool = False
    #: Docker options beyond W&B's allow-list that jobs may use: `volume`, `cap-add`, …
    allow: tuple[str, ...] = ()
    #: `always-verify`: an image that the engine has runs if its registry shows it to this agent.
    #: `auto`: that with a control plane of its own, `missing` with an embedded one.
    pull: Literal["auto", "missing", "always-verify", "always", "never"] = "auto"
    #: Of the engine's own log file per container; beyond it the oldest part is lost.
    log_size: Size = 1024**3
    pids_limit: Annotated[int, Field(gt=0)] | None = 32768
    #: Of a container that asks for none; `auto`: nine tenths of this machine's memory.
    memory_limit: Size | Literal["auto", "unlimited"] = "auto"


class ProcessRunnerConfig(Model):
    """The process runner: no security boundary unless `user` is set."""

    enabled: bool | Literal["auto"] = "auto"
    #: User that all jobs run as, or a range of uids (`200000-200063`) of which each job gets one
    #: of its own; needs an agent that runs as root.
    user: str | None = None
    #: Variables of the agent's environment that jobs get besides PATH, HOME, LANG, TMPDIR.
    environment: tuple[str, ...] = ()
    #: Soft limits for each process of a job.
    max_memory: Size | None = None
    max_open_files: Annotated[int, Field(gt=0)] | None = None
    max_processes: Annotated[int, Field(gt=0)] | None = None

    @property
    def exposure(self) -> str | None:
        """What jobs as processes can read besides their own; `None` with a uid for each."""
        if self.uid_range:
            return None
        if self.user is not None:
            return (
                f"Jobs as processes all run as '{self.user}': each can read the files, the "
                "environment and the token of the others that run at the same time, and stop "
                "them; of the agent they can read nothing. A range of uids as "
                "`runners.local-process.user` keeps them apart."
            )
        return (
            "Jobs as processes run as this agent's user, which is no security boundary: each can "
            "read this agent's key and state, the secrets of other jobs, and all that this user "
            "can read. Serve queues of people you trust, or set `runners.local-process.user`."
        )

    @property
    def uid_range(self) -> range:
        """The uids of which each job gets one; empty where `user` is a name."""
        found = _UID_RANGE.fullmatch(self.user or "")
        return range(int(found[1]), int(found[2]) + 1) if found else range(0)

    @model_validator(mode="after")
    def _range(self) -> Self:
        if _UID_RANGE.fullmatch(self.user or "") and not 0 < len(self.uid_range) <= _MAX_UIDS:
            message = f"`user`: a range has from 1 to {_MAX_UIDS} uids, the lowest first"
            raise ValueError(message)
        return self


class KubernetesRunnerConfig(Model):
    """The Kubernetes runner."""

    enabled: bool = False
    #: `None`: `KUBECONFIG`, else `~/.kube/config`.
    kubeconfig: UserPath | None = None
    #: `None`: the file's current one.
    context: str | None = None
    #: Credentials of the pod's own service account.
    in_cluster: bool = False
    #: Where jobs run. `None`: the context's.
    namespace: str | None = None
    #: Further namespaces, which queues' templates may name.
    namespaces: tuple[str, ...] = ()
    #: What manifests may set beyond the rules of docs/kubernetes-manifest.md: `key`,
    #: `key=value`, `path.to.*.key`.
    allow: tuple[str, ...] = ()
    #: Names of Secrets in that namespace with which all pods pull their images.
    pull_secrets: tuple[str, ...] = ()
    #: Without `pull_secrets`, nodes pull built images with the agent's login of their registry.
    share_login: bool = True
    #: This product's own image, by which pods fetch code into base images without a build. `None`:
    #: such jobs are built.
    code_image: str | None = None
    #: Kubernetes refuses to run a job as root, as namespaces with the restricted Pod Security
    #: Standard demand; images must name another user by its number.
    run_as_non_root: bool = False


class PendingTimeouts(Model):
    """How long a started job may wait for one thing; `None`: no limit."""

    #: SCHEDULE_NO_NODE.
    no_node: Duration | None = 86400.0
    #: SCHEDULE_QUOTA.
    quota: Duration | None = 86400.0
    #: SCHEDULE_SUSPENDED.
    suspended: Duration | None = None
    #: SCHEDULE_SETUP, and any other SCHEDULE_*.
    setup: Duration | None = 900.0
    #: SCHEDULE_VOLUME.
    volume: Duration | None = 900.0
    #: SCHEDULE_IMAGE.
    image: Duration | None = 3600.0
    #: SCHEDULE_INIT.
    init: Duration | None = 86400.0
    #: IMAGE_*: a registry fails, and may answer again.
    image_error: Duration | None = 300.0
    #: Any other error that may pass.
    error: Duration | None = 60.0

    @staticmethod
    def key(cause: Cause) -> str:
        """The key that limits a cause."""
        if cause in _PENDING_KEYS:
            return _PENDING_KEYS[cause]
        if cause in WAITING:
            return "setup"
        return "image_error" if cause.startswith("IMAGE_") else "error"

    def of(self, cause: Cause) -> float | None:
        """Seconds for a cause of `agent.ports.runner.Pending`."""
        seconds: float | None = getattr(self, self.key(cause))
        return seconds


_PENDING_KEYS: Final = {
    Cause.SCHEDULE_NO_NODE: "no_node",
    Cause.SCHEDULE_QUOTA: "quota",
    Cause.SCHEDULE_SUSPENDED: "suspended",
    Cause.SCHEDULE_VOLUME: "volume",
    Cause.SCHEDULE_IMAGE: "image",
    Cause.SCHEDULE_INIT: "init",
}


class RunnersConfig(Model):
    """All runners, by resource name."""

    local_container: Annotated[DockerRunnerConfig, Field(alias="local-container")] = (
        DockerRunnerConfig()
    )
    local_process: Annotated[ProcessRunnerConfig, Field(alias="local-process")] = (
        ProcessRunnerConfig()
    )
    kubernetes: KubernetesRunnerConfig = KubernetesRunnerConfig()


class MountConfig(ForQueues):
    """A folder of the host that queue templates may name."""

    source: UserPath
    #: Absolute, inside the job.
    target: Annotated[str, Field(pattern=r"^/"), WrittenForm("an absolute path")]
    read_only: bool = True


class JobSecret(ForQueues, SecretReference):
    """A secret that queue templates may name."""

    #: Environment variable in the job; or
    as_env: str | None = None
    #: file in the job, absolute.
    as_file: Annotated[str, Field(pattern=r"^/"), WrittenForm("an absolute path")] | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if (self.as_env is None) == (self.as_file is None):
            message = "give exactly one of `as_env` and `as_file`"
            raise ValueError(message)
        return self


class OfferedResources(Model):
    """What this machine gives to jobs; `auto` finds out."""

    cpus: Annotated[float, Field(gt=0)] | Literal["auto", "unlimited"] = "unlimited"
    memory: Size | Literal["auto", "unlimited"] = "auto"
    #: Device ids; `auto` asks nvidia-smi.
    gpus: tuple[str, ...] | Literal["auto"] = "auto"


class PruneRule(Model):
    """When something unused is removed; 0 means never by this measure."""

    max_age: Duration
    max_size: Size


class AgeRule(Model):
    """After which time something is removed; 0 means never."""

    max_age: Duration


class PruneConfig(Model):
    """The pruner: what the agent keeps, and how long."""

    interval: Duration = 600.0
    #: Git repositories.
    mirrors: PruneRule = PruneRule(max_age=30 * 86400.0, max_size=10 * 1024**3)
    #: Files of code artifacts.
    code: PruneRule = PruneRule(max_age=30 * 86400.0, max_size=10 * 1024**3)
    environments: PruneRule = PruneRule(max_age=14 * 86400.0, max_size=20 * 1024**3)
    images: PruneRule = PruneRule(max_age=14 * 86400.0, max_size=50 * 1024**3)
    build_cache: PruneRule = PruneRule(max_age=14 * 86400.0, max_size=20 * 1024**3)
    #: Journal entries of attempts that are over.
    journal: AgeRule = AgeRule(max_age=7 * 86400.0)
