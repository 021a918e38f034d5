"""W&B's own client, unmodified, makes, lists and describes jobs on our control plane."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.control.store.items import Submission
from tests.contract.wandb_client.environment import installed_client
from tests.integration.control_wire.agents import Agent
from tests.integration.control_wire.wire import open_wire


class Client:
    """Its command line, with a home of its own and our server's address."""

    def __init__(self, python: Path, home: Path, url: str, key: str) -> None:
        self._python = python
        self._home = home
        home.mkdir()
        places = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "WANDB_BASE_URL": url,
            "WANDB_API_KEY": key,
            "WANDB_ERROR_REPORTING": "false",
            "NO_PROXY": "*",
            **{place: str(home) for place in places},
        }

    async def run(self, *arguments: str) -> str:
        return await self.python("-m", "wandb", *arguments)

    async def python(self, *arguments: str, **variables: str) -> str:
        """Its interpreter, with further variables in the environment."""
        command = (self._python, *arguments)
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            env=self._environment | variables,
            cwd=self._home,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        text = output.decode()
        assert process.returncode == 0, text
        return text


@pytest.fixture(scope="module")
def python() -> Path:
    return installed_client()


async def test_the_client_makes_lists_and_describes_jobs(tmp_path, python):
    async with open_wire(tmp_path / "data") as wire:
        client = Client(python, tmp_path / "home", wire.server.url, wire.ann.key)
        code = tmp_path / "home" / "code"
        code.mkdir()
        (code / "main.py").write_text("import wandb\nwandb.init()\n")
        (code / "requirements.txt").write_text("wandb\n")
        create = ("job", "create", "-p", "demo", "-e", "ann", "-n", "hello")
        made = ("code", str(code), "-E", "python main.py", "--runtime", "3.11")
        assert "Created job" in await client.run(*create, *made)
        assert "No changes detected for job" in await client.run(*create, *made)
        (code / "main.py").write_text("import wandb\nwandb.init(job_type='x')\n")
        assert "Updated job" in await client.run(*create, *made, "-a", "best")
        image = ("job", "create", "-p", "demo", "-e", "ann", "image", "repo/name:tag")
        assert "Created job" in await client.run(*image)

        listed = await client.run("job", "list", "-p", "demo", "-e", "ann")
        assert "hello" in listed
        assert "job-repo_name" in listed
        described = await client.run("job", "describe", "ann/demo/hello:best")
        assert "main.py" in described

        jobs = wire.server.services.jobs
        versions = await jobs.versions(wire.admin, "ann", "demo", "hello")
        assert [each.artifact.version for each in versions] == [1, 0]
        assert versions[0].artifact.aliases == ("best", "latest")
        assert versions[0].source_type == "artifact"
        imaged = await jobs.get(wire.admin, "ann/demo/job-repo_name:tag")
        assert imaged.summary == "repo/name:tag"
        runs = await wire.server.services.runs.list(wire.admin, "ann", "demo")
        assert runs.rows == (), "the runs that made them are deleted"


SCRIPT = """
import wandb
with wandb.init() as run:
    assert run.id == run.settings.run_id
    run.log({"loss": 0.5})
    print("input", run.use_artifact("ann/inputs/data:latest").version)
    made = wandb.Artifact("model", type="model")
    with made.new_file("weights.txt") as file:
        file.write("1")
    run.log_artifact(made, aliases=["latest", "production"]).wait()
    print("output", made.version, sorted(made.aliases))
"""


async def test_a_launched_run_works_with_its_token(tmp_path, python):
    """Logging, a declared input of another project, a new version, to which its aliases move."""
    async with open_wire(tmp_path / "data") as wire:
        client = Client(python, tmp_path / "home", wire.server.url, wire.ann.key)
        (tmp_path / "home" / "file").write_text("0")
        for name, kind in (("inputs/data", "dataset"), ("demo/model", "model")):
            put = ("artifact", "put", "--name", f"ann/{name}", "--type", kind)
            await client.run(*put, "-a", "production", "file")
        overrides = {"artifacts": {"data": "ann/inputs/data:latest"}}
        submission = Submission(
            "ann", "demo", "default", {"docker": {"docker_image": "x"}, "overrides": overrides}
        )
        item = await wire.server.services.items.submit(wire.admin, submission)
        (claim,) = await (await Agent.register(wire.ann, "ann", "default")).claim()
        own = {
            "WANDB_API_KEY": claim["runToken"],
            "WANDB_ENTITY": "ann",
            "WANDB_PROJECT": "demo",
            "WANDB_RUN_ID": claim["runName"],
            "WANDB_LAUNCH": "True",
        }
        shown = await client.python("-c", SCRIPT, **own)
        assert "input v0" in shown
        assert "output v1" in shown
        services = wire.server.services
        run = await services.runs.get(wire.admin, "ann", "demo", claim["runName"])
        assert (run.state, run.exit_code) == ("finished", 0)
        kept = await services.artifacts.by_name(wire.admin, "ann", "demo", "model:production")
        assert (kept.version, "latest" in kept.aliases) == (1, True)
        inputs = await services.artifacts.inputs_of(wire.admin, run)
        assert [each.collection.name for each in inputs] == ["data"]
        assert (await services.items.get(wire.admin, item.id)).warnings == ()


@pytest.fixture
def large_data(tmp_path: Path) -> Iterator[Path]:
    """A folder for gigabytes, which must not stay behind."""
    folder = tmp_path / "data"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
async def test_a_file_that_the_client_would_send_in_parts_is_taken_whole(
    tmp_path, large_data, python
):
    """From 2 GiB on, a constant of its compiled half, it announces parts of 100 MiB."""
    size = (2 << 30) + 1
    async with open_wire(large_data) as wire:
        client = Client(python, tmp_path / "home", wire.server.url, wire.ann.key)
        big = tmp_path / "home" / "big.bin"
        with big.open("wb") as sparse:
            sparse.truncate(size)
        named = ("--name", "ann/demo/big", "--type", "dataset")
        how = ("--policy", "immutable", "--skip_cache")
        await client.run("artifact", "put", *named, *how, str(big))
        query = """{ project(name: "demo", entityName: "ann") {
            artifact(name: "big:latest") { state size } } }"""
        found = (await wire.ann.data(query))["project"]["artifact"]
        assert (found["state"], int(found["size"])) == ("COMMITTED", size)
