"""What is particular to containers: facts of the engine that we lean on, causes, logs."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker.api.client import APIClient

from agent.config.execution import DockerRunnerConfig, MountConfig
from agent.docker.client import Engine
from agent.model.capacity import Allocation
from agent.model.cause import Cause
from agent.model.errors import ConfigError, JobError, PolicyError
from agent.model.work import Image
from agent.ports.runner import (
    LOG_START,
    UNKNOWN_MISSING,
    Ending,
    LogPiece,
    LogPosition,
    NeverStarted,
    StartUnknown,
    WorkloadState,
)
from agent.testing.runner_suite import Scenario, ended, launched, raised, read_all, started_before
from tests.contract.runner_drivers import TEST_LABEL, DockerDriver
from tests.infrastructure.state import DockerFacts
from tests.integration.runners.reading import read_whole

pytestmark = pytest.mark.docker


def inspected(driver: DockerDriver, name: str) -> dict[str, Any]:
    return dict(driver.client.inspect_container(name))


# Facts of the engine: when one of these fails after an upgrade, read runners/docker again.


async def bare_container(driver: DockerDriver, *command: str) -> str:
    labels = {TEST_LABEL: driver.folders.control_plane_id}
    config = {
        "Image": driver.image.reference,
        "Cmd": list(command),
        "Labels": labels,
        "HostConfig": {"NetworkMode": "host"},
    }
    return str(driver.client.create_container_from_config(config)["Id"])


@pytest.fixture
async def engine(containers: DockerDriver) -> Engine:
    return containers.runner()._engine


async def test_fact_starting_an_exited_container_runs_it_again(
    containers: DockerDriver, engine: Engine
) -> None:
    container = await bare_container(containers, "echo", "ran")
    path = f"/containers/{container}"
    for _ in range(2):
        assert (await engine.call("POST", f"{path}/start")).status == 204
        await engine.call("POST", f"{path}/wait")
    assert containers.client.logs(container) == b"ran\nran\n"


async def test_fact_starting_a_running_container_is_not_modified(
    containers: DockerDriver, engine: Engine
) -> None:
    container = await bare_container(containers, "sleep", "1000")
    answers = [await engine.call("POST", f"/containers/{container}/start") for _ in range(2)]
    assert [answer.status for answer in answers] == [204, 304]


async def test_fact_a_refused_start_leaves_no_start_time(
    containers: DockerDriver, engine: Engine
) -> None:
    container = await bare_container(containers, "no-such-program")
    answer = await engine.call("POST", f"/containers/{container}/start")
    state = inspected(containers, container)["State"]
    assert answer.status == 400
    assert (state["Status"], state["StartedAt"][:5]) == ("created", "0001-")


async def test_fact_stopping_what_does_not_run_is_not_modified(
    containers: DockerDriver, engine: Engine
) -> None:
    container = await bare_container(containers, "true")
    assert (await engine.call("POST", f"/containers/{container}/stop")).status == 304


async def test_fact_a_taken_name_is_a_conflict(containers: DockerDriver, engine: Engine) -> None:
    request = containers.request(Scenario())
    await containers.occupy(request.name)
    answer = await engine.call(
        "POST", "/containers/create", params={"name": request.name}, body={"Image": "x"}
    )
    assert answer.status in {404, 409}  # the image may be looked at first
    body = {"Image": containers.image.reference}
    answer = await engine.call(
        "POST", "/containers/create", params={"name": request.name}, body=body
    )
    assert answer.status == 409


async def test_fact_waiting_for_what_was_never_started_returns_at_once(
    containers: DockerDriver, engine: Engine
) -> None:
    container = await bare_container(containers, "true")
    assert (await engine.call("POST", f"/containers/{container}/wait")).status == 200


# Causes.


async def entry_point_ending(
    driver: DockerDriver, *command: str, image: str | None = None
) -> Ending:
    runner = driver.runner()
    request = driver.running("entry", *command)
    if image is not None:
        request = driver.running("entry", *command, image=Image(image, "image-id", reused=True))
    workload = await launched(runner, request)
    return await ended(runner, workload)


async def test_a_command_that_the_image_lacks(containers: DockerDriver) -> None:
    ending = await entry_point_ending(containers, "no-such-program")
    assert ending.cause is Cause.START_ENTRYPOINT
    assert "no-such-program" in ending.message


async def test_a_command_that_cannot_be_executed(containers: DockerDriver) -> None:
    ending = await entry_point_ending(containers, "/etc/passwd")
    assert ending.cause is Cause.START_ENTRYPOINT
    assert "Permission denied" in ending.message


async def test_an_image_for_another_architecture(
    containers: DockerDriver, docker_engine: DockerFacts
) -> None:
    ending = await entry_point_ending(containers, "true", image=docker_engine.foreign_image)
    assert ending.cause is Cause.IMAGE_PLATFORM


async def test_a_jobs_own_127_stays_an_exit_code(containers: DockerDriver) -> None:
    runner = containers.runner()
    workload = await launched(runner, containers.running("own", "sh", "-c", "echo x; exit 127"))
    assert (await ended(runner, workload)).exit_code == 127


@pytest.mark.parametrize(
    ("image", "arguments", "cause"),
    [
        ("launch-test/none:latest", {}, Cause.IMAGE_NOT_FOUND),
        ("launch-test/none@sha256:" + "a" * 64, {}, Cause.IMAGE_NOT_FOUND),
        (None, {"platform": "linux/s390x"}, Cause.IMAGE_PLATFORM),
        (None, {"memory": "1k"}, Cause.POLICY_RESOURCE),
        (None, {"cpuset-cpus": "900-999"}, Cause.POLICY_RESOURCE),
    ],
)
async def test_what_the_engine_refuses_to_create(
    containers: DockerDriver, image: str | None, arguments: dict[str, str], cause: Cause
) -> None:
    more = {} if image is None else {"image": Image(image, "digest", reused=True)}
    request = containers.running("refused", "true", arguments=arguments, **more)
    error = await raised(JobError, containers.runner().create(request))
    assert error.cause is cause
    assert request.name in error.message


async def test_jobs_that_need_more_memory_than_they_have(containers: DockerDriver) -> None:
    """Several at once: the engine's own notice of it is lost at times."""
    runner = containers.runner()
    eat = "a=xxxxxxxxxx; while :; do a=$a$a; done"
    allocation = Allocation(memory=16 * 1024**2)

    async def eaten(number: int) -> Ending:
        request = containers.running(f"oom-{number}", "sh", "-c", eat, allocation=allocation)
        return await ended(runner, await launched(runner, request))

    endings = await asyncio.gather(*(eaten(number) for number in range(6)))
    assert {ending.cause for ending in endings} == {Cause.RUN_OUT_OF_MEMORY}
    assert {ending.exit_code for ending in endings} == {137}


