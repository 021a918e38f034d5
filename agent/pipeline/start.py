"""Image → workload: create, obtain the permit, start once. `watch.py` follows it to its end."""

import asyncio
from pathlib import Path
from typing import Any, assert_never

from agent.model.phase import Lost, Outcome, Phase, Stopped
from agent.model.protocol import LeaseStatus
from agent.model.work import Claim, Image, Resolved, workload_labels
from agent.pipeline.cancellation import WHILE_REPORTING, AttemptCancelledError, CancelReason
from agent.pipeline.dependencies import AttemptContext
from agent.pipeline.job_variables import Injected, injected_into
from agent.pipeline.resolve import arguments_of, services_of, template_of
from agent.ports.runner import (
    NeverStarted,
    RunRequest,
    Started,
    StartResult,
    StartUnknown,
    Workload,
)
from agent.system.tasks import cancel_task


async def create(context: AttemptContext, resolved: Resolved, image: Image) -> Workload:
    """Create the workload, or adopt what an earlier call created.

    Raises:
        PolicyError: secrets, mounts or arguments that are not allowed.
        JobError: `START_FAILED`, `IMAGE_*`, `DISK_FULL`, `LOST_ENGINE`.
    """
    dependencies, claim = context.dependencies, context.claim
    injected = await dependencies.run_blocking(
        injected_into, claim, dependencies.secrets, dependencies.mounts
    )
    for value in injected.secrets:
        context.report.redactor.add(value)
    request = run_request(
        resolved, image, injected,
        name=context.name, control_plane_id=dependencies.control_plane_id, folder=context.folder,
    )  # fmt: skip
    context.report.note(phase=Phase.PREPARING, activity="starting", facts=_facts(resolved, image))
    creating = context.backend.runner.create(request)
    if not request.services:
        return await creating
    # Until they are ready may take minutes.
    context.report.note(activity="waiting for side services")
    return await context.cancellation.guard(creating)


async def permit_and_start(context: AttemptContext, workload: Workload) -> Workload | Outcome:
    """Obtain the one permit, then make the one start.

    An outcome instead of a workload when the item is to be stopped, or when nobody can say
    whether the start took place.

    Raises:
        AttemptCancelledError: fenced, or detached while the permit was not answered.
        LaunchError: it did not start: `START_*`, `DISK_FULL`.
    """
    status = await context.report.permit()
    if status is LeaseStatus.FENCED:
        context.cancellation.send(CancelReason.FENCED)
        raise AttemptCancelledError(CancelReason.FENCED)
    if status is LeaseStatus.STOP or context.cancellation.strongest(frozenset({CancelReason.STOP})):
        return Stopped("stopped on request before it started")
    # After the permit and before the request: a process that dies before this note has sent
    # nothing, and one that dies after it may have.
    await context.dependencies.journal.start_sent(context.lease)
    return _settled(await _start(context, workload))


async def settle(context: AttemptContext, workload: Workload) -> Workload | Outcome:
    """Find out whether a start that an earlier process may have sent took effect.

    Raises:
        AttemptCancelledError: detached or fenced.
        LaunchError: as `permit_and_start`.
    """
    settling = context.backend.runner.settle(workload)
    return _settled(await context.cancellation.guard(settling, WHILE_REPORTING))


def _settled(result: StartResult) -> Workload | Outcome:
    match result:
        case Started(workload=started):
            return started
        case NeverStarted(error=error):
            raise error
        case StartUnknown(cause=cause, message=message):
            return Lost(cause, message)
        case never:
            assert_never(never)


async def _start(context: AttemptContext, workload: Workload) -> StartResult:
    # A start that was sent cannot be called back; cancelling the call would only hide what it
    # did. Cancellation must not interrupt it.
    starting = asyncio.ensure_future(context.backend.runner.start(workload))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait({starting}, timeout=context.dependencies.limits.engine)
        await cancel_task(starting)
        raise


def run_request(
    resolved: Resolved,
    image: Image,
    injected: Injected,
    *,
    name: str,
    control_plane_id: str,
    folder: Path,
    workdir: Path | None = None,
) -> RunRequest:
    """All that a runner needs to create the workload.

    `workdir` defaults to the build context of the fetched source.
    """
    claim, tree = resolved.claim, resolved.tree
    if workdir is None and tree is not None:
        workdir = tree.root / resolved.build_context
    reference = resolved.image or image.reference
    return RunRequest(
        lease=claim.lease,
        name=name,
        labels=workload_labels(control_plane_id, claim.lease),
        image=image,
        command=resolved.command,
        args=resolved.args,
        environment=resolved.environment | injected.environment,
        arguments=arguments_of(claim, reference),
        template=template_of(claim, reference),
        demand=claim.spec.demand(claim.resource),
        brings_image=resolved.image is not None and resolved.mounted_code is None,
        command_overrides=_is_overridden(claim),
        services=services_of(claim, reference),
        mounted_code=resolved.mounted_code,
        allocation=claim.allocation,
        folder=folder,
        workdir=workdir,
        files=injected.files,
        file_variables=injected.file_variables,
        mounts=injected.mounts,
    )


def _is_overridden(claim: Claim) -> bool:
    layers = (claim.layers.get(name) or {} for name in ("queue", "submitter"))
    return any((layer.get("overrides") or {}).get("entry_point") for layer in layers)


def _facts(resolved: Resolved, image: Image) -> dict[str, Any]:
    return {
        **resolved.facts,
        "image": image.reference,
        "image_name": image.name or image.reference,
        "image_pinned_by": image.pinned_by,
        "image_reused": image.reused,
        **({"image_built_by": image.built_by} if image.built_by else {}),
    }
