"""A submission becomes an item, inside one transaction.

`prepare` decides everything about the new item and writes nothing, so that a dry run is the
first half of a real submission; `insert` writes it.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.artifacts import no_such_artifact, visible
from agent.control.services.context import ServiceContext
from agent.control.services.input_schemas import input_checks
from agent.control.services.jobs import choose_job
from agent.control.services.notifications import topic_entity, topic_queue
from agent.control.services.schema_checks import Passed
from agent.control.services.spec_layers import Composed, check_priority, compose
from agent.control.services.submitted_keys import encrypted
from agent.control.store import artifacts, history, idempotency, items
from agent.control.store.ids import new_id
from agent.control.store.items import Submission
from agent.control.store.queues import QueueRecord
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import ConflictError, InvalidInputError
from agent.model.job.job_file import launch_layer, read_job_file
from agent.model.job.names import parse_code_reference, parse_reference
from agent.model.json_values import check_value
from agent.model.names import DEFAULT_PROJECT, checked_project
from agent.model.phase import Phase
from agent.model.spec import ArtifactSource, GitSource, ImageSource, Json, LaunchSpec

_MAX_KEY: Final = 200
#: PostgreSQL cannot index longer ones.
_MAX_NAME: Final = 128


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked submission: what its item will be."""

    queue: QueueRecord
    composed: Composed
    priority: int
    #: `entity/project/name` of the job.
    job: str | None


def prepare(
    tx: Tx,
    context: ServiceContext,
    principal: Principal,
    queue: QueueRecord,
    wanted: Submission,
    passed: Passed,
    job_file: Json | None = None,
) -> Prepared:
    """Check a submission to a queue and compose what its item would be.

    `job_file` is the `wandb-job.json` of a job that is not stored; `run_spec.job` is only its
    name then.

    Raises: see `Items.submit`.
    """
    submitted = wanted.run_spec
    check_value(submitted, "The launch spec")
    check_value(wanted.template_variables, "A template variable")
    project = checked_project(str(wanted.project or submitted.get("project") or DEFAULT_PROJECT))
    # Where the run is written: the queue's entity, or another the caller may write to.
    entity = str(submitted.get("entity") or queue.entity)
    if entity != queue.entity:
        context.policy.require(principal, entity, Action.WRITE_RUNS)
    identity = {
        "entity": entity,
        "project": project,
        "author": principal.name,
    }
    layer, stored_job, schemas = None, None, {}
    if job_file is not None:
        layer = _unsaved_layer(principal, submitted, project, job_file)
    elif job := choose_job(tx, context, principal, submitted, project):
        layer, stored_job, schemas = job.layer, job.name, job.input_schemas
    composed = compose(queue, submitted, wanted.template_variables, identity, passed, layer)
    passed.require(input_checks(schemas, composed.run_spec.get("overrides") or {}))
    _check_size(composed.run_spec, context.config.max_spec)
    _check_code(tx, context, principal, composed.spec)
    return Prepared(queue, composed, check_priority(queue, wanted.priority), stored_job)


def recompose(tx: Tx, item: AnyRow, queue: QueueRecord, passed: Passed) -> dict[str, Any]:
    """The columns that a queued item gets on another queue, from what was submitted.

    Raises:
        InvalidInputError: the template variables do not fit that queue.
    """
    stored = items.with_specs(tx, item.id)
    identity = {key: stored.run_spec[key] for key in ("entity", "project", "author")}
    submitted, job = stored.layers["submitter"], stored.layers["job"]
    values = stored.template_values
    return _columns(item.id, queue, compose(queue, submitted, values, identity, passed, job))


def _unsaved_layer(principal: Principal, submitted: Json, project: str, job_file: Json) -> Json:
    """The layer of a job that is not stored."""
    name = str(submitted.get("job") or "job:latest")
    reference = parse_reference(name, entity=principal.default_entity, project=project)
    return launch_layer(read_job_file(json.dumps(job_file)).job, str(reference))


def _columns(item_id: str, queue: QueueRecord, composed: Composed) -> dict[str, Any]:
    """The columns of an item that follow from its queue and its spec."""
    spec, demand = composed.spec, composed.demand
    return {
        "queue_id": queue.id,
        "queue": queue.name,
        "name": spec.name,
        "display_name": display_name(spec)[:_MAX_NAME] or item_id,
        "resource": composed.resource,
        "demand_cpus": demand.cpus or 0.0,
        "demand_memory": demand.memory or 0,
        "demand_gpus": demand.gpus,
        "retries": spec.retries,
        "on_lost": spec.on_lost,
        "run_spec": items.masked(composed.run_spec),
        "layers": {layer: items.masked(values) for layer, values in composed.layers.items()},
        "warnings": list(composed.warnings),
    }


