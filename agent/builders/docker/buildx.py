"""One run of `docker buildx build`: argv without secrets, environment with them."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.builders.docker import dockerfile as names
from agent.builders.docker.failures import Attempt, build_error, engine_away
from agent.builders.docker.ladder import CLASSIC, Rung, buildx_folder
from agent.builders.docker.plan import Generated, Plan, launch_context
from agent.builders.docker.progress import BuildProgress
from agent.builders.uv import Indexes, uv_program
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.ports.log import LogSink
from agent.ports.registry import Credentials
from agent.system.child import Command, Tail, run

#: Variables of the agent that the docker program and BuildKit's session need.
_INHERITED: Final = (
    "PATH", "HOME", "USER", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK",
    "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "DBUS_SESSION_BUS_ADDRESS",
)  # fmt: skip
_LONGEST_VARIABLE: Final = 96 * 1024


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder of one build: our Dockerfile, our context, what BuildKit answers."""

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


@dataclass(frozen=True, slots=True)
class Invocation:
    """All of one run."""

    plan: Plan
    tag: str
    labels: Mapping[str, str]
    #: Id to value; travel in the environment.
    secrets: Mapping[str, str] = field(repr=False)
    #: Id to file.
    secret_files: Mapping[str, Path]
    proxies: Mapping[str, str] = field(repr=False)
    rung: Rung = CLASSIC
    #: Reference that BuildKit itself pushes to; `None` leaves the image in the engine.
    pushed_as: str | None = None
    #: Reference of the cache in the registry.
    cache: str | None = None
    #: Login of the destination, for BuildKit.
    login: Credentials | None = field(default=None, repr=False)


