"""Looks for weaknesses of an installation; changes nothing.

Versions with known holes, modes of files, reachable addresses, and what the configuration gives to
jobs.
"""

import asyncio
import grp
import os
import pwd
import re
import stat
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version
from pydantic import SecretStr

from agent.compose.backends import detect_resources
from agent.config.agent import AgentConfig
from agent.config.base import Model, SecretReference
from agent.config.choose_server import EmbeddedServer, RemoteServer
from agent.config.local_files import config_dir
from agent.docker.client import Engine
from agent.docker.errors import EngineError
from agent.model.errors import ConfigError, LaunchError
from agent.model.names import CONTAINERS, PROCESSES
from agent.model.spec import argument_name
from agent.system.child import Command, SilentError, Tail, run
from agent.system.network import is_loopback

#: When the table of known holes was last compared with the projects' advisories.
HOLES_AS_OF: Final = "2026-11-29"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    #: `ok`; `note`: worth knowing; `problem`: an attacker could use it.
    level: Literal["ok", "note", "problem"]
    subject: str
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class _Hole:
    """A vulnerability, and the first version of each release line that does not have it."""

    program: str
    cve: str
    what: str
    fixed: tuple[str, ...]


_HOLES: Final = (
    _Hole("runc", "CVE-2024-21626", "a container can escape to the host", ("1.1.12",)),
    _Hole(
        "runc",
        "CVE-2025-31133, CVE-2025-52565, CVE-2025-52881",
        "a container can escape to the host",
        ("1.2.8", "1.3.3", "1.4.0"),
    ),
    _Hole(
        "containerd",
        "CVE-2024-25621, CVE-2025-64329",
        "its folders are open to local users; attaching exhausts the memory",
        ("1.7.29", "2.0.7", "2.1.5", "2.2.0"),
    ),
    _Hole(
        "BuildKit",
        "CVE-2024-23651, CVE-2024-23652, CVE-2024-23653",
        "a Dockerfile can read, remove and run things on the host",
        ("0.12.5",),
    ),
    _Hole(
        "BuildKit",
        "CVE-2026-33747, CVE-2026-33748",
        "a Dockerfile's frontend or Git source can reach files outside of the build",
        ("0.28.1",),
    ),
    _Hole(
        "BuildKit",
        "CVE-2026-15788, CVE-2026-15789, CVE-2026-15791, CVE-2026-15792, CVE-2026-15793",
        "see its release notes",
        ("0.31.2",),
    ),
    _Hole(
        "Docker Engine",
        "CVE-2024-29018",
        "containers of internal networks reach name servers outside",
        ("23.0.11", "25.0.5", "26.0.0"),
    ),
    _Hole(
        "Docker Engine",
        "CVE-2026-41567, CVE-2026-41568, CVE-2026-42306",
        "`docker cp` with a hostile container writes to the host",
        ("29.5.1",),
    ),
)
#: Services that give a cloud machine's credentials to everybody who asks from it.
_METADATA: Final = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16")
_METADATA_PORT: Final = 80
_HOST_WORKER: Final = re.compile(r"--(oci|containerd)-worker-net[= ]host\b")
_CONNECT_TIMEOUT: Final = 1.5
#: Seconds for the engine, and for the docker program.
_PROGRAM_TIMEOUT: Final = 10.0
#: Groups whose members can become root.
_RISKY_GROUPS: Final = frozenset(
    {"root", "docker", "sudo", "wheel", "adm", "disk", "lxd", "shadow"}
)
_SECRET_NAME: Final = re.compile(r"(?i)(key|token|secret|passw|credential)")
#: Options of `runners.local-container.allow` that give a job the host.
_GIVE_THE_HOST: Final = frozenset(
    {
        "privileged",
        "volume",
        "device",
        "cap-add",
        "pid",
        "ipc",
        "network",
        "security-opt",
        "runtime",
    }
)
#: Folders of the host that are as good as the host.
_SENSITIVE: Final = (
    "/",
    "/etc",
    "/root",
    "/home",
    "/var",
    "/var/run",
    "/run",
    "/proc",
    "/sys",
    "/dev",
)
_UPDATE: Final = "Update {program}; your distribution may have fixed it under this version number."


