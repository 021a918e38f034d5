"""Configuration of the control plane, embedded or served by `launch server`."""

import re
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, SecretStr, model_validator

from agent.config.base import Duration, Model, Size, UserPath

#: Scheme, bucket (of Azure: container), and a prefix of all names in it.
_STORE_URL: Final = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9._/-]*)?")
_ENDPOINT: Final = re.compile(r"https?://[^/?#@\s]+/?")


class ObjectStoreConfig(Model):
    """Where artifacts, files, logs and streams are stored; without a URL in `data_dir`."""

    #: `s3://bucket/prefix`; `gs://…` and `az://…` take their key from their own variables.
    url: str | None = None
    #: Only of `s3`: the address of a server that is not AWS.
    endpoint: str | None = None
    #: Only of `s3`.
    region: str | None = None
    #: Only of `s3`: `ACCESS_KEY_ID:SECRET_ACCESS_KEY`; `None`: as AWS's clients find it.
    key: SecretStr | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        url = self.url or ""
        if self.url is not None and not _STORE_URL.fullmatch(url):
            message = "`url` is not that of an object store: write s3://bucket/prefix"
            raise ValueError(message)
        of_s3 = (self.endpoint, self.region, self.key)
        if any(value is not None for value in of_s3) and not url.startswith("s3:"):
            message = "`endpoint`, `region` and `key` belong to a `url` that begins with s3://"
            raise ValueError(message)
        if self.endpoint is not None and not _ENDPOINT.fullmatch(self.endpoint):
            message = "`endpoint` is not an address: write https://host:port"
            raise ValueError(message)
        if self.key is not None and not all(self.key.get_secret_value().partition(":")):
            message = "`key` must be ACCESS_KEY_ID:SECRET_ACCESS_KEY"
            raise ValueError(message)
        return self


class ControlConfig(Model):
    """Addresses, storage, times and limits of the control plane."""

    listen: str = "127.0.0.1"
    #: 0 picks a free one.
    port: Annotated[int, Field(ge=0, le=65535)] = 8450
    #: Further addresses to listen on; the embedded plane adds its job network's gateway.
    also_listen: tuple[str, ...] = ()
    #: Database (SQLite), keys, and what is not in an object store: artifacts, files, logs.
    data_dir: UserPath = Path("~/.local/share/launch-agent").expanduser()
    #: `postgresql://…`; `None` means SQLite in `data_dir`.
    database_url: SecretStr | None = None
    object_store: ObjectStoreConfig = ObjectStoreConfig()
    #: Keys that sign and encrypt, as base64url, the newest first; `None`: of `data_dir`'s file.
    signing_keys: SecretStr | None = None
    #: Key of the server's first administrator; `None`: made at the first start.
    administrator_key: SecretStr | None = None
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
