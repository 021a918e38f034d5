"""What this machine can build with: probed once, the best is used.

1. A `buildkitd` of the administrator's own (`builder.buildkit`): pushes by itself, and keeps
   its cache in the registry.
2. The engine's BuildKit over its containerd image store: the engine pushes, the cache is kept
   in the registry, and local images have digests.
3. The engine's BuildKit over its classic store: the engine pushes; the cache stays here, for
   the docker driver exports none from this store.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.config.execution import BuilderConfig
from agent.docker.images import EngineImages
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.redact import Redactor
from agent.system.child import Command, SilentError, Tail, run

#: Seconds without a word from buildx.
_PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to build; all images come out the same."""

    #: For logs and an image's facts.
    words: str
    #: Name of buildx's builder.
    builder: str
    #: Whether BuildKit pushes by itself, past the engine.
    pushes: bool
    #: Whether it can keep its cache in a registry.
    registry_cache: bool


CLASSIC: Final = Rung("the engine's BuildKit, classic store", "default", False, False)
CONTAINERD: Final = Rung("the engine's BuildKit, containerd store", "default", False, True)


async def probe(images: EngineImages, config: BuilderConfig, env: Mapping[str, str]) -> Rung:
    """The best that there is. `env` is the docker program's.

    Raises:
        JobError: `BUILD_UNAVAILABLE`: the configured `buildkitd` does not answer.
        EngineUnavailableError: the engine does not answer.
    """
    if config.buildkit is not None:
        return await _remote(config.buildkit, config.buildkit_certs, env)
    return CONTAINERD if await images.uses_containerd() else CLASSIC


def buildx_folder(cache: Path) -> Path:
    """Where buildx keeps the names of builders: apart from the user's own."""
    return cache / "buildx"


async def _remote(address: str, certificates: Path | None, env: Mapping[str, str]) -> Rung:
    options: list[str] = []
    if certificates is not None:
        files = {"cacert": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
        words = [f"{key}={certificates / file}" for key, file in files.items()]
        options = ["--driver-opt", ",".join(words)]
    # The name holds the address: another address never meets an older builder.
    digest = hashlib.sha256(" ".join([address, *options]).encode()).hexdigest()[:12]
    name = f"launch-{digest}"
    complaint = await _complaint(name, env)
    if complaint is not None:
        create = ("docker", "buildx", "create", "--name", name, "--driver", "remote")
        await _run((*create, *options, address), env)
        complaint = await _complaint(name, env)
    if complaint is not None:
        raise _no_buildkit(address, complaint)
    return Rung(f"buildkitd at {address}", name, True, True)


async def _complaint(name: str, env: Mapping[str, str]) -> str | None:
    """Why a builder cannot be used; `None` when it answers.

    Inspecting one that does not answer ends well, and says so only in words.
    """
    code, lines = await _run(("docker", "buildx", "inspect", name), env)
    states = [line.partition(":")[2].strip() for line in lines if line.startswith("Status:")]
    if code == 0 and "running" in states:
        return None
    said = [line for line in lines if line.lower().startswith("error:")]
    return next(iter(said), f"it is {states[0]}" if states else " ".join(lines[-1:]))


async def _run(argv: tuple[str, ...], env: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run buildx; give its exit code and its lines."""
    output = Tail()
    try:
        code = await run(Command(argv, env, idle=_PATIENCE), output, output)
    except FileNotFoundError:
        return 127, ["the program `docker` is not installed"]
    except SilentError:
        return 1, [f"buildx said nothing for {_PATIENCE:g} s"]
    return code, [line.strip() for line in output.text.splitlines()]


def _no_buildkit(address: str, why: str) -> JobError:
    return JobError(
        Cause.BUILD_UNAVAILABLE,
        f"The buildkitd at {address} does not answer ({Redactor().text(why.rstrip('.'))[:500]}).",
        hint="Start it, or mend `builder.buildkit` in the agent's configuration.",
    )
