"""Image → Outcome: create, permit, start once, watch until it ended."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.model.outcome import Lost, Outcome, Stopped
from agent.model.phase import Phase
from agent.model.protocol import LeaseStatus
from agent.model.work import Image, Resolved, workload_labels
from agent.pipeline.cancellation import AttemptCancelledError, CancelReason, cancel_task
from agent.pipeline.dependencies import AttemptContext
from agent.pipeline.offers import Offered, offered
from agent.pipeline.outcome import outcome_of
from agent.pipeline.parameters import parameters_of
from agent.pipeline.resolve import arguments_of
from agent.pipeline.watch import Watch
from agent.ports.runner import AlreadyStartedError, RunRequest, Workload, WorkloadState

#: Seconds between looks at an engine that went away under a start.
_LOOK: Final = 1.0
#: Seconds for which a start whose answer was lost may still be on its way in the engine: it
#: takes tenths of one. A second start before then could run a job again that ended at once.
_ON_ITS_WAY: Final = 10.0


async def create(job: AttemptContext, resolved: Resolved, image: Image) -> Workload:
    """Create the workload, or adopt what an earlier try created.

    Raises:
        PolicyError: secrets, mounts or arguments that are not allowed.
        JobError: `START_FAILED`, `IMAGE_*`, `DISK_FULL`, `LOST_ENGINE`.
    """
    request = await _request(job, resolved, image)
    job.report.note(phase=Phase.PREPARING, activity="starting", facts=_facts(resolved, image))
    return await job.backend.runner.create(request)


async def permit_and_start(job: AttemptContext, workload: Workload) -> Workload | Outcome:
    """Obtain the one permit, then send the one start.

    An outcome instead of a workload when the item is to be stopped, or when nobody can say
    whether the start took place.

    Raises:
        AttemptCancelledError: fenced, or left while the permit was not answered.
        JobError: `START_*`, `DISK_FULL`.
    """
    # The intent may become durable while the permit is on its way: without a permit no
    # start is sent, so an intent without one claims too much and never too little.
    permit = asyncio.create_task(job.report.permit(), name=f"permit-{job.lease.item_id}")
    try:
        await job.dependencies.journal.start_intended(job.lease)
        answer = await permit
    finally:
        if not permit.done():
            await cancel_task(permit)
    if answer is LeaseStatus.FENCED:
        job.cancellation.send(CancelReason.FENCED)
        raise AttemptCancelledError(CancelReason.FENCED)
    if answer is LeaseStatus.STOP or job.cancellation.strongest(frozenset({CancelReason.STOP})):
        return Stopped("stopped on request before it started")
    started = await _start_once(job, workload)
    if isinstance(started, Workload):
        job.dependencies.journal.started(job.lease)
    return started


async def watch(job: AttemptContext, workload: Workload, *, log_shift: int = 0) -> Outcome:
    """Follow a started workload to its end.

    Raises:
        AttemptCancelledError: detached or fenced; the workload goes on.
    """
    runner, timeout = job.backend.runner, job.claim.spec.timeout
    job.report.note(phase=Phase.STARTED, activity="running", facts={"workload": workload.name})
    job.report.follow(runner).begin(workload, log_shift)
    watching = Watch(
        runner, workload, job.cancellation, job.dependencies.limits, job.dependencies.sleep
    )
    try:
        ending, why = await watching.until_ended(_remaining(workload, timeout))
    finally:
        # Whatever happens from here on, the machine has room for the next job.
        job.free()
    return outcome_of(ending, why, timeout)


async def _start_once(job: AttemptContext, workload: Workload) -> Workload | Outcome:
    # A start that was sent cannot be called back; cutting our end of it would only hide
    # what it did. So it runs to its end, whoever cancels.
    starting = asyncio.ensure_future(job.backend.runner.start(workload))
    try:
        return await asyncio.shield(starting)
    except AlreadyStartedError:
        return await _inspect(job)
    except JobError as error:
        if error.cause is not Cause.LOST_ENGINE:
            raise
        return await _after_lost_start(job, workload, error)
    except asyncio.CancelledError:
        await asyncio.wait({starting}, timeout=job.dependencies.limits.engine)
        await cancel_task(starting)
        raise


async def _inspect(job: AttemptContext) -> Workload | Outcome:
    found = await job.backend.runner.find(job.name)
    return found or Lost(Cause.LOST_WORKLOAD, f"{job.name} was started and has vanished")


async def _after_lost_start(
    job: AttemptContext, workload: Workload, error: JobError
) -> Workload | Outcome:
    """The engine went away under a start: look what became of it before anything else."""
    structlog.get_logger().warning("the engine went away under a start; looking", error=str(error))
    waited, unstarted = 0.0, 0.0
    while waited < job.dependencies.limits.engine:
        try:
            found = await job.backend.runner.find(job.name)
        except JobError:
            found = None
        else:
            if found is None or found.state is not WorkloadState.CREATED:
                return found or Lost(Cause.LOST_ENGINE, str(error))
            if unstarted >= _ON_ITS_WAY:
                return await job.backend.runner.start(workload)
        await job.dependencies.sleep(_LOOK)
        waited += _LOOK
        unstarted = unstarted + _LOOK if found is not None else 0.0
    return Lost(Cause.LOST_ENGINE, f"{error} It may have been started.")


async def _request(job: AttemptContext, resolved: Resolved, image: Image) -> RunRequest:
    every = await job.dependencies.in_thread(_offer, job)
    return run_request(resolved, image, every, job.name, job.dependencies.control_plane_id)


def _offer(job: AttemptContext) -> Offered:
    """The administrator's offers and the job's parameters together. Blocks."""
    dependencies, claim = job.dependencies, job.claim
    offer = offered(claim, dependencies.secrets, dependencies.mounts, job.folder)
    parameters = parameters_of(claim, job.folder, containers=job.backend.images is not None)
    return Offered(parameters.environment | offer.environment, parameters.mounts + offer.mounts)


def run_request(
    resolved: Resolved, image: Image, offer: Offered, name: str, control_plane_id: str
) -> RunRequest:
    """All that a runner needs to create the workload. Pure.

    Raises:
        PolicyError: see `arguments_of`.
    """
    claim, tree = resolved.claim, resolved.tree
    arguments = arguments_of(claim, {"image_uri": resolved.image or image.reference})
    return RunRequest(
        lease=claim.lease,
        name=name,
        labels=workload_labels(control_plane_id, claim.lease),
        image=image,
        command=resolved.command,
        args=resolved.args,
        environment=resolved.environment | offer.environment,
        arguments=arguments,
        allocation=claim.allocation,
        workdir=None if tree is None else tree.root / resolved.build_context,
        mounts=offer.mounts,
    )


def _facts(resolved: Resolved, image: Image) -> dict[str, Any]:
    return {
        **resolved.facts,
        "image": image.reference,
        "image_name": image.name or image.reference,
        "image_pinned_by": image.pinned_by,
        "image_reused": image.reused,
        **({"image_built_by": image.built_by} if image.built_by else {}),
    }


def _remaining(workload: Workload, timeout: float | None) -> float | None:
    """Seconds to the deadline; an adopted job has used up some of it."""
    if timeout is None or workload.started_at is None:
        return timeout
    ran = (datetime.now(UTC) - workload.started_at).total_seconds()
    return max(0.0, timeout - max(0.0, ran))
