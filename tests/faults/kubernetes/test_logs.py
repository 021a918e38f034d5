"""Logs of containers arrive whole, once, and say where they cannot."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from agent.model.work import Lease, workload_labels
from agent.ports.runner import (
    LOG_START,
    MAYBE_MISSING,
    UNKNOWN_MISSING,
    LogPiece,
    LogPosition,
)
from agent.runners.kubernetes import logs
from agent.runners.kubernetes.api import ClusterApi
from agent.runners.kubernetes.job_log import JobLog
from agent.runners.kubernetes.job_states import JobState
from tests.faults.kubernetes.scripted_api import (
    CONTROL_PLANE,
    NAMESPACE,
    Answer,
    Pauses,
    ScriptedApi,
    api_of,
)

LABELS = workload_labels(CONTROL_PLANE, Lease("item", 1, 1))
RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
DONE: dict[str, Any] = {"terminated": {"exitCode": 0, "startedAt": "2026-01-01T00:00:00Z"}}


class Job:
    """One job whose containers a test starts and ends; what its log gave."""

    def __init__(self, server: ScriptedApi, api: ClusterApi, **spec: Any) -> None:
        self.server = server
        self._api = api
        self.spec = {"backoffLimit": 0, **spec}
        self.state = JobState()
        #: What the last reading has given so far.
        self.pieces: list[LogPiece] = []
        self.put_job()

    def put_job(self, **status: Any) -> None:
        job = self.server.put("jobs", "job", labels=LABELS, spec=self.spec, status=status)
        self.state.update_job(job, deleted=False)

    def put_pod(self, name: str, **states: dict[str, Any]) -> None:
        """A pod with these containers; those of which the name begins with `init` are init's."""
        phase = "Succeeded" if all("terminated" in each for each in states.values()) else "Running"
        inits = [{"name": each} for each in states if each.startswith("init")]
        others = [{"name": each} for each in states if not each.startswith("init")]
        pod = self.server.put(
            "pods",
            name,
            labels=LABELS,
            spec={"containers": others, "initContainers": inits, "restartPolicy": "Never"},
            status={
                "phase": phase,
                "initContainerStatuses": [{**one, "state": states[one["name"]]} for one in inits],
                "containerStatuses": [{**one, "state": states[one["name"]]} for one in others],
            },
        )
        self.state.update_pod(pod, deleted=False)

    def remove_pod(self, name: str) -> None:
        self.state.update_pod(self.server.remove("pods", name), deleted=True)

    def end(self) -> None:
        self.put_job(conditions=[{"type": "Complete", "status": "True"}], succeeded=1)

    async def read(self, position: LogPosition = LOG_START) -> list[LogPiece]:
        log = JobLog(self._api, NAMESPACE, "job", self.state)
        self.pieces = []
        async with asyncio.timeout(60), aclosing(log.pieces(position)) as pieces:
            async for piece in pieces:
                self.pieces.append(piece)
        return self.pieces


@pytest.fixture
async def server() -> AsyncIterator[ScriptedApi]:
    async with ScriptedApi().serving() as serving:
        yield serving


@pytest.fixture
async def api(server: ScriptedApi, tmp_path: Path) -> AsyncIterator[ClusterApi]:
    async with api_of(server, tmp_path, Pauses()) as opened:
        yield opened


@pytest.fixture
def job(server: ScriptedApi, api: ClusterApi) -> Job:
    return Job(server, api)


def stamped(*lines: str, second: int = 0) -> bytes:
    """Lines with a stamp each, a thousandth of a second apart."""
    stamps = (f"2026-01-01T00:00:{second:02}.{n:09}Z" for n in range(0, 1_000_000_000, 1_000_000))
    return "".join(f"{at} {line}\n" for at, line in zip(stamps, lines, strict=False)).encode()


