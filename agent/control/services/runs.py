"""W&B runs, as far as launching needs them."""

import base64
import binascii
from typing import Any, Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.context import Context
from agent.control.services.paging import cursor, numbered_page, page_size
from agent.control.services.running import (
    RunChange,
    change_run,
    check_run_name,
    check_state,
    end_of_run,
    make_run,
)
from agent.control.services.stopping import request_stop
from agent.control.store import items, projects, runs
from agent.control.store.records import Page, RunRecord
from agent.control.store.tx import AnyRow, Tx
from agent.model.errors import NotFoundError, PermissionDeniedError
from agent.model.names import checked_project

__all__ = ["UNNAMED_PROJECT", "RunChange", "Runs", "check_scope", "storage_id"]

UNNAMED_PROJECT: Final = "uncategorized"


class Runs:
    """Runs of projects. A run token may only write runs of its own project."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def upsert(
        self,
        principal: Principal,
        change: RunChange,
        *,
        run_id: str | None = None,
        entity: str | None = None,
        project: str | None = None,
        name: str | None = None,
    ) -> tuple[RunRecord, bool]:
        """Change a run, found by id or by project and name; make it when there is none.

        Returns the run and whether it was inserted. The first write of a run that W&B's
        agent launched tells that its item has started.

        Raises:
            NotFoundError: a run id that does not exist, or the entity.
            InvalidInputError: state, name, or the name of a project that is not there yet.
            PermissionDeniedError: a run token and another project.
        """
        check_state(change.state)

        def work(tx: Tx) -> tuple[RunRecord, bool]:
            if run_id is not None:
                run = self._to_write(tx, principal, run_id)
                if run is None:
                    raise NotFoundError(f"There is no run with the id '{run_id}'.")
                return change_run(tx, self._context, run, change), False
            place = self._context.existing(tx, principal, entity, Action.WRITE_RUNS)
            where = project or UNNAMED_PROJECT
            check_scope(principal, where)
            found = runs.by_name(tx, place, where, name) if name else None
            if found is not None:
                return change_run(tx, self._context, found, change), False
            projects.ensure(tx, place, checked_project(where))
            made = make_run(tx, principal, place, where, check_run_name(name))
            return change_run(tx, self._context, made, change), True

        return await self._context.database.write(work)

    async def get(
        self, principal: Principal, entity: str | None, project: str, name: str
    ) -> RunRecord | None:
        """A run; `None` when it does not exist or is hidden."""
        place = entity or principal.default_entity
        if not self._context.policy.allows(principal, place, Action.READ):
            return None
        return await self._context.database.read(lambda tx: runs.by_name(tx, place, project, name))

    async def list(
        self,
        principal: Principal,
        entity: str | None,
        project: str,
        *,
        filters: Any = None,
        order: str | None = None,
        after: str | None = None,
        first: int = 50,
    ) -> Page[RunRecord]:
        """Runs, newest first unless `order` is `+created_at`; filters on state and name."""
        size, after_seq = page_size(first), cursor(after)
        states, names = _wanted(filters)

        def work(tx: Tx) -> Page[RunRecord]:
            place = self._context.existing(tx, principal, entity, Action.READ)
            found, total = runs.page(
                tx,
                place,
                project,
                states=states,
                names=names,
                oldest_first=(order or "").lstrip("+") in {"created_at", "createdAt"},
                after=after_seq,
                limit=size + 1,
            )
            return numbered_page(found, size, total)

        return await self._context.database.read(work)

    async def stop(self, principal: Principal, run_id: str) -> bool:
        """Ask a run to stop, by id or by W&B's storage id `base64("Run:v1:name:project:entity")`.

        The item that launched it is stopped with it, so it takes the right to stop that item;
        a run token has it over what its own author submitted. False for an unknown run.

        Raises:
            PermissionDeniedError: the run, or its item, is somebody else's.
        """

        def work(tx: Tx) -> bool:
            run = self._to_write(tx, principal, run_id)
            if run is None:
                return False
            item = None if run.item_id is None else items.row(tx, run.item_id, lock=True)
            if item is not None and item.run_name == run.name:
                self._may_stop(tx, principal, item)
                request_stop(tx, item, principal.name)
            runs.change(tx, run.id, {"stopped": True})
            return True

        return await self._context.database.write(work)

    async def set_state(self, principal: Principal, run_id: str, state: str) -> bool:
        """W&B's `updateRunState`; false for an unknown run."""
        check_state(state)

        def work(tx: Tx) -> bool:
            run = self._to_write(tx, principal, run_id)
            if run is None:
                return False
            change_run(tx, self._context, run, RunChange(state=state))
            return True

        return await self._context.database.write(work)

    async def find(self, principal: Principal, run_id: str) -> RunRecord | None:
        """A run by id or storage id; `None` when it is absent or hidden."""
        return await self._context.database.read(lambda tx: self._found(tx, principal, run_id))

    async def delete(self, principal: Principal, run_id: str) -> bool:
        """Remove a run, by id or storage id; its artifacts stay. False for an unknown one."""

        def work(tx: Tx) -> bool:
            run = self._to_write(tx, principal, run_id)
            if run is None:
                return False
            runs.delete_run(tx, run.id)
            return True

        return await self._context.database.write(work)

    async def beat(
        self, principal: Principal, entity: str, project: str, name: str
    ) -> RunRecord | None:
        """A sign of life of a run; `None` when there is none."""

        def work(tx: Tx) -> RunRecord | None:
            run = self._named(tx, principal, entity, project, name)
            return None if run is None else change_run(tx, self._context, run, RunChange())

        return await self._context.database.write(work)

    async def complete(
        self, principal: Principal, entity: str, project: str, name: str, exit_code: int
    ) -> None:
        """The client said that the run is over; ends the item of a W&B agent as well.

        Raises:
            NotFoundError: the run, or the entity.
        """

        def work(tx: Tx) -> None:
            run = self._named(tx, principal, entity, project, name)
            if run is None:
                raise NotFoundError(f"There is no run '{name}' in '{entity}/{project}'.")
            state = "finished" if exit_code == 0 else "failed"
            runs.change(tx, run.id, {"state": state, "exit_code": exit_code})
            end_of_run(tx, run, exit_code)

        await self._context.database.write(work)

    def _found(self, tx: Tx, principal: Principal, run_id: str) -> RunRecord | None:
        place = _storage_place(run_id)
        run = runs.by_id(tx, run_id) if place is None else runs.by_name(tx, *place)
        if run is None or not self._context.policy.allows(principal, run.entity, Action.READ):
            return None
        return run

    def _to_write(self, tx: Tx, principal: Principal, run_id: str) -> RunRecord | None:
        """As `_found`, of a run that the caller may write."""
        run = self._found(tx, principal, run_id)
        if run is not None:
            self._context.policy.require(principal, run.entity, Action.WRITE_RUNS)
            check_scope(principal, run.project)
        return run

    def _named(
        self, tx: Tx, principal: Principal, entity: str, project: str, name: str
    ) -> RunRecord | None:
        """A run of a project that the caller may write to."""
        place = self._context.existing(tx, principal, entity, Action.WRITE_RUNS)
        check_scope(principal, project)
        return runs.by_name(tx, place, project, name)

    def _may_stop(self, tx: Tx, principal: Principal, item: AnyRow) -> None:
        """A job may stop itself and, as sweeps do, what its author launched beside it."""
        launcher = None if principal.run is None else items.row(tx, principal.run.item_id)
        if launcher is None or launcher.author_id != item.author_id:
            self._context.may_change(principal, item)