@contextmanager
def workspace(cache: Path, plan: Plan) -> Iterator[Workspace]:
    """A folder for one build, gone afterwards. Blocks."""
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(prefix="build-", dir=cache))
    try:
        (folder / "Dockerfile").write_text(plan.text, encoding="utf-8")
        (folder / "Dockerfile.dockerignore").write_text(plan.ignore, encoding="utf-8")
        if plan.generated is not None:
            _write_generated(folder, plan.generated)
        yield Workspace(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_generated(folder: Path, generated: Generated) -> None:
    context = folder / names.CONTEXT
    context.mkdir()
    for name, text in launch_context(generated).items():
        (context / name).write_text(text, encoding="utf-8")
    program = uv_program()
    try:
        (context / "uv").hardlink_to(program)
    except OSError:  # another file system
        shutil.copy2(program, context / "uv")


def arguments(work: Workspace, invocation: Invocation, config: BuilderConfig) -> tuple[str, ...]:
    """The command line; whoever lists processes may read it."""
    plan = invocation.plan
    argv = [
        "docker", "buildx", "build",
        "--builder", invocation.rung.builder,
        "--progress", "plain",
        "--provenance", "false",
        "--metadata-file", str(work.metadata_file),
        "--network", config.network,
        *_output(invocation),
    ]  # fmt: skip
    if config.network == "host":
        argv += ["--allow", "network.host"]
    if config.platform is not None:
        argv += ["--platform", config.platform]
    for label, value in sorted(invocation.labels.items()):
        argv += ["--label", f"{label}={value}"]
    for index, name in enumerate(sorted(invocation.secrets)):
        argv += ["--secret", f"id={name},env={_variable(index)}"]
    for name, file in sorted(invocation.secret_files.items()):
        argv += ["--secret", f'id={name},"src={file}"']
    for name in sorted(invocation.proxies):
        argv += ["--build-arg", name]  # the value comes from the environment
    if plan.generated is not None:
        argv += ["--build-context", f"{names.CONTEXT}={work.folder / names.CONTEXT}"]
    # The job's own Dockerfile as a copy, beside the rules of what may be sent.
    return (*argv, "--file", str(work.folder / "Dockerfile"), str(plan.context))


def _output(invocation: Invocation) -> list[str]:
    """Where the image goes, and where the cache is kept."""
    if invocation.pushed_as is not None:
        argv = ["--output", f"type=image,name={invocation.pushed_as},push=true"]
    else:
        argv = ["--tag", invocation.tag]
        # The engine's own builders leave the image in it, all others must be told to.
        argv += ["--load"] if invocation.rung.pushes else []
    if invocation.cache is not None:
        where = f"type=registry,ref={invocation.cache}"
        # A cache that cannot be written is told in the log; the image counts.
        argv += ["--cache-from", where, "--cache-to", f"{where},mode=max,ignore-error=true"]
    return argv


def docker_environment(host: str, cache: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What the docker program sees in every call."""
    kept = {name: environment[name] for name in _INHERITED if name in environment}
    return {
        **kept,
        "DOCKER_HOST": host,
        "BUILDX_CONFIG": str(buildx_folder(cache)),
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        "NO_COLOR": "1",
    }


def child_environment(
    invocation: Invocation, base: Mapping[str, str], work: Workspace
) -> dict[str, str]:
    """What one build sees besides: proxies, secrets by number, the destination's login."""
    numbered = {
        _variable(index): invocation.secrets[name]
        for index, name in enumerate(sorted(invocation.secrets))
    }
    own = {} if invocation.login is None else {"DOCKER_CONFIG": str(work.login_folder)}
    return {**base, **invocation.proxies, **numbered, **own}


async def build(
    argv: tuple[str, ...], env: Mapping[str, str], attempt: Attempt, log: LogSink
) -> None:
    """Run it, with its output in the log while it works.

    Raises:
        JobError: see `agent.builders.docker.failures`.
    """
    progress = BuildProgress()

    async def follow(data: bytes) -> None:
        progress.feed(data)
        await log.write(data)

    output = Tail()
    try:
        code = await run(Command(argv, env), output, follow)
    except FileNotFoundError:
        raise no_buildx("the program `docker` is not installed") from None
    progress.finish()
    if code != 0 and _lacks_buildx(progress):
        raise no_buildx("its plugin buildx is not installed")
    if code != 0:
        raise build_error(attempt, progress) if progress.error else _unexplained(code, progress)


def secret_sources(
    config: BuilderConfig, found: Indexes, environment: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, Path]]:
    """Build secrets by value and by file: indexes, certificates, and the administrator's.

    Raises:
        ConfigError: a configured secret's variable or file is not there.
    """
    values = {
        names.INDEX_URL: found.index_url or "",
        names.EXTRA_INDEX_URLS: found.extra_index_urls or "",
    }
    files: dict[str, Path] = {}
    if found.ca_bundle is not None and found.ca_bundle.is_file():
        files[names.CA_BUNDLE] = found.ca_bundle
    for name, secret in config.secrets.items():
        text = secret.read(environment).get_secret_value()
        if secret.file is not None and len(text) > _LONGEST_VARIABLE:
            files[name] = secret.file
        else:
            values[name] = text
    return {name: value for name, value in values.items() if value}, files


def no_buildx(what: str) -> JobError:
    """There is an engine, and nothing to build with."""
    return JobError(
        Cause.BUILD_UNAVAILABLE,
        f"Images cannot be built on the agent's machine: {what}.",
        hint="Install Docker's command line with buildx there, or submit a ready image.",
    )


def _lacks_buildx(progress: BuildProgress) -> bool:
    telling = (
        "is not a docker command",
        "unknown flag: --builder",
        "unknown command: docker buildx",
    )
    return not progress.error and any(words in progress.rest for words in telling)


def _unexplained(code: int, progress: BuildProgress) -> JobError:
    words = progress.rest.splitlines()[-3:]
    text = " ".join(words) or f"docker ended with exit code {code}"
    if "daemon" in text:
        return engine_away(text)
    return JobError(Cause.BUILD_FAILED, f"The image could not be built: {text}.")


def _variable(index: int) -> str:
    return f"LAUNCH_BUILD_SECRET_{index}"
