"""The body of the engine's `create` for a request. Pure.

The allocation and the agent's variables take precedence over the resource arguments. `pids-limit`
is at most the administrator's; its `memory_limit` holds where no memory is asked for. A 0 asks
for nothing: to the engine it would mean unlimited. Variables are in the body, never in an argv.
"""

import math
import shlex
from dataclasses import dataclass, field
from typing import Any, Final

from agent.config.execution import DockerRunnerConfig
from agent.model.capacity import Allocation
from agent.model.errors import InvalidInputError
from agent.model.spec import Json
from agent.model.units import parse_size
from agent.model.work import LABEL_KIND
from agent.ports.runner import RunRequest
from agent.runners.docker.options import Options, refused

_NANO: Final = 10**9
#: Options passed unchanged: name → key of `HostConfig`.
_TEXTS: Final = {
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "ipc": "IpcMode",
    "pid": "PidMode",
    "runtime": "Runtime",
}
_LISTS: Final = {
    "cap-add": "CapAdd",
    "cap-drop": "CapDrop",
    "dns": "Dns",
    "group-add": "GroupAdd",
    "volume": "Binds",
}
_SIZES: Final = {"memory-reservation": "MemoryReservation", "shm-size": "ShmSize"}
_NUMBERS: Final = {"cpu-shares": "CpuShares"}


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """What the agent decides, apart from the request."""

    config: DockerRunnerConfig
    network_mode: str
    #: The host's address on the job network, once known.
    gateway: str | None
    #: Bind mounts: files of the request, and the administrator's folders.
    mounts: list[Json] = field(default_factory=list)


def container_body(
    request: RunRequest, options: Options, settings: ContainerSettings
) -> dict[str, Any]:
    """The body of `create`.

    Raises:
        PolicyError: `POLICY_RESOURCE`: a value that cannot be read.
    """
    body: dict[str, Any] = {
        "Image": request.image.reference,
        "Labels": {**request.labels, LABEL_KIND: "container"},
        "Env": _environment(request, options),
        "HostConfig": _host_config(request, options, settings),
    }
    body |= _command(request, options)
    for name, key in (("workdir", "WorkingDir"), ("user", "User"), ("hostname", "Hostname")):
        value = options.one(name)
        if value is not None:
            body[key] = value
    return body


def _command(request: RunRequest, options: Options) -> dict[str, Any]:
    if request.command:
        return {"Entrypoint": list(request.command), "Cmd": list(request.args)}
    if request.args:
        return {"Cmd": list(request.args)}
    command = options.one("command")
    return {} if command is None else {"Cmd": shlex.split(command)}


def _environment(request: RunRequest, options: Options) -> list[str]:
    variables: dict[str, str] = {}
    for pair in options.all("env"):
        name, equals, value = pair.partition("=")
        if not name or not equals:
            hint = "The agent's own variables are not passed on."
            raise refused("env", f"'{pair}' is not `NAME=value`", hint)
        variables[name] = value
    variables |= {**request.environment, **request.file_variables}
    # The engine sets it for DeviceRequests; without, images that ask for all devices get none.
    if not request.allocation.gpus:
        variables["NVIDIA_VISIBLE_DEVICES"] = "void"
    return [f"{name}={value}" for name, value in variables.items()]


def _host_config(
    request: RunRequest, options: Options, settings: ContainerSettings
) -> dict[str, Any]:
    host: dict[str, Any] = {
        # As PID 1 most jobs would ignore SIGTERM and only end by SIGKILL; the engine's init
        # forwards it, and reaps orphans.
        "Init": True,
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
        "NetworkMode": options.one("network") or settings.network_mode,
        "LogConfig": _log_config(settings.config),
        "SecurityOpt": ["no-new-privileges", *options.all("security-opt")],
        "Privileged": options.one("privileged") == "true",
        "ExtraHosts": _extra_hosts(options, settings),
        "Mounts": settings.mounts,
    }
    host |= _processor(request.allocation, options) | _memory(
        request.allocation, options, settings.config
    )
    host |= _simple(options) | _structured(options, settings.config)
    if request.allocation.gpus:
        devices = {"DeviceIDs": list(request.allocation.gpus), "Capabilities": [["gpu"]]}
        host["DeviceRequests"] = [{"Driver": "nvidia", **devices}]
    return host


