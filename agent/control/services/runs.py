"""W&B runs: made, changed, listed, stopped, deleted. Their streams: `run_streams.py`.

Runs that stop reporting crash: `reaper.py`.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.context import Service, ServiceContext, read, write
from agent.control.services.notifications import topic_project, topic_run
from agent.control.services.paging import Page, cursor, numbered_page, page_size
from agent.control.services.run_items import end_item, mark_job_due, mark_started
from agent.control.services.transitions import request_stop
from agent.control.store import items, projects, run_streams, runs, stored_bytes
from agent.control.store.ids import new_id, new_run_name
from agent.control.store.runs import Aggregate, RunPlace, RunRecord
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from agent.model.names import checked_project
from agent.model.spec import Json

#: The project of runs that name none, as W&B calls it.
UNNAMED_PROJECT: Final = "uncategorized"
STATES: Final = (
    "pending",
    "running",
    "finished",
    "failed",
    "crashed",
    "killed",
    "preempting",
    "preempted",
)
#: Final states, each with the exit code that it stands for.
_EXIT_CODES: Final = {"finished": 0, "failed": 1, "crashed": 1, "killed": 1}
#: States of a run whose process is alive, or expected.
ALIVE_OR_EXPECTED: Final = {"pending", "running", "preempting"}
#: States in which a process says that it has ended, with everything uploaded.
_SAID_BY_PROCESS: Final = frozenset({"finished", "failed"})
#: What a user may set the state of a run to, and of which states.
_MAY_BECOME: Final = {
    "pending": {"running", "failed", "crashed", "preempted", "pending"},
    "failed": {"pending", "running", "failed"},
}
_NAME: Final = re.compile(r"[^/\\#?%:]{1,128}")
#: Fields of `RunChange` whose columns are named otherwise, because SQL reserves the word.
_COLUMNS: Final = {"group": "group_name", "commit": "commit_hash"}


@dataclass(frozen=True, slots=True)
class RunChange:
    """Fields of `upsertBucket`; `None` leaves a field as it is."""

    display_name: str | None = None
    description: str | None = None
    notes: str | None = None
    tags: tuple[str, ...] | None = None
    group: str | None = None
    job_type: str | None = None
    commit: str | None = None
    #: The complete config: replaces the old one.
    config: Json | None = None
    summary: Json | None = None
    state: str | None = None
    host: str | None = None
    program: str | None = None
    git_remote: str | None = None
    sweep: str | None = None


class Runs(Service):
    """Runs of projects. A run token reads those of its project and writes its own run only.

    Methods with a `run_id` take our id or W&B's storage id.
    """

    @write
    def upsert(
        self,
        tx: Tx,
        principal: Principal,
        change: RunChange,
        *,
        run_id: str | None = None,
        entity: str | None = None,
        project: str | None = None,
        name: str | None = None,
    ) -> tuple[RunRecord, bool]:
        """Change a run, found by id or by project and name, or insert it.

        Returns the run and whether it was inserted.

        Raises:
            NotFoundError: a run id that does not exist, or the entity.
            InvalidInputError: state, name, or the name of a project that is not there yet.
            PermissionDeniedError: a run token and another run.
        """
        _check_state(change.state)
        if run_id is not None:
            run = self._to_write(tx, principal, run_id)
            if run is None:
                raise NotFoundError(f"There is no run with the id '{run_id}'.")
            return self._change(tx, run, change), False
        entity = self._context.existing_entity(tx, principal, entity, Action.WRITE_RUNS)
        project = project or UNNAMED_PROJECT
        check_run(principal, project, name)
        found = runs.by_name(tx, entity, project, name) if name else None
        if found is not None:
            return self._begin(tx, found, change), False
        projects.ensure(tx, entity, checked_project(project))
        made = insert_run(tx, principal, entity, project, name or new_run_name())
        return self._begin(tx, made, change), True

    @read
    def get(
        self, tx: Tx, principal: Principal, entity: str | None, project: str, name: str
    ) -> RunRecord | None:
        """A run; `None` when it does not exist or is hidden."""
        entity = entity or principal.default_entity
        if not self._context.policy.reads_project(principal, entity, project):
            return None
        return runs.by_name(tx, entity, project, name)

    @read
    def list(
        self,
        tx: Tx,
        principal: Principal,
        entity: str | None,
        project: str,
        *,
        filters: Any = None,
        order: str | None = None,
        after: str | None = None,
        first: int = 50,
    ) -> Page[RunRecord]:
        """Runs, newest first unless an order such as `+summary_metrics.loss` is given.

        Raises:
            InvalidInputError: filter, order or cursor.
        """
        size, after_row = page_size(first), cursor(after)
        entity = readable_project(tx, self._context, principal, entity, project)
        found, total = runs.page(
            tx,
            entity,
            project,
            filters=filters,
            order=order or "-created_at",
            after=after_row,
            limit=size + 1,
        )
        return numbered_page(found, size, total)

    @read
    def count(
        self, tx: Tx, principal: Principal, entity: str | None, project: str, filters: Any
    ) -> int:
        """How many runs a filter finds."""
        entity = readable_project(tx, self._context, principal, entity, project)
        return runs.count(tx, entity, project, filters)

    @read
    def aggregates(
        self,
        tx: Tx,
        principal: Principal,
        entity: str,
        project: str,
        filters: Sequence[Any],
        keys: Sequence[str],
    ) -> Sequence[tuple[int, Mapping[str, Aggregate]]]:
        """For each filter how many runs it finds, and aggregates of their values by key."""
        owner = readable_project(tx, self._context, principal, entity, project)
        return [
            (runs.count(tx, owner, project, one), runs.aggregates(tx, owner, project, one, keys))
            for one in filters
        ]

    @write
    def stop(self, tx: Tx, principal: Principal, run_id: str) -> bool:
        """Ask a run to stop; false for an unknown run.

        The item that launched it is stopped with it, which takes the right to stop that item;
        a run token has that right for its own.

        Raises:
            PermissionDeniedError: the run, or its item, belongs to another user.
        """
        run = self._to_write(tx, principal, run_id)
        if run is None:
            return False
        item = None if run.item_id is None else items.row(tx, run.item_id, lock=True)
        if item is not None and item.run_name == run.name:
            if principal.run is None or principal.run.item_id != item.id:
                self._context.require_may_change(principal, item)
            request_stop(tx, item, principal.name)
        runs.change(tx, run.id, {"stopped": True})
        tx.notify(topic_run(run.id))
        return True

    @write
    def set_state(self, tx: Tx, principal: Principal, run_id: str, state: str) -> bool:
        """W&B's `updateRunState`; false for an unknown run.

        Raises:
            InvalidInputError: neither `pending` nor `failed`.
            ConflictError: the run's state cannot become that.
        """
        if state not in _MAY_BECOME:
            message = f"The state of a run cannot be set to '{state[:40]}'."
            raise InvalidInputError(message, hint=f"Use {' or '.join(_MAY_BECOME)}.")
        run = self._to_write(tx, principal, run_id)
        if run is None:
            return False
        if run.state not in _MAY_BECOME[state]:
            raise ConflictError(
                f"The run '{run.name}' is {run.state}, and cannot become {state}.",
                hint=f"Only a run that is {' or '.join(sorted(_MAY_BECOME[state]))} can.",
            )
        self._change(tx, run, RunChange(state=state))
        return True

    @write
    def delete(self, tx: Tx, principal: Principal, run_id: str) -> RunRecord | None:
        """Remove a run, but not its artifacts; returns it, or `None` for an unknown one."""
        run = self._to_write(tx, principal, run_id)
        if run is not None:
            stored_bytes.delete_run_files(tx, run.entity, run.id)
            stored_bytes.add(tx, "run_streams", {run.entity: -run_streams.size(tx, run.id)})
            runs.delete_run(tx, run.id)
            tx.notify(topic_run(run.id), topic_project(run.entity, run.project))
        return run

    def _to_write(self, tx: Tx, principal: Principal, run_id: str) -> RunRecord | None:
        """A run that the caller may write; `None` when it is absent or hidden."""
        names = _parse_storage_id(run_id)
        run = runs.by_id(tx, run_id) if names is None else runs.by_name(tx, *names)
        if run is None or not self._context.policy.reads_project(
            principal, run.entity, run.project
        ):
            return None
        self._context.policy.require(principal, run.entity, Action.WRITE_RUNS)
        check_run(principal, run.project, run.name)
        return run

    def _change(self, tx: Tx, run: RunRecord, change: RunChange) -> RunRecord:
        """Write the fields that are given."""
        given = {key: getattr(change, key) for key in RunChange.__slots__}
        values = {_COLUMNS.get(key, key): one for key, one in given.items() if one is not None}
        if change.state in _EXIT_CODES:
            values["ended_at"] = tx.now
        elif change.state is not None:
            values |= {"ended_at": None, "exit_code": None, "heartbeat_at": tx.now}
        runs.change(tx, run.id, values)
        tx.notify(topic_run(run.id), topic_project(run.entity, run.project))
        if change.state in _SAID_BY_PROCESS:
            mark_job_due(tx, run.id)
        if change.state in _EXIT_CODES:
            end_item(tx, run, _EXIT_CODES[change.state])
        return runs.require(tx, run.id)

    def _begin(self, tx: Tx, run: RunRecord, change: RunChange) -> RunRecord:
        """A process writes to the run by its name: it is alive, or was begun again."""
        if change.state is None:
            again = run.state not in ALIVE_OR_EXPECTED
            change = replace(change, state="running")
            if again and not _stop_of_item(tx, run):
                runs.change(tx, run.id, {"stopped": False})
        if change.state != "pending":
            mark_started(tx, run, self._context.config.agent_timeout)
        return self._change(tx, run, change)


def storage_id(run: RunPlace) -> str:
    """W&B's id of a run: `base64("Run:v1:name:project:entity")`."""
    return base64.b64encode(f"Run:v1:{run.name}:{run.project}:{run.entity}".encode()).decode()


