"""BuildKit, through `docker buildx` as a child process: which one is used, and one build.

A command line has no secrets, since other processes can read it; the environment has them.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agent.builders.buildkit_output import ENGINE, BuildProgress, build_error, unreachable
from agent.builders.image import plan as names
from agent.builders.image.plan import Plan, launch_context
from agent.builders.uv import Indexes, uv_program
from agent.config.execution import BuilderConfig
from agent.docker.images import EngineImages
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, UnavailableError
from agent.model.redact import Redactor
from agent.ports.build_daemon import BuildDaemon
from agent.ports.log import LogSink
from agent.ports.registry import Credentials
from agent.system.child import Command, SilentError, Tail, run

#: Variables of the agent that the docker program and BuildKit's session need.
_INHERITED: Final = (
    "PATH", "HOME", "USER", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK",
    "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "DBUS_SESSION_BUS_ADDRESS",
)  # fmt: skip
#: What BuildKit may fetch, beside the Dockerfile.
_POLICY: Final = "policy.json"
_MAX_VARIABLE_BYTES: Final = 96 * 1024
#: Seconds without output of buildx while it looks at builders.
_IDLE_TIMEOUT: Final = 60.0
_PLATFORM: Final = re.compile(r"Platforms:\s*([a-z0-9]+/[a-z0-9]+)")


@dataclass(frozen=True, slots=True)
class BuildKitService:
    """The BuildKit in use; it does not affect the image."""

    #: For logs and an image's facts.
    title: str
    #: Name of buildx's builder.
    builder: str
    #: BuildKit pushes to the registry itself; the engine never has the image.
    pushes: bool
    #: Whether it can keep its cache in a registry.
    registry_cache: bool
    #: The default platform of builds; `None` for the engine's own.
    platform: str | None = None

    @property
    def subject(self) -> str:
        """The program that messages say does not answer."""
        return f"The {self.title}" if self.pushes else ENGINE


#: The engine pushes; the cache stays in it, since the docker driver exports none from this store.
CLASSIC: Final = BuildKitService(
    "the engine's BuildKit, classic store", "default", pushes=False, registry_cache=False
)
#: The engine pushes; the cache is kept in the registry, and local images have digests.
CONTAINERD: Final = BuildKitService(
    "the engine's BuildKit, containerd store", "default", False, True
)


@dataclass(frozen=True, slots=True)
class BuildRun:
    """Parameters of one build."""

    title: str
    plan: Plan
    tag: str
    labels: Mapping[str, str]
    #: Before the id of each cache mount.
    cache_namespace: str
    #: Id to value; passed in the environment.
    secrets: Mapping[str, str] = field(repr=False)
    #: Id to file.
    secret_files: Mapping[str, Path]
    proxies: Mapping[str, str] = field(repr=False)
    buildkit: BuildKitService = CLASSIC
    #: Reference that BuildKit itself pushes to; `None` leaves the image in the engine.
    pushed_as: str | None = None
    #: Reference of the cache in the registry.
    cache: str | None = None
    #: Login of the destination, for BuildKit.
    login: Credentials | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder of one run: our Dockerfile, our context, and what BuildKit reports."""

    folder: Path

    @property
    def metadata_file(self) -> Path:
        """Where BuildKit writes digests."""
        return self.folder / "metadata.json"

    @property
    def login_folder(self) -> Path:
        """Docker's configuration with the destination's login."""
        return self.folder / "docker"

    def digest(self) -> str | None:
        """The digest that BuildKit pushed. Blocks."""
        found = json.loads(self.metadata_file.read_text(encoding="utf-8"))
        digest = found.get("containerimage.digest")
        return str(digest) if digest else None


async def find_buildkit(
    images: EngineImages | None, config: BuilderConfig, env: Mapping[str, str]
) -> BuildKitService:
    """The configured `buildkitd`, else the engine's. `env` is the docker program's.

    Raises:
        UnavailableError: `BUILD_UNAVAILABLE`: the configured `buildkitd` does not answer.
        EngineUnavailableError: the engine does not answer.
    """
    if config.buildkit is not None:
        return await _remote(config.buildkit, config.buildkit_certs, env)
    if images is None:
        message = "There is neither a container engine nor a buildkitd to build images with."
        raise ConfigError(message, hint="Set `builder.buildkit`, or start the engine.")
    return CONTAINERD if await images.uses_containerd() else CLASSIC


@asynccontextmanager
async def connected(daemon: BuildDaemon, env: Mapping[str, str]) -> AsyncIterator[BuildKitService]:
    """A daemon that lives for one build, as a builder of buildx until the end.

    Raises:
        UnavailableError: `BUILD_UNAVAILABLE`: it does not answer.
    """
    service = await _remote(daemon.address, daemon.certificates, env, daemon.server_name)
    try:
        yield replace(service, title=daemon.title)
    finally:
        await _run_buildx(("docker", "buildx", "rm", "--force", service.builder), env)


