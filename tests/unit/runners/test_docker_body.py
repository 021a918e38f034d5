"""Resource arguments, and the body of `create` that comes of them."""

from pathlib import Path
from typing import Any

import pytest

from agent.config.execution import DockerRunnerConfig
from agent.model.capacity import Allocation
from agent.model.cause import Cause
from agent.model.errors import ConfigError, PolicyError
from agent.model.work import Image, Lease
from agent.ports.runner import RunRequest
from agent.runners.docker.container_body import ContainerSettings, container_body
from agent.runners.docker.options import allowance, read_options

LEASE = Lease("item", 1, 1)
IMAGE = Image("team/image@sha256:1", "digest", reused=True)


def body_of(
    arguments: dict[str, Any] | None = None,
    config: DockerRunnerConfig | None = None,
    **more: Any,
) -> dict[str, Any]:
    config = config or DockerRunnerConfig()
    given: dict[str, Any] = {
        "command": (),
        "args": (),
        "environment": {},
        "arguments": arguments or {},
        "allocation": Allocation(),
        **more,
    }
    request = RunRequest(
        lease=LEASE, name="job", labels={"a": "b"}, image=IMAGE, folder=Path(), **given
    )
    options = read_options(request.arguments, allowance(config.allow))
    return container_body(request, options, ContainerSettings(config, "launch-agent", "172.30.0.1"))


def host_of(*args: Any, **more: Any) -> dict[str, Any]:
    return dict(body_of(*args, **more)["HostConfig"])


def test_a_container_is_closed_and_leaves_its_evidence() -> None:
    host = host_of()
    assert host["AutoRemove"] is False
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["Privileged"] is False
    assert host["Init"] is True
    assert host["PidsLimit"] == 32768
    assert host["NetworkMode"] == "launch-agent"
    assert host["ExtraHosts"] == ["host.docker.internal:172.30.0.1"]
    assert host["LogConfig"]["Config"]["max-file"] == "1"
    assert host["LogConfig"]["Config"]["max-size"] == str(1024**3)


def test_an_unlimited_log_has_no_size() -> None:
    config = DockerRunnerConfig(log_size=0)
    assert "max-size" not in host_of(config=config)["LogConfig"]["Config"]


@pytest.mark.parametrize(
    ("command", "args", "arguments", "expected"),
    [
        (("python", "main.py"), ("--x", "a b"), {}, (["python", "main.py"], ["--x", "a b"])),
        ((), ("--x",), {}, (None, ["--x"])),
        ((), (), {}, (None, None)),
        ((), (), {"command": "echo 'a b'"}, (None, ["echo", "a b"])),
        (("python",), (), {"command": "echo"}, (["python"], [])),
    ],
)
def test_command_and_args(
    command: tuple[str, ...],
    args: tuple[str, ...],
    arguments: dict[str, Any],
    expected: tuple[Any, Any],
) -> None:
    body = body_of(arguments, command=command, args=args)
    assert (body.get("Entrypoint"), body.get("Cmd")) == expected


def test_the_agents_variables_replace_the_submitters() -> None:
    body = body_of({"env": ["A=1", "TOKEN=theirs"], "e": "B=x=y"}, environment={"TOKEN": "ours"})
    assert body["Env"] == ["A=1", "TOKEN=ours", "B=x=y", "NVIDIA_VISIBLE_DEVICES=void"]


def test_what_was_granted_replaces_what_was_asked() -> None:
    allocation = Allocation(cpus=1.5, memory=512 * 1024**2, gpus=("GPU-1", "GPU-3"))
    asked = {"cpus": 8, "memory": "64g", "gpus": "all", "cpu-quota": 900000}
    host = host_of(asked, allocation=allocation)
    assert host["NanoCpus"] == 1_500_000_000
    assert "CpuQuota" not in host
    assert host["Memory"] == host["MemorySwap"] == 512 * 1024**2
    assert host["DeviceRequests"][0]["DeviceIDs"] == ["GPU-1", "GPU-3"]
    assert "NVIDIA_VISIBLE_DEVICES=void" not in body_of(asked, allocation=allocation)["Env"]