def display_name(spec: LaunchSpec) -> str:
    """The name that lists show: the item's, else that of its job, its image or its source."""
    if spec.name or spec.job:
        return spec.name or parse_reference(str(spec.job)).name
    match spec.effective_source():
        case ImageSource(image=image):
            return image.partition("@")[0].rpartition("/")[2]
        case GitSource(url=url):
            return url.rstrip("/").rpartition("/")[2].removesuffix(".git")
        case ArtifactSource(artifact=artifact):
            code = parse_code_reference(artifact).name
            return code.name if code else ""
        case None:
            return ""


def _check_size(run_spec: Json, limit: int) -> None:
    size = len(json.dumps(run_spec))
    if size > limit:
        message = f"The launch spec has {size} characters; {limit} are allowed."
        hint = "Put large values into a file or an artifact that the job reads."
        raise InvalidInputError(message, hint=hint)


def _check_code(tx: Tx, context: ServiceContext, principal: Principal, spec: LaunchSpec) -> None:
    """Code that is an artifact must be readable for the submitter.

    The agent reads it with its own key, which may open more: without this check a submitter
    could run, and thereby read, the code of others by naming it.
    """
    if not isinstance(spec.source, ArtifactSource):
        return
    reference = parse_code_reference(spec.source.artifact)
    if reference.name is not None:
        context.existing_entity(tx, principal, reference.name.entity, Action.READ)
        return
    found = artifacts.by_id(tx, str(reference.id))
    if found is not None and visible(context, principal, found) is None:
        raise no_such_artifact(found.id)


def insert(
    tx: Tx,
    context: ServiceContext,
    principal: Principal,
    prepared: Prepared,
    wanted: Submission,
) -> str:
    """Write the item with its first attempt and event; its id."""
    item_id, queue, spec = new_id(), prepared.queue, prepared.composed.spec
    items.insert(
        tx,
        {
            **_columns(item_id, queue, prepared.composed),
            "id": item_id,
            "entity": queue.entity,
            "run_entity": spec.entity,
            "project": spec.project,
            "run_name": spec.run_id,
            "author": principal.name,
            "author_id": principal.user_id,
            "priority": prepared.priority,
            "secrets": encrypted(context.keys, prepared.composed.run_spec),
            "template_values": wanted.template_variables or {},
            "job": prepared.job,
            "phase": Phase.QUEUED.value,
            "attempt": 1,
            "epoch": 0,
            "retried": 0,
            "lease_losses": 0,
            "stop_requested": False,
            "facts": {},
            "enqueued_at": tx.now,
            "created_at": tx.now,
            "updated_at": tx.now,
        },
    )
    history.open_attempt(tx, item_id, 1)
    first = {"item_id": item_id, "attempt": 1, "epoch": 0, "phase": Phase.QUEUED.value}
    history.add_event(tx, {**first, "actor": principal.name, "text": "submitted"})
    tx.notify(topic_queue(queue.id), topic_entity(queue.entity))
    return item_id


def item_of_key(tx: Tx, entity: str, wanted: Submission, *, reserve: bool) -> str | None:
    """The item that was made with the submission's idempotency key, if there is one.

    `reserve` the key otherwise, after the submission was checked: a refusal that has written
    something makes all writes of its batch be written again.
    """
    key = wanted.idempotency_key
    if key is None:
        return None
    if not 0 < len(key) <= _MAX_KEY:
        raise InvalidInputError(f"The idempotency key has {len(key)} characters, 1 to 200 can be.")
    fields = (
        wanted.project, wanted.queue, wanted.run_spec, wanted.template_variables, wanted.priority,
    )  # fmt: skip
    fingerprint = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).digest()
    if reserve:
        stored = idempotency.reserve(tx, entity, key, fingerprint)
    else:
        stored = idempotency.find(tx, entity, key)
    if stored is None:
        return None
    if stored.fingerprint != fingerprint:
        raise ConflictError(
            f"The idempotency key '{key}' was used for another submission.",
            hint="Use a new key for each submission.",
        )
    return str(stored.reply)