@contextmanager
def workspace(cache: Path, plan: Plan, policy: Mapping[str, Any]) -> Iterator[Workspace]:
    """A folder for one run, removed afterwards. Blocks."""
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(prefix="build-", dir=cache))
    try:
        (folder / "Dockerfile").write_text(plan.text, encoding="utf-8")
        (folder / "Dockerfile.dockerignore").write_text(plan.ignore, encoding="utf-8")
        (folder / _POLICY).write_text(json.dumps(policy), encoding="utf-8")
        if plan.job_dockerfile is None:
            _write_launch_context(folder / names.LAUNCH_CONTEXT, plan)
        yield Workspace(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def certificates_folder(cache: Path) -> Iterator[Path]:
    """A folder for the certificates of one build, removed afterwards. Blocks."""
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as folder:
        yield Path(folder)


def _write_launch_context(folder: Path, plan: Plan) -> None:
    folder.mkdir()
    for name, text in launch_context(plan).items():
        (folder / name).write_text(text, encoding="utf-8")
    program = uv_program()
    try:
        (folder / "uv").hardlink_to(program)
    except OSError:  # another file system
        shutil.copy2(program, folder / "uv")


def arguments(work: Workspace, build: BuildRun, config: BuilderConfig) -> tuple[str, ...]:
    """The command line of a run."""
    plan = build.plan
    argv = [
        "docker", "buildx", "build",
        "--builder", build.buildkit.builder,
        "--progress", "plain",
        "--provenance", "false",
        "--metadata-file", str(work.metadata_file),
        "--network", config.network,
        *_output(build),
    ]  # fmt: skip
    if config.network == "host":
        argv += ["--allow", "network.host"]
    if config.platform is not None:
        argv += ["--platform", config.platform]
    for label, value in sorted(build.labels.items()):
        argv += ["--label", f"{label}={value}"]
    for index, name in enumerate(sorted(build.secrets)):
        argv += ["--secret", f"id={name},env={_variable(index)}"]
    for name, file in sorted(build.secret_files.items()):
        argv += ["--secret", f'id={name},"src={file}"']
    for name in sorted(build.proxies):
        argv += ["--build-arg", name]  # the value comes from the environment
    # Cache mounts of one entity, whatever their ids, are never those of another.
    argv += ["--build-arg", f"BUILDKIT_CACHE_MOUNT_NS={build.cache_namespace}"]
    if plan.job_dockerfile is None:
        argv += ["--build-context", f"{names.LAUNCH_CONTEXT}={work.folder / names.LAUNCH_CONTEXT}"]
    # The job's own Dockerfile as a copy, beside the ignore file that is in effect.
    return (*argv, "--file", str(work.folder / "Dockerfile"), str(plan.context))


def _output(build: BuildRun) -> list[str]:
    """Where the image goes, and where the cache is kept."""
    if build.pushed_as is not None:
        argv = ["--output", f"type=image,name={build.pushed_as},push=true"]
    else:
        argv = ["--tag", build.tag]
        # The engine's own builders keep the image in the engine; others need `--load` for that.
        argv += ["--load"] if build.buildkit.pushes else []
    if build.cache is not None:
        where = f"type=registry,ref={build.cache}"
        # A cache that cannot be written is reported in the log, and fails no build.
        argv += ["--cache-from", where, "--cache-to", f"{where},mode=max,ignore-error=true"]
    return argv


def docker_environment(
    host: str | None, cache: Path, environment: Mapping[str, str]
) -> dict[str, str]:
    """Environment of the docker program in every call."""
    kept = {name: environment[name] for name in _INHERITED if name in environment}
    return {
        **kept,
        **({"DOCKER_HOST": host} if host else {}),
        "BUILDX_CONFIG": str(buildx_folder(cache)),
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        "NO_COLOR": "1",
    }


def buildx_folder(cache: Path) -> Path:
    """Where buildx keeps the names of builders: apart from the user's own."""
    return cache / "buildx"


def run_environment(build: BuildRun, base: Mapping[str, str], work: Workspace) -> dict[str, str]:
    """Environment of one run: also proxies, secrets by number, the destination's login."""
    numbered = {
        _variable(index): build.secrets[name] for index, name in enumerate(sorted(build.secrets))
    }
    own = {} if build.login is None else {"DOCKER_CONFIG": str(work.login_folder)}
    policy = {"EXPERIMENTAL_BUILDKIT_SOURCE_POLICY": str(work.folder / _POLICY)}
    return {**base, **build.proxies, **numbered, **own, **policy}


async def run_build(
    argv: tuple[str, ...], env: Mapping[str, str], build: BuildRun, log: LogSink
) -> None:
    """Run it; its output goes to the log as it comes.

    Raises:
        JobError: see `buildkit_output.build_error`.
    """
    progress = BuildProgress()

    async def follow(data: bytes) -> None:
        progress.feed(data)
        await log.write(data)

    output = Tail()
    try:
        code = await run(Command(argv, env), output, follow)
    except FileNotFoundError:
        raise _no_buildx("the program `docker` is not installed") from None
    progress.finish()
    if code == 0:
        return
    if _lacks_buildx(progress):
        raise _no_buildx("its plugin buildx is not installed")
    if progress.error:
        raise build_error(build.title, build.plan, progress, build.buildkit.subject)
    text = " ".join(progress.rest.splitlines()[-3:]) or f"docker ended with exit code {code}"
    if "daemon" in text:
        raise unreachable(ENGINE, text)
    raise JobError(Cause.BUILD_FAILED, f"The image could not be built: {text}.")


def secret_sources(
    config: BuilderConfig, queue: str, found: Indexes, environment: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, Path]]:
    """Build secrets by value and by file: indexes, certificates, and those of the queue.

    Raises:
        ConfigError: a configured secret's variable or file does not exist.
    """
    values = {
        names.INDEX_URL: found.index_url or "",
        names.EXTRA_INDEX_URLS: found.extra_index_urls or "",
    }
    files: dict[str, Path] = {}
    if found.ca_bundle is not None and found.ca_bundle.is_file():
        files[names.CA_BUNDLE] = found.ca_bundle
    for name, secret in config.secrets.items():
        if not secret.is_for(queue):
            continue
        text = secret.read(environment).get_secret_value()
        if secret.file is not None and len(text) > _MAX_VARIABLE_BYTES:
            files[name] = secret.file
        else:
            values[name] = text
    return {name: value for name, value in values.items() if value}, files