def storage_id(run: RunRecord) -> str:
    """W&B's id of a run: `base64("Run:v1:name:project:entity")`."""
    return base64.b64encode(f"Run:v1:{run.name}:{run.project}:{run.entity}".encode()).decode()


def check_scope(principal: Principal, project: str) -> None:
    """A run token writes to its own project only.

    Raises:
        PermissionDeniedError
    """
    if principal.run is not None and principal.run.project != project:
        raise PermissionDeniedError(
            f"The token of {principal.name} writes runs of '{principal.run.project}' only.",
            hint="Leave the project as the launcher has set it.",
        )


def _storage_place(run_id: str) -> tuple[str, str, str] | None:
    """Entity, project and name in W&B's id of a run; `None` for another kind of id."""
    try:
        kind, version, name, project, entity = (
            base64.b64decode(run_id, validate=True).decode().split(":")
        )
    except (binascii.Error, ValueError):
        return None
    return (entity, project, name) if (kind, version) == ("Run", "v1") else None


def _wanted(filters: Any) -> tuple[set[str] | None, set[str] | None]:
    """States and names of W&B's filter documents, as far as launching needs them."""
    if not isinstance(filters, dict):
        return None, None
    return _values(filters.get("state")), _values(filters.get("name"))


def _values(condition: Any) -> set[str] | None:
    if isinstance(condition, str):
        return {condition}
    if isinstance(condition, dict) and isinstance(condition.get("$in"), list):
        return {str(value) for value in condition["$in"]}
    return None
