"""Bad input ends with a message that names the thing, what was seen and what to do."""

import asyncio
import json
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home, Result
from tests.e2e.harness.jobs import Processes
from tests.e2e.test_tour import git_settings
from tests.infrastructure.process import free_port
from tests.infrastructure.state import DockerFacts, GitFacts, RegistryFacts


def told(done: Result, code: int, *parts: str) -> None:
    """The command ended with `code`, said all of `parts`, and showed no traceback."""
    assert done.code == code, done.out + done.err
    assert "Traceback" not in done.err
    missing = [part for part in parts if part not in done.err]
    assert not missing, f"{missing} not in: {done.err}"


async def cause_of(home: Home, *flags: str, wait: float = 120) -> tuple[str, str, str]:
    """Submit, wait for the end; returns cause, message and what `explain` says."""
    async with asyncio.timeout(wait):
        done = await home.launch("submit", "--queue", "default", "--wait", "--json", *flags)
    item: dict[str, Any] = done.json()
    assert done.code == (item["exitCode"] or 1), done.err
    explained = await home.launch("explain", item["id"])
    assert item["message"] in explained.out.replace("\n", " ") or item["cause"] in explained.out
    return item["cause"], item["message"], explained.out


# ---- what the command line refuses


async def test_without_any_server_the_way_to_one_is_told(home: Home) -> None:
    told(await home.launch("queue", "list"), 2, "launch-agent", "LAUNCH_SERVER")


async def test_an_unreachable_server_is_named(home: Home) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    key = "launch-" + "x" * 40
    once = {"LAUNCH_API_KEY": key, "LAUNCH_RETRY_FOR": "0"}
    done = await home.launch("queue", "list", LAUNCH_SERVER=url, **once)
    told(done, 3, f"{url} cannot be reached", "Connection refused", "Check the address")
    for name in ("http://nohost.invalid", "https://nohost.invalid:8443"):
        done = await home.launch("queue", "list", LAUNCH_SERVER=name, **once)
        told(done, 3, name, "Check the address")


async def test_missing_and_bad_keys_are_told_apart(home: Home) -> None:
    told(
        await home.launch("queue", "list", LAUNCH_SERVER="http://127.0.0.1:9"), 4, "LAUNCH_API_KEY"
    )
    await home.start("launch-agent", "--queue", "default")
    url = json.loads((home.root / "state" / "embedded.json").read_text())["url"]
    bad = "launch-" + "x" * 40
    done = await home.launch("queue", "list", LAUNCH_SERVER=url, LAUNCH_API_KEY=bad)
    told(done, 4, "key")
    assert bad not in done.err


async def test_unknown_queues_and_entities_are_named_with_near_misses(home: Home) -> None:
    await home.start("launch-agent", "--queue", "default")
    await home.launch("queue", "create", "training", "--resource", "local-process")
    flags = ("--docker-image", "some/image:1")
    told(await home.launch("submit", "-q", "trainin", *flags), 1, "'trainin'", "`training`")
    told(await home.launch("queue", "list", "--entity", "nobody"), 1, "nobody")


async def test_paths_that_are_nothing_and_programs_that_are_not_there_are_named(home: Home) -> None:
    await home.start("launch-agent", "--queue", "default")
    (home.root / "file.txt").write_text("text")
    flags = ("-E", "python main.py", "-q")
    told(await home.launch("submit", "--uri", "./nowhere", *flags), 2, "nowhere")
    told(await home.launch("submit", "--uri", "./file.txt", *flags), 2, "'main.py'")


async def test_configuration_mistakes_name_file_line_key_and_remedy(home: Home) -> None:
    for text, parts in {
        "queues: [default\n": ("config.yaml", "line"),
        "max_job: 3\n": ("config.yaml", "max_job", "max_jobs"),
        "stopped_run_timeout: 30 parsecs\n": ("config.yaml", "stopped_run_timeout", "30 parsecs"),
        "min_free_disk: 5 bananas\n": ("config.yaml", "min_free_disk", "5 bananas"),
    }.items():
        home.config.write_text(text)
        done = await home.run("launch-agent", "--queue", "default", "--config", str(home.config))
        told(done, 2, *parts)


async def test_flags_with_a_wrong_unit_or_name_are_refused_before_anything_is_queued(
    home: Home,
) -> None:
    await home.start("launch-agent", "--queue", "default")
    image = ("-d", "some/image:1")
    for flags, parts in {
        ("--timeout", "30 parsecs", *image): ("`timeout`", "'30 parsecs'", "30s, 10m"),
        ("--timeout", "0s", *image): ("`timeout`", "greater than 0"),
        ("--memory", "5 bananas", *image): ("`resources.memory`", "'5 bananas'", "512MiB"),
        ("-P", "urgent", *image): ("'urgent'", "critical, high, medium or low"),
        ("-d", "some image"): ("'some image'", "not an image reference"),
    }.items():
        told(await home.launch("submit", "-q", "default", *flags), 2, *parts)
    assert (await home.launch("item", "list", "--json")).json() == []


