"""Tables of runs: what they report, their alerts, the sweeps that give them parameters, their jobs.

A stream is append-only and maps line numbers to lines. A chunk has consecutive lines, each ended
by a newline. The bytes of small chunks are in their row; larger ones are a part of an object in
the object store, which is written before its row.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from agent.control.store.artifact_tables import metadata
from agent.control.store.tables import JsonText, PlainText, Serial, entity_column

__all__ = [
    "ALIVE_ONLY",
    "DUE_ONLY",
    "metadata",
    "run_alerts",
    "run_chunks",
    "run_files",
    "run_jobs",
    "run_streams",
    "run_values",
    "runs",
    "sweep_agents",
    "sweeps",
]

runs: Final = Table(
    "runs",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("id", PlainText, nullable=False, unique=True),
    entity_column(),
    Column("project", PlainText, nullable=False),
    Column("name", PlainText, nullable=False),
    Column("display_name", PlainText),
    Column("description", PlainText),
    Column("notes", PlainText),
    Column("tags", JsonText, nullable=False),
    Column("group_name", PlainText),
    Column("job_type", PlainText),
    Column("commit_hash", PlainText),
    Column("config", JsonText, nullable=False),
    Column("summary", JsonText, nullable=False),
    Column("state", PlainText, nullable=False),
    Column("stopped", Boolean, nullable=False),
    Column("exit_code", Integer),
    Column("host", PlainText),
    Column("program", PlainText),
    Column("git_remote", PlainText),
    Column("sweep", PlainText),
    Column("user_name", PlainText),
    Column("item_id", PlainText),
    Column("created_at", Double, nullable=False),
    Column("heartbeat_at", Double, nullable=False),
    Column("ended_at", Double),
    UniqueConstraint("entity", "project", "name"),
    Index("ix_runs_project_seq", "entity", "project", "seq"),
    Index("ix_runs_project_state", "entity", "project", "state", "seq"),
    Index("ix_runs_project_display_name", "entity", "project", "display_name", "seq"),
    Index("ix_runs_project_heartbeat", "entity", "project", "heartbeat_at"),
)

DUE_ONLY: Final = "due"
#: States in which a run that sends no heartbeats is found out.
ALIVE_ONLY: Final = "state IN ('preempting', 'running')"

Index(
    "ix_runs_alive",
    runs.c.heartbeat_at,
    sqlite_where=text(ALIVE_ONLY),
    postgresql_where=text(ALIVE_ONLY),
)
Index(
    "ix_runs_sweep",
    runs.c.entity,
    runs.c.project,
    runs.c.sweep,
    sqlite_where=text("sweep IS NOT NULL"),
    postgresql_where=text("sweep IS NOT NULL"),
)

run_files: Final = Table(
    "run_files",
    metadata,
    Column("run_id", PlainText, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", PlainText, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
)

#: What became of a run that has ended: its job.
run_jobs: Final = Table(
    "run_jobs",
    metadata,
    Column("run_id", PlainText, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    #: How often the run has ended: the job of an earlier end is not that of a later one.
    Column("ends", Integer, nullable=False),
    #: Whether the job is still to be made.
    Column("due", Boolean, nullable=False),
    #: The job's version that was made, or found with the same content.
    Column("artifact_id", PlainText),
    #: Why none was made.
    Column("problem", PlainText),
    Index("ix_run_jobs_due", "due", sqlite_where=text(DUE_ONLY), postgresql_where=text(DUE_ONLY)),
)

run_streams: Final = Table(
    "run_streams",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    #: history, events or output.
    Column("stream", Text, primary_key=True),
    #: One more than the number of the highest line.
    Column("line_count", BigInteger, nullable=False),
    #: Number of writes; the version of the newest chunk.
    Column("version", BigInteger, nullable=False),
    #: Highest `_step` of a line.
    Column("last_step", BigInteger),
    #: Of the history: for each key its last value and how often which type was seen.
    Column("keys", JsonText, nullable=False),
    #: The highest line; of a long one only the times and the step.
    Column("tail", LargeBinary, nullable=False),
    #: Number and bytes of the chunks whose bytes are in their row.
    Column("small_chunks", Integer, nullable=False),
    Column("small_bytes", BigInteger, nullable=False),
)

run_chunks: Final = Table(
    "run_chunks",
    metadata,
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("stream", Text, primary_key=True),
    #: Lines `first_line` (inclusive) to `end_line` (exclusive).
    Column("first_line", BigInteger, primary_key=True),
    #: Of two chunks with the same line, that of the later version counts.
    Column("version", BigInteger, primary_key=True),
    Column("end_line", BigInteger, nullable=False),
    #: Lowest and highest `_step`; of a line without one, its number.
    Column("min_step", BigInteger, nullable=False),
    Column("max_step", BigInteger, nullable=False),
    #: Whether the step of each line is higher than that of the one before.
    Column("rising", Boolean, nullable=False),
    #: Bytes.
    Column("size", Integer, nullable=False),
    #: The bytes, or the object that has them from `position` on.
    Column("data", LargeBinary),
    Column("object", Text),
    Column("position", BigInteger, nullable=False),
    Index("ix_run_chunks_steps", "run_id", "stream", "max_step", "min_step"),
)

run_alerts: Final = Table(
    "run_alerts",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("run_id", Text, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("title", PlainText, nullable=False),
    Column("text", PlainText, nullable=False),
    #: INFO, WARN or ERROR.
    Column("severity", Text, nullable=False),
    Column("sent_at", Double, nullable=False),
    Index("ix_run_alerts_run_id_title", "run_id", "title"),
)

#: Simple values of configs and summaries, for filters and orders: each a number, a text or a truth
#: value.
run_values: Final = Table(
    "run_values",
    metadata,
    Column("run_seq", BigInteger, ForeignKey("runs.seq", ondelete="CASCADE"), primary_key=True),
    #: `config.` or `summary.` and the dotted path.
    Column("key", PlainText, primary_key=True),
    Column("project_number", BigInteger, nullable=False),
    Column("number", Double),
    Column("text", PlainText),
    Column("truth", Boolean),
)
for _kind in ("number", "text", "truth"):
    Index(
        f"ix_run_values_{_kind}",
        *(run_values.c[name] for name in ("project_number", "key", _kind, "run_seq")),
        sqlite_where=run_values.c[_kind].is_not(None),
        postgresql_where=run_values.c[_kind].is_not(None),
    )

sweeps: Final = Table(
    "sweeps",
    metadata,
    Column("seq", Serial, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    entity_column(),
    Column("project", PlainText, nullable=False),
    Column("name", PlainText, nullable=False),
    Column("display_name", PlainText),
    Column("description", PlainText),
    #: YAML as its user wrote it, and the same decoded.
    Column("config_text", PlainText, nullable=False),
    Column("config", JsonText, nullable=False),
    Column("state", Text, nullable=False),
    #: Combinations of the grid, and how many of them were given to agents.
    Column("combinations", Integer, nullable=False),
    Column("given", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    UniqueConstraint("entity", "project", "name"),
)

sweep_agents: Final = Table(
    "sweep_agents",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sweep_id", Text, ForeignKey("sweeps.id", ondelete="CASCADE"), nullable=False),
    Column("host", PlainText, nullable=False),
    #: The run that it was given last, and how often until it was heard to have it.
    Column("run_name", PlainText),
    Column("offers", Integer, nullable=False),
    Column("heartbeat_at", Double, nullable=False),
    Index(None, "sweep_id"),
)
