"""The git source against real servers: HTTPS with a password, SSH with a key."""

import asyncio
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from agent.config.base import SecretReference
from agent.config.execution import GitConfig, GitCredential
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.sources.address_policy import AddressPolicy
from agent.sources.git.access import credential_helper
from agent.sources.git.source import GitFetcher

pytestmark = pytest.mark.git_servers

JOB = "jobs/hello_world/job.py"


def greeting(tree):
    return re.search(r'GREETING = "(.*)"', (tree.root / JOB).read_text())[1]


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        (None, "main"),
        ("main", "main"),
        ("v1.0", "v1.0"),
        ("v1.2", "v1.2"),
        ("feature/longer-training", "feature/longer-training"),
        ("origin/develop", "develop"),
        ("refs/tags/v1.2", "v1.2"),
    ],
)
async def test_branches_and_tags_are_pinned_to_their_commit(
    bench, git_config, git_servers, url, ref, name
):
    tree = await bench.fetch(git_config, url, ref)
    assert tree.commit == git_servers.commits[name]
    assert tree.identity == f"git+{url}@{tree.commit}"
    assert (tree.root / JOB).is_file()
    assert not (tree.root / ".git").exists()
    assert tree.commit in bench.log.text


@pytest.mark.parametrize("name", ["first", "second", "abandoned"])
async def test_commits_that_no_reference_names_can_be_fetched(
    bench, git_config, git_servers, url, name
):
    tree = await bench.fetch(git_config, url, git_servers.commits[name].upper())
    assert tree.commit == git_servers.commits[name]


async def test_the_beginning_of_a_commit_is_enough(bench, git_config, git_servers, url):
    tree = await bench.fetch(git_config, url, git_servers.commits["first"][:9])
    assert tree.commit == git_servers.commits["first"]
    assert greeting(tree) == "hello from the first commit"
    # Here the history is whole by now; asking again for all of it must not fail.
    again = await bench.fetch(git_config, url, git_servers.commits["second"][:9])
    assert again.commit == git_servers.commits["second"]


async def test_the_beginning_of_a_branch_s_commit_needs_no_history(bench, git_config, git_servers):
    short = git_servers.commits["develop"][:8]
    tree = await bench.fetch(git_config, git_servers.https_url, short)
    assert tree.commit == git_servers.commits["develop"]
    assert "refs/all" not in bench.log.text


async def test_the_second_fetch_transfers_the_difference_only(bench, git_config, git_servers, url):
    await bench.fetch(git_config, url, "v1.0")
    bench.log.data = b""
    await bench.fetch(git_config, url, "v1.2")
    received = re.search(r"Receiving objects: 100% \((\d+)/\1\)", bench.log.text)
    # Commit, three folders, the changed file, and the folder that v1.0 had not: nothing else.
    assert received is not None
    assert int(received[1]) < 9


async def test_a_commit_that_is_here_needs_no_server(bench, git_config, git_servers):
    commit = git_servers.commits["v1.2"]
    await bench.fetch(git_config, git_servers.https_url, commit)
    log = Path(git_servers.https_access_log)
    before = log.stat().st_size
    tree = await bench.fetch(git_config, git_servers.https_url, commit)
    assert tree.commit == commit
    assert log.stat().st_size == before


async def test_mirrors_are_not_shared_between_entities(bench, git_config, git_servers):
    commit = git_servers.commits["v1.2"]
    await bench.fetch(git_config, git_servers.https_url, commit)
    nobody = GitConfig(ca_bundle=git_config.ca_bundle)
    with pytest.raises(JobError) as caught:
        await bench.fetch(nobody, git_servers.https_url, commit, entity="others")
    assert caught.value.cause is Cause.SOURCE_AUTH


async def test_many_at_once_of_one_repository(bench, git_config, git_servers):
    fetcher = bench.fetcher(git_config)
    refs = ["v1.0", "v1.2", "main", "develop", git_servers.commits["second"], "v1.0"]
    trees = await asyncio.gather(
        *(bench.fetch(git_config, git_servers.https_url, ref, fetcher=fetcher) for ref in refs)
    )
    assert [tree.commit for tree in trees[:2]] == [
        git_servers.commits["v1.0"],
        git_servers.commits["v1.2"],
    ]
    assert trees[0].commit == trees[5].commit


async def test_submodules_are_off_by_default_and_fetched_on_request(
    bench, git_config, git_servers, url
):
    without = await bench.fetch(git_config, url, "with-submodule")
    assert list((without.root / "library").iterdir()) == []
    tree = await bench.fetch(git_config, url, "with-submodule", submodules=True)
    assert (tree.root / "library/library.py").is_file()


