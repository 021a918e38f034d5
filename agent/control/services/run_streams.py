"""Streams of runs: who may write them, their index, and what their updates say about the run.

`control/files/run_streams.py` has the bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agent.control.auth.policy import Action, Principal
from agent.control.services.context import Service, read, write
from agent.control.services.history_keys import merged_keys
from agent.control.services.notifications import topic_project, topic_run
from agent.control.services.run_items import end_item, mark_job_due, mark_started
from agent.control.services.runs import check_run
from agent.control.services.stream_update import StreamLines, StreamUpdate, only_new
from agent.control.store import run_alerts, run_streams, runs, stored_bytes
from agent.control.store.run_alerts import RunAlert
from agent.control.store.run_streams import ChunkRecord, Stream, StreamRecord
from agent.control.store.runs import RunPlace
from agent.control.store.tx import Tx
from agent.model.errors import InvalidInputError, NotFoundError

#: A write sets a run of these states to running.
_LEFT_BY_A_WRITE: Final = {"pending", "crashed", "preempted"}
#: A write does not change these. `crashed` is not among them: such a run may write again.
_OVER: Final = {"finished", "failed", "killed"}
#: Small chunks of a stream are merged at so many, or so many bytes.
_MANY_CHUNKS: Final = 64
_MANY_BYTES: Final = 512 * 1024
#: Alerts that are kept of one run.
_MAX_ALERTS: Final = 1_000


@dataclass(frozen=True, slots=True)
class RunName:
    """A run as its process names it."""

    entity: str
    project: str
    run: str


@dataclass(frozen=True, slots=True)
class Written:
    """The result of an update."""

    run_id: str
    #: Somebody asked the run to stop.
    stopped: bool
    #: Streams with so many small chunks that they should be merged.
    to_merge: tuple[Stream, ...]


class RunStreams(Service):
    """What the process of a run writes.  A run token writes those of its own run."""

    @read
    def place(self, tx: Tx, principal: Principal, name: RunName) -> RunPlace:
        """The run that the caller may write to.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        return self._place(tx, principal, name, lock=False)

    @write
    def heartbeat(self, tx: Tx, principal: Principal, name: RunName) -> RunPlace:
        """Note that a run is alive; raises as `place`."""
        run = self._place(tx, principal, name)
        self._note(tx, run, StreamUpdate())
        return run

    @write
    def alert(
        self,
        tx: Tx,
        principal: Principal,
        name: RunName,
        title: str,
        text: str,
        *,
        severity: str,
        wait_seconds: float,
    ) -> bool:
        """Store an alert; false when one of that title was sent in the last `wait_seconds`.

        Raises:
            NotFoundError, PermissionDeniedError
            InvalidInputError: the run has sent as many alerts as are kept.
        """
        run = self._place(tx, principal, name)
        before = run_alerts.last_sent(tx, run.id, title)
        if before is not None and tx.now < before + wait_seconds:
            return False
        if run_alerts.count(tx, run.id) >= _MAX_ALERTS:
            raise InvalidInputError(f"The run '{run.name}' has sent {_MAX_ALERTS} alerts.")
        run_alerts.add(tx, run.id, title, text, severity)
        tx.notify(topic_run(run.id))
        return True

    @read
    def alerts(self, tx: Tx, run_id: str) -> Sequence[RunAlert]:
        """The alerts of a run that the caller has read, the newest first."""
        return run_alerts.newest(tx, run_id, _MAX_ALERTS)

    @write
    def append(
        self,
        tx: Tx,
        principal: Principal,
        name: RunName,
        update: StreamUpdate,
        chunks: Mapping[Stream, Sequence[ChunkRecord]],
    ) -> Written:
        """Store one update whole: lines, summary, state.

        `chunks` are the lines of `update` as they are stored.

        Raises:
            NotFoundError, PermissionDeniedError
        """
        run = self._place(tx, principal, name)
        known = run_streams.states(tx, run.id) if update.streams else {}
        to_merge: list[Stream] = []
        for lines in update.streams:
            state = known.get(lines.stream)
            changed, size = _store(tx, run.id, lines, chunks[lines.stream], state)
            stored_bytes.add(tx, "run_streams", {run.entity: size})
            known[lines.stream] = changed
            if changed.small_chunks >= _MANY_CHUNKS or changed.small_bytes >= _MANY_BYTES:
                to_merge.append(lines.stream)
        self._note(tx, run, update)
        tx.notify(topic_run(run.id), topic_project(run.entity, run.project))
        return Written(run.id, run.stopped, tuple(to_merge))

    @read
    def states(self, tx: Tx, run_id: str) -> dict[str, StreamRecord]:
        """The streams, by name, of a run that the caller has read."""
        return run_streams.states(tx, run_id)

    @read
    def chunks(
        self, tx: Tx, run_id: str, stream: Stream, first: int = 0, end: int | None = None
    ) -> Sequence[ChunkRecord]:
        """The index of a stream, by first line, with the bytes of small chunks."""
        return run_streams.chunks(tx, run_id, stream, first, end)

    @read
    def chunks_of_steps(
        self, tx: Tx, run_id: str, stream: Stream, steps: range
    ) -> Sequence[ChunkRecord]:
        """As `chunks`, of the lines among which those of some steps are."""
        return run_streams.chunks_of_steps(tx, run_id, stream, steps)

    @write
    def merge(
        self,
        tx: Tx,
        run_id: str,
        stream: Stream,
        small: Sequence[ChunkRecord],
        merged: Sequence[ChunkRecord],
    ) -> bool:
        """Replace small chunks by merged ones; false if another process did so before."""
        run = runs.by_id(tx, run_id) if runs.lock(tx, run_id) else None
        if run is None:
            return False
        present = {
            (chunk.first_line, chunk.version) for chunk in run_streams.chunks(tx, run_id, stream)
        }
        if not all((chunk.first_line, chunk.version) in present for chunk in small):
            return False
        run_streams.remove_chunks(tx, run_id, stream, small)
        run_streams.add_chunks(tx, run_id, stream, merged)
        smaller = sum(chunk.size for chunk in merged) - sum(chunk.size for chunk in small)
        stored_bytes.add(tx, "run_streams", {run.entity: smaller})
        state = run_streams.states(tx, run_id)[stream]
        values = {
            "small_chunks": state.small_chunks - len(small),
            "small_bytes": state.small_bytes - sum(chunk.size for chunk in small),
        }
        run_streams.save(tx, run_id, stream, values, new=False)
        return True

    def _place(self, tx: Tx, principal: Principal, name: RunName, *, lock: bool = True) -> RunPlace:
        entity = self._context.existing_entity(tx, principal, name.entity, Action.WRITE_RUNS)
        check_run(principal, name.project, name.run)
        run = runs.place(tx, entity, name.project, name.run, lock=lock)
        if run is None:
            raise NotFoundError(f"There is no run '{name.run}' in '{entity}/{name.project}'.")
        return run

    def _note(self, tx: Tx, run: RunPlace, update: StreamUpdate) -> None:
        """Write what an update means for the run itself; a run that is over stays so."""
        values: dict[str, Any] = {} if update.summary is None else {"summary": update.summary}
        if run.state not in _OVER:
            values |= _life(run, update, tx.now)
        runs.change(tx, run.id, values)
        if update.exit_code is not None:
            mark_job_due(tx, run.id)
            end_item(tx, run, update.exit_code)
        else:
            mark_started(tx, run, self._context.config.agent_timeout)