async def test_a_malformed_queue_file_names_the_line(home: Home) -> None:
    await home.start("launch-agent", "--queue", "default")
    (home.root / "queue.yaml").write_text("name: big\nresource: [local\n")
    told(await home.launch("queue", "create", "-f", "queue.yaml"), 2, "queue.yaml", "line")


async def test_git_urls_with_options_or_other_protocols_are_refused(home: Home) -> None:
    await home.start("launch-agent", "--queue", "default")
    for url, said in {
        "ext::sh -c touch% marker": "nor the URL of a git repository",
        "--upload-pack=touch marker": "nor the URL of a git repository",
        "ftp://host/repo.git": "`ftp` is not a protocol of git sources",
        "file:///srv/repo.git": "protocol `file` is not allowed (allowed: https, ssh)",
    }.items():
        done = await home.launch("submit", "-q", f"--uri={url}", "-E", "python main.py")
        told(done, 2, *([] if "ftp" in url else [url]), said)
        assert not (home.root / "marker").exists()
    option = ("--uri=https://host/repo.git", "-g", "--upload-pack=touch marker", "-E", "true")
    told(await home.launch("submit", "-q", *option), 2, "'--upload-pack=touch marker'", "option")
    url = "https://user:hunter2@127.0.0.1:9/r.git"
    secret = await home.launch("submit", "-q", "--uri", url, "-E", "python main.py")
    told(secret, 2, "https://127.0.0.1:9/r.git")
    assert "hunter2" not in secret.err