async def test_a_wrong_password_is_told_and_not_shown(bench, git_servers):
    wrong = GitCredential(
        url=git_servers.https_url,
        username="launch",
        password=SecretReference(value="wrong-pass-word"),
    )
    config = GitConfig(credentials=(wrong,), ca_bundle=Path(git_servers.https_ca_file))
    with pytest.raises(JobError, match="refused the agent's credentials") as caught:
        await bench.fetch(config, git_servers.https_url)
    assert caught.value.cause is Cause.SOURCE_AUTH
    assert git_servers.https_url in caught.value.message
    assert "wrong-pass-word" not in str(caught.value) + bench.log.text
    assert not any(path.name.startswith("credential-") for path in bench.cache.rglob("*"))


async def test_no_credentials_at_all_never_prompts(bench, git_servers):
    config = GitConfig(ca_bundle=Path(git_servers.https_ca_file))
    with pytest.raises(JobError) as caught:
        await bench.fetch(config, git_servers.https_url)
    assert caught.value.cause is Cause.SOURCE_AUTH


async def test_the_user_s_credential_helper_is_honoured(bench, git_servers):
    helper = bench.folder / "helper"
    helper.write_text(
        f"#!/bin/sh\necho username={git_servers.https_username}\n"
        f"echo password={git_servers.https_password}\n"
    )
    helper.chmod(0o700)
    (bench.home / ".gitconfig").write_text(f"[credential]\n\thelper = {helper}\n")
    config = GitConfig(ca_bundle=Path(git_servers.https_ca_file))
    tree = await bench.fetch(config, git_servers.https_url)
    assert tree.commit == git_servers.commits["main"]


async def test_nothing_else_of_the_user_s_configuration_takes_part(bench, git_config, git_servers):
    marker = bench.folder / "marker"
    (bench.home / ".gitconfig").write_text(
        '[url "https://169.254.169.254/"]\n\tinsteadOf = https://\n'
        f"[core]\n\tfsmonitor = touch {marker}\n\thooksPath = {bench.folder}\n"
        f'[filter "x"]\n\tsmudge = touch {marker}\n'
    )
    tree = await bench.fetch(git_config, git_servers.https_url)
    assert tree.commit == git_servers.commits["main"]
    assert not marker.exists()


async def test_the_password_is_in_no_argument_and_no_variable(bench, git_config, git_servers):
    """Sampled while git runs: command lines and environments of every process."""
    secret = git_servers.https_password.encode()
    seen, stop = [], asyncio.Event()

    async def sample():
        while not stop.is_set():
            for name in ("cmdline", "environ"):
                for path in Path("/proc").glob(f"[0-9]*/{name}"):
                    try:
                        data = path.read_bytes()
                    except OSError:
                        continue
                    if secret in data and bench.folder.name.encode() in data:
                        seen.append(path)
            await asyncio.sleep(0.002)

    sampling = asyncio.create_task(sample())
    await bench.fetch(git_config, git_servers.https_url)
    stop.set()
    await sampling
    assert seen == []


def test_files_of_credentials_are_the_owner_s_alone_and_go_away(git_config, tmp_path):
    previous = os.umask(0)
    try:
        with credential_helper(git_config.credentials[0], {}, tmp_path / "private") as settings:
            (private,) = (tmp_path / "private").iterdir()
            files = (private, *private.iterdir())
            modes = {path.name[:10]: stat.S_IMODE(path.stat().st_mode) for path in files}
    finally:
        os.umask(previous)
    assert modes == {"credential": 0o700, "answer": 0o600}
    assert git_config.credentials[0].password.read({}).get_secret_value() not in str(settings)
    assert not private.exists()


def test_a_credential_is_given_to_its_own_host_only(git_config, tmp_path):
    """Asked as git asks, and as `git lfs` does for addresses that its server names."""
    with credential_helper(git_config.credentials[0], {}, tmp_path / "private") as settings:
        own = answered(settings, git_config.credentials[0].url)
        other = answered(settings, "https://elsewhere.example/")
    assert f"username={git_config.credentials[0].username}" in own
    assert "password=" in own
    assert other == ""


