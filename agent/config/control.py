"""Configuration of the control plane, embedded or served by `launch server`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from agent.config.base import Duration, Model, Size, UserPath


class ControlConfig(Model):
    """Addresses, storage, times and limits of the control plane."""

    listen: str = "127.0.0.1"
    #: 0 picks a free one.
    port: Annotated[int, Field(ge=0, le=65535)] = 8450
    #: Further addresses to listen on; the embedded plane adds its job network's gateway.
    also_listen: tuple[str, ...] = ()
    #: Database (SQLite), artifacts, logs, keys.
    data_dir: UserPath = Path("~/.local/share/launch-agent").expanduser()
    #: `postgresql://…`; `None` means SQLite in `data_dir`.
    database_url: SecretStr | None = None
    #: Keys that sign and encrypt, as base64url, the newest first; `None`: of `data_dir`'s file.
    signing_keys: SecretStr | None = None
    #: Public URL, if clients reach the server under another address than `listen` and `port`.
    external_url: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    heartbeat: Duration = 10.0
    lease: Duration = 45.0
    #: Seconds without a heartbeat after which an agent is lost.
    agent_timeout: Duration = 45.0
    #: After that an item whose agent is lost follows `on_lost`.
    lost_contact: Duration = 600.0
    #: Seconds without a report of its process after which a run has crashed.
    run_timeout: Duration = 300.0
    #: W&B's agents: seconds until an item that was not acknowledged is offered again.
    pop_lease: Duration = 60.0
    #: How long run tokens stay valid after the attempt ended.
    token_grace: Duration = 60.0
    max_body: Size = 32 * 1024**2
    #: Requests of one key, and without one (public routes only) of one address: at once, and then
    #: per second.
    request_burst: Annotated[int, Field(ge=10)] = 10_000
    requests_per_second: Annotated[int, Field(ge=1)] = 500
    #: Open connections; `None`: as many as the limit of open files leaves room for.
    max_connections: Annotated[int, Field(ge=2)] | None = None
    max_connections_per_address: Annotated[int, Field(ge=1)] = 512
    #: From the connection, or the first byte, to the end of a request's headers.
    head_timeout: Duration = 20.0
    #: A file with the key that opens `/metrics`, at least 16 characters; without one nobody may.
    scrape_key_file: UserPath | None = None
    #: Waiting items of one entity, on all its queues; each server may exceed it by one percent.
    max_waiting: Annotated[int, Field(ge=1)] = 100_000
    #: The launch spec of one item, merged with its job and its queue's template.
    max_spec: Size = 1024**2
    #: Per query: bytes read from the store, and bytes of text and JSON in the answer.
    max_answer: Size = 32 * 1024**2
    #: One file of an artifact.
    max_file: Size = 16 * 1024**3
    #: All artifacts, files of runs and logs of one entity; further ones are refused.
    max_stored: Size = 1024**4
    #: One log: of an attempt's setup, or its job's output; the rest is not stored.
    max_log: Size = 1024**3
    #: The list of an artifact's files.
    max_manifest: Size = 128 * 1024**2
    #: How long URLs for uploads and downloads are valid.
    signed_url_lifetime: Duration = 86400.0
    #: Whether members of a team may run agents with their personal key.
    personal_agents_in_teams: bool = False
    #: Teams that one user may administer; administrators of the server may make any number.
    teams_per_user: Annotated[int, Field(ge=0)] = 20
    #: How long finished items and their logs are kept.
    keep_items: Duration = 90 * 86400.0
