"""Older clients of W&B, each in an environment of its own: log in, run, make a job, launch it."""

from collections.abc import AsyncIterator

import pytest

from tests.contract.wandb_client.environment import OLDER, installed_client
from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.e2e.harness.promises import at_home
from tests.e2e.harness.wandb_client import Client, training

PROCESSES = {
    "builder": {"type": "virtualenv"},
    "runners": {"local-container": {"enabled": False}},
}
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