def answered(settings, url):
    numbered = {
        f"GIT_CONFIG_{part}_{index}": text
        for index, pair in enumerate(settings)
        for part, text in zip(("KEY", "VALUE"), pair, strict=True)
    }
    environment = {
        **numbered,
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
    }
    done = subprocess.run(
        ["git", "credential", "fill"],
        input=f"url={url}\n\n", env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout


def test_what_a_killed_agent_left_is_removed(tmp_path, threads):
    left = tmp_path / "private" / "credential-x"
    left.mkdir(parents=True)
    (left / "password").write_text("secret")
    policy = AddressPolicy(None, embedded=True)
    GitFetcher(GitConfig(), tmp_path, policy=policy, threads=threads, environment={})
    assert not left.exists()


async def test_an_unknown_host_key_is_never_accepted(bench, git_config, git_servers, tmp_path):
    empty = tmp_path / "known_hosts"
    empty.write_text("")
    config = git_config.model_copy(update={"known_hosts": empty})
    with pytest.raises(JobError, match="host key") as caught:
        await bench.fetch(config, git_servers.ssh_url)
    assert caught.value.cause is Cause.SOURCE_AUTH
    assert "sources.git.known_hosts" in str(caught.value)
    assert empty.read_text() == ""


async def test_a_wrong_key_is_told(bench, git_config, git_servers, tmp_path):
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    config = git_config.model_copy(update={"ssh_key": key})
    with pytest.raises(JobError, match="refused the agent's credentials") as caught:
        await bench.fetch(config, git_servers.ssh_url)
    assert caught.value.cause is Cause.SOURCE_AUTH


async def test_an_untrusted_certificate_is_told(bench, git_config, git_servers):
    config = git_config.model_copy(update={"ca_bundle": None})
    with pytest.raises(JobError, match="TLS") as caught:
        await bench.fetch(config, git_servers.https_url)
    assert caught.value.cause is Cause.SOURCE_UNREACHABLE


@pytest.mark.parametrize("kind", ["https", "ssh"])
async def test_a_missing_repository_is_told(bench, git_config, git_servers, kind):
    missing = getattr(git_servers, f"{kind}_url").replace("monorepo", "nothing")
    with pytest.raises(JobError, match="no such repository") as caught:
        await bench.fetch(git_config, missing)
    assert caught.value.cause is Cause.SOURCE_NOT_FOUND
    assert missing in caught.value.message


async def test_a_missing_reference_is_told_with_the_nearest(bench, git_config, url):
    with pytest.raises(JobError, match=r"no branch, tag or commit 'v1\.3'") as caught:
        await bench.fetch(git_config, url, "v1.3")
    assert caught.value.cause is Cause.SOURCE_NOT_FOUND
    assert caught.value.hint == "Did you mean `v1.2`?"


@pytest.mark.parametrize("length", [40, 10])
async def test_a_missing_commit_is_told(bench, git_config, url, length):
    with pytest.raises(JobError) as caught:
        await bench.fetch(git_config, url, "dead" * 10 if length == 40 else "deadbeef00")
    assert caught.value.cause is Cause.SOURCE_NOT_FOUND


@pytest.mark.parametrize("kind", ["moved", "redirect"])
async def test_redirects_are_not_followed(bench, git_config, git_servers, kind):
    log = Path(git_servers.https_access_log)
    before = len(log.read_text().splitlines())
    with pytest.raises(PolicyError, match="redirects are not followed") as caught:
        await bench.fetch(git_config, getattr(git_servers, f"https_{kind}_url"))
    assert caught.value.cause is Cause.POLICY_SOURCE
    asked = log.read_text().splitlines()[before:]
    assert all("/moved/" in line or "/elsewhere/" in line for line in asked)


async def test_addresses_are_pinned_so_that_names_are_resolved_once(bench, git_config, git_servers):
    """The name exists for our resolver only: git can have the address from us alone."""
    from urllib.parse import urlsplit

    port = urlsplit(git_servers.https_url).port
    asked = []

    def resolver(host, port):
        asked.append((host, port))
        return ["127.0.0.1"]

    named = f"https://only-here.invalid:{port}/monorepo.git"
    credential = git_config.credentials[0].model_copy(
        update={"url": f"https://only-here.invalid:{port}/"}
    )
    config = git_config.model_copy(update={"credentials": (credential,)})
    # The certificate is for other names: that it is refused shows that the server was reached.
    with pytest.raises(JobError, match="TLS"):
        await bench.fetch(config, named, resolver=resolver)
    assert asked == [("only-here.invalid", port)]
    ssh = urlsplit(git_servers.ssh_url)
    named = f"ssh://root@only-here.invalid:{ssh.port}/monorepo.git"
    hosts = bench.folder / "hosts"
    line = Path(git_servers.ssh_known_hosts_file).read_text()
    hosts.write_text(line.replace("[127.0.0.1]", "[only-here.invalid]"))
    config = git_config.model_copy(update={"known_hosts": hosts})
    tree = await bench.fetch(config, named, resolver=resolver)
    assert tree.commit == git_servers.commits["main"]


async def test_private_addresses_are_refused_beside_a_server(bench, git_config, git_servers, url):
    with pytest.raises(PolicyError, match="private_hosts"):
        await bench.fetch(git_config, url, embedded=False)
    listed = ("127.0.0.0/8",)
    assert (await bench.fetch(git_config, url, embedded=False, private_hosts=listed)).commit