async def examine(
    config: AgentConfig,
    choice: RemoteServer | EmbeddedServer,
    config_file: Path | None,
    environ: Mapping[str, str],
) -> list[Finding]:
    """Look at everything; the findings in the order in which they are shown."""
    resources: tuple[str, ...] = ()
    with suppress(ConfigError):  # there is none, which the start of an agent says
        resources = await detect_resources(config, environ)
    found = [finding async for finding in _versions(config, environ)]
    files = await asyncio.to_thread(lambda: list(_files(config, config_file, environ)))
    return [
        *found,
        *files,
        *[finding async for finding in _metadata()],
        *(_container_jobs(config) if CONTAINERS in resources else ()),
        *(_process_jobs(config, environ) if PROCESSES in resources else ()),
        *_builds(config),
        *_connections(config, choice),
    ]


# ------------------------------------------------------------------ versions


async def _versions(config: AgentConfig, environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    host = config.runners.local_container.host
    if config.runners.local_container.enabled is False:
        yield Finding("ok", "container engine", "It is not used.")
        return
    try:
        async with asyncio.timeout(_PROGRAM_TIMEOUT), Engine(host, environ) as engine:
            version, info = await engine.get("/version"), await engine.get("/info")
    except (LaunchError, EngineError, TimeoutError) as error:
        yield Finding("note", "container engine", f"It could not be examined: {error}.")
        return
    names = {"Engine": "Docker Engine"}
    for component in version.body.get("Components") or []:
        program = names.get(component["Name"], component["Name"])
        for finding in version_findings(program, str(component["Version"])):
            yield finding
    for finding in version_findings("BuildKit", await _buildkit_version(config, environ)):
        yield finding
    options = " ".join(info.body.get("SecurityOptions") or [])
    if "name=seccomp" not in options or "profile=unconfined" in options:
        yield Finding(
            "problem", "containers", "The engine starts containers without a seccomp profile.",
            "Remove `seccomp-profile` from its configuration, or use a kernel with seccomp.",
        )  # fmt: skip
    if "name=rootless" in options or "name=userns" in options:
        yield Finding("ok", "users of containers", "Root in a container is not root on the host.")
    else:
        yield Finding(
            "note", "users of containers",
            "Root in a container has the user id of the host's root.",
            "Run the engine rootless, or with `userns-remap`.",
        )  # fmt: skip
    address = engine.address
    url = urlsplit(address.url)
    if address.socket is None and url.scheme == "http" and not is_loopback(url.hostname):
        yield Finding(
            "problem", "container engine", f"The agent connects to {address.url} without TLS.",
            "Whoever reaches that port is root on its machine: use a Unix socket, or TLS.",
        )  # fmt: skip


def version_findings(program: str, text: str) -> Iterator[Finding]:
    """What is known about a version, as the program reports it: `1.1.5+ds1`, `v0.12.5`."""
    holes = [hole for hole in _HOLES if hole.program == program]
    if not holes:
        return
    try:
        version = Version(re.split(r"[+~-]", text.removeprefix("v"))[0])
    except InvalidVersion:
        version = Version("0")
    if version == Version("0"):
        message = f"Its version is not known ('{text}')."
        yield Finding("note", program, message, f"Compare it with {holes[-1].fixed[-1]} yourself.")
        return
    open_holes = [hole for hole in holes if not _is_fixed(version, hole.fixed)]
    for hole in open_holes:
        message = f"{text} has {hole.cve}: {hole.what}. Fixed in {', '.join(hole.fixed)}."
        yield Finding("problem", program, message, _UPDATE.format(program=program))
    if not open_holes:
        yield Finding("ok", program, f"{text} has no hole that was known on {HOLES_AS_OF}.")


def _is_fixed(version: Version, fixed: tuple[str, ...]) -> bool:
    """Whether its release line has the fix, or was begun after it."""
    lines = [Version(text) for text in fixed]
    own = [first for first in lines if first.release[:2] == version.release[:2]]
    return version >= own[0] if own else version > lines[-1]


async def _buildkit_version(config: AgentConfig, environ: Mapping[str, str]) -> str:
    host = config.runners.local_container.host
    argv = ("docker", *(("-H", host) if host else ()), "buildx", "inspect")
    output = Tail()
    try:
        await run(Command(argv, environ, idle=_PROGRAM_TIMEOUT), output, Tail())
    except (OSError, SilentError):
        return "unknown"
    found = re.search(r"^BuildKit version:\s*(\S+)", output.text, re.MULTILINE)
    return found[1] if found else "unknown"


# ------------------------------------------------------------------ files


def _files(
    config: AgentConfig, config_file: Path | None, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Modes of files that hold secrets, and of the folders that hold everything. Blocks."""
    secret = [
        *([config_file] if config_file and _holds_secrets(config_file, config) else []),
        *_key_files(config),
        *config_dir(environ).glob("*.json"),
        *config.state_dir.glob("*.json"),
    ]
    folders = [config.state_dir, config.control.data_dir]
    bad = [*_too_open(secret, 0o077), *_too_open(folders, 0o066)]
    for folder in folders:
        # In a folder that nobody else can enter, modes of files matter to nobody.
        if folder.is_dir() and folder.stat().st_mode & 0o011:
            bad += _too_open((path for path in folder.iterdir() if path.is_file()), 0o077)
    for path, mode in dict(bad).items():
        kind = "a folder" if path.is_dir() else "a file"
        yield Finding(
            "problem", "files", f"{path} is {kind} that other users of the machine can use"
            f" (mode {mode:04o}).",
            f"chmod {'0700' if path.is_dir() else '0600'} {path}",
        )  # fmt: skip
    if not bad:
        yield Finding("ok", "files", "Configuration, keys, state and data are this user's alone.")


def _too_open(paths: Iterable[Path], forbidden: int) -> list[tuple[Path, int]]:
    found = []
    for path in paths:
        with suppress(OSError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & forbidden:
                found.append((path, mode))
    return found


def _parts(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every value of the configuration, with the name of its key."""
    yield name, value
    match value:
        case Model():
            for key, inner in value:
                yield from _parts(inner, key)
        case dict():
            for key, inner in value.items():
                yield from _parts(inner, str(key))
        case tuple():
            for inner in value:
                yield from _parts(inner, name)


def _key_files(config: AgentConfig) -> Iterator[Path]:
    for name, value in _parts(config):
        if isinstance(value, SecretReference) and value.file:
            yield value.file
        if isinstance(value, Path) and "key" in name:
            yield value
    if config.builder.buildkit_certs:
        yield config.builder.buildkit_certs / "key.pem"


def _holds_secrets(file: Path, config: AgentConfig) -> bool:
    """Whether the configuration file has a secret itself, not only the name of its file."""
    text = file.read_text(errors="replace")
    values = (value for _, value in _parts(config) if isinstance(value, SecretStr))
    return any(value.get_secret_value() in text for value in values if value.get_secret_value())


# ------------------------------------------------------------------ what jobs can reach


async def _metadata() -> AsyncIterator[Finding]:
    reached = await asyncio.gather(*(_connects(address) for address in _METADATA))
    addresses = [each for each, is_reached in zip(_METADATA, reached, strict=True) if is_reached]
    if not addresses:
        yield Finding("ok", "metadata services", "None answers this machine.")
    for address in addresses:
        yield Finding(
            "problem", "metadata services",
            f"{address} accepts connections of this machine, and therefore of its jobs: they may "
            "obtain the machine's cloud credentials.",
            f"For containers: iptables -I DOCKER-USER -d {address} -j REJECT; for processes, "
            "by the user: iptables -I OUTPUT -m owner --uid-owner <user> "
            f"-d {address} -j REJECT. On AWS also: IMDSv2 with a hop limit of 1.",
        )  # fmt: skip


async def _connects(address: str) -> bool:
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(address, _METADATA_PORT)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _container_jobs(config: AgentConfig) -> Iterator[Finding]:
    runner = config.runners.local_container
    if runner.host_network:
        yield Finding(
            "problem", "containers", "Jobs share the host's network, its loopback included.",
            "Remove `runners.local-container.host_network`.",
        )  # fmt: skip
    for option in sorted(_GIVE_THE_HOST.intersection(map(argument_name, runner.allow))):
        yield Finding(
            "problem", "containers",
            f"`runners.local-container.allow` has `{option}`: a submitter can become root "
            "of this machine.",
            "Remove it; give folders by `mounts`, which queue templates name.",
        )  # fmt: skip
    if runner.pids_limit is None:
        yield Finding(
            "note", "containers", "A job may start any number of processes.",
            "Set `runners.local-container.pids_limit`.",
        )  # fmt: skip
    for name, mount in config.mounts.items():
        yield from _mount(config, name, mount.source, read_only=mount.read_only)


def _mount(config: AgentConfig, name: str, source: Path, *, read_only: bool) -> Iterator[Finding]:
    subject = f"mount '{name}'"
    remedy = "Mount a folder that is made for jobs."
    real = source.resolve()
    if real.is_socket() or real.name == "docker.sock":
        message = f"{source} is a socket: a job that speaks to an engine is root of this machine."
        yield Finding("problem", subject, message, "Remove it from `mounts`.")
        return
    own = (config.state_dir, config.control.data_dir)
    if any(real == each or real in each.parents for each in (path.resolve() for path in own)):
        message = f"{source} contains the agent's own keys and data."
        yield Finding("problem", subject, message, remedy)
    elif str(real) in _SENSITIVE:
        what = "read" if read_only else "change"
        yield Finding("problem", subject, f"Jobs can {what} {source} of the host.", remedy)


def _process_jobs(config: AgentConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    runner = config.runners.local_process
    if runner.user is None:
        remedy = "Start the agent as root, and set `runners.local-process.user`."
        yield Finding("problem", "processes", str(runner.exposure), remedy)
    elif runner.uid_range:
        yield Finding("ok", "processes", f"Each job has a user id of its own, of {runner.user}.")
    else:
        yield from _job_user(runner.user)
        remedy = "Set `runners.local-process.user` to a range such as 200000-200063."
        yield Finding("note", "processes", str(runner.exposure), remedy)
    secret = [name for name in runner.environment if _SECRET_NAME.search(name) and name in environ]
    for name in secret:
        yield Finding(
            "problem", "processes", f"Every job gets the agent's variable {name}.",
            "Remove it from `runners.local-process.environment`; use `secrets`.",
        )  # fmt: skip


def _job_user(name: str) -> Iterator[Finding]:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        yield Finding("problem", "processes", f"There is no user '{name}'.", "Create the user.")
        return
    groups = {*_group_names(entry)}
    if entry.pw_uid == 0:
        message = "`runners.local-process.user` is root."
        yield Finding("problem", "processes", message, "Name a user without rights.")
    elif risky := groups & _RISKY_GROUPS:
        message = f"The user '{name}' is in {', '.join(sorted(risky))}, which is as good as root."
        yield Finding("problem", "processes", message, "Remove the user from that group.")


def _group_names(entry: pwd.struct_passwd) -> Iterator[str]:
    for number in os.getgrouplist(entry.pw_name, entry.pw_gid):
        with suppress(KeyError):
            yield grp.getgrgid(number).gr_name


def _builds(config: AgentConfig) -> Iterator[Finding]:
    builder = config.builder
    if builder.network == "host":
        yield Finding(
            "problem", "builds", "Build steps share the host's network, its loopback included.",
            "Set `builder.network` to default or none.",
        )  # fmt: skip
    if builder.buildkit and builder.buildkit.startswith("tcp://") and not builder.buildkit_certs:
        yield Finding(
            "problem", "builds", f"The agent connects to {builder.buildkit} without TLS.",
            "Set `builder.buildkit_certs`; whoever reaches that port builds, and reads the cache.",
        )  # fmt: skip
    if builder.buildkit:
        yield from builders_on_host_network()


def builders_on_host_network(processes: Path = Path("/proc")) -> Iterator[Finding]:
    """Daemons of BuildKit on this machine whose `RUN` steps share its network. Blocks.

    BuildKit does not tell a client so; of a daemon elsewhere nothing is known.
    """
    for file in processes.glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if not any(word.rpartition("/")[2] == "buildkitd" for word in words):
            continue
        if _HOST_WORKER.search(" ".join(words)):
            message = f"The buildkitd of process {file.parent.name} builds on the host's network."
            yield Finding(
                "problem", "builds", message,
                "Start it without `--oci-worker-net=host`; steps reach what listens on loopback.",
            )  # fmt: skip


def _connections(config: AgentConfig, choice: RemoteServer | EmbeddedServer) -> Iterator[Finding]:
    if isinstance(choice, RemoteServer):
        address = urlsplit(choice.url)
        if address.scheme == "http" and not is_loopback(address.hostname):
            yield Finding(
                "problem", "control plane", f"Keys travel to {choice.url} without encryption.",
                "Put a proxy with TLS before the server, and use its https address.",
            )  # fmt: skip
        if "*" in (config.sources.private_hosts or ()):
            yield Finding(
                "problem", "sources", '`sources.private_hosts: ["*"]` lets every submitter '
                "make this agent connect to hosts of its network.",
                "List the hosts that are meant.",
            )  # fmt: skip
        return
    control = config.control
    listening = [each for each in (control.listen, *control.also_listen) if not is_loopback(each)]
    if listening and not (control.external_url or "").startswith("https://"):
        yield Finding(
            "note", "control plane", f"It listens on {', '.join(listening)}, and its "
            "`external_url` is not https: keys travel without encryption.",
            "Put a proxy with TLS before it, and name its address in `control.external_url`.",
        )  # fmt: skip
    if control.personal_agents_in_teams:
        yield Finding(
            "note", "control plane", "Members of a team may run agents with their own key, and "
            "so see the secrets of the team's items.",
            "Remove `control.personal_agents_in_teams`; make keys with --for-agent.",
        )  # fmt: skip
