"""Claim → Resolved: the source pinned, the command known, the arguments allowed."""

from pathlib import Path
from typing import Any

from agent.model.cause import Cause
from agent.model.errors import PolicyError
from agent.model.spec import CodeSource, GitSource, ImageSource, Json, LaunchSpec
from agent.model.work import Claim, Resolved, SourceTree
from agent.pipeline.environment import environment_of
from agent.pipeline.equipment import Equipment, Lane
from agent.pipeline.layout import Layout, layout_of
from agent.pipeline.macros import expand, macros_of
from agent.pipeline.offers import MOUNTS, SECRETS, named
from agent.ports.log import LogSink, say

#: Keys of resource arguments that are ours, not the runner's.
_OURS = frozenset({SECRETS, MOUNTS, "builder"})


async def resolve(
    claim: Claim, lane: Lane, equipment: Equipment, folder: Path, log: LogSink
) -> Resolved:
    """Look everything up; `folder` is the attempt's own and exists.

    Raises:
        PolicyError: the administrator's rules, or the description itself, forbid it.
        JobError: `SOURCE_*`, `START_ENTRYPOINT`.
    """
    command = checked_command(claim.spec)
    named(claim, SECRETS)
    named(claim, MOUNTS)
    lane.runner.check(arguments_of(claim, {}))
    match claim.spec.effective_source():
        case None:
            message = "The spec names no source: neither code, nor a repository, nor an image."
            raise PolicyError(Cause.POLICY_SPEC, message)
        case ImageSource(image=image):
            return _ready_image(claim, lane, image, command)
        case GitSource() as source:
            await say(log, f"fetching {source.url} at {source.ref or 'its default branch'}")
            into = await _empty(equipment, folder)
            tree = await equipment.sources.git.fetch(source, claim.entity, into, log)
        case CodeSource() as source:
            into = await _empty(equipment, folder)
            tree = await equipment.sources.code.fetch(source, claim.entity, into, log)
    containers = lane.images is not None
    layout = await equipment.in_thread(layout_of, tree.root, claim.spec, containers=containers)
    return _from_source(claim, lane, tree, layout)


def arguments_of(claim: Claim, more_macros: dict[str, str]) -> Json:
    """The runner's own arguments, macros expanded."""
    given = claim.spec.args_for(claim.resource)
    kept = {key: value for key, value in given.items() if key not in _OURS}
    expanded: Json = expand(kept, macros_of(claim) | more_macros)
    return expanded


def checked_command(spec: LaunchSpec) -> tuple[str, ...]:
    """The entry point, word by word; empty means the image's own.

    Raises:
        PolicyError: `POLICY_SPEC`: a word that no program can be started with.
    """
    command = tuple(spec.overrides.entry_point)
    if command and not command[0].strip():
        raise PolicyError(Cause.POLICY_SPEC, "The entry point's first word is empty.")
    for word in (*command, *spec.overrides.args):
        if "\0" in word:
            message = f"The command holds a NUL byte in {word!r}."
            raise PolicyError(Cause.POLICY_SPEC, message)
    return command


def _ready_image(claim: Claim, lane: Lane, image: str, command: tuple[str, ...]) -> Resolved:
    if lane.images is None:
        message = f"{claim.resource} runs no container images, and the job brings {image}."
        hint = "Put it on a queue whose resource is local-container."
        raise PolicyError(Cause.POLICY_SPEC, message, hint=hint)
    return Resolved(
        claim=claim,
        tree=None,
        image=image,
        command=command,
        args=tuple(claim.spec.overrides.args),
        build_context=".",
        dockerfile=None,
        base_image=None,
        python=None,
        environment=environment_of(claim, lane.job_url, image),
        facts={"source": image},
    )


def _from_source(claim: Claim, lane: Lane, tree: SourceTree, layout: Layout) -> Resolved:
    if not layout.command and layout.dockerfile is None:
        message = "The job has neither an entry point nor a Dockerfile."
        raise PolicyError(Cause.POLICY_SPEC, message, hint="Submit with --entry-point.")
    facts = {"source": tree.identity}
    if tree.commit:
        facts["commit"] = tree.commit
    build = claim.spec.build
    return Resolved(
        claim=claim,
        tree=tree,
        image=None,
        command=layout.command,
        args=tuple(claim.spec.overrides.args),
        build_context=layout.context,
        dockerfile=layout.dockerfile,
        base_image=build.base_image or _base_image(claim),
        python=build.python,
        environment=environment_of(claim, lane.job_url, None),
        facts=facts,
    )


def _base_image(claim: Claim) -> str | None:
    """W&B's `resource_args.<resource>.builder`: an accelerator's or a base image."""
    builder: Any = claim.spec.args_for(claim.resource).get("builder")
    if not isinstance(builder, dict):
        return None
    for key in ("accelerator", "cuda"):
        nested = builder.get(key)
        if isinstance(nested, dict) and isinstance(nested.get("base_image"), str):
            return str(nested["base_image"])
    base = builder.get("base_image")
    return base if isinstance(base, str) else None


async def _empty(equipment: Equipment, folder: Path) -> Path:
    into = folder / "source"
    await equipment.in_thread(into.mkdir, parents=True)
    return into
