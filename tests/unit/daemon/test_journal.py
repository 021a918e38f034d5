"""The write-ahead journal."""

import sqlite3
from pathlib import Path

import pytest

from agent.daemon.journal import Journal
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError
from agent.model.phase import (
    Errored,
    Failed,
    Lost,
    Outcome,
    Preempted,
    Refused,
    Stopped,
    Succeeded,
)
from agent.model.work import Lease

LEASE = Lease("item", 1, 1)


async def test_an_attempt_from_creation_to_acknowledgement(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.db"
    journal = await Journal.open(path)
    journal.opened(LEASE)
    await journal.start_sent(LEASE)
    journal.log_resumes(LEASE, "12@0@")
    await journal.outcome_known(LEASE, Succeeded())
    await journal.close()
    again = await Journal.open(path)
    (entry,) = await again.entries()
    assert entry.start_sent
    assert entry.log_resume == "12@0@"
    assert entry.outcome == Succeeded()
    assert not entry.over
    again.closed(LEASE)
    await again.forget(older_than=3600.0)
    assert [entry.over for entry in await again.entries()] == [True]
    await again.forget(older_than=0)
    assert [entry.over for entry in await again.entries()] == [True]
    await again.forget(older_than=-1.0)
    assert await again.entries() == []
    await again.close()
    await again.close()


async def test_opening_an_attempt_again_resets_its_entry(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "journal.db")
    await journal.start_sent(LEASE)
    journal.closed(LEASE)
    journal.opened(Lease("item", 1, 2))
    await journal.forget(3600.0)
    (entry,) = await journal.entries()
    assert not entry.start_sent
    assert not entry.over
    assert entry.lease.epoch == 2
    await journal.close()


@pytest.mark.parametrize(
    "outcome",
    [
        Succeeded(),
        Failed(Cause.RUN_EXIT_CODE, "exit code 3", 3),
        Stopped("asked", Cause.STOPPED_BY_AGENT, 143),
        Preempted("gone"),
        Lost(Cause.LOST_ENGINE, "gone"),
        Refused(Cause.POLICY_SPEC, "no"),
        Errored(Cause.DISK_FULL, "full"),
    ],
)
async def test_every_outcome_is_read_as_it_was_written(tmp_path: Path, outcome: Outcome) -> None:
    journal = await Journal.open(tmp_path / "journal.db")
    await journal.outcome_known(LEASE, outcome)
    (entry,) = await journal.entries()
    await journal.close()
    assert entry.outcome == outcome


@pytest.mark.parametrize("damage", ["text", "newer"])
async def test_a_damaged_journal_is_set_aside_and_replaced(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "journal.db"
    if damage == "text":
        path.write_text("this is no database, by any means\n" * 100)
    else:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
    journal = await Journal.open(path)
    assert await journal.entries() == []
    await journal.close()
    assert len(list(tmp_path.glob("journal.db.damaged-*"))) == 1


async def test_the_error_names_a_journal_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(ConfigError, match=r"journal\.db"):
        await Journal.open(tmp_path / "journal.db")


async def test_a_full_disk_is_a_cause_of_its_own(tmp_path: Path) -> None:
    journal = await Journal.open(tmp_path / "journal.db")
    await journal._in_thread(lambda: journal._opened_database().execute("PRAGMA max_page_count=1"))
    with pytest.raises(JobError) as caught:
        await journal.outcome_known(LEASE, Errored(Cause.INTERNAL, "x" * 100_000))
    assert caught.value.cause is Cause.DISK_FULL
    journal.log_resumes(LEASE, "12@0@")
    await journal.close()
    with pytest.raises(JobError) as caught:
        await journal._submit("DELETE FROM attempt", ())
    assert caught.value.cause is Cause.INTERNAL


async def test_a_journal_that_cannot_be_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    """The loop that prunes goes on after it."""
    journal = await Journal.open(tmp_path / "journal.db")
    await journal._in_thread(lambda: journal._opened_database().execute("DROP TABLE attempt"))
    with pytest.raises(JobError, match=r"journal\.db cannot be read"):
        await journal.entries()
    await journal.close()
