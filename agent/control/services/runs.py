"""W&B runs, as far as launching needs them."""

from dataclasses import dataclass
from typing import Any

from agent.control.services.policy import Principal
from agent.control.store.records import Page, RunRecord
from agent.model.spec import Json


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
    sweep: str | None = None


class Runs:
    """Runs of projects. A run token may only write runs of its own project."""

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
            InvalidInputError: state or name.
        """
        raise NotImplementedError

    async def get(
        self, principal: Principal, entity: str | None, project: str, name: str
    ) -> RunRecord | None:
        """A run; `None` when it does not exist or is hidden."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def stop(self, principal: Principal, run_id: str) -> bool:
        """Ask a run to stop, by id or by W&B's storage id `base64("Run:v1:name:project:entity")`.

        The item that launched it is stopped with it.
        """
        raise NotImplementedError

    async def set_state(self, principal: Principal, run_id: str, state: str) -> bool:
        """W&B's `updateRunState`; false for an unknown run."""
        raise NotImplementedError

    async def complete(
        self, principal: Principal, entity: str, project: str, name: str, exit_code: int
    ) -> None:
        """The client said that the run is over; ends the item of a W&B agent as well."""
        raise NotImplementedError