def _parse_storage_id(run_id: str) -> tuple[str, str, str] | None:
    """Entity, project and name in W&B's id of a run; `None` for another kind of id."""
    try:
        kind, version, name, project, entity = (
            base64.b64decode(run_id, validate=True).decode().split(":")
        )
    except (binascii.Error, ValueError):
        return None
    return (entity, project, name) if (kind, version) == ("Run", "v1") else None


def check_project(principal: Principal, project: str) -> None:
    """A run token writes to its own project only.

    Raises:
        PermissionDeniedError
    """
    if principal.run is not None and principal.run.project != project:
        raise PermissionDeniedError(
            f"The token of {principal.name} writes to the project '{principal.run.project}' only.",
            hint="Leave the project as the launcher has set it.",
        )


def check_run(principal: Principal, project: str, name: str | None) -> None:
    """A run token writes its own run only.

    Raises:
        PermissionDeniedError
    """
    check_project(principal, project)
    if principal.run is not None and principal.run.run_name != name:
        raise PermissionDeniedError(
            f"The token of {principal.name} does not write the run '{name}'.",
            hint="Leave the run's id as the launcher has set it (`WANDB_RUN_ID`).",
        )


def readable_project(
    tx: Tx, context: ServiceContext, principal: Principal, entity: str | None, project: str
) -> str:
    """The entity of a project in which the caller may read runs and artifacts.

    Raises:
        NotFoundError: the entity, or the project for a run token.
    """
    owner = context.existing_entity(tx, principal, entity, Action.READ_PROJECT)
    if not context.policy.reads_project(principal, owner, project):
        raise NotFoundError(f"There is no project '{project}', or this key may not read it.")
    return owner


