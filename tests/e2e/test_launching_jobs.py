"""Jobs that are stored, launched again with other parameters, as processes of this machine."""

import json

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home

SCRIPT = """
import json, os
config = json.load(open(os.environ["LAUNCH_CONFIG_FILE"]))
assert config == json.loads(os.environ["WANDB_CONFIG"])
print("lr is", config["lr"], json.loads(os.environ["WANDB_ARTIFACTS"])["_wandb_job"])
"""


@pytest.fixture
async def served(home: Home) -> Home:
    home.configure(quick(runners={"local-container": {"enabled": False}}))
    project = home.root / "job"
    project.mkdir()
    (project / "main.py").write_text(SCRIPT)
    cells = [{"cell_type": "code", "source": ["!echo no\n", SCRIPT]}]
    (project / "note.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}}))
    await home.start("launch-agent", "--queue", "default")
    return home


@pytest.mark.parametrize("entry", ["python main.py", "python note.ipynb"])
async def test_a_code_job_runs_twice_with_other_parameters(served: Home, entry: str) -> None:
    made = await served.launch(
        "job", "create", "--project", "p", "--name", "train", "code", "job", "-E", entry
    )
    assert made.code == 0, made.err
    for rate in (0.5, 0.25):
        config = json.dumps({"overrides": {"run_config": {"lr": rate}}})
        done = await served.launch(
            *("submit", "--job", "p/train:latest", "-p", "p"),
            *("--queue", "default", "--config", config, "--follow"),
        )
        assert done.code == 0, done.out + done.err
        assert f"lr is {rate} " in done.out
        assert "p/train:v0" in done.out
    shown = await served.launch("render", "p/train:latest", "-q", "default", "--json")
    assert shown.code == 0, shown.err
    layers = {each["path"]: each["layer"] for each in shown.json()["settings"]}
    assert layers["overrides.entry_point"] in {"job", "submitter"}


@pytest.mark.docker
async def test_in_a_container_the_parameters_lie_at_a_fixed_place(home: Home) -> None:
    project = home.root / "mono"
    (project / "jobs/hello").mkdir(parents=True)
    (project / "jobs/hello/job.py").write_text(SCRIPT + "print(os.environ['LAUNCH_CONFIG_FILE'])\n")
    await home.start("launch-agent", "--queue", "default")
    made = await home.launch(
        *("job", "create", "--project", "p", "--name", "train"),
        *("code", "mono", "--build-context", "jobs/hello", "-E", "python job.py"),
    )
    assert made.code == 0, made.err
    config = json.dumps({"overrides": {"run_config": {"lr": 0.5}}})
    done = await home.launch(
        *("submit", "--job", "p/train:latest", "-p", "p", "-r", "local-container"),
        *("--queue", "default", "--config", config, "--follow"),
    )
    assert done.code == 0, done.out + done.err
    assert "lr is 0.5" in done.out
    assert "/run/launch/config.json" in done.out
