"""Files in Git LFS: from the real program and a real server, and what is refused."""

import hashlib
import os
import secrets
import shutil
import ssl
import stat
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.address_policy import AddressPolicy
from agent.sources.address_proxy import address_proxy
from tests.infrastructure.git_repository import WEIGHTS

pytestmark = pytest.mark.git_servers

FILE = "jobs/weights/weights.bin"


def pointer(content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n"


async def test_contents_come_when_asked_for_and_pointers_otherwise(bench, git_config, url):
    tree = await bench.fetch(git_config, url, "with-lfs")
    assert (tree.root / FILE).read_text() == pointer(WEIGHTS)
    assert "files in Git LFS are not fetched" in bench.log.text
    bench.log.data = b""
    tree = await bench.fetch(git_config, url, "with-lfs", lfs=True)
    assert (tree.root / FILE).read_bytes() == WEIGHTS
    assert stat.S_IMODE((tree.root / FILE).stat().st_mode) & 0o111 == 0
    assert "1 files come from Git LFS" in bench.log.text
    assert "are not fetched" not in bench.log.text


async def test_contents_that_are_here_need_no_server(bench, git_config, git_servers):
    commit = git_servers.commits["with-lfs"]
    await bench.fetch(git_config, git_servers.https_url, commit, lfs=True)
    log = Path(git_servers.https_access_log)
    before = log.stat().st_size
    tree = await bench.fetch(git_config, git_servers.https_url, commit, lfs=True)
    assert (tree.root / FILE).read_bytes() == WEIGHTS
    assert log.stat().st_size == before


async def test_a_repository_without_large_files_asks_for_none(bench, git_config, git_servers):
    log = Path(git_servers.https_access_log)
    before = log.stat().st_size
    await bench.fetch(git_config, git_servers.https_url, "main", lfs=True)
    assert "/info/lfs/" not in log.read_text()[before:]


async def test_a_missing_program_is_named(bench, git_config, git_servers):
    programs = bench.folder / "programs"
    programs.mkdir()
    for name in ("git", "cat"):
        (programs / name).symlink_to(shutil.which(name))
    environment = {**bench.environment, "PATH": str(programs)}
    with pytest.raises(JobError, match="`git-lfs` is not installed on the agent's machine"):
        await bench.fetch(
            git_config, git_servers.https_url, "with-lfs", lfs=True, environment=environment
        )


async def test_a_wrong_password_is_told(bench, git_config, git_servers):
    """The repository is in the mirror; its files are asked for with a password that is wrong."""
    commit = git_servers.commits["with-lfs"]
    await bench.fetch(git_config, git_servers.https_url, commit)
    nobody = git_config.model_copy(update={"credentials": ()})
    with pytest.raises(JobError) as caught:
        await bench.fetch(nobody, git_servers.https_url, commit, lfs=True)
    assert caught.value.cause is Cause.SOURCE_AUTH


class Author:
    """Commits of a test's own on the test server, below no branch."""

    def __init__(self, folder, git_servers):
        self._folder = folder
        self._servers = git_servers
        self._name = f"refs/tests/{secrets.token_hex(6)}"
        folder.mkdir()
        self._git("init", "--quiet")

    def push(self, content: bytes, configuration: str | None = None) -> str:
        """Keep a pointer to the content, and perhaps words about where the content is."""
        (self._folder / ".gitattributes").write_text("*.bin filter=lfs -text\n")
        (self._folder / "big.bin").write_text(pointer(content))
        if configuration is not None:
            (self._folder / ".lfsconfig").write_text(configuration)
        self._git("add", "--all")
        self._git("commit", "--quiet", "-m", "more")
        self._git("push", "--quiet", self._servers.ssh_url, f"HEAD:{self._name}")
        return self._git("rev-parse", "HEAD")

    def leave(self):
        self._git("push", "--quiet", self._servers.ssh_url, f":{self._name}")

    def _git(self, *arguments):
        ssh = f"ssh -i {self._servers.ssh_key_file} -o IdentitiesOnly=yes"
        known = f"-o UserKnownHostsFile={self._servers.ssh_known_hosts_file}"
        identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
        done = subprocess.run(
            ("git", *identity, *arguments), cwd=self._folder, check=True, capture_output=True,
            text=True, env={
                "PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null",
                "GIT_CONFIG_NOSYSTEM": "1", "GIT_SSH_COMMAND": f"{ssh} {known}",
            },
        )  # fmt: skip
        return done.stdout.strip()


@pytest.fixture
def author(tmp_path, git_servers):
    made = Author(tmp_path / "author", git_servers)
    yield made
    made.leave()


async def test_content_that_was_never_pushed_is_told(bench, git_config, git_servers, author):
    commit = author.push(b"nowhere")
    with pytest.raises(JobError, match="content of a file in Git LFS") as caught:
        await bench.fetch(git_config, git_servers.https_url, commit, lfs=True)
    assert caught.value.cause is Cause.SOURCE_NOT_FOUND


async def test_the_repository_may_name_a_place_on_its_own_server(
    bench, git_config, git_servers, author
):
    commit = author.push(WEIGHTS, f"[lfs]\n\turl = {git_servers.https_url}/info/lfs\n")
    tree = await bench.fetch(git_config, git_servers.https_url, commit, lfs=True)
    assert (tree.root / "big.bin").read_bytes() == WEIGHTS
    tree = await bench.fetch(git_config, git_servers.ssh_url, commit, lfs=True)
    assert (tree.root / "big.bin").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "configuration",
    [
        "[lfs]\n\turl = https://elsewhere.example/org/repo.git/info/lfs\n",
        '[remote "origin"]\n\tlfsurl = https://127.0.0.1:1/monorepo.git/info/lfs\n',
        "[lfs]\n\turl = ssh://git@169.254.169.254/repo.git\n",
    ],
)
async def test_a_place_on_another_server_is_refused(
    bench, git_config, git_servers, author, configuration
):
    commit = author.push(WEIGHTS, configuration)
    with pytest.raises(PolicyError, match="which is another server") as caught:
        await bench.fetch(git_config, git_servers.https_url, commit, lfs=True)
    assert caught.value.cause is Cause.POLICY_SOURCE
    assert ".lfsconfig" in caught.value.message


