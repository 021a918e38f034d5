"""Items as users submit, read and change them."""

from dataclasses import replace

from agent.control.auth.policy import Action, Principal
from agent.control.services.context import (
    Service,
    ServiceContext,
    no_such_agent,
    read,
    shared_write,
    write,
)
from agent.control.services.explain import Explanation, Situation, explain
from agent.control.services.notifications import topic_entity, topic_item, topic_queue
from agent.control.services.paging import Page, cursor, numbered_page, page_size
from agent.control.services.queues import queue_on_demand, unsaved_queue
from agent.control.services.schema_checks import Passed
from agent.control.services.spec_layers import check_priority
from agent.control.services.submission import insert, item_of_key, prepare, recompose
from agent.control.services.transitions import add_event, reopen, request_stop
from agent.control.store import (
    agents,
    history,
    idempotency,
    item_lists,
    items,
    projects,
    queues,
)
from agent.control.store.collections import CollectionRecord
from agent.control.store.history import AttemptRecord, EventRecord
from agent.control.store.item_lists import ItemFilter, Window
from agent.control.store.items import DryRun, ItemRecord, Submission
from agent.control.store.tx import Tx
from agent.model.capacity import Allocation, Capacity, minus
from agent.model.errors import ConflictError, PermissionDeniedError
from agent.model.names import DEFAULT_QUEUE
from agent.model.phase import TERMINAL, Phase
from agent.model.spec import Json


