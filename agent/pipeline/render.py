"""What a submission would become, without starting anything: the same steps as a real run.

Source, Dockerfile, container and environment come from the functions that the run itself
calls; only what needs the engine (digests) or the control plane (ids, tokens) is left open.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from agent.builders.docker.plan import Plan, make_plan
from agent.config.execution import BuilderConfig, DockerRunnerConfig
from agent.model.spec import Json
from agent.model.work import Claim, Image, Resolved
from agent.pipeline.build import build_request
from agent.pipeline.dependencies import Backend, ResolveDependencies
from agent.pipeline.masking import masked, masked_value
from agent.pipeline.offers import MOUNTS, SECRETS, Offered, named
from agent.pipeline.parameters import parameters_of
from agent.pipeline.provenance import Setting, settings_of
from agent.pipeline.resolve import base_image_of, resolve
from agent.pipeline.run import run_request
from agent.ports.log import LogSink
from agent.ports.runner import RunRequest
from agent.runners.docker.arguments import allowance, read_options
from agent.runners.docker.body import Surroundings, container_body

#: Stands for what only a real run knows.
OPEN: Final = "(known at launch)"


@dataclass(frozen=True, slots=True)
class Rules:
    """The agent's configuration, as far as it shapes a job."""

    builder: BuilderConfig
    docker: DockerRunnerConfig


@dataclass(frozen=True, slots=True)
class Rendering:
    """Everything to be shown; secrets are masked."""

    #: Fetched source: commit, digest, job.
    facts: dict[str, str]
    #: Text of the Dockerfile; `None` where no image is built.
    dockerfile: str | None
    #: Its path in the build context; `None` when it is generated.
    own_dockerfile: str | None
    #: File that the packages come from.
    requirements: str | None
    #: Body of the engine's `create`; `None` for processes.
    container: Json | None
    #: Command and folder of a process; `None` for containers.
    process: Json | None
    environment: dict[str, str]
    settings: tuple[Setting, ...] = field(default=())


async def render(
    claim: Claim,
    backend: Backend,
    bench: ResolveDependencies,
    folder: Path,
    rules: Rules,
    log: LogSink,
) -> Rendering:
    """Look everything up below `folder`, which is the caller's to remove.

    Raises:
        LaunchError: what would refuse the run, in the same words.
    """
    resolved = await resolve(claim, backend, bench, folder, log)
    containers = backend.images is not None
    plan: Plan | None = None
    if containers and resolved.tree is not None:
        plan = await bench.in_thread(make_plan, build_request(resolved), rules.builder)
    offer = await bench.in_thread(_offer, resolved.claim, folder, containers=containers)
    image = Image(resolved.image or OPEN, "", reused=False)
    request = run_request(resolved, image, offer, OPEN, OPEN)
    environment = masked(request.environment)
    body = _container(request, rules.docker, environment) if containers else None
    return Rendering(
        facts=resolved.facts,
        dockerfile=None if plan is None else plan.text,
        own_dockerfile=None if plan is None else plan.shown_dockerfile,
        requirements=_requirements(plan),
        container=body,
        process=None if containers else _process(request, resolved),
        environment=environment,
        settings=settings_of(resolved.claim) + _decided(resolved, plan, rules),
    )


def _offer(claim: Claim, folder: Path, *, containers: bool) -> Offered:
    """The parameters' file; the administrator's secrets and mounts stay where they are."""
    parameters = parameters_of(claim, folder, containers=containers)
    if not containers:
        return Offered(dict.fromkeys(parameters.environment, OPEN))
    mounts = tuple(replace(mount, source=Path(OPEN)) for mount in parameters.mounts)
    return Offered(parameters.environment, mounts)


def _container(request: RunRequest, config: DockerRunnerConfig, shown: dict[str, str]) -> Json:
    options = read_options(request.arguments, allowance(config.allow))
    mode = "host" if config.host_network else config.network
    body: dict[str, Any] = container_body(request, options, Surroundings(config, mode, None))
    pairs = (pair.partition("=") for pair in body["Env"])
    values = {name: value for name, _, value in pairs}
    body["Env"] = [f"{name}={value}" for name, value in (masked(values) | shown).items()]
    return body


def _process(request: RunRequest, resolved: Resolved) -> Json:
    return {
        "argv": [*request.command, *request.args],
        "folder": resolved.build_context,
        "arguments": masked_value(request.arguments),
    }


def _requirements(plan: Plan | None) -> str | None:
    generated = None if plan is None else plan.generated
    found = None if generated is None else generated.requirements
    return None if found is None else found.found_in


def _decided(resolved: Resolved, plan: Plan | None, rules: Rules) -> tuple[Setting, ...]:
    """What nobody wrote, and somebody decided."""
    decided = [
        Setting(f"{kind}.{name}", "(from the agent's configuration)", "queue")
        for kind in (SECRETS, MOUNTS)
        for name in named(resolved.claim, kind)
    ]
    if plan is None:
        return tuple(decided)
    if plan.generated is not None:
        decided.append(Setting("base image", plan.bases[0], _who_chose(resolved, rules.builder)))
    if resolved.python and not resolved.claim.spec.build.python:
        decided.append(Setting("python", resolved.python, "source"))
    user = resolved.claim.spec.docker.user_id
    if user is None and plan.generated is not None:
        decided.append(Setting("user id", build_request(resolved).user_id, "agent"))
    shown = plan.shown_dockerfile
    decided.append(Setting("Dockerfile", shown or "generated", "source" if shown else "agent"))
    decided.append(Setting("build context", resolved.build_context, "source"))
    return tuple(decided)


def _who_chose(resolved: Resolved, config: BuilderConfig) -> str:
    origin = base_image_of(resolved.claim).origin
    if origin:
        return next((s.layer for s in settings_of(resolved.claim) if s.path == origin), "agent")
    configured = config.base_image or config.accelerator
    return "agent" if configured else "runtime"
