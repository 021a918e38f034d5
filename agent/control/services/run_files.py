"""Files of runs, listed and removed; `files/run_files.py` has the bytes."""

from collections.abc import Sequence
from typing import Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.context import Service, read, write
from agent.control.services.paging import Page, page_of, page_size
from agent.control.services.runs import check_run
from agent.control.store import run_files, runs
from agent.control.store.run_files import RunFileRecord
from agent.control.store.tx import Tx
from agent.model.errors import InvalidInputError
from agent.model.job.paths import inside

#: Names that one request may ask for.
_MAX_NAMES: Final = 1_000


class RunFiles(Service):
    """Files of runs that the caller has read."""

    @read
    def list(
        self,
        tx: Tx,
        run_id: str,
        *,
        names: Sequence[str] = (),
        pattern: str | None = None,
        after: str | None = None,
        first: int = 50,
    ) -> Page[RunFileRecord]:
        """A page of a run's files by name.

        With `names` exactly these: one that has not arrived has size 0 and
        no time. `pattern` has `%` for any text, and `_` for any character.
        """
        size = page_size(first)
        total = run_files.count(tx, run_id)
        if names:
            found = self._named(tx, run_id, names)
            return Page(found, None, has_next=False, total=total)
        rows = run_files.page(tx, run_id, pattern, after or "", size + 1)
        return page_of(rows, size, total, lambda file: file.name)

    @read
    def count(self, tx: Tx, run_id: str) -> int:
        """How many files a run has."""
        return run_files.count(tx, run_id)

    @write
    def remove(self, tx: Tx, principal: Principal, run_id: str, name: str) -> bool:
        """Remove the row of a file; false if run or file are absent or hidden.

        Raises:
            PermissionDeniedError
        """
        run = runs.by_id(tx, run_id)
        policy = self._context.policy
        if run is None or not policy.reads_project(principal, run.entity, run.project):
            return False
        policy.require(principal, run.entity, Action.WRITE_RUNS)
        check_run(principal, run.project, run.name)
        return run_files.remove(tx, run.entity, run_id, name)

    def _named(self, tx: Tx, run_id: str, names: Sequence[str]) -> tuple[RunFileRecord, ...]:
        if len(names) > _MAX_NAMES:
            raise InvalidInputError(f"`names` has more than {_MAX_NAMES} entries.")
        plain = [inside(name, "run's file") for name in names]
        known = {file.name: file for file in run_files.named(tx, run_id, plain)}
        return tuple(known.get(name) or RunFileRecord(name, 0, None) for name in plain)