async def test_a_job_that_somebody_kills_did_not_run_out_of_memory(
    containers: DockerDriver,
) -> None:
    runner = containers.runner()
    allocation = Allocation(memory=64 * 1024**2)
    request = containers.running("killed", "sleep", "1000", allocation=allocation)
    workload = await launched(runner, request)
    containers.client.kill(workload.id)
    ending = await ended(runner, workload)
    assert (ending.exit_code, ending.signal, ending.cause) == (137, 9, None)


async def test_a_device_that_the_engine_cannot_give(containers: DockerDriver) -> None:
    runner = containers.runner()
    request = containers.running("gpu", "true", allocation=Allocation(gpus=("0",)))
    created = await runner.create(request)
    result = await runner.start(created)
    assert isinstance(result, NeverStarted)
    assert isinstance(result.error, JobError)
    assert result.error.cause is Cause.START_FAILED
    assert "nvidia" in result.error.message
    found = await runner.find(request.name)
    assert found is not None
    assert found.state is WorkloadState.CREATED


# What a container gets.


async def test_argv_environment_and_workdir_arrive_as_they_are(containers: DockerDriver) -> None:
    args = ("a b", "", "'\"$HOME`x`\\", "line\nbreak", "ü")
    script = 'for a; do printf "%s|" "$a"; done; printf "%s|" "$VALUE"; pwd'
    request = containers.running(
        "argv",
        "sh",
        "-c",
        script,
        "sh",
        args=args,
        environment={"VALUE": "s p\n$x"},
        arguments={"workdir": "/tmp"},
    )
    runner = containers.runner()
    workload = await launched(runner, request)
    await ended(runner, workload)
    expected = "|".join([*args, "s p\n$x", "/tmp\n"])
    assert (await read_all(runner, workload)).decode() == expected