def text(pieces: list[LogPiece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def gaps(pieces: list[LogPiece]) -> list[int]:
    return [piece.missing for piece in pieces if piece.missing]


async def test_a_stream_that_is_cut_is_taken_up_where_it_was(job: Job) -> None:
    """In the middle of a line, while the job runs."""
    whole = stamped(*(f"line {n}" for n in range(100)))
    job.put_pod("pod", main=RUNNING)
    reading = asyncio.create_task(job.read())
    for length in (1000, 1010, 2500):
        stream = await job.server.watch("log")
        since = stream.query.get("sinceTime")
        assert since in {None, "2026-01-01T00:00:00Z"}
        await stream.raw(whole[:length])
        stream.cut()
    job.server.logs["pod", "main"] = whole
    job.put_pod("pod", main=DONE)
    job.end()
    pieces = await reading
    assert text(pieces).splitlines() == [f"line {n}".encode() for n in range(100)]
    assert not gaps(pieces)


async def test_a_log_that_ends_before_its_container_is_read_again_once(job: Job) -> None:
    """A kubelet ends a stream earlier than the state of the container arrives."""
    job.put_pod("pod", main=RUNNING)
    reading = asyncio.create_task(job.read())
    stream = await job.server.watch("log")
    await stream.raw(stamped("first"))
    await stream.close()
    job.server.logs["pod", "main"] = stamped("first", "last")
    job.put_pod("pod", main=DONE)
    job.end()
    assert text(await reading) == b"first\nlast\n"
    assert job.server.counted("GET", "log") == 2


async def test_what_a_rotation_removed_is_marked(job: Job) -> None:
    job.put_pod("pod", main=DONE)
    job.end()
    job.server.logs["pod", "main"] = stamped("first", "second")
    position = (await job.read())[0].position.after(3)
    job.server.logs["pod", "main"] = stamped("later", second=7)
    pieces = await job.read(position)
    assert (text(pieces), gaps(pieces)) == (b"later\n", [UNKNOWN_MISSING])


@pytest.mark.parametrize("how", ["not found", "its own words", "no kubelet", "pod removed"])
async def test_an_end_that_cannot_be_read_is_marked(
    job: Job, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_LONGEST_AFTER_END", 0.1)
    job.put_pod("pod", main=RUNNING)
    reading = asyncio.create_task(job.read())
    stream = await job.server.watch("log")
    await stream.raw(stamped("first"))
    # Of a connection that breaks, what was not read is lost.
    while not job.pieces:
        await asyncio.sleep(0.01)
    if how == "its own words":
        words = b"unable to retrieve container logs for containerd://1234"
        job.server.logs["pod", "main"] = words
    else:
        status = {"not found": 404, "no kubelet": 500, "pod removed": 404}[how]
        job.server.intercept = lambda _: Answer(status, {"message": "x"})
    job.put_pod("pod", main=DONE)
    job.end()
    if how == "pod removed":
        job.remove_pod("pod")
    stream.cut()
    pieces = await reading
    assert (text(pieces), gaps(pieces)) == (b"first\n", [MAYBE_MISSING])


async def test_a_job_whose_pods_were_removed_says_so(job: Job) -> None:
    job.end()
    pieces = await job.read()
    assert (text(pieces), gaps(pieces)) == (b"", [MAYBE_MISSING])


async def test_a_job_that_never_ran_has_no_log(job: Job) -> None:
    job.put_job(conditions=[{"type": "Failed", "status": "True"}])
    assert await job.read() == []


async def test_containers_of_one_pod_are_told_apart(job: Job) -> None:
    """Init containers and sidecars too; the last line of one has no end."""
    job.put_pod("job-x7k2p", init=DONE, main=DONE, side=DONE)
    job.end()
    for name in ("init", "main", "side"):
        job.server.logs["job-x7k2p", name] = stamped(f"of {name}", "more")[
            : -1 if name == "main" else None
        ]
    lines = text(await job.read()).splitlines()
    expected = [
        f"[{name}] {line}".encode()
        for name in ("init", "main", "side")
        for line in (f"of {name}", "more")
    ]
    assert Counter(lines) == Counter(expected)


async def test_pods_are_told_apart(server: ScriptedApi, api: ClusterApi) -> None:
    job = Job(server, api, parallelism=2, completions=2)
    job.put_pod("job-0-aaaaa", main=DONE)
    job.put_pod("job-1-bbbbb", main=DONE)
    job.end()
    for pod in ("job-0-aaaaa", "job-1-bbbbb"):
        server.logs[pod, "main"] = stamped("hello")
    lines = text(await job.read()).splitlines()
    assert sorted(lines) == [b"[0-aaaaa] hello", b"[1-bbbbb] hello"]


async def test_a_container_that_starts_later_is_read(job: Job) -> None:
    job.put_pod("job-x", init=RUNNING, main={"waiting": {}})
    reading = asyncio.create_task(job.read())
    first = await job.server.watch("log")
    assert first.query["container"] == "init"
    await first.raw(stamped("one"))
    job.put_pod("job-x", init=DONE, main=RUNNING)
    second = await job.server.watch("log")
    assert second.query["container"] == "main"
    await second.raw(stamped("two"))
    job.server.logs["job-x", "init"] = stamped("one")
    job.server.logs["job-x", "main"] = stamped("two")
    job.put_pod("job-x", init=DONE, main=DONE)
    job.end()
    assert sorted(text(await reading).splitlines()) == [b"[init] one", b"[main] two"]


async def test_a_merged_log_goes_on_from_any_position(server: ScriptedApi, api: ClusterApi) -> None:
    """Whatever order the lines came in: what was read before a place and after it is everything."""
    job = Job(server, api, parallelism=3)
    names = [f"job-{letter * 5}" for letter in "abc"]
    for number, name in enumerate(names):
        job.put_pod(name, main=DONE)
        lines = [f"{name} {n} {'x' * (number * 800 + n)}" for n in range(120)]
        server.logs[name, "main"] = stamped(*lines) + stamped("last", second=3)[:-1]
    job.end()
    pieces = await job.read()
    expected = Counter(text(pieces).splitlines(keepends=True))
    assert expected.total() == 3 * 121
    done = b""
    for piece in pieces:
        for cut in {0, 1, len(piece.data) // 2, len(piece.data) - 1, len(piece.data)}:
            rest = await job.read(piece.position.after(cut))
            assert not gaps(rest)
            together = done + piece.data[:cut] + text(rest)
            assert Counter(together.splitlines(keepends=True)) == expected
        done += piece.data


async def test_a_position_in_a_pod_that_is_gone_is_marked(
    server: ScriptedApi, api: ClusterApi
) -> None:
    job = Job(server, api, parallelism=2)
    for name in ("job-a", "job-b"):
        job.put_pod(name, main=DONE)
        server.logs[name, "main"] = stamped("hello", "there")
    job.end()
    first = (await job.read())[0]
    gone = "job-a" if b"[a]" in first.data else "job-b"
    again = Job(server, api, parallelism=2)
    other = "job-b" if gone == "job-a" else "job-a"
    again.put_pod(other, main=DONE)
    again.end()
    pieces = await again.read(first.position.after(9))
    assert gaps(pieces)
    assert len(text(pieces).splitlines()) == 2


async def test_a_line_without_an_end_does_not_fill_the_memory(
    server: ScriptedApi, api: ClusterApi
) -> None:
    """It is broken at the same places each time."""
    job = Job(server, api, parallelism=2)
    job.put_pod("job-a", main=DONE)
    job.end()
    server.logs["job-a", "main"] = stamped("x" * 700_000)
    pieces = await job.read()
    lines = text(pieces).splitlines()
    assert [len(line) - len(b"[a] ") for line in lines] == [262144, 262144, 700_000 - 2 * 262144]
    assert max(len(piece.data) for piece in pieces) <= 64 * 1024
    for piece in pieces:
        rest = text(await job.read(piece.position.after(10)))
        assert text(pieces).endswith(rest)