def test_every_option_of_wandbs_list_is_taken() -> None:
    arguments = {
        "--cpu-period": 100000,
        "cpu_quota": "50000",
        "cpu-shares": 512,
        "cpuset-cpus": "0-1",
        "cpuset-mems": "0",
        "m": "1g",
        "memory-reservation": "512m",
        "memory-swap": -1,
        "name": "mine",
        "pids-limit": 100,
        "platform": "linux/amd64",
        "shm-size": "2g",
        "ulimit": ["nofile=1024:2048", "core=0"],
        "w": "/work",
        "secrets": ["a"],
        "mounts": ["b"],
    }
    body = body_of(arguments)
    host = body["HostConfig"]
    assert body["WorkingDir"] == "/work"
    assert {key: host[key] for key in ("CpuPeriod", "CpuQuota", "CpuShares")} == {
        "CpuPeriod": 100000,
        "CpuQuota": 50000,
        "CpuShares": 512,
    }
    assert (host["CpusetCpus"], host["CpusetMems"]) == ("0-1", "0")
    assert (host["Memory"], host["MemorySwap"]) == (1024**3, -1)
    assert (host["MemoryReservation"], host["ShmSize"]) == (512 * 1024**2, 2 * 1024**3)
    assert host["PidsLimit"] == 100
    assert host["Ulimits"] == [
        {"Name": "nofile", "Soft": 1024, "Hard": 2048},
        {"Name": "core", "Soft": 0, "Hard": 0},
    ]
    assert body_of({"cpu": 2})["HostConfig"]["NanoCpus"] == 2 * 10**9


DANGEROUS: list[tuple[str, Any, str, Any]] = [
    ("volume", "/data:/data:ro", "Binds", ["/data:/data:ro"]),
    ("v", ["/data:/data"], "Binds", ["/data:/data"]),
    ("cap-add", "SYS_ADMIN", "CapAdd", ["SYS_ADMIN"]),
    ("cap-drop", ["ALL"], "CapDrop", ["ALL"]),
    ("privileged", True, "Privileged", True),
    ("net", "host", "NetworkMode", "host"),
    ("ipc", "host", "IpcMode", "host"),
    ("pid", "host", "PidMode", "host"),
    ("runtime", "nvidia", "Runtime", "nvidia"),
    ("dns", "10.0.0.1", "Dns", ["10.0.0.1"]),
    ("group-add", "video", "GroupAdd", ["video"]),
    ("security-opt", "label=disable", "SecurityOpt", ["no-new-privileges", "label=disable"]),
    ("tmpfs", "/tmp:size=1g", "Tmpfs", {"/tmp": "size=1g"}),
    ("add-host", "a:10.0.0.1", "ExtraHosts", ["host.docker.internal:172.30.0.1", "a:10.0.0.1"]),
    (
        "device",
        "/dev/fuse",
        "Devices",
        [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "key", "expected"), DANGEROUS)
def test_dangerous_options_are_refused_unless_allowed(
    name: str, value: Any, key: str, expected: Any
) -> None:
    with pytest.raises(PolicyError, match=f"`{name}`.*not allowed") as refused:
        body_of({name: value})
    assert refused.value.cause is Cause.POLICY_RESOURCE
    allowed = DockerRunnerConfig(allow=(name,))
    assert body_of({name: value}, allowed)["HostConfig"][key] == expected


def test_user_and_hostname_when_allowed() -> None:
    body = body_of({"user": 0, "h": "x"}, DockerRunnerConfig(allow=("user", "hostname")))
    assert (body["User"], body["Hostname"]) == ("0", "x")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rm": "true"}, "`rm`: there is no such option"),
        ({"entrypoint": "sh"}, "`entrypoint`: there is no such option"),
        ({"cpus": True}, "`cpus`: True is neither"),
        ({"memory": {"a": 1}}, "`memory`: .* is neither"),
        ({"memory": None}, "`memory`: None is neither"),
        ({"memory": ["1g"]}, "`memory`: only repeatable"),
        ({"env": []}, "`env`: only repeatable"),
        ({"env": [["A=1"]]}, "`env`: .* is neither"),
        ({"env": "SECRET"}, "'SECRET' is not `NAME=value`"),
        ({"cpus": "two"}, "'two' is not a number of cores"),
        ({"cpus": "nan"}, "'nan' is not a number of cores"),
        ({"cpu": "inf"}, "'inf' is not a number of cores"),
        ({"cpus": -1}, "'-1' is not a number of cores"),
        ({"memory": "much"}, "`memory`: 'much' is not a size"),
        ({"cpu-shares": "x"}, "`cpu-shares`: 'x' is not a whole number"),
        ({"ulimit": "nofile"}, "`ulimit`: 'nofile'"),
        ({"pids-limit": -1}, "`pids-limit`: -1 is more than the 32768"),
        ({"pids-limit": 99999}, "`pids-limit`: 99999 is more than the 32768"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyError, match=words) as refused:
        body_of(arguments)
    assert refused.value.cause is Cause.POLICY_RESOURCE


def test_an_unknown_name_in_allow_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="'volumes'"):
        allowance(("volumes",))