@pytest.mark.parametrize(
    "configuration",
    ["[lfs]\n\turl = file:///etc\n", "[lfs]\n\turl = http://127.0.0.1/r\n",
     "[lfs]\n\turl = ext::sh -c x\n"],
)  # fmt: skip
async def test_a_place_by_another_protocol_is_refused(
    bench, git_config, git_servers, author, configuration
):
    commit = author.push(WEIGHTS, configuration)
    with pytest.raises(JobError) as caught:
        await bench.fetch(git_config, git_servers.https_url, commit, lfs=True)
    assert caught.value.cause in {Cause.POLICY_SOURCE, Cause.SOURCE_INVALID}


async def test_a_server_that_leads_to_a_metadata_service_is_refused(
    bench, git_config, git_servers, author
):
    base = git_servers.https_url.rpartition("/")[0]
    place = f"{base}/leading-away/monorepo.git/info/lfs"
    commit = author.push(WEIGHTS, f"[lfs]\n\turl = {place}\n")
    with pytest.raises(PolicyError, match=r"169\.254\.169\.254.* which is not allowed"):
        await bench.fetch(git_config, git_servers.https_url, commit, lfs=True)


async def test_nothing_of_the_repository_runs(bench, git_config, git_servers, author):
    """What `.lfsconfig` may not set is passed over: here programs that would transfer files."""
    marker = bench.folder / "marker"
    words = (
        f"[lfs]\n\tstandalonetransferagent = x\n"
        f'[lfs "customtransfer.x"]\n\tpath = touch\n\targs = {marker}\n'
        f'[lfs "extension.y"]\n\tsmudge = touch {marker}\n'
        f"[core]\n\tsshCommand = touch {marker}\n"
    )
    commit = author.push(WEIGHTS, words)
    tree = await bench.fetch(git_config, git_servers.https_url, commit, lfs=True)
    assert (tree.root / "big.bin").read_bytes() == WEIGHTS
    assert not marker.exists()


@pytest.mark.parametrize("limit", [{"max_lfs_size": 3}, {"max_lfs_files": 0}])
async def test_more_than_the_limits_is_not_fetched(bench, git_config, git_servers, author, limit):
    commit = author.push(WEIGHTS)
    small = git_config.model_copy(update=limit)
    with pytest.raises(PolicyError, match="this agent allows"):
        await bench.fetch(small, git_servers.https_url, commit, lfs=True)


async def test_the_guard_passes_to_judged_addresses_only(threads, git_servers):
    """The name exists for our resolver only; the far end's certificate shows who answered."""
    port = urlsplit(git_servers.https_url).port
    answers = {"only-here.invalid": ["127.0.0.1"], "inside.invalid": ["10.0.0.1"]}
    policy = AddressPolicy(("127.0.0.0/8",), False, lambda host, _port: answers.get(host, [host]))
    trust = ssl.create_default_context(cafile=git_servers.https_ca_file)
    trust.check_hostname = False
    async with address_proxy(policy, threads) as (guard, url), aiohttp.ClientSession() as session:

        async def ask(target):
            async with session.get(target, proxy=url, ssl=trust) as answer:
                return answer.status

        assert await ask(f"https://only-here.invalid:{port}/monorepo.git") == 401
        assert guard.refused is None
        for target in ("https://inside.invalid/", "https://169.254.169.254/", "https://[::1]/"):
            with pytest.raises(aiohttp.ClientHttpProxyError) as caught:
                await ask(target)
            assert caught.value.status == 403
        assert isinstance(guard.refused, PolicyError)
        assert await ask("http://only-here.invalid/plain") == 403
        assert await ask_dead(session, url, trust) == 502


async def ask_dead(session, url, trust):
    """The answer for an address where nobody listens."""
    with pytest.raises(aiohttp.ClientHttpProxyError) as caught:
        async with session.get("https://only-here.invalid:1/", proxy=url, ssl=trust):
            pass
    return caught.value.status