async def test_secrets_are_in_the_environment_and_nowhere_else(containers: DockerDriver) -> None:
    request = containers.running("secret", "true", environment={"TOKEN": "sesame"})
    workload = await containers.runner().create(request)
    facts = inspected(containers, workload.id)
    assert "TOKEN=sesame" in facts["Config"]["Env"]
    facts["Config"]["Env"] = []
    assert "sesame" not in json.dumps(facts)


async def test_mounts_of_the_administrator_are_read_only(
    containers: DockerDriver, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("content\n")
    runner = containers.runner()
    script = "exec 2>&1; cat /data/file; touch /data/new || echo closed"
    containers.mounts["data"] = MountConfig(source=tmp_path / "data", target="/data", queues=("*",))
    workload = await launched(
        runner, containers.running("mount", "sh", "-c", script, mounts=("data",))
    )
    await ended(runner, workload)
    assert await read_all(runner, workload) == (
        b"content\ntouch: /data/new: Read-only file system\nclosed\n"
    )


async def test_nothing_restarts_and_nothing_removes_itself(containers: DockerDriver) -> None:
    workload = await containers.runner().create(containers.request(Scenario()))
    host = inspected(containers, workload.id)["HostConfig"]
    assert host["RestartPolicy"]["Name"] in {"", "no"}
    assert host["AutoRemove"] is False


async def test_stdout_and_stderr_are_one_log(containers: DockerDriver) -> None:
    runner = containers.runner()
    script = "echo out; sleep 0.1; echo err >&2; sleep 0.1; echo out"
    workload = await launched(runner, containers.running("both", "sh", "-c", script))
    await ended(runner, workload)
    assert await read_all(runner, workload) == b"out\nerr\nout\n"


async def test_containers_of_another_control_plane_are_not_ours(containers: DockerDriver) -> None:
    request = containers.request(Scenario())
    await containers.runner().create(request)
    labels = {**request.labels, "launch-agent.control-plane": "other-plane"}
    error = await raised(JobError, containers.runner().create(replace(request, labels=labels)))
    assert error.cause is Cause.START_FAILED


# Logs.


async def test_a_hundred_megabytes_without_a_newline_need_no_memory(
    containers: DockerDriver,
) -> None:
    runner = containers.runner()
    script = "head -c 100000000 /dev/zero"
    workload = await launched(runner, containers.running("line", "sh", "-c", script))
    await ended(runner, workload)
    total, taken = await read_whole(runner, workload)
    assert total == 100_000_000
    assert taken < 32 * 1024**2


async def rotated(driver: DockerDriver, size: int, lines: int) -> tuple[list[LogPiece], bytes]:
    """A log whose head is gone, read from `RESUMED` on by an agent that came back.

    The first agent read 3.5 MB of it; `lines` lines of 1000 bytes came while none was there.
    """
    config = driver.config.model_copy(update={"log_size": size})
    script = (
        # Slower than whoever reads: this is about what comes later, not about outrunning.
        "i=0; while [ $i -lt 3500 ]; do printf '%0999d\\n' $i; i=$((i+1));"
        " [ $((i % 100)) -ne 0 ] || sleep 0.02; done; echo half;"
        " while [ ! -e /scene/go ]; do sleep 0.02; done;"
        f" while [ $i -lt {3500 + lines} ]; do printf '%0999d\\n' $i; i=$((i+1)); done"
    )
    request = replace(driver.request(Scenario()), command=("sh", "-c", script))
    workload = await launched(driver.runner(config), request)
    reading = driver.runner(config).logs(workload, LOG_START)
    first = b""
    while not first.endswith(b"half\n"):
        first += (await anext(reading)).data
    await reading.aclose()
    await driver.release(workload.name)
    await ended(driver.runner(config), workload)
    pieces = [
        piece async for piece in driver.runner(config).logs(workload, LogPosition(skip=RESUMED))
    ]
    return pieces, first + b"".join(b"%0999d\n" % i for i in range(3500, 3500 + lines))


RESUMED = 3_200_123


async def test_a_rotated_log_goes_on_at_the_byte_where_the_last_agent_was(
    containers: DockerDriver,
) -> None:
    """Its head is gone; marks tell where the rest belongs."""
    pieces, whole = await rotated(containers, 2 * 1024**2, 0)
    assert b"".join(piece.data for piece in pieces) == whole[RESUMED:]
    assert {piece.missing for piece in pieces} == {0}
    assert pieces[0].position.skip == RESUMED


async def test_what_was_rotated_away_while_no_agent_was_there_is_reported(
    containers: DockerDriver,
) -> None:
    pieces, whole = await rotated(containers, 2 * 1024**2, 2500)
    rest = b"".join(piece.data for piece in pieces)
    assert len(rest) < 2500 * 1000
    assert whole.endswith(rest)
    assert [piece.missing for piece in pieces] == [UNKNOWN_MISSING] + [0] * (len(pieces) - 1)


# Networks.


@pytest.fixture
async def network(containers: DockerDriver) -> AsyncIterator[DockerRunnerConfig]:
    name = f"launch-test-{containers.folders.control_plane_id}"
    host = containers.config.host
    yield DockerRunnerConfig(host=host, network=name)
    await containers.clear()
    client = APIClient(base_url=host, version="auto")
    for found in client.networks(names=[name]):
        client.remove_network(found["Id"])
    client.close()


async def test_the_job_network_is_made_once_by_many(
    containers: DockerDriver, network: DockerRunnerConfig
) -> None:
    runners = [containers.runner(network) for _ in range(4)]
    gateways = await asyncio.gather(*(runner.ensure_network() for runner in runners))
    assert len(set(gateways)) == 1
    found = containers.client.networks(names=[network.network])
    assert len(found) == 1
    assert found[0]["Labels"] == {"launch-agent.kind": "network"}
    assert found[0]["IPAM"]["Config"][0]["Gateway"] == gateways[0]


async def test_a_job_knows_its_host_by_name(
    containers: DockerDriver, network: DockerRunnerConfig
) -> None:
    runner = containers.runner(network)
    script = "grep host.docker.internal /etc/hosts"
    workload = await launched(runner, containers.running("hosts", "sh", "-c", script))
    await ended(runner, workload)
    gateway = await runner.ensure_network()
    assert (await read_all(runner, workload)).split() == [
        gateway.encode(),
        b"host.docker.internal",
    ]


async def test_a_network_that_was_pruned_is_made_again(
    containers: DockerDriver, network: DockerRunnerConfig
) -> None:
    runner = containers.runner(network)
    created = await runner.create(containers.running("pruned", "true"))
    containers.client.remove_network(network.network)
    await runner.start(created)
    assert (await ended(runner, created)).exit_code == 0
    assert containers.events(created.name, "start") == 1


async def test_a_network_without_the_hosts_address_is_a_configuration_error(
    containers: DockerDriver,
) -> None:
    config = DockerRunnerConfig(host=containers.config.host, network="none")
    error = await raised(ConfigError, containers.runner(config).ensure_network())
    assert "'none'" in error.message


# The fence.


async def test_a_cut_start_is_looked_at_and_not_repeated(containers: DockerDriver) -> None:
    runner = containers.runner()
    created = await runner.create(containers.request(Scenario(b"once\n")))
    runner._fresh.discard(created.id)  # what a cancelled start leaves
    containers.client.start(created.id)
    containers.client.wait(created.id)
    assert (await started_before(runner, created)).state is WorkloadState.EXITED
    assert containers.events(created.name, "start") == 1


async def test_a_removed_container_cannot_be_started(containers: DockerDriver) -> None:
    created = await containers.runner().create(containers.request(Scenario()))
    containers.client.remove_container(created.id)
    result = await containers.runner().start(created)
    assert isinstance(result, StartUnknown)
    assert result.cause is Cause.LOST_WORKLOAD


async def test_values_of_arguments_are_checked_before_anything_is_made(
    containers: DockerDriver,
) -> None:
    with pytest.raises(PolicyError, match="`ulimit`"):
        containers.runner().check({"ulimit": "many"}, {})
