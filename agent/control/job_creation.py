"""Makes the jobs of runs that have ended, since W&B's clients no longer do so by default."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

import structlog

from agent.control.files.contents import ContentStore
from agent.control.files.run_files import RunFileStore
from agent.control.middleware.errors import log_and_mask
from agent.control.services.artifact_uploads import NewArtifact
from agent.control.services.assembly import Services
from agent.control.services.notifications import RUN_JOBS
from agent.control.services.run_jobs import EndedRun
from agent.control.store.artifact_files import EntryRecord
from agent.control.store.artifacts import ArtifactState
from agent.control.store.ids import new_id
from agent.control.store.write_batches import OverloadedError
from agent.model.errors import LaunchError, ServerError, TooLargeError, UnreachableError
from agent.model.job.digest import MANIFEST_HEAD, MANIFEST_NAME, encoded, manifest_digest
from agent.model.job.job_file import FILE_NAME, PATCH_NAME
from agent.model.job.names import JOB_TYPE
from agent.model.job.recorded import (
    METADATA_NAME,
    REQUIREMENTS_NAME,
    NoJobError,
    RecordedJob,
    RecordedRun,
    program_paths,
    recorded_job,
)
from agent.model.json_values import decode
from agent.model.spec import Json

#: Seconds between two looks for runs that a stopped server has left.
_INTERVAL: Final = 30.0
#: Seconds between two looks whether another replica has made a job.
_LOOK_AGAIN: Final = 0.2
#: Bytes of a file of a run.
_SMALL: Final = 1024 * 1024
_LARGEST_PATCH: Final = 32 * 1024 * 1024
#: Bytes of a program that is searched for settings.
_LARGEST_PROGRAM: Final = 128 * 1024


class JobCreation:
    """Makes jobs of runs: the end of a run marks it as due in its own transaction.

    Then its job, or why it has none, is recorded.
    """

    def __init__(self, plane: Services, contents: ContentStore, run_files: RunFileStore) -> None:
        self._plane = plane
        self._contents = contents
        self._run_files = run_files
        #: By run: the response to its end and the background task both come here.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self) -> None:
        """Make jobs of runs that are due, until cancelled."""
        with self._plane.notifications.subscribe([RUN_JOBS]) as subscription:
            while True:
                try:
                    for run_id in await self._plane.run_jobs.due():
                        await self.create_if_possible(run_id)
                except LaunchError as error:
                    structlog.get_logger().warning("jobs of runs wait", error=str(error))
                await subscription.wait(_INTERVAL)

    async def create_if_possible(self, run_id: str) -> None:
        """As `create`; where the store fails, the run stays due."""
        try:
            await self.create(run_id)
        except LaunchError as error:
            structlog.get_logger().warning("the job of a run waits", run=run_id, error=str(error))

    async def create(self, run_id: str) -> None:
        """Make the job of a run that has ended, or record why there is none; idempotent.

        Raises:
            ServerError, UnreachableError, OverloadedError: the store fails; the run stays due.
        """
        async with self._locks.setdefault(run_id, asyncio.Lock()):
            holder = new_id()
            end = await self._take_due(run_id, holder)
            if not end:
                return
            try:
                await self._create_or_record_problem(run_id, end)
            finally:
                await self._plane.run_jobs.release_lease(holder)

    async def _take_due(self, run_id: str, holder: str) -> int:
        """The end whose job is to be made; 0: none, or another replica has made it meanwhile.

        The response to a run's end and the background tasks of all replicas come here at once.
        """
        with self._plane.notifications.subscribe([RUN_JOBS]) as subscription:
            while True:
                end = await self._plane.run_jobs.take_due(run_id, holder)
                if end is not None:
                    return end
                await subscription.wait(_LOOK_AGAIN)

    async def _create_or_record_problem(self, run_id: str, end: int) -> None:
        try:
            await self._create(run_id, end)
        except (ServerError, UnreachableError, OverloadedError):
            raise
        except LaunchError as error:
            await self._plane.run_jobs.record_no_job(run_id, end, error.message)
        except Exception as error:  # noqa: BLE001 -- a client would send the end again for days
            await self._plane.run_jobs.record_no_job(run_id, end, log_and_mask(error, run=run_id))

    async def _create(self, run_id: str, end: int) -> None:
        ended = await self._plane.run_jobs.ended_run(run_id)
        recorded = await self._recorded(ended)
        # In a thread: what users recorded is searched and encoded.
        job = await asyncio.to_thread(recorded_job, recorded)
        await self._plane.run_jobs.record_job(ended.run, end, await self._store(ended, job))

    async def _recorded(self, ended: EndedRun) -> RecordedRun:
        run_id = ended.run.id
        metadata = await self._run_files.read(run_id, METADATA_NAME, _SMALL)
        if metadata is None:
            raise NoJobError(f"It recorded no `{METADATA_NAME}`.")
        decoded: Any = decode(metadata, METADATA_NAME, of_runs=True)
        facts: Json = decoded if isinstance(decoded, dict) else {}
        paths = program_paths(facts)
        code = ended.code and await self._plane.run_jobs.code(ended.code, paths)
        requirements = await self._run_files.read(run_id, REQUIREMENTS_NAME, _SMALL)
        values = ended.run.config.items()
        return RecordedRun(
            metadata=facts,
            requirements=None if requirements is None else requirements.decode(errors="replace"),
            config={key: one.get("value") if isinstance(one, dict) else one for key, one in values},
            summary=ended.run.summary,
            code=code,
            diff=await self._run_files.read(run_id, PATCH_NAME, _LARGEST_PATCH),
            program=await self._program(run_id, facts.get("codePath")),
        )

    async def _program(self, run_id: str, path: object) -> str | None:
        """The program as the client saved it; `None` when it did not, or it is very large."""
        if not isinstance(path, str):
            return None
        try:
            data = await self._run_files.read(run_id, f"code/{path}", _LARGEST_PROGRAM)
        except TooLargeError:
            return None
        return None if data is None else data.decode(errors="replace")

    async def _store(self, ended: EndedRun, job: RecordedJob) -> str:
        """The id of the job's version, made or found with the same content."""
        uploads, run = self._plane.uploads, ended.run
        entries = [_entry(path, data) for path, data in sorted(job.contents.items())]
        digest = manifest_digest({entry.path: entry.digest for entry in entries})
        created = await uploads.create(
            ended.author,
            NewArtifact(
                entity=run.entity,
                project=run.project,
                type=JOB_TYPE,
                name=job.name,
                digest=digest,
                aliases=job.aliases,
                run_name=run.name if ended.author.run else None,
                client_id=f"run-{run.id}-{digest}",
                deduplicate=True,
            ),
        )
        if created.state is ArtifactState.COMMITTED:
            return created.id
        for entry in entries:
            await self._put(run.entity, job.contents[entry.path])
        manifest = _manifest(created.id, entries)
        await self._put(run.entity, manifest)
        await uploads.save_manifest(ended.author, created.id, MANIFEST_NAME, _digest(manifest))
        file = json.loads(job.contents[FILE_NAME])
        committed = await uploads.commit(ended.author, created.id, entries, (file, None))
        return committed.id

    async def _put(self, entity: str, data: bytes) -> None:
        await self._contents.put(entity, _md5(data).hex(), _pieces(data), len(data))


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _digest(data: bytes) -> str:
    return encoded(_md5(data))


def _entry(path: str, data: bytes) -> EntryRecord:
    return EntryRecord(path, _digest(data), _md5(data).hex(), len(data))


def _manifest(artifact_id: str, entries: list[EntryRecord]) -> bytes:
    contents: Mapping[str, Json] = {
        entry.path: {"digest": entry.digest, "size": entry.size, "birthArtifactID": artifact_id}
        for entry in entries
    }
    return json.dumps({**MANIFEST_HEAD, "contents": contents}).encode()
