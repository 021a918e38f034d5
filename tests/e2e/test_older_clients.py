"""Older clients of W&B, each in an environment of its own: log in, run, make a job, launch it."""

from collections.abc import AsyncIterator

import pytest

from tests.contract.wandb_client.environment import OLDER, installed_client
from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.e2e.harness.promises import User, at_home
from tests.e2e.harness.wandb_client import Client, training
from tests.e2e.harness.wandb_runs import wandb_user
from tests.e2e.test_client_commands import BRIEF, ended, push, stock_agent
from tests.infrastructure.process import free_port

PROCESSES = {
    "builder": {"type": "virtualenv"},
    "runners": {"local-container": {"enabled": False}},
}
#: Those whose `wandb launch-agent` takes jobs made by `launch job create`.
OLD_AGENTS = ("0.28.2", "0.23.1", "0.19.11")
OLD_ITEMS = 3
#: It has `wandb launch`, and no `wandb job`: jobs came of runs only.
WITHOUT_JOB_COMMANDS = "0.13.8"


@pytest.fixture(params=OLDER)
async def client(request: pytest.FixtureRequest, home: Home) -> AsyncIterator[Client]:
    home.configure(quick(**PROCESSES))
    home.timeout = 600.0
    async with at_home(home) as user:
        yield Client(user, installed_client(request.param), request.param)


async def test_a_run_becomes_a_job_that_is_launched_again(client: Client) -> None:
    user = client.user
    folder = user.write({"train.py": training("old", end="run.log_code()")})
    login = await client.wandb(folder, "login", "--relogin", "--host", user.url, user.key)
    assert "Traceback" not in login.err
    await client.succeeds(folder, "train.py")
    name = "job-source-old-train.py"
    versions = await user.json(f"job versions {{E}}/old/{name}")
    assert [each["versionIndex"] for each in versions] == [0]
    if client.version != WITHOUT_JOB_COMMANDS:
        place = ("-p", "old", "-e", user.entity)
        code = ("code", ".", "-E", "python train.py")
        await client.wandb(folder, "job", "create", *place, "--name", "N", *code)
        listed = await client.wandb(folder, "job", "list", *place)
        assert "N" in listed.out + listed.err
    await client.wandb(
        folder, "launch", "-j", f"{user.entity}/old/{name}:latest", "-q", "default",
        "-e", user.entity, "-p", "old", "-r", "local-process",
    )  # fmt: skip
    (item,) = await user.items()
    done = await user.launch(f"item logs {item['id']} --follow")
    assert "epoch=9" in done.out
    shown = await user.json(f"item show {item['id']}")
    assert shown["phase"] == "SUCCEEDED"


@pytest.fixture(params=OLD_AGENTS)
async def lone(request: pytest.FixtureRequest, home: Home) -> AsyncIterator[Client]:
    """A client of that version beside a server; none of our agents runs."""
    port = free_port()
    home.configure({"control": {"port": port}})
    home.timeout = 600.0
    async with wandb_user(home) as user:
        entity = (await user.ask("query { viewer { entity } }"))["viewer"]["entity"]
        python = installed_client(request.param)
        yield Client(User(home, entity, user.url, user.key), python, request.param)


async def test_the_stock_agent_drains_our_queue(lone: Client) -> None:
    """W&B's own agent of that version takes each item once, and its runs end the items."""
    user = lone.user
    root = user.home.root
    home = {"LAUNCH_SERVER": user.url, "LAUNCH_API_KEY": user.key}
    user.home.env.update(home)
    starts = root / "starts"
    user.write({"main.py": BRIEF.replace("STARTS", str(starts))})
    await user.launch('job create -p P -e {E} -n N code code -E "python3 main.py"')
    await user.launch("queue create default -r local-process")
    await push(lone, OLD_ITEMS)
    stock = await stock_agent(lone)
    try:
        items = await ended(lone, OLD_ITEMS)
    finally:
        stock.terminate()
        await stock.wait()
    lines = [line.split() for line in starts.read_text().splitlines()]
    assert sorted(lines) == [["stock", str(number)] for number in range(OLD_ITEMS)]
    assert [each["phase"] for each in items] == ["SUCCEEDED"] * OLD_ITEMS