def _life(run: RunPlace, update: StreamUpdate, now: float) -> dict[str, Any]:
    if update.exit_code is not None:
        state = "finished" if update.exit_code == 0 else "failed"
        code = {"exit_code": update.exit_code}
        return {"state": state, "ended_at": now, "heartbeat_at": now, **code}
    if update.preempting:
        return {"state": "preempting", "ended_at": None, "heartbeat_at": now}
    if run.state in _LEFT_BY_A_WRITE:
        return {"state": "running", "ended_at": None, "heartbeat_at": now}
    return {"heartbeat_at": now}


def _store(
    tx: Tx,
    run_id: str,
    lines: StreamLines,
    chunks: Sequence[ChunkRecord],
    state: StreamRecord | None,
) -> tuple[StreamRecord, int]:
    """Insert chunks, remove those that they replace, and bring the stream's state up to date.

    Returns the state, and by how many bytes the stream has grown.
    """
    before = state or StreamRecord()
    keys = lines.keys
    gone: tuple[ChunkRecord, ...] = ()
    if lines.first_line < before.line_count:
        stored = run_streams.chunks(tx, run_id, lines.stream, lines.first_line, lines.end_line)
        keys = only_new(lines, stored)
        gone = tuple(chunk for chunk in stored if _inside(chunk, lines))
        run_streams.remove_chunks(tx, run_id, lines.stream, gone)
    version, last_step = before.version + 1, max(lines.steps)
    if before.last_step is not None:
        last_step = max(last_step, before.last_step)
    run_streams.add_chunks(
        tx, run_id, lines.stream, [replace(chunk, version=version) for chunk in chunks]
    )
    after = StreamRecord(
        line_count=max(before.line_count, lines.end_line),
        version=version,
        last_step=last_step,
        keys=merged_keys(before.keys or {}, keys),
        tail=lines.tail if lines.end_line >= before.line_count else before.tail,
        small_chunks=before.small_chunks + _small_count(chunks) - _small_count(gone),
        small_bytes=before.small_bytes + _small_size(chunks) - _small_size(gone),
    )
    values = {name: getattr(after, name) for name in StreamRecord.__slots__}
    run_streams.save(tx, run_id, lines.stream, values, new=state is None)
    grown = sum(chunk.size for chunk in chunks) - sum(chunk.size for chunk in gone)
    return after, grown


def _inside(chunk: ChunkRecord, lines: StreamLines) -> bool:
    return lines.first_line <= chunk.first_line and chunk.end_line <= lines.end_line


def _small_count(chunks: Sequence[ChunkRecord]) -> int:
    return sum(chunk.data is not None for chunk in chunks)


def _small_size(chunks: Sequence[ChunkRecord]) -> int:
    return sum(chunk.size for chunk in chunks if chunk.data is not None)