def test_a_container_that_asks_for_no_memory_gets_the_default_limit() -> None:
    config = DockerRunnerConfig(memory_limit=3 * 1024**3)
    assert body_of({}, config)["HostConfig"]["Memory"] == 3 * 1024**3
    assert body_of({"memory": "4g"}, config)["HostConfig"]["Memory"] == 4 * 1024**3
    for nothing in ({"memory": 0}, {"m": "0g"}, {"memory": "0.4"}, {"memory-swap": 0}):
        assert body_of(nothing, config)["HostConfig"]["Memory"] == 3 * 1024**3
        assert "MemorySwap" not in body_of(nothing, config)["HostConfig"]
    unlimited = DockerRunnerConfig(memory_limit="unlimited")
    assert "Memory" not in body_of({}, unlimited)["HostConfig"]


GIB = 1024**3


@pytest.mark.parametrize(
    ("arguments", "limit", "expected"),
    [
        ({"memory-swap": -1}, 3 * GIB, (3 * GIB, -1)),
        ({"memory-swap": -1, "memory": 0}, 3 * GIB, (3 * GIB, -1)),
        ({"memory-swap": "8g"}, 3 * GIB, (3 * GIB, 8 * GIB)),
        ({"memory-swap": "1g"}, 3 * GIB, (GIB, GIB)),
        ({"memory-swap": "1g"}, "unlimited", (GIB, GIB)),
        ({"memory-swap": -1}, "unlimited", (None, -1)),
        ({"memory-swap": 0, "memory": "1g"}, 3 * GIB, (GIB, GIB)),
        ({"memory-swap": "2g", "memory": "1g"}, 3 * GIB, (GIB, 2 * GIB)),
    ],
)
def test_swap_that_is_asked_for_does_not_lift_the_default_memory_limit(
    arguments: dict[str, Any], limit: Any, expected: tuple[int | None, int]
) -> None:
    host = host_of(arguments, DockerRunnerConfig(memory_limit=limit))
    assert (host.get("Memory"), host["MemorySwap"]) == expected


def test_zero_cores_ask_for_nothing() -> None:
    assert "NanoCpus" not in host_of({"cpus": 0})
    assert host_of({"cpus": 0, "cpu-quota": 50000})["CpuQuota"] == 50000
    assert "NanoCpus" not in host_of({"cpus": 0}, allocation=Allocation(cpus=0.0, memory=0))
