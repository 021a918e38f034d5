"""Sweeps over a grid: stored, listed, and given to W&B's sweep agents run by run.

Not offered: other methods than `grid`, early termination, schedulers on launch queues, prior
runs, local controllers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.context import Service, read, write
from agent.control.services.notifications import topic_project
from agent.control.services.paging import Page, cursor, numbered_page, page_size
from agent.control.services.runs import UNNAMED_PROJECT, insert_run, readable_project
from agent.control.services.sweep_config import Metric, SweepConfig, combination, combinations
from agent.control.store import projects, runs, sweeps
from agent.control.store.ids import new_id, new_run_name
from agent.control.store.sweeps import SweepAgentRecord, SweepRecord
from agent.control.store.tx import Tx
from agent.model.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
)
from agent.model.names import checked_project
from agent.model.spec import Json

#: Each state, and the states that a user may set it to.
_MAY_BECOME: Final[Mapping[str, frozenset[str]]] = {
    "PENDING": frozenset({"PAUSED", "CANCELED", "FINISHED"}),
    "RUNNING": frozenset({"PAUSED", "CANCELED", "FINISHED"}),
    "PAUSED": frozenset({"RUNNING", "CANCELED", "FINISHED"}),
    "FINISHED": frozenset({"RUNNING"}),
    "CANCELED": frozenset({"RUNNING"}),
}
_ENDED: Final = frozenset({"FINISHED", "CANCELED"})
_EXIT: Final[Sequence[Json]] = [{"type": "exit"}]
#: How often a run is offered to an agent that does not say it has it: its answer may be lost,
#: or its program may end without a run.
_MAX_OFFERS: Final = 3
_MAX_HOST: Final = 256


@dataclass(frozen=True, slots=True)
class SweepChange:
    """Fields of `upsertSweep`; `None` leaves a field as it is."""

    config: SweepConfig | None = None
    display_name: str | None = None
    description: str | None = None
    state: str | None = None


class Sweeps(Service):
    """Sweeps of projects. Run tokens read those of their project."""

    @write
    def insert(
        self,
        tx: Tx,
        principal: Principal,
        entity: str | None,
        project: str | None,
        change: SweepChange,
    ) -> SweepRecord:
        """A new sweep, with its project.

        Raises:
            InvalidInputError: it has no configuration.
            NotFoundError, PermissionDeniedError
        """
        owner = self._context.existing_entity(tx, principal, entity, Action.WRITE_RUNS)
        _refuse_runs(principal)
        if change.config is None:
            raise InvalidInputError("A new sweep needs a `config`.")
        project = checked_project(project or UNNAMED_PROJECT)
        projects.ensure(tx, owner, project)
        values = _values(change) | {
            "id": new_id(),
            "entity": owner,
            "project": project,
            "name": new_run_name(),
            "state": change.state or "PENDING",
        }
        if values["state"] not in _MAY_BECOME:
            raise _unknown_state(values["state"])
        return sweeps.insert_sweep(tx, values)

    @write
    def change(
        self, tx: Tx, principal: Principal, sweep_id: str, change: SweepChange
    ) -> SweepRecord:
        """Change a sweep: names, state, or its grid as long as no run was given.

        Raises:
            NotFoundError, PermissionDeniedError
            ConflictError: the state cannot become that, or runs were given already.
        """
        sweep = self._to_write(tx, principal, sweep_id)
        if change.config is not None and sweep.given:
            raise ConflictError(
                f"The sweep '{sweep.name}' has given {sweep.given} runs; its grid stays as it is.",
                hint="Make another sweep.",
            )
        if change.state is not None and change.state != sweep.state:
            if change.state not in _MAY_BECOME:
                raise _unknown_state(change.state)
            if change.state not in _MAY_BECOME[sweep.state]:
                message = f"The sweep '{sweep.name}' is {sweep.state}, not {change.state}."
                raise ConflictError(message)
        tx.notify(topic_project(sweep.entity, sweep.project))
        return sweeps.change(tx, sweep.id, _values(change))

    @read
    def get(
        self, tx: Tx, principal: Principal, entity: str, project: str, name: str
    ) -> SweepRecord | None:
        """A sweep by name; `None` when it does not exist or is hidden."""
        if not self._context.policy.reads_project(principal, entity, project):
            return None
        return sweeps.by_name(tx, entity, project, name)

    @read
    def list(
        self,
        tx: Tx,
        principal: Principal,
        entity: str,
        project: str,
        *,
        after: str | None = None,
        first: int = 50,
    ) -> Page[SweepRecord]:
        """Sweeps of a project, the newest first."""
        size, after_row = page_size(first), cursor(after)
        owner = readable_project(tx, self._context, principal, entity, project)
        found, total = sweeps.page(tx, owner, project, after_row, size + 1)
        return numbered_page(found, size, total)

    @read
    def state(self, tx: Tx, sweep: SweepRecord) -> str:
        """The state of a sweep: it is finished, too, once all runs were given and have ended."""
        return _state(tx, sweep, self._context.config.run_timeout)

    @read
    def best(self, tx: Tx, sweep: SweepRecord) -> float | None:
        """The best value of the sweep's metric in the summaries of its runs."""
        metric = Metric.of(sweep.config)
        if metric is None:
            return None
        sign, key = "-" if metric.maximized else "+", f"summary_metrics.{metric.name}"
        where = {"$and": [{"sweep": sweep.name}, {key: {"$exists": True}}]}
        found, _ = runs.page(
            tx,
            sweep.entity,
            sweep.project,
            filters=where,
            order=f"{sign}{key}",
            after=None,
            limit=1,
        )
        value = runs.simple_value(found[0][1].summary, metric.name) if found else None
        return float(value) if isinstance(value, int | float) else None

    @write
    def add_agent(
        self,
        tx: Tx,
        principal: Principal,
        entity: str | None,
        project: str | None,
        name: str,
        host: str,
    ) -> str:
        """A process begins to ask for runs of a sweep, which runs from then on; returns its id.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        owner = self._context.existing_entity(tx, principal, entity, Action.WRITE_RUNS)
        _refuse_runs(principal)
        place = f"{owner}/{project or UNNAMED_PROJECT}"
        found = sweeps.by_name(tx, owner, project or UNNAMED_PROJECT, name)
        sweep = found and sweeps.lock(tx, found.id)
        if sweep is None:
            raise NotFoundError(f"There is no sweep '{name}' in '{place}'.")
        agent_id = new_id()
        sweeps.insert_agent(tx, agent_id, sweep.id, host[:_MAX_HOST])
        if sweep.state == "PENDING":
            sweeps.change(tx, sweep.id, {"state": "RUNNING"})
        return agent_id

    @write
    def heartbeat(
        self, tx: Tx, principal: Principal, agent_id: str, live: frozenset[str]
    ) -> Sequence[Json]:
        """What an agent is to do, in W&B's words; `live` are the runs that it has.

        It gets one run at a time. A run is offered again while the agent does not say that it has
        it, so that an answer that is lost costs no combination.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        agent = sweeps.lock_agent(tx, agent_id)
        if agent is None:
            raise NotFoundError(f"There is no sweep agent with the id '{agent_id[:40]}'.")
        sweep = self._to_write(tx, principal, agent.sweep_id)
        if agent.run_name in live:
            sweeps.change_agent(tx, agent.id, {"offers": _MAX_OFFERS})
            return _EXIT if sweep.state == "CANCELED" else []
        if live or sweep.state == "PAUSED":
            sweeps.change_agent(tx, agent.id, {})
            return _EXIT if sweep.state == "CANCELED" else []
        return self._next(tx, principal, sweep, agent)

    def _next(
        self, tx: Tx, principal: Principal, sweep: SweepRecord, agent: SweepAgentRecord
    ) -> Sequence[Json]:
        """A run for an agent that has none: the one that it did not take, or another."""
        values: dict[str, Any] = {}
        commands: Sequence[Json] = _EXIT
        if sweep.state not in _ENDED:
            offered = _offered_again(tx, sweep, agent)
            if offered is not None:
                values, commands = {"offers": agent.offers + 1}, [offered]
            elif sweep.given < sweep.combinations:
                command = _new_run(tx, principal, sweep)
                values = {"run_name": command["run_id"], "offers": 1}
                commands = [command]
        sweeps.change_agent(tx, agent.id, values)
        return commands

    def _to_write(self, tx: Tx, principal: Principal, sweep_id: str) -> SweepRecord:
        """A sweep, locked, that the caller may change."""
        sweep = sweeps.lock(tx, sweep_id)
        if sweep is None or not self._context.policy.reads_project(
            principal, sweep.entity, sweep.project
        ):
            raise NotFoundError(f"There is no sweep with the id '{sweep_id[:40]}'.")
        self._context.policy.require(principal, sweep.entity, Action.WRITE_RUNS)
        _refuse_runs(principal)
        return sweep


