"""All services over one store: what the app and the pages are given."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agent.config.control import ControlConfig
from agent.control.services.accounts import Accounts
from agent.control.services.agents import Agents
from agent.control.services.dialect import WandbDialect
from agent.control.services.items import Items
from agent.control.services.leasing import Leases
from agent.control.services.logs import AttemptLogs
from agent.control.services.notices import Notices
from agent.control.services.projects import Projects
from agent.control.services.queues import Queues
from agent.control.services.reaper import Reaper
from agent.control.services.runs import Runs


@dataclass(frozen=True, slots=True)
class Plane:
    """The control plane without its wire."""

    #: Names the installation in labels and object names; stable for the database's life.
    control_plane_id: str
    #: For signed URLs and cookies of the HTTP half; secret.
    signing_key: bytes
    accounts: Accounts
    projects: Projects
    queues: Queues
    items: Items
    leases: Leases
    wandb: WandbDialect
    agents: Agents
    runs: Runs
    logs: AttemptLogs
    reaper: Reaper
    notices: Notices

    async def ready(self) -> None:
        """Ask the store for something; raises when it does not answer."""
        raise NotImplementedError


@asynccontextmanager
async def open_plane(config: ControlConfig) -> AsyncIterator[Plane]:
    """Open the store, bring its schema up to date and assemble the services.

    The caller runs `plane.reaper.run()` as a task of its own.

    Raises:
        ConflictError: another process uses the SQLite file; names it and its process id.
        UnreachableError: the database server does not answer.
        ConfigError: the address of the database cannot be read.
    """
    raise NotImplementedError
    yield