def _stop_of_item(tx: Tx, run: RunRecord) -> bool:
    """Whether the item that launched the run is to stop."""
    item = None if run.item_id is None else items.row(tx, run.item_id)
    return item is not None and item.run_name == run.name and bool(item.stop_requested)


def _check_state(state: str | None) -> None:
    if state is not None and state not in STATES:
        raise InvalidInputError(f"A run cannot be '{state}'.", hint=f"Use {', '.join(STATES)}.")


def _user_of(principal: Principal, item: AnyRow | None) -> str | None:
    """Who began a run; for a launched run, the submitter of its item."""
    if principal.run is not None:
        return None if item is None else item.author
    return principal.name if principal.user_id else None


def insert_run(tx: Tx, principal: Principal, entity: str, project: str, name: str) -> RunRecord:
    """A new run, tied to the item that launched it."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"'{name}' cannot be the id of a run.",
            hint="1 to 128 characters without `/ \\ # ? % :`.",
        )
    item = items.by_run(tx, entity, project, name)
    values: dict[str, Any] = {
        "id": new_id(),
        "entity": entity,
        "project": project,
        "name": name,
        "display_name": name,
        "tags": [],
        "config": {},
        "summary": {},
        "state": "running",
        "stopped": item is not None and item.stop_requested,
        "user_name": _user_of(principal, item),
        "item_id": None if item is None else item.id,
    }
    # Two clients may insert the same run at once: then the row of the other one is used.
    return runs.insert(tx, values)