async def test_a_port_in_use_is_named(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = quick()
        home.configure(settings | {"control": settings["control"] | {"port": port}})
        done = await home.run("launch-agent", "--queue", "default", "--config", str(home.config))
    told(done, 2, str(port), "in use")


async def test_a_second_daemon_on_the_same_folders_is_refused(home: Home) -> None:
    first = await home.start("launch-agent", "--queue", "default")
    second = await home.run("launch-agent", "--queue", "default", "--config", str(home.config))
    told(second, 1, str(first.pid))
    elsewhere = str(home.root / "other-state")
    third = await home.run(
        *("launch-agent", "--queue", "default", "--config", str(home.config)),
        LAUNCH_STATE_DIR=elsewhere,
    )
    told(third, 1, "database", str(first.pid))


async def test_two_agents_with_one_name_are_told_who_the_other_is(home: Home) -> None:
    await home.start("launch-agent", "--queue", "default", "--name", "desk")
    found = json.loads((home.root / "state" / "embedded.json").read_text())
    second = await home.run(
        *("launch-agent", "--queue", "default", "--name", "desk"),
        LAUNCH_STATE_DIR=str(home.root / "other"),
        LAUNCH_SERVER=found["url"],
        LAUNCH_API_KEY=found["api_key"],
    )
    told(second, 1, "'desk'", "--name")


# ---- what ends an item


def repository(url: str, ref: str | None = None) -> tuple[str, ...]:
    """A launch spec that names its source itself: the agent is the first to look at it."""
    source = {"type": "git", "url": url, **({"ref": ref} if ref else {})}
    return ("--config", json.dumps({"source": source}), "-E", "python job.py")


@pytest.mark.docker
@pytest.mark.git_servers
async def test_git_remotes_that_fail_each_have_their_cause(
    home: Home, git_servers: GitFacts
) -> None:
    settings = git_settings(git_servers)
    settings["sources"]["git"]["stall_timeout"] = "2s"
    home.configure(quick(**settings))
    await home.start("launch-agent", "--queue", "default")
    url = git_servers.https_url

    cause, message, _ = await cause_of(home, *repository(url, "no-such-ref"))
    assert cause == "SOURCE_NOT_FOUND"
    assert "no-such-ref" in message
    missing = url.rsplit("/", 1)[0] + "/nothing-here.git"
    cause, message, _ = await cause_of(home, *repository(missing))
    assert cause in {"SOURCE_NOT_FOUND", "SOURCE_AUTH"}
    assert "nothing-here" in message
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
        mute = f"https://127.0.0.1:{silent.getsockname()[1]}/org/repo.git"
        cause, message, _ = await cause_of(home, *repository(mute))
    assert cause == "SOURCE_UNREACHABLE"
    assert mute in message
    cause, message, _ = await cause_of(home, *repository(git_servers.https_redirect_url))
    assert cause in {"POLICY_SOURCE", "SOURCE_INVALID", "SOURCE_UNREACHABLE"}
    assert "redirect" in message


@pytest.mark.docker
@pytest.mark.git_servers
async def test_a_wrong_password_is_an_authentication_cause(
    home: Home, git_servers: GitFacts
) -> None:
    settings = git_settings(git_servers)
    settings["sources"]["git"]["credentials"][0]["password"] = {"value": "wrong-password"}
    home.configure(quick(**settings))
    await home.start("launch-agent", "--queue", "default")
    cause, message, explained = await cause_of(home, *repository(git_servers.https_url))
    assert cause == "SOURCE_AUTH"
    assert git_servers.https_url in message
    assert "wrong-password" not in message + explained


def code(home: Home, **files: str) -> str:
    folder = home.root / "code"
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return str(folder)


@pytest.mark.docker
async def test_builds_that_fail_name_the_package_or_the_step(home: Home) -> None:
    await home.start("launch-agent", "--queue", "default")
    folder = code(home, main__py="print()", requirements__txt="no-such-package-of-ours==9.9\n")
    run = ("--uri", folder, "-E", "python main.py")
    cause, message, _ = await cause_of(home, *run)
    assert cause == "BUILD_REQUIREMENTS"
    assert "no-such-package-of-ours" in message
    step = "RUN echo $((40 + 2)) steps && false"
    code(home, Dockerfile=f"FROM python:3.11-slim\n{step}\n")
    cause, message, _ = await cause_of(home, *run, "--dockerfile", "Dockerfile")
    assert cause == "BUILD_DOCKERFILE"
    assert step in message
    assert "42 steps" in message


@pytest.mark.docker
@pytest.mark.registry
async def test_images_that_cannot_be_run_each_have_their_cause(
    home: Home, docker_engine: DockerFacts, registries: RegistryFacts
) -> None:
    await home.start("launch-agent", "--queue", "default")
    missing = f"{registries.address}/no/such:image"
    cause, message, _ = await cause_of(home, "-d", missing)
    assert cause == "IMAGE_NOT_FOUND"
    assert missing in message
    cause, message, _ = await cause_of(home, "-d", docker_engine.foreign_image)
    assert cause == "IMAGE_PLATFORM"
    assert "arm64" in message
    private = f"{registries.private_address}/team/secret:1"
    cause, message, explained = await cause_of(home, "-d", private)
    assert cause == "IMAGE_AUTH"
    assert "docker login" in message + explained
    entry = ("-E", "no-such-program --flag")
    cause, message, _ = await cause_of(home, "-d", docker_engine.shell_image, *entry)
    assert cause == "START_ENTRYPOINT"
    assert "no-such-program" in message


STUBBORN = "trap '' TERM; echo armed; while :; do sleep 1; done\n"


@pytest.mark.docker
async def test_a_container_that_ignores_sigterm_is_killed_after_its_grace(
    home: Home, docker_engine: DockerFacts
) -> None:
    home.configure(quick(stopped_run_timeout="1s"))
    await home.start("launch-agent", "--queue", "default")
    image = ("-d", docker_engine.shell_image, "-E", shlex.join(["sh", "-c", STUBBORN]))
    cause, message, _ = await cause_of(home, *image, "--timeout", "2s")
    assert cause == "RUN_DEADLINE"
    assert "stopped after its timeout of 2.0 s" in message
    assert "did not end on SIGTERM within its grace and was killed" in message


async def test_a_process_that_ignores_sigterm_is_killed_after_its_grace(home: Home) -> None:
    home.configure(quick(stopped_run_timeout="1s", **Processes.make(home.root).settings))
    await home.start("launch-agent", "--queue", "default")
    run = ("--uri", code(home, job__sh=STUBBORN), "-E", "sh job.sh")
    cause, message, _ = await cause_of(home, *run, "--timeout", "2s")
    assert cause == "RUN_DEADLINE"
    assert "did not end on SIGTERM within its grace and was killed" in message


@pytest.mark.docker
async def test_a_line_of_100_mb_arrives_whole(home: Home, docker_engine: DockerFacts) -> None:
    await home.start("launch-agent", "--queue", "default")
    script = "dd if=/dev/zero bs=1048576 count=100 2>/dev/null | tr '\\000' x; echo; echo end"
    done = await home.launch(
        *("submit", "-q", "default", "--wait", "--json", "-d", docker_engine.shell_image),
        *("-E", shlex.join(["sh", "-c", script])),
    )
    assert done.code == 0, done.err
    log = home.root / "log.txt"
    shown = await home.run(
        "sh", "-c", f"launch item logs {done.json()['id']} > {shlex.quote(str(log))}"
    )
    assert shown.code == 0, shown.err
    assert log.stat().st_size == 100 * 2**20 + len("\nend\n")
    assert Path(log).read_bytes()[-5:] == b"\nend\n"
