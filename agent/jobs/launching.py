"""`launch submit`, past its flags: make or find the job, write the spec, push the item."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from agent.jobs.author import Wishes, author
from agent.jobs.variables import typed_variables
from agent.remote.console import Console

if TYPE_CHECKING:
    from agent.jobs.new_job import Made

Json = dict[str, Any]

#: Made on demand by the control plane.
_ON_DEMAND: Final = "default"


@dataclass(frozen=True, slots=True)
class Launch:
    """One submission."""

    queue: str
    wishes: Wishes
    variables: Mapping[str, str]
    #: `priority`, `idempotencyKey`.
    options: Mapping[str, Any]
    #: For a source that is no job yet: makes the job in this entity.
    make_job: "Callable[[str], Awaitable[Made]] | None" = None


async def launch(console: Console, asked: Launch, told: "Callable[[Made], None]") -> Json:
    """Put one run on a queue and return its item; `told` hears of a job that was made.

    Queue, template variables and job are looked at before anything is queued, and queue and
    variables before a job is made.

    Raises:
        InvalidInputError: the wishes, a file of the source, a template variable.
        NotFoundError: the queue, a variable or the job; near misses are offered.
    """
    wishes = asked.wishes
    given = {key: value for key, value in asked.options.items() if value is not None}
    if asked.variables:
        given["templateVariables"] = await typed_variables(console, asked.queue, asked.variables)
    elif asked.make_job is not None and asked.queue != _ON_DEMAND:
        await console.queue(asked.queue)
    if asked.make_job is not None:
        made = await asked.make_job(await console.acting_entity())
        told(made)
        wishes = of_job(wishes, str(made.reference))
    elif wishes.job is not None:
        wishes = replace(wishes, job=await _existing(console, wishes.job, wishes.project))
    authored = await asyncio.to_thread(author, wishes)
    return await console.submit(asked.queue, authored.spec, **given)


def of_job(wishes: Wishes, reference: str) -> Wishes:
    """What is left to say about a run once its job holds the rest, as W&B's client says it.

    The Dockerfile travels in `overrides` as well; W&B's agents look there first.
    """
    overrides = dict((wishes.base or {}).get("overrides") or {})
    if wishes.dockerfile:
        overrides["dockerfile"] = wishes.dockerfile
    base = {**(wishes.base or {}), **({"overrides": overrides} if overrides else {})}
    return replace(
        wishes,
        uri=None,
        job=reference,
        git_version=None,
        submodules=None,
        lfs=None,
        build_context=None,
        dockerfile=None,
        base_image=None,
        base=base,
    )


async def _existing(console: Console, text: str, project: str | None) -> str:
    """The reference in full, once the server has said that there is such a version.

    A bare name is looked for in the run's project, as the control plane does it.
    """
    from agent.remote.artifacts.transfers import Transfers
    from agent.remote.artifacts.versions import Artifacts

    reference = await console.job_reference(text, project)
    await Artifacts(console.client, Transfers()).version(reference)
    return str(reference)
