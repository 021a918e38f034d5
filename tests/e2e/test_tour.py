"""The three-terminal tour of the README, word for word, on real parts."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.infrastructure.state import DockerFacts, GitFacts

pytestmark = [pytest.mark.docker]
EXAMPLES = Path(__file__).parents[2] / "examples"
README = EXAMPLES.parent / "README.md"
FLAGS = re.DOTALL | re.MULTILINE


@pytest.fixture
def at_home(home: Home) -> Home:
    """The tour is taken from a checkout: `./examples/hello` must be there."""
    (home.root / "examples").symlink_to(EXAMPLES)
    return home


def git_settings(git: GitFacts) -> dict[str, Any]:
    base = git.https_url.rsplit("/", 1)[0]
    credential = {
        "url": base,
        "username": git.https_username,
        "password": {"value": git.https_password},
    }
    return {
        "sources": {
            "git": {
                "credentials": [credential],
                "ca_bundle": git.https_ca_file,
                "ssh_key": git.ssh_key_file,
                "known_hosts": git.ssh_known_hosts_file,
            }
        }
    }


async def ok(home: Home, *args: str) -> str:
    done = await home.launch(*args)
    assert done.code == 0, f"{args}: {done.out}{done.err}"
    return done.out


def blocks_of(section: str) -> list[list[str]]:
    """The lines of each block of a section of the README."""
    text = README.read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [block.splitlines() for block in re.findall(r"^```\n(.*?)^```", text, FLAGS)]


async def test_each_line_of_the_readmes_three_terminals_can_be_pasted(
    at_home: Home, docker_engine: DockerFacts
) -> None:
    [first], second, third = blocks_of("In three terminals")
    at_home.timeout = 600.0
    await at_home.start(*shlex.split(first))
    said = {}
    for line in (*second, *third):
        done = await at_home.run("sh", "-c", line)
        assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
        said[line] = done.out
    hello, version, *looks = said.values()
    # Standard output of a followed job is the job's own.
    assert hello.lower().startswith("hello")
    assert version.startswith("Python 3.11.")
    assert "/login/link?" in looks[0]
    assert looks[-2].startswith("Python 3.11.")
    assert "version" in looks[-1]


async def test_a_container_of_ones_own_reaches_the_control_plane_as_the_readme_says(
    home: Home, docker_engine: DockerFacts
) -> None:
    daemon = await home.start("launch-agent", "--queue", "default")
    gateway, run = next(
        lines for lines in blocks_of("Use it with your W&B code") if lines[0].startswith("GATEWAY=")
    )
    port = re.search(r"http://127\.0\.0\.1:(\d+)", daemon.output())
    assert port is not None
    asked = f"{docker_engine.shell_image} wget -qO- http://$GATEWAY:{port[1]}/healthz"
    run = run.replace("IMAGE", asked).replace("…", "key").replace(":8450", f":{port[1]}")
    done = await home.run("sh", "-c", f"{gateway}\n{run}")
    assert (done.code, done.out) == (0, "ok\n"), done.err


async def test_a_directory_of_code_is_built_run_and_followed(at_home: Home) -> None:
    daemon = await at_home.start("launch-agent", "--queue", "default")
    assert "http://127.0.0.1:" in daemon.output()
    done = await at_home.launch(
        *("submit", "--queue", "default", "--uri", "./examples/hello"),
        *("--entry-point", "python main.py", "--name", "hello", "--follow"),
    )
    assert done.code == 0, done.err
    assert "succeeded" in done.out + done.err
    item = json.loads(await ok(at_home, "item", "list", "--json"))[0]
    assert (item["name"], item["phase"]) == ("hello", "SUCCEEDED")
    assert "hello" in (await ok(at_home, "item", "logs", item["id"])).lower()


@pytest.mark.git_servers
@pytest.mark.parametrize("scheme", ["https", "ssh"])
async def test_a_repository_is_fetched_with_a_password_and_with_a_key(
    home: Home, git_servers: GitFacts, scheme: str
) -> None:
    home.configure(quick(**git_settings(git_servers)))
    # The command fetches as well, to pin the commit: with the same credentials.
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    url = git_servers.https_url if scheme == "https" else git_servers.ssh_url
    done = await home.launch(
        *("submit", "--queue", "default", "--uri", url, "-g", "v1.2"),
        *("--build-context", "jobs/hello_world", "--entry-point", "python job.py"),
        *("--follow", "--json"),
    )
    assert done.code == 0, done.err
    item = json.loads(await ok(home, "item", "show", done.json()["id"], "--json"))
    assert item["facts"]["commit"] == git_servers.commits["v1.2"]
    log = await ok(home, "item", "logs", item["id"])
    assert "hello from v1.2" in log
    for text in (log, await ok(home, "item", "logs", item["id"], "--channel", "setup")):
        assert git_servers.https_password not in text


async def test_a_ready_image_runs_by_digest_or_image_id(
    home: Home, docker_engine: DockerFacts
) -> None:
    await home.start("launch-agent", "--queue", "default")
    done = await home.launch(
        *("submit", "--queue", "default", "--docker-image", docker_engine.shell_image),
        *("-E", "echo from the image", "--wait", "--json"),
    )
    assert done.code == 0, done.err
    item = json.loads(await ok(home, "item", "show", done.json()["id"], "--json"))
    assert "sha256:" in item["facts"]["image"]


async def test_queues_are_created_shown_changed_paused_and_deleted(home: Home) -> None:
    await home.start("launch-agent", "--queue", "default")
    await ok(home, "queue", "create", "gpu", "--resource", "local-container")
    (home.root / "queue.yaml").write_text(
        "name: big\n"
        "resource: local-container\n"
        "config:\n"
        "  resource_args:\n"
        "    local-container:\n"
        "      memory: '{{memory}}'\n"
        "template_variables:\n"
        "  memory: {schema: {type: string, default: 64m}}\n"
    )
    await ok(home, "queue", "create", "-f", "queue.yaml")
    names = {queue["name"] for queue in json.loads(await ok(home, "queue", "list", "--json"))}
    assert {"default", "gpu", "big"} <= names
    assert "memory" in await ok(home, "queue", "show", "big")
    await ok(home, "queue", "update", "gpu", "--resource", "local-process")
    assert "local-process" in await ok(home, "queue", "show", "gpu")
    await ok(home, "queue", "pause", "gpu")
    assert json.loads(await ok(home, "queue", "show", "gpu", "--json"))["paused"]
    await ok(home, "queue", "resume", "gpu")
    await ok(home, "queue", "delete", "gpu")
    gone = await home.launch("queue", "show", "gpu")
    assert gone.code == 1
    assert "gpu" in gone.err


async def test_items_wait_move_change_priority_stop_and_run_again(
    home: Home, docker_engine: DockerFacts
) -> None:
    await home.start("launch-agent", "--queue", "default")
    await ok(home, "queue", "create", "other", "--resource", "local-container")
    await ok(home, "queue", "pause", "default")
    image = ("--docker-image", docker_engine.shell_image, "--json")
    submitted = await ok(home, "submit", "--queue", "default", *image, "-E", "sleep 600")
    item = json.loads(submitted)["id"]
    assert "paused" in await ok(home, "explain", item)
    await ok(home, "item", "priority", item, "high")
    await ok(home, "item", "move", item, "--to", "other")
    shown = json.loads(await ok(home, "item", "show", item, "--json"))
    assert (shown["queueName"], shown["priority"], shown["phase"]) == ("other", 1, "QUEUED")
    assert "agent" in await ok(home, "explain", item)
    await ok(home, "item", "stop", item)
    shown = json.loads(await ok(home, "item", "show", item, "--json"))
    assert (shown["phase"], shown["cause"]) == ("STOPPED", "STOPPED_BY_USER")
    await ok(home, "item", "retry", item)
    shown = json.loads(await ok(home, "item", "show", item, "--json"))
    assert (shown["phase"], shown["attempt"]) == ("QUEUED", 2)


async def test_agents_are_listed_shown_drained_and_stopped(
    home: Home, docker_engine: DockerFacts
) -> None:
    daemon = await home.start("launch-agent", "--queue", "default", "--name", "desk")
    agents = json.loads(await ok(home, "agent", "list", "--json"))
    assert [(a["name"], a["agentStatus"]) for a in agents] == [("desk", "POLLING")]
    assert "default" in await ok(home, "agent", "show", "desk")
    await ok(home, "agent", "drain", "desk")
    assert await daemon.process.wait() == 0
