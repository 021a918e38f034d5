"""The facts about running services that tests read, and the file that carries them.

Tests call `load()`. The file is JSON, one object per service, absent when that service is down;
it is readable by its owner only, as it holds passwords made for this one run.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import paths


@dataclass(frozen=True)
class DockerFacts:
    """A Docker engine and the images that are in it."""

    host: str
    """Address of the engine as DOCKER_HOST takes it."""
    started_here: bool
    """Whether this command started the engine (and `down` will stop it)."""
    version: str
    base_image: str
    """Debian with Python, pip, venv, Git and this machine's certificate authorities."""
    shell_image: str
    """A few megabytes: static busybox and its applets."""
    foreign_image: str
    """The shell image for an architecture that is not this machine's: it cannot run."""


@dataclass(frozen=True)
class RegistryFacts:
    """Two image registries on loopback, spoken to in plain HTTP."""

    address: str
    """host:port of the one that is open to everybody."""
    private_address: str
    """host:port of the one that wants a login."""
    username: str
    password: str


@dataclass(frozen=True)
class PostgresFacts:
    """A PostgreSQL server."""

    url: str
    """postgresql:// address of an existing database, as a role that may create databases."""
    started_here: bool


@dataclass(frozen=True)
class GitFacts:
    """Git repositories behind HTTPS with a password and behind SSH with a key."""

    https_url: str
    https_private_url: str
    """A second, smaller repository, the submodule of branch `with-submodule` in the first."""
    https_username: str
    https_password: str
    https_ca_file: str
    """PEM file of the authority that signed the server's certificate."""
    https_moved_url: str
    """Answers 302 to the repository on the same host and port."""
    https_redirect_url: str
    """Answers 302 to the repository under another host name (which would serve it)."""
    https_access_log: str
    """One line a request: host header, user or `-`, method, path, status."""
    ssh_url: str
    ssh_private_url: str
    ssh_scp_url: str
    """`user@host:path` of the first repository; empty where port 22 is nowhere free."""
    ssh_key_file: str
    ssh_known_hosts: str
    """The server's line for a known_hosts file."""
    ssh_known_hosts_file: str
    commits: Mapping[str, str]
    """Commit of each branch and tag, and of `first` and `second`, which no ref points at.

    `with-submodule` has a submodule, `with-lfs` a file in Git LFS.
    """


@dataclass(frozen=True)
class BrowserFacts:
    """A headless browser for the tests of the pages; nothing of it runs between tests."""

    browser: str
    """Path of Chromium."""
    driver: str
    """Path of its WebDriver server."""


@dataclass(frozen=True)
class BuildkitFacts:
    """A `buildkitd` without an engine."""

    address: str
    """unix:// address of its socket."""
    tls_address: str
    """tcp:// address, for clients with a certificate."""
    client_certificates: str
    """Folder with a client's ca.pem, cert.pem and key.pem."""
    version: str


@dataclass(frozen=True)
class KubernetesFacts:
    """A Kubernetes cluster, whose administrator the tests are."""

    kubeconfig: str
    started_here: bool
    version: str
    host_address: str
    """Address by which pods reach this machine; empty where the cluster was given."""
    kubectl: str
    """Path of a kubectl."""


@dataclass(frozen=True)
class S3Facts:
    """An S3-compatible object store."""

    url: str
    """s3:// URL of its bucket."""
    endpoint: str
    key: str
    """ACCESS_KEY_ID:SECRET_ACCESS_KEY."""


@dataclass(frozen=True)
class Facts:
    """Everything that is up."""

    docker: DockerFacts | None = None
    registry: RegistryFacts | None = None
    postgres: PostgresFacts | None = None
    git: GitFacts | None = None
    browser: BrowserFacts | None = None
    buildkit: BuildkitFacts | None = None
    s3: S3Facts | None = None
    kubernetes: KubernetesFacts | None = None


Service = (
    DockerFacts
    | RegistryFacts
    | PostgresFacts
    | GitFacts
    | BrowserFacts
    | BuildkitFacts
    | S3Facts
    | KubernetesFacts
)


def load(path: Path | None = None) -> Facts:
    """Return what was recorded by the last `tests/services up` and not taken down since.

    Without a file nothing is up, and what an older version of this package recorded in other
    words is not, either. A recorded service may have died: `tests/services status` asks each.
    """
    source = path or paths.state_file()
    recorded: dict[str, Any] = json.loads(source.read_text()) if source.exists() else {}
    parts: dict[str, Any] = {
        name: kind(**recorded[name])
        for name, kind in (
            ("docker", DockerFacts),
            ("registry", RegistryFacts),
            ("postgres", PostgresFacts),
            ("git", GitFacts),
            ("browser", BrowserFacts),
            ("buildkit", BuildkitFacts),
            ("s3", S3Facts),
            ("kubernetes", KubernetesFacts),
        )
        if {each.name for each in dataclasses.fields(kind)} == recorded.get(name, {}).keys()
    }
    return Facts(**parts)


def record(name: str, facts: Service | None) -> Facts:
    """Write one service's facts, or its absence, and return all facts.

    The caller holds the command's lock; readers see the old file or the new one.
    """
    change: dict[str, Any] = {name: facts}
    changed = dataclasses.replace(load(), **change)
    whole = {key: value for key, value in dataclasses.asdict(changed).items() if value}
    target = paths.state_file()
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(whole, indent=2) + "\n")
    Path(temporary).replace(target)
    return changed


def environment(facts: Facts) -> dict[str, str]:
    """Return the facts as variables.

    They are DOCKER_HOST, DATABASE_URL, and one LAUNCH_TEST_<SERVICE>_<FACT> for each fact.
    """
    variables: dict[str, str] = {}
    if facts.docker:
        variables["DOCKER_HOST"] = facts.docker.host
    if facts.postgres:
        variables["DATABASE_URL"] = facts.postgres.url
    for service, values in dataclasses.asdict(facts).items():
        for name, value in (values or {}).items():
            variables.update(_named(f"LAUNCH_TEST_{service}_{name}", value))
    return variables


def _named(name: str, value: object) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {_variable(f"{name}_{key}"): str(item) for key, item in value.items()}
    text = str(int(value)) if isinstance(value, bool) else str(value)
    return {_variable(name): text}


def _variable(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name).upper()
