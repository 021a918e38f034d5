"""Putting an item on a queue, in one transaction."""

import hashlib
import json
from dataclasses import replace
from typing import Any, Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.artifact_access import absent, visible
from agent.control.services.composing import Composed, check_priority, compose
from agent.control.services.context import Context
from agent.control.services.jobs import choose_job
from agent.control.services.notifications import topic_entity, topic_queue
from agent.control.services.queueing import queue_on_demand
from agent.control.store import artifacts, history, idempotency, items, projects
from agent.control.store.ids import new_id
from agent.control.store.records import QueueRecord, Submission
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import ConflictError, InvalidInputError
from agent.model.job.reference import parse_code_reference
from agent.model.names import checked_project
from agent.model.phase import Phase
from agent.model.spec import ArtifactSource, LaunchSpec

DEFAULT_PROJECT: Final = "default"
_MAX_KEY: Final = 200


def submit(tx: Tx, context: Context, principal: Principal, wanted: Submission) -> str:
    """The id of the new item, or of the one that the idempotency key made before.

    Raises: see `Items.submit`.
    """
    entity = context.existing(tx, principal, wanted.entity, Action.SUBMIT)
    known = _reserved(tx, entity, wanted)
    if known is not None:
        return known
    queue = queue_on_demand(tx, context, principal, entity, wanted.queue)
    project = wanted.project or wanted.run_spec.get("project") or DEFAULT_PROJECT
    run_entity = _run_entity(context, principal, entity, wanted)
    places = {"entity": run_entity, "project": project, "author": principal.name}
    job = choose_job(tx, context, principal, wanted.run_spec, str(project))
    layer = None if job is None else job.layer
    composed = compose(queue, wanted.run_spec, wanted.template_variables, places, layer)
    if job is not None:
        job.check(composed.run_spec.get("overrides") or {})
    _check_code(tx, context, principal, composed.spec)
    projects.ensure(tx, run_entity, checked_project(str(project)))
    job_id = None if job is None else job.artifact_id
    item_id = _insert(tx, principal, queue, composed, wanted, job_id)
    if wanted.idempotency_key is not None:
        idempotency.keep_reply(tx, entity, wanted.idempotency_key, item_id)
    tx.notify(topic_queue(queue.id), topic_entity(entity))
    return item_id


def columns(queue: QueueRecord, composed: Composed) -> dict[str, Any]:
    """What of an item follows from its queue and its spec."""
    spec, demand = composed.spec, composed.demand
    return {
        "queue_id": queue.id,
        "queue": queue.name,
        "name": spec.name,
        "resource": composed.resource,
        "demand_cpus": demand.cpus or 0.0,
        "demand_memory": demand.memory or 0,
        "demand_gpus": demand.gpus,
        "retries": spec.retries,
        "on_lost": spec.on_lost,
        "run_spec": composed.run_spec,
        "layers": composed.layers,
        "warnings": list(composed.warnings),
    }


def recompose(tx: Tx, item: AnyRow, queue: QueueRecord) -> dict[str, Any]:
    """The columns that a queued item gets on another queue, from what was submitted.

    Raises:
        InvalidInputError: the template variables do not fit that queue.
    """
    stored = items.specs(tx, item.id)
    places = {key: stored.run_spec[key] for key in ("entity", "project", "author")}
    submitted, job = stored.layers["submitter"], stored.layers["job"]
    return columns(queue, compose(queue, submitted, stored.template_values, places, job))


def _check_code(tx: Tx, context: Context, principal: Principal, spec: LaunchSpec) -> None:
    """Code that is an artifact is one that the submitter may read.

    The agent reads it with a key of its own, which may open more: whoever may submit to it
    must not get at the code of others by naming it.
    """
    if not isinstance(spec.source, ArtifactSource):
        return
    reference = parse_code_reference(spec.source.artifact)
    if reference.name is not None:
        context.existing(tx, principal, reference.name.entity, Action.READ)
        return
    found = artifacts.by_id(tx, str(reference.id))
    if found is not None and visible(context, principal, found) is None:
        raise absent(found.id)


def _insert(
    tx: Tx,
    principal: Principal,
    queue: QueueRecord,
    composed: Composed,
    wanted: Submission,
    job_id: str | None,
) -> str:
    item_id = new_id()
    items.insert(
        tx,
        {
            **columns(queue, composed),
            "id": item_id,
            "entity": queue.entity,
            "run_entity": composed.spec.entity,
            "project": composed.spec.project,
            "run_name": composed.spec.run_id,
            "author": principal.name,
            "author_id": principal.user_id,
            "priority": check_priority(queue, wanted.priority),
            "template_values": wanted.template_variables or {},
            "job_id": job_id,
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
    return item_id


def _run_entity(context: Context, principal: Principal, entity: str, wanted: Submission) -> str:
    """Where the run is written: the queue's entity, or another the caller may write to."""
    named = wanted.run_spec.get("entity")
    if not named or named == entity:
        return entity
    return context.entity_of(principal, str(named), Action.WRITE_RUNS)


def _reserved(tx: Tx, entity: str, wanted: Submission) -> str | None:
    """The item that this idempotency key made before."""
    key = wanted.idempotency_key
    if key is None:
        return None
    if not 0 < len(key) <= _MAX_KEY:
        raise InvalidInputError(f"The idempotency key has {len(key)} characters, 1 to 200 can be.")
    fingerprint = _fingerprint(wanted)
    stored = idempotency.reserve(tx, entity, key, fingerprint)
    if stored is None:
        return None
    if stored.fingerprint != fingerprint:
        raise ConflictError(
            f"The idempotency key '{key}' was used for another submission.",
            hint="Use a new key for each submission.",
        )
    return str(stored.reply)


def _fingerprint(wanted: Submission) -> bytes:
    asked = replace(wanted, idempotency_key=None, entity=None)
    values = (asked.project, asked.queue, asked.run_spec, asked.template_variables, asked.priority)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