def _no_buildx(what: str) -> JobError:
    return JobError(
        Cause.BUILD_UNAVAILABLE,
        f"Images cannot be built on the agent's machine: {what}.",
        hint="Install Docker's command line with buildx there, or submit a ready image.",
    )


def _lacks_buildx(progress: BuildProgress) -> bool:
    messages = (
        "is not a docker command",
        "unknown flag: --builder",
        "unknown command: docker buildx",
    )
    return not progress.error and any(message in progress.rest for message in messages)


def _variable(index: int) -> str:
    return f"LAUNCH_BUILD_SECRET_{index}"


async def _remote(
    address: str,
    certificates: Path | None,
    env: Mapping[str, str],
    server_name: str | None = None,
) -> BuildKitService:
    options: list[str] = []
    if certificates is not None:
        files = {"cacert": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
        pairs = [f"{key}={certificates / file}" for key, file in files.items()]
        pairs += [f"servername={server_name}"] if server_name else []
        options = ["--driver-opt", ",".join(pairs)]
    # The name depends on the address: another address never meets an older builder.
    digest = hashlib.sha256(" ".join([address, *options]).encode()).hexdigest()[:12]
    name = f"launch-{digest}"
    problem, platform = await _inspect(name, env)
    if problem is not None:
        create = ("docker", "buildx", "create", "--name", name, "--driver", "remote")
        await _run_buildx((*create, *options, address), env)
        problem, platform = await _inspect(name, env)
    if problem is not None:
        shown = Redactor().text(problem.rstrip("."))[:500]
        raise UnavailableError(
            Cause.BUILD_UNAVAILABLE,
            f"The buildkitd at {address} does not answer ({shown}).",
            hint="Start it, or correct `builder.buildkit` in the agent's configuration.",
        )
    return BuildKitService(f"buildkitd at {address}", name, True, True, platform)


async def _inspect(name: str, env: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Why a builder cannot be used, `None` when it can; and its first platform.

    Inspecting one that does not answer exits with 0, and only its text says so.
    """
    code, lines = await _run_buildx(("docker", "buildx", "inspect", name), env)
    states = [line.partition(":")[2].strip() for line in lines if line.startswith("Status:")]
    if code == 0 and "running" in states:
        found = (_PLATFORM.match(line) for line in lines)
        return None, next((match[1] for match in found if match), None)
    errors = [line for line in lines if line.lower().startswith("error:")]
    otherwise = f"it is {states[0]}" if states else " ".join(lines[-1:])
    return next(iter(errors), otherwise), None


async def _run_buildx(argv: tuple[str, ...], env: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run buildx; return its exit code and its lines."""
    output = Tail()
    try:
        code = await run(Command(argv, env, idle=_IDLE_TIMEOUT), output, output)
    except FileNotFoundError:
        return 127, ["the program `docker` is not installed"]
    except SilentError:
        return 1, [f"buildx wrote nothing for {_IDLE_TIMEOUT:g} s"]
    return code, [line.strip() for line in output.text.splitlines()]
