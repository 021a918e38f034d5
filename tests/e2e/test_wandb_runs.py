"""Runs of W&B's unmodified client: nothing that it logged is lost or stored twice."""

import asyncio
import json
import random
from collections.abc import AsyncIterator

import pytest

from tests.e2e.harness.home import Home
from tests.e2e.harness.wandb_runs import WandbUser, wandb_user

RUN = 'query($r: String!) { project(name: "vision") { run(name: $r) { state exitcode %s } } }'


@pytest.fixture
async def user(home: Home) -> AsyncIterator[WandbUser]:
    async with wandb_user(home) as user:
        yield user


async def _run(user: WandbUser, name: str, fields: str = "") -> dict | None:
    project = (await user.ask(RUN % fields, r=name))["project"]
    return project and project["run"]


async def test_what_a_program_logs_is_read_back(user: WandbUser) -> None:
    name = await user.value("everything", str(user.folder / "work"))
    filters = {
        "finished": {"state": "finished"},
        "rate": {"config.lr.value": {"$gt": 0.05}},
        "low": {"summary_metrics.best": {"$lt": 0.5}},
        "named": {"display_name": {"$regex": "^ren"}},
    }
    seen = await user.value("read", name, str(user.folder / "down"), json.dumps(filters))
    assert seen["state"] == "finished"
    assert seen["config"]["opt"] == {"name": "sgd", "steps": [1, 2]}
    assert (seen["config"]["late"], seen["best"], seen["acc"]) == (5, 0.93, 0.7)
    assert (seen["last_step"], seen["history"], seen["system"]) == (20, 21, True)
    assert {"loss", "nest.a", "nest.b.c", "odd", "histogram", "table"} <= set(seen["keys"])
    assert seen["sampled"][1] == {"_step": 1, "loss": 0.5, "nest.a": 1}
    assert len(seen["sampled"]) == 20
    assert seen["few"] == [0, 9, 19]
    assert seen["scan"] == list(range(21))
    assert seen["odd"] == ["inf", "nan"]
    assert seen["scan_keys"] == [1 / (step + 1) for step in range(20)]
    assert seen["part"] == [5, 6, 7]
    files = {"config.yaml", "extra.txt", "output.log", "requirements.txt", "wandb-metadata.json"}
    assert files <= set(seen["files"])
    assert (seen["extra"], seen["files"]["extra.txt"], seen["missing"]) == ("extra", 5, 0)
    assert seen["lines"][-3:] == [["", "progress 49"], ["", "done"], ["error", "problem"]]
    assert seen["last"] == ["done", "problem"]
    assert {"data", "run", "source"} <= set(seen["logged"])
    assert seen["used"] == ["data:v0"]
    assert seen["changed"] == ["renamed", ["a", "b", "new"], "changed", 1, "finished"]
    assert seen["post"] == 7
    found = {key: seen[key] for key in filters}
    assert found == {
        "finished": [1, ["renamed"]],
        "rate": [1, ["renamed"]],
        "low": [0, []],
        "named": [1, ["renamed"]],
    }
    run = await _run(user, name, "alerts { title severity } group jobType notes")
    assert run is not None
    assert run["alerts"] == [{"title": "Slow", "severity": "WARN"}]
    assert (run["group"], run["jobType"]) == ("g", "train")
    assert (await user.run("manage", name, "delete")).code == 0
    assert await _run(user, name) is None


async def test_resuming_goes_on_behind_the_last_step(user: WandbUser) -> None:
    assert (await user.run("resume", "r", "must", "1", "0")).code != 0
    assert await user.value("resume", "r", "never", "3", "0") == 0
    assert (await user.run("resume", "r", "never", "1", "0")).code != 0
    assert await user.value("resume", "r", "must", "2", "3") == 3
    assert await _run(user, "r") == {"state": "failed", "exitcode": 3}
    assert await user.value("resume", "r", "allow", "2", "0") == 5
    assert await user.value("resume", "r", "auto", "1", "0") == 7
    rows = await user.history("r")
    assert [(row["_step"], row["step"]) for row in rows] == list(
        zip(range(8), [0, 1, 2, 0, 1, 0, 1, 0], strict=True)
    )
    assert await _run(user, "r") == {"state": "finished", "exitcode": 0}


async def test_a_program_that_fails_has_a_failed_run(user: WandbUser) -> None:
    assert (await user.run("resume", "r", "", "1", "raise")).code == 1
    assert await _run(user, "r") == {"state": "failed", "exitcode": 1}
    await user.run("manage", "r", "update_state", "pending")
    assert await _run(user, "r") == {"state": "pending", "exitcode": None}


async def test_a_run_that_was_offline_is_synced_once(user: WandbUser) -> None:
    done = await user.run("steps", "off", "50", "0", WANDB_MODE="offline")
    assert done.code == 0, done.err
    (folder,) = (user.folder / "wandb").glob("offline-run-*")
    for _ in range(2):
        synced = await user.wandb("sync", str(folder))
        assert synced.code == 0, synced.err
    assert [row["_step"] for row in await user.history("off")] == list(range(50))
    assert await _run(user, "off") == {"state": "finished", "exitcode": 0}


async def test_a_stopped_run_interrupts_its_program(user: WandbUser) -> None:
    program = asyncio.create_task(user.value("wait"))
    while await _run(user, "waiting", "historyLineCount") is None:
        await asyncio.sleep(0.5)
    assert (await user.run("manage", "waiting", "stop")).code == 0
    assert await program == "stopped"


async def test_nothing_is_lost_when_the_server_is_killed_again_and_again(user: WandbUser) -> None:
    names = [f"client{number}" for number in range(10)]
    user.home.timeout = 900
    programs = [asyncio.create_task(user.value("steps", name, "400", "0.1")) for name in names]
    chance = random.Random(7)
    for _ in range(4):
        await asyncio.sleep(chance.uniform(3, 9))
        await user.kill_server()
        await asyncio.sleep(chance.uniform(0, 2))
        await user.serve()
    assert await asyncio.gather(*programs) == [400] * 10
    for name in names:
        rows = await user.history(name)
        assert [row["_step"] for row in rows] == list(range(400)), name
        assert {row["name"] for row in rows} == {name}
        assert await _run(user, name) == {"state": "finished", "exitcode": 0}