def _refuse_runs(principal: Principal) -> None:
    if principal.run is not None:
        message = f"The token of {principal.name} writes its own run only, no sweep."
        raise PermissionDeniedError(message, hint="Use a user's key.")


def _unknown_state(state: str) -> InvalidInputError:
    message = f"A sweep cannot be '{state[:40]}'."
    return InvalidInputError(message, hint=f"Use {', '.join(_MAY_BECOME)}.")


def _values(change: SweepChange) -> dict[str, Any]:
    values = {
        "display_name": change.display_name,
        "description": change.description,
        "state": change.state,
    }
    given: dict[str, Any] = {key: one for key, one in values.items() if one is not None}
    if change.config is not None:
        given["config_text"] = change.config.text
        given["config"] = change.config.document
        given["combinations"] = combinations(change.config.document)
    return given


def _state(tx: Tx, sweep: SweepRecord, run_timeout: float) -> str:
    over = sweep.state == "RUNNING" and sweep.given >= sweep.combinations
    if over and not sweeps.has_live_run(tx, sweep, tx.now - run_timeout):
        return "FINISHED"
    return sweep.state


def _offered_again(tx: Tx, sweep: SweepRecord, agent: SweepAgentRecord) -> Json | None:
    """The command for the run that an agent was given and that has not begun."""
    if agent.run_name is None or agent.offers >= _MAX_OFFERS:
        return None
    run = runs.by_name(tx, sweep.entity, sweep.project, agent.run_name)
    if run is None or run.state != "pending":
        return None
    return _command(sweep, agent.run_name, run.config)


def _new_run(tx: Tx, principal: Principal, sweep: SweepRecord) -> Json:
    """Insert the run of the next combination, pending; returns its command."""
    name, config = new_run_name(), combination(sweep.config, sweep.given)
    run = insert_run(tx, principal, sweep.entity, sweep.project, name)
    runs.change(tx, run.id, {"state": "pending", "sweep": sweep.name, "config": config})
    sweeps.change(tx, sweep.id, {"given": sweep.given + 1})
    tx.notify(topic_project(sweep.entity, sweep.project))
    return _command(sweep, name, config)


def _command(sweep: SweepRecord, run_name: str, config: Json) -> Json:
    command: Json = {"type": "run", "run_id": run_name, "args": config}
    program = sweep.config.get("program")
    return command | ({"program": program} if isinstance(program, str) else {})
