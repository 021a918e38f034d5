"""Jobs made from runs: which runs are due, what the database knows of them, what became of them."""

from dataclasses import dataclass, replace
from typing import Final

from agent.control.auth import principals
from agent.control.auth.policy import Action, CredentialKind, Principal, RunScope
from agent.control.services.audit import audited
from agent.control.services.context import Service, read, write
from agent.control.store import (
    accounts,
    artifact_files,
    artifacts,
    items,
    projects,
    run_jobs,
    runs,
    work_leases,
)
from agent.control.store.run_jobs import RunJobRecord
from agent.control.store.runs import RunRecord
from agent.control.store.tx import Tx
from agent.model.errors import NotFoundError, PermissionDeniedError
from agent.model.job.names import JOB_TYPE
from agent.model.job.recorded import NoJobError, RecordedCode

CODE_TYPE: Final = "code"
#: Seconds after which another replica makes the job that a killed one was making.
_LEASE: Final = 30.0
#: How a run uses the job that was made of it.
_USED_AS: Final = "_launch_made_from_run"
#: Runs that W&B's command line and agent begin for themselves.
_WANDB_JOB_TYPES: Final = frozenset({"cli_create_job", "sweep-controller"})


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that may become a job, and for whom."""

    run: RunRecord
    #: The run's author, with current rights. For a launched run `run` is set, so that aliases of
    #: versions that the run has not made are not moved.
    author: Principal
    #: The `code` artifact that it logged last: id and name.
    code: tuple[str, str] | None


class RunJobs(Service):
    """What `JobCreation` asks of the database, and the switches of projects and users."""

    @write
    def take_due(self, tx: Tx, run_id: str, holder: str) -> int | None:
        """Which end of the run is due for a job: 1, or more for a resumed run; 0: none.

        `None`: another process is making it.
        """
        found = run_jobs.get(tx, run_id)
        if found is None or not found.due:
            return 0
        taken = work_leases.take(tx, f"job of run {run_id}", holder, _LEASE)
        return found.ends if taken else None

    @write
    def release_lease(self, tx: Tx, holder: str) -> None:
        """Release the work lease that `take_due` took; after success and failure."""
        work_leases.release(tx, holder)

    @read
    def due(self, tx: Tx) -> list[str]:
        """Ids of some runs whose jobs are to be made."""
        return run_jobs.due(tx, 100)

    @read
    def ended_run(self, tx: Tx, run_id: str) -> EndedRun:
        """A run that has ended, if it may become a job.

        Raises:
            NotFoundError: it was deleted.
            NoJobError: it is not to become one; says why.
        """
        run = runs.by_id(tx, run_id)
        if run is None:
            raise NotFoundError(f"There is no run with the id '{run_id}'.")
        _check_wanted(tx, run)
        place = (run.entity, run.project, run.name)
        inputs = artifact_files.used_otherwise(tx, *place, _USED_AS)
        for each in artifacts.by_ids(tx, inputs):
            if each.collection.type == JOB_TYPE:
                raise NoJobError(f"It has the job {each.reference} already.")
        outputs = artifacts.outputs_of(tx, *place)
        code = [each for each in outputs if each.collection.type == CODE_TYPE]
        return EndedRun(
            run,
            self._author(tx, run),
            (code[-1].id, code[-1].collection.name) if code else None,
        )

    @read
    def code(self, tx: Tx, code: tuple[str, str], paths: tuple[str, ...]) -> RecordedCode:
        """A code artifact, with those of the paths that it has."""
        found, _ = artifact_files.entries(tx, code[0], names=paths, after="", limit=len(paths) + 1)
        return RecordedCode(*code, paths=frozenset(entry.path for entry in found))

    @write
    def record_job(self, tx: Tx, run: RunRecord, end: int, artifact_id: str) -> None:
        """Record the job of that end; the run takes it as input, as W&B's client does it.

        It stays due if the run has ended once more meanwhile.
        """
        place = {"entity": run.entity, "project": run.project, "run_name": run.name}
        artifact_files.insert_input(tx, {**place, "artifact_id": artifact_id, "used_as": _USED_AS})
        run_jobs.record_result(tx, run.id, end, artifact_id, None)

    @write
    def record_no_job(self, tx: Tx, run_id: str, end: int, problem: str) -> None:
        """Record why that end has no job; has no effect if the run has ended once more."""
        run_jobs.record_result(tx, run_id, end, None, problem)

    @read
    def of_run(self, tx: Tx, principal: Principal, run: RunRecord) -> RunJobRecord | None:
        """What became of a run; `None` when it has not ended by itself, or is hidden."""
        if not self._context.policy.reads_project(principal, run.entity, run.project):
            return None
        return run_jobs.get(tx, run.id)

    @audited("project.makes-jobs")
    def set_of_project(
        self, tx: Tx, principal: Principal, entity: str | None, project: str, *, enabled: bool
    ) -> None:
        """Let runs of a project become jobs, or not.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        entity = self._context.existing_entity(tx, principal, entity, Action.MANAGE_QUEUES)
        found = projects.project(tx, entity, project)
        if found is None:
            raise NotFoundError(f"There is no project '{project}' in '{entity}'.")
        projects.set_makes_jobs(tx, found.number, enabled)

    @audited("user.makes-jobs")
    def set_of_user(self, tx: Tx, principal: Principal, *, enabled: bool) -> None:
        """Let the caller's own runs become jobs, or not.

        Raises:
            PermissionDeniedError: not a user's key.
        """
        if principal.kind is not CredentialKind.USER or principal.user_id is None:
            raise PermissionDeniedError(f"{principal.name} is no user: use a user's key.")
        accounts.set_makes_jobs(tx, principal.user_id, enabled)

    def _author(self, tx: Tx, run: RunRecord) -> Principal:
        """Whoever submitted the item of that run's name, else who began the run.

        By name: a submission may take the name of a run that somebody else has begun.
        """
        item = items.by_run(tx, run.entity, run.project, run.name)
        user = None if run.user is None else accounts.user(tx, run.user)
        if item is None and run.item_id is not None:
            raise NoJobError("The item that launched it was removed.")
        if item is None and user is not None and not user.makes_jobs:
            raise NoJobError(f"{user.name} has jobs from runs switched off.")
        user_id: str | None = None if user is None else user.id
        author = principals.by_user(tx, user_id if item is None else item.author_id)
        if author is None or not self._context.policy.allows(author, run.entity, Action.WRITE_RUNS):
            raise NoJobError("Its author may not make jobs here (any more).")
        if item is None:
            return author
        return replace(author, run=RunScope(item.id, item.attempt, run.project, run.name))


def _check_wanted(tx: Tx, run: RunRecord) -> None:
    if run.job_type in _WANDB_JOB_TYPES:
        raise NoJobError(f"Runs of the job type `{run.job_type}` belong to W&B's own programs.")
    project = projects.project(tx, run.entity, run.project)
    if project is not None and not project.makes_jobs:
        raise NoJobError(f"The project '{run.project}' has jobs from runs switched off.")