class Items(Service):
    """Items of queues; what agents do with them is in `Leases` and `WandbProtocol`."""

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(context)
        #: By entity: how many more submissions pass before its waiting items are counted again.
        self._submissions_before_count: dict[str, int] = {}

    async def submit(self, principal: Principal, submission: Submission) -> ItemRecord:
        """Put one item on a queue.

        The same idempotency key gives the same item back for 24 hours. The queue `default`
        is made on demand.

        Raises:
            NotFoundError: entity or queue; near misses are offered.
            InvalidInputError: spec, template variables or priority; names path, value, rule.
            ConflictError: the idempotency key was used for something else.
            PermissionDeniedError: the caller may not submit.
        """
        return await self._context.checker.before(
            lambda passed: self._submit(principal, submission, passed)
        )

    @shared_write
    def _submit(
        self, tx: Tx, principal: Principal, submission: Submission, passed: Passed
    ) -> ItemRecord:
        entity = self._context.existing_entity(tx, principal, submission.entity, Action.SUBMIT)
        item_id = item_of_key(tx, entity, submission, reserve=False)
        if item_id is None:
            self._check_waiting(tx, entity)
            queue = queue_on_demand(tx, self._context, principal, entity, submission.queue)
            prepared = prepare(tx, self._context, principal, queue, submission, passed)
            item_id = item_of_key(tx, entity, submission, reserve=True)
            if item_id is None:
                spec = prepared.composed.run_spec
                projects.ensure(tx, spec["entity"], spec["project"])
                item_id = insert(tx, self._context, principal, prepared, submission)
                if submission.idempotency_key is not None:
                    idempotency.keep_reply(tx, entity, submission.idempotency_key, item_id)
        return self._context.item(tx, principal, item_id)

    def _check_waiting(self, tx: Tx, entity: str) -> None:
        """Check that the entity may have one more waiting item.

        Counting a hundred thousand rows takes longer than a submission, so it is done at the
        first submission to the entity and then once per `max_waiting / 100` of them; each server
        may exceed the limit by so many. At the limit, every submission is counted.

        Raises:
            ConflictError
        """
        limit = self._context.config.max_waiting
        left = self._submissions_before_count.get(entity, 0)
        if not left:
            if items.queued_in(tx, entity, limit) >= limit:
                raise ConflictError(
                    f"{limit} items of '{entity}' are waiting, and more are not accepted.",
                    hint="Wait until some have started, or stop some; "
                    "`control.max_waiting` is the limit.",
                )
            left = max(1, limit // 100)
        self._submissions_before_count[entity] = left - 1

    async def dry_run(
        self, principal: Principal, submission: Submission, job_file: Json | None = None
    ) -> DryRun:
        """What `submit` would put on the queue; nothing is stored.

        `submission.queue` may be empty: a direct run, without a queue's template. `job_file` is
        the `wandb-job.json` of a job that is not stored; `run_spec.job` is only its name then.

        Raises: as `submit`.
        """
        return await self._context.checker.before(
            lambda passed: self._dry_run(principal, submission, passed, job_file)
        )

    @read
    def _dry_run(
        self,
        tx: Tx,
        principal: Principal,
        submission: Submission,
        passed: Passed,
        job_file: Json | None,
    ) -> DryRun:
        entity = self._context.existing_entity(tx, principal, submission.entity, Action.SUBMIT)
        name = submission.queue
        if not name or (name == DEFAULT_QUEUE and queues.by_name(tx, entity, name) is None):
            queue = unsaved_queue(entity, name)
        else:
            queue = self._context.queue(tx, entity, name)
        prepared = prepare(tx, self._context, principal, queue, submission, passed, job_file)
        composed = prepared.composed
        return DryRun(
            entity=composed.run_spec["entity"],
            project=composed.run_spec["project"],
            queue=name,
            priority=prepared.priority,
            resource=composed.resource,
            demand=composed.demand,
            run_spec=items.masked(composed.run_spec),
            layers={layer: items.masked(values) for layer, values in composed.layers.items()},
            warnings=composed.warnings,
        )

    @read
    def get(self, tx: Tx, principal: Principal, item_id: str) -> ItemRecord:
        """One item.

        Raises:
            NotFoundError: absent or hidden.
        """
        return self._context.item(tx, principal, item_id)

    @read
    def list(
        self,
        tx: Tx,
        principal: Principal,
        entity: str | None = None,
        *,
        queue: str | None = None,
        narrow: ItemFilter = ItemFilter(),  # noqa: B008 -- frozen
        after: str | None = None,
        before: str | None = None,
        first: int = 100,
    ) -> Page[ItemRecord]:
        """Items, newest first, at most 5,000: those after a cursor, or the next ones before one.

        Raises:
            NotFoundError: the entity or the queue.
            InvalidInputError: `first`, `after` or `before`.
        """
        size = page_size(first)
        window = Window(size + 1, before=cursor(after), newer_than=cursor(before))
        where = self._context.existing_entity(tx, principal, entity, Action.READ)
        if queue:
            narrow = replace(narrow, queue_id=self._context.queue(tx, where, queue).id)
        found, total = item_lists.page(tx, where, narrow, window)
        return numbered_page(found, size, total, backward=window.newer_than is not None)

    @read
    def of_job(
        self,
        tx: Tx,
        principal: Principal,
        job: CollectionRecord,
        *,
        after: str | None = None,
        before: str | None = None,
        first: int = 100,
    ) -> Page[ItemRecord]:
        """As `list`, of the items submitted with any version of a job, in all entities.

        Those that the caller may not read are left out.
        """
        size = page_size(first)
        window = Window(size + 1, before=cursor(after), newer_than=cursor(before))
        self._context.policy.require(principal, job.entity, Action.READ)
        entities = self._context.policy.readable_entities(principal)
        found, total = item_lists.of_job(tx, job.path, entities, window)
        return numbered_page(found, size, total, backward=window.newer_than is not None)

    @read
    def attempts(self, tx: Tx, principal: Principal, item_id: str) -> tuple[AttemptRecord, ...]:
        """All attempts, first to last."""
        self._context.item(tx, principal, item_id)
        return history.attempt_list(tx, item_id)

    @read
    def events(self, tx: Tx, principal: Principal, item_id: str) -> tuple[EventRecord, ...]:
        """The history, oldest first."""
        self._context.item(tx, principal, item_id)
        return history.event_list(tx, item_id)

    @read
    def held_by(self, tx: Tx, principal: Principal, agent_id: str) -> tuple[ItemRecord, ...]:
        """Items an agent holds now."""
        row = agents.row(tx, agent_id)
        if row is None or not self._context.policy.allows(principal, row.entity, Action.READ):
            raise no_such_agent(agent_id)
        return items.records(tx, items.held_by(tx, agent_id))

    @read
    def explain(self, tx: Tx, principal: Principal, item_id: str) -> Explanation:
        """Why it waits, or how it ended, and what to do."""
        item = self._context.item(tx, principal, item_id)
        return explain(item, self._situation(tx, item))

    def _situation(self, tx: Tx, item: ItemRecord) -> Situation:
        if item.phase in TERMINAL or item.queue_id is None:
            return Situation(None, (), 0)
        rows = agents.of_entity(tx, item.entity, item.queue_id)
        serving = agents.records(tx, rows, self._context.config.agent_timeout)
        ahead = items.count_ahead(tx, item) if item.phase is Phase.QUEUED else 0
        free = {one.id: _free(tx, one.id, one.capacity) for one in serving if one.capacity}
        queue, why = queues.by_id(tx, item.queue_id), history.why_requeued(tx, item)
        return Situation(queue, serving, ahead, free, why)

    @write
    def stop(self, tx: Tx, principal: Principal, item_id: str) -> ItemRecord:
        """Stop at once what is queued; ask the agent that holds anything else. Idempotent."""
        row = self._context.item_to_change(tx, principal, item_id)
        request_stop(tx, row, principal.name)
        return self._context.item(tx, principal, item_id)

    @write
    def retry(
        self, tx: Tx, principal: Principal, item_id: str, attempt: int | None = None
    ) -> ItemRecord:
        """Open a new attempt after `attempt`, or after the newest; a repeat opens no second one.

        Raises:
            ConflictError: not over yet, succeeded, or its queue is gone.
            PermissionDeniedError: the caller may not, or its author may not run it any more.
        """
        row = self._context.item_to_change(tx, principal, item_id)
        if attempt is not None and attempt < row.attempt:
            return self._context.item(tx, principal, item_id)
        phase = Phase(row.phase)
        if phase not in TERMINAL or phase is Phase.SUCCEEDED:
            over = phase is Phase.SUCCEEDED
            raise ConflictError(
                f"Item {item_id} is {phase.word}: only what ended badly can be retried.",
                hint="Submit it again to run it once more." if over else "Stop it first.",
            )
        if row.queue_id is None:
            raise ConflictError(
                f"The queue '{row.queue}' of item {item_id} was deleted.",
                hint="Submit the job again, to another queue.",
            )
        refusal = self._context.author_refusal(tx, items.with_specs(tx, item_id))
        if refusal is not None:
            raise PermissionDeniedError(
                f"Item {item_id} cannot be retried: {refusal}",
                hint="Somebody who may run it has to submit the job again.",
            )
        reopen(tx, row, "retried", actor=principal.name)
        return self._context.item(tx, principal, item_id)

    async def move(self, principal: Principal, item_id: str, queue: str) -> ItemRecord:
        """Put a queued item at the end of another queue of the same entity. Idempotent.

        The template of the new queue is applied to what was submitted.

        Raises:
            ConflictError: not queued.
            NotFoundError: the queue.
            InvalidInputError: the spec does not fit the new queue.
        """
        return await self._context.checker.before(
            lambda passed: self._move(principal, item_id, queue, passed)
        )

    @write
    def _move(
        self, tx: Tx, principal: Principal, item_id: str, queue: str, passed: Passed
    ) -> ItemRecord:
        row = self._context.item_to_change(tx, principal, item_id)
        _must_be_queued(row.id, Phase(row.phase), "moved")
        target = self._context.queue(tx, row.entity, queue)
        if target.id == row.queue_id:
            return self._context.item(tx, principal, item_id)
        changes = recompose(tx, row, target, passed)
        priority = check_priority(target, row.priority)
        text = f"moved from {row.queue} to {target.name}"
        position = {"enqueued_at": tx.now, "priority": priority}
        add_event(tx, row, text, actor=principal.name, **changes, **position)
        tx.notify(topic_queue(target.id))
        return self._context.item(tx, principal, item_id)

    @write
    def set_priority(self, tx: Tx, principal: Principal, item_id: str, priority: int) -> ItemRecord:
        """Change the priority (0 critical … 3 low) of a queued item.

        Raises:
            ConflictError: not queued.
            InvalidInputError: not 0 to 3, or its queue has no priorities.
        """
        row = self._context.item_to_change(tx, principal, item_id)
        _must_be_queued(row.id, Phase(row.phase), "given another priority")
        check_priority(self._context.queue(tx, row.entity, row.queue), priority)
        if priority == row.priority:
            return self._context.item(tx, principal, item_id)
        text = f"priority {row.priority} → {priority}"
        add_event(tx, row, text, actor=principal.name, priority=priority)
        return self._context.item(tx, principal, item_id)

    @write
    def delete(self, tx: Tx, principal: Principal, queue_id: str, item_id: str) -> bool:
        """W&B's `deleteFromRunQueue`: stops it; false when that queue has no such item."""
        row = items.row(tx, item_id)
        if row is None or row.queue_id != queue_id:
            return False
        locked = self._context.item_to_change(tx, principal, item_id)
        request_stop(tx, locked, principal.name)
        tx.notify(topic_item(item_id), topic_entity(row.entity))
        return True


def _free(tx: Tx, agent_id: str, capacity: Capacity) -> Capacity:
    """What is free of an agent's capacity beside the items it holds."""
    for row in items.held_by(tx, agent_id):
        capacity = minus(capacity, items.allocation_from(row.allocation) or Allocation())
    return capacity


def _must_be_queued(item_id: str, phase: Phase, what: str) -> None:
    if phase is not Phase.QUEUED:
        over = phase in TERMINAL
        raise ConflictError(
            f"Item {item_id} is {phase.word}: only waiting items can be {what}.",
            hint="Submit it again." if over else "Stop it and submit it again.",
        )
