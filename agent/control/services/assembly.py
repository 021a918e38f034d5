"""Opens the store and assembles the services."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from agent.config.control import ControlConfig
from agent.control.auth.policy import Policy
from agent.control.auth.signing import FILE, SigningKeys, first_key, read_keys
from agent.control.services.accounts import Accounts
from agent.control.services.agents import Agents
from agent.control.services.artifact_uploads import ArtifactUploads
from agent.control.services.artifacts import Artifacts
from agent.control.services.audit import Audit
from agent.control.services.contents import Contents
from agent.control.services.context import ServiceContext
from agent.control.services.items import Items
from agent.control.services.jobs import Jobs
from agent.control.services.leases import Leases
from agent.control.services.logs import AttemptLogs
from agent.control.services.notifications import Notifications
from agent.control.services.projects import Projects
from agent.control.services.queues import Queues
from agent.control.services.reaper import Reaper
from agent.control.services.run_files import RunFiles
from agent.control.services.run_jobs import RunJobs
from agent.control.services.run_streams import RunStreams
from agent.control.services.runs import Runs
from agent.control.services.schema_checks import Checker
from agent.control.services.stored_bytes import StoredBytes
from agent.control.services.submitted_keys import encrypt_again
from agent.control.services.sweeps import Sweeps
from agent.control.services.wandb_protocol import WandbProtocol
from agent.control.store import accounts
from agent.control.store.ids import new_id
from agent.control.store.tx import Database
from agent.model.errors import ConfigError

DATABASE_FILE: Final = "launch.db"


@dataclass(frozen=True, slots=True)
class Services:
    """All services of the control plane, without HTTP."""

    #: Names the installation in labels and object names; stable for the database's life.
    control_plane_id: str
    config: ControlConfig
    policy: Policy
    #: For signed URLs of the HTTP half.
    keys: SigningKeys = field(repr=False)
    accounts: Accounts
    audit: Audit
    projects: Projects
    queues: Queues
    items: Items
    leases: Leases
    wandb: WandbProtocol
    agents: Agents
    runs: Runs
    run_streams: RunStreams
    run_jobs: RunJobs
    run_files: RunFiles
    sweeps: Sweeps
    artifacts: Artifacts
    uploads: ArtifactUploads
    contents: Contents
    stored: StoredBytes
    jobs: Jobs
    logs: AttemptLogs
    reaper: Reaper
    notifications: Notifications
    database: Database
    checker: Checker

    async def ready(self) -> None:
        """Read from the store; raises when it does not answer.

        Raises:
            UnreachableError: the database server is away.
        """
        await self.database.read(accounts.installation_row)


@asynccontextmanager
async def open_services(config: ControlConfig) -> AsyncIterator[Services]:
    """Open the store, bring its schema up to date and assemble the services.

    The caller awaits `plane.reaper.start()` before it serves, and runs `plane.reaper.run()` as a
    task of its own.

    Raises:
        ConflictError: another process uses the SQLite file; names it and its process id.
        UnreachableError: the database server does not answer.
        ConfigError: the address of the database, or the signing keys, cannot be read, or these
            are those of another installation.
    """
    notifications = Notifications()
    async with _database(config, notifications) as database:
        control_plane_id, keys = await _identify(config, database)
        context = ServiceContext(
            database=database,
            notifications=notifications,
            policy=Policy(config.personal_agents_in_teams),
            config=config,
            control_plane_id=control_plane_id,
            keys=keys,
        )
        yield assemble(context)


async def _identify(config: ControlConfig, database: Database) -> tuple[str, SigningKeys]:
    """The installation's id, and its signing keys, which are made at the first start.

    The store has the id of the key that signs: two replicas with keys of their own would refuse
    each other's tokens, and a new key by mistake would lose what was encrypted.
    """
    # In this order: another process that starts at once has made its key before the row.
    installed = await database.read(accounts.installation_row)
    keys = await asyncio.to_thread(read_keys, config)
    if keys is None and installed is None:
        keys = await asyncio.to_thread(first_key, config)
    if keys is not None and installed is None:
        first = (new_id(), keys.ids[0])
        installed = await database.write(lambda tx: accounts.ensure_installation(tx, *first))
    if keys is None or installed is None or installed.signing_key_id not in keys.ids:
        raise ConfigError(
            "The signing keys here are not those that this control plane's database was used "
            f"with (`control.signing_keys`, or {config.data_dir / FILE}).",
            hint="Copy them from another replica or a backup; a rotation keeps the earlier one.",
        )
    current = keys
    if installed.signing_key_id != keys.ids[0]:
        await database.write(lambda tx: encrypt_again(tx, current))
    return installed.control_plane_id, keys


def assemble(context: ServiceContext) -> Services:
    """The services over an open store."""
    return Services(
        control_plane_id=context.control_plane_id,
        config=context.config,
        policy=context.policy,
        keys=context.keys,
        accounts=Accounts(context),
        audit=Audit(context),
        projects=Projects(context),
        queues=Queues(context),
        items=Items(context),
        leases=Leases(context),
        wandb=WandbProtocol(context),
        agents=Agents(context),
        runs=Runs(context),
        run_streams=RunStreams(context),
        run_jobs=RunJobs(context),
        run_files=RunFiles(context),
        sweeps=Sweeps(context),
        artifacts=Artifacts(context),
        uploads=ArtifactUploads(context),
        contents=Contents(context),
        stored=StoredBytes(context),
        jobs=Jobs(context),
        logs=AttemptLogs(context),
        reaper=Reaper(context),
        notifications=context.notifications,
        database=context.database,
        checker=context.checker,
    )


def _database(
    config: ControlConfig, notifications: Notifications
) -> AbstractAsyncContextManager[Database]:
    """Drivers are imported only when they are used."""
    if config.database_url is not None:
        from agent.control.store.postgres import open_postgres

        return open_postgres(config.database_url.get_secret_value(), notifications.publish)
    from agent.control.store.sqlite import open_sqlite

    return open_sqlite(config.data_dir / DATABASE_FILE, notifications.publish)
