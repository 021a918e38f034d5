"""Git repositories behind two real servers: HTTPS with a password, SSH with a key."""

import shutil
from urllib.parse import urlsplit

from . import debian, git_https, git_repository, git_ssh, paths
from .git_repository import LIBRARY, MONOREPO
from .process import accepts, succeeds
from .state import GitFacts

_DIRECTORIES = ("git", "git-https", "git-ssh")


def up(recorded: GitFacts | None) -> GitFacts:
    """Make the repositories and start both servers unless they run."""
    if recorded and alive(recorded):
        return recorded
    for program, package in (("git", "git"), ("git-lfs", "git-lfs")):
        if not succeeds([program, "--version"]):
            debian.install(package)
    down(recorded)
    repositories = paths.data_directory("git")
    repositories.mkdir(parents=True)
    commits = git_repository.make(repositories)
    https_port = _port(recorded.https_url) if recorded else 0
    ssh_port = _port(recorded.ssh_url) if recorded else 0
    https = git_https.start(paths.data_directory("git-https"), repositories, https_port)
    where = {"href": f"{https.origin}/{MONOREPO}/info/lfs", "header": https.login}
    ssh = git_ssh.start(paths.data_directory("git-ssh"), repositories, ssh_port, where)
    return GitFacts(
        https_url=f"{https.origin}/{MONOREPO}",
        https_private_url=f"{https.origin}/{LIBRARY}",
        https_username=https.username,
        https_password=https.password,
        https_ca_file=str(https.authority),
        https_moved_url=f"{https.origin}/moved/{MONOREPO}",
        https_redirect_url=f"{https.origin}/elsewhere/{MONOREPO}",
        https_access_log=str(https.access_log),
        ssh_url=f"{ssh.origin}/{MONOREPO}",
        ssh_private_url=f"{ssh.origin}/{LIBRARY}",
        ssh_scp_url=f"{ssh.scp_host}:{MONOREPO}" if ssh.scp_host else "",
        ssh_key_file=str(ssh.key),
        ssh_known_hosts=ssh.known_host,
        ssh_known_hosts_file=str(ssh.known_hosts),
        commits=commits,
    )


def down(recorded: GitFacts | None) -> None:
    """Stop both servers and remove repositories, keys and passwords."""
    del recorded
    git_https.daemon().stop()
    git_ssh.daemon().stop()
    for name in _DIRECTORIES:
        shutil.rmtree(paths.data_directory(name), ignore_errors=True)


def alive(recorded: GitFacts) -> bool:
    """Tell whether both servers run and accept connections."""
    return all(
        daemon.pid() is not None and accepts(_port(url))
        for daemon, url in (
            (git_https.daemon(), recorded.https_url),
            (git_ssh.daemon(), recorded.ssh_url),
        )
    )


def _port(url: str) -> int:
    return urlsplit(url).port or 0
