import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.config.base import SecretReference
from agent.config.execution import GitConfig, GitCredential
from agent.model.spec import GitSource
from agent.sources.address_policy import AddressPolicy, system_resolver
from agent.sources.git.source import GitFetcher
from agent.testing.builder_suite import RecordingLog


class Bench:
    """A fetcher with a cache of its own, and a fresh folder for every fetch."""

    def __init__(self, folder: Path, threads: ThreadPoolExecutor) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.cache = folder / "cache"
        self.threads = threads
        self.log = RecordingLog()
        self._count = 0

    @property
    def environment(self) -> Mapping[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home)}

    def fetcher(self, config: GitConfig, *, embedded=True, **more) -> GitFetcher:
        environment = more.pop("environment", self.environment)
        policy = AddressPolicy(
            more.pop("private_hosts", None), embedded, more.pop("resolver", system_resolver)
        )
        return GitFetcher(
            config, self.cache, policy=policy, threads=self.threads, environment=environment, **more
        )

    async def fetch(self, config: GitConfig, url: str, ref=None, **more):
        entity, submodules = more.pop("entity", "team"), more.pop("submodules", False)
        source = GitSource(url=url, ref=ref, submodules=submodules, lfs=more.pop("lfs", False))
        fetcher = more.pop("fetcher", None) or self.fetcher(config, **more)
        return await fetcher.fetch(source, entity, self.into(), self.log)

    def into(self) -> Path:
        self._count += 1
        made = self.folder / f"tree-{self._count}"
        made.mkdir()
        return made


@pytest.fixture
def bench(tmp_path, threads):
    return Bench(tmp_path, threads)


@pytest.fixture(params=["https", "ssh", "ssh_scp"])
def url(request, git_servers):
    found = getattr(git_servers, f"{request.param}_url")
    if not found:
        pytest.skip("port 22 is taken on every loopback address, and the short form needs it")
    return found


@pytest.fixture
def git_config(git_servers):
    """What an administrator writes for the test servers."""
    base = git_servers.https_url.rpartition("/")[0]
    password = SecretReference(value=git_servers.https_password)
    return GitConfig(
        credentials=(
            GitCredential(url=base, username=git_servers.https_username, password=password),
        ),
        ca_bundle=Path(git_servers.https_ca_file),
        known_hosts=Path(git_servers.ssh_known_hosts_file),
        ssh_key=Path(git_servers.ssh_key_file),
        stall_timeout=20,
    )