def _log_config(config: DockerRunnerConfig) -> dict[str, Any]:
    """The driver that keeps bytes.

    json-file replaces bytes that are not UTF-8, also where it splits long lines.
    """
    options = {"max-file": "1", "compress": "false"}
    if config.log_size:
        options["max-size"] = str(config.log_size)
    return {"Type": "local", "Config": options}


def _extra_hosts(options: Options, settings: ContainerSettings) -> list[str]:
    # On the host network jobs reach the host by its loopback address.
    gateway = settings.gateway or "host-gateway"
    return [f"host.docker.internal:{gateway}", *options.all("add-host")]


def _processor(allocation: Allocation, options: Options) -> dict[str, Any]:
    period, quota = options.one("cpu-period"), options.one("cpu-quota")
    if not allocation.cpus and (period or quota):
        pairs = (("cpu-period", "CpuPeriod", period), ("cpu-quota", "CpuQuota", quota))
        return {key: _whole(name, value) for name, key, value in pairs if value is not None}
    cpus = allocation.cpus or _cores(options.one("cpus"))
    return {"NanoCpus": round(cpus * _NANO)} if cpus else {}


def _memory(allocation: Allocation, options: Options, config: DockerRunnerConfig) -> dict[str, Any]:
    asked = allocation.memory or _size("memory", options.one("memory"))
    default = config.memory_limit if isinstance(config.memory_limit, int) else None
    memory = asked or default
    swap = options.one("memory-swap")
    if swap == "-1":
        return {"MemorySwap": -1} | ({"Memory": memory} if memory else {})
    total = _size("memory-swap", swap)
    if total:
        # The engine takes no total below the memory, and none without it.
        return {"Memory": asked or min(default or total, total), "MemorySwap": total}
    if not asked:
        return {"Memory": memory} if memory else {}
    # No swap unless it is asked for: the limit is the limit of all memory.
    return {"Memory": asked, "MemorySwap": asked}


def _simple(options: Options) -> dict[str, Any]:
    host: dict[str, Any] = {}
    for name, key in _TEXTS.items():
        if (text := options.one(name)) is not None:
            host[key] = text
    for name, key in _LISTS.items():
        if values := options.all(name):
            host[key] = list(values)
    for name, key in _SIZES.items():
        if (size := _size(name, options.one(name))) is not None:
            host[key] = size
    for name, key in _NUMBERS.items():
        if (number := options.one(name)) is not None:
            host[key] = _whole(name, number)
    return host


def _structured(options: Options, config: DockerRunnerConfig) -> dict[str, Any]:
    host: dict[str, Any] = {}
    processes = _processes(options, config)
    if processes is not None:
        host["PidsLimit"] = processes
    if limits := options.all("ulimit"):
        host["Ulimits"] = [_ulimit(text) for text in limits]
    if devices := options.all("device"):
        host["Devices"] = [_device(text) for text in devices]
    if folders := options.all("tmpfs"):
        host["Tmpfs"] = {path: rest for path, _, rest in (text.partition(":") for text in folders)}
    return host


def _processes(options: Options, config: DockerRunnerConfig) -> int | None:
    asked = options.one("pids-limit")
    most = config.pids_limit
    if asked is None:
        return most
    number = _whole("pids-limit", asked)
    if most is not None and not 0 < number <= most:
        raise refused("pids-limit", f"{number} is more than the {most} that this agent allows")
    return number


def _ulimit(text: str) -> dict[str, Any]:
    name, equals, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    if not name or not equals:
        raise refused("ulimit", f"'{text}' is not `name=soft[:hard]`")
    low = _whole("ulimit", soft)
    return {"Name": name, "Soft": low, "Hard": _whole("ulimit", hard) if hard else low}


def _device(text: str) -> dict[str, str]:
    source, _, rest = text.partition(":")
    target, _, rights = rest.partition(":")
    return {
        "PathOnHost": source,
        "PathInContainer": target or source,
        "CgroupPermissions": rights or "rwm",
    }


def _cores(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        cores = float(text)
    except ValueError:
        cores = math.nan
    if not 0 <= cores < math.inf:
        raise refused("cpus", f"'{text}' is not a number of cores")
    return cores


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise refused(name, f"'{text}' is not a whole number") from None


def _size(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_size(text)
    except InvalidInputError as error:
        raise refused(name, error.message.rstrip("."), error.hint) from None
