"""`launch job` and `launch submit` on a real control plane, as people type them."""

import asyncio
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home, Result
from tests.e2e.test_tour import git_settings
from tests.infrastructure.state import GitFacts

PROCESSES = {"runners": {"local-container": {"enabled": False}}}
PROGRAM = "import os, sys\nprint('ran', sys.argv[1:], os.environ.get('WANDB_CONFIG'))\n"


@pytest.fixture
async def plane(home: Home) -> Home:
    home.configure(quick(**PROCESSES))
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    return home


@pytest.fixture
def code(home: Home) -> Path:
    folder = home.root / "path" / "to"
    folder.mkdir(parents=True)
    (folder / "code.py").write_text(PROGRAM)
    return folder


async def ok(home: Home, *args: str) -> Result:
    done = await home.launch(*args)
    assert done.code == 0, f"{args}: {done.out}{done.err}"
    return done


async def item_of(home: Home, *flags: str) -> dict[str, Any]:
    done = await ok(home, "submit", *flags, "--queue", "default", "--wait", "--json")
    found: dict[str, Any] = done.json()
    return found


async def test_a_file_becomes_a_job_that_is_launched_twice_with_other_parameters(
    plane: Home, code: Path
) -> None:
    made = await ok(plane, "job", "create", "--project", "P", "--name", "N", "code",
                    "path/to/code.py")  # fmt: skip
    assert made.out.startswith("Created job: ")
    job = made.out.split()[2].rstrip(",")
    for lr in ("0.1", "0.2"):
        config = json.dumps({"overrides": {"run_config": {"lr": float(lr)}, "args": ["--x"]}})
        item = await item_of(plane, "--job", job, "--config", config)
        assert (item["phase"], item["projectName"]) == ("SUCCEEDED", "P")
        log = (await ok(plane, "item", "logs", item["id"])).out
        assert "ran ['--x']" in log
        assert lr in log


async def test_unchanged_changed_aliased_described_deleted(plane: Home, code: Path) -> None:
    create = ("job", "create", "-p", "P", "-n", "N", "code", "path/to", "-E", "python code.py")
    first = await ok(plane, *create, "--json")
    again = await ok(plane, *create, "--json")
    assert first.json()["action"] == "Created"
    assert (again.json()["action"], again.json()["sentFiles"]) == ("No changes detected for", 0)
    (code / "new.py").write_text("")
    changed = (await ok(plane, *create, "-a", "best", "--json")).json()
    assert (changed["action"], changed["job"].rpartition(":")[2]) == ("Updated", "v1")
    job = changed["job"].rpartition(":")[0]
    versions = (await ok(plane, "job", "versions", job, "--json")).json()
    assert [each["versionIndex"] for each in versions] == [1, 0]
    await ok(plane, "job", "alias", f"{job}:v0", "best")
    described = (await ok(plane, "job", "describe", f"{job}:best", "--json")).json()
    assert described["versionIndex"] == 0
    assert described["job"]["source"]["entrypoint"] == ["python", "code.py"]
    assert "N" in (await ok(plane, "job", "list", "-p", "P")).out
    await ok(plane, "job", "delete", f"{job}:v0")
    await ok(plane, "job", "delete", job, "--all-versions")
    assert (await ok(plane, "job", "list", "-p", "P")).out == "No jobs found\n"
    nowhere = await ok(plane, "job", "list", "-p", "nowhere")
    assert (nowhere.out, "there is no project `nowhere`" in nowhere.err) == (
        "No jobs found\n",
        True,
    )
    absent = await plane.launch("job", "describe", job.replace("/P/", "/nowhere/"))
    assert (absent.code, "has no such project" in absent.err) == (1, True)


async def test_a_directory_as_the_documents_launch_it(plane: Home) -> None:
    folder = plane.root / "quickstart"
    folder.mkdir()
    (folder / "main.py").write_text(PROGRAM)
    item = await item_of(
        plane,
        *("--uri", "quickstart", "--job-name", "hello-world-code"),
        *("--project", "launch-quickstart", "--entry-point", "python main.py"),
    )
    assert item["phase"] == "SUCCEEDED"
    listed = (await ok(plane, "job", "list", "-p", "launch-quickstart", "--json")).json()
    assert [each["name"] for each in listed] == ["hello-world-code"]


async def test_an_image_job_takes_its_name_and_alias_from_the_image(plane: Home) -> None:
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/my-image:develop"
    made = (await ok(plane, "job", "create", "-p", "P", "--json", "image", image)).json()
    assert made["job"].rpartition("/")[2] == (
        "job-123456789012.dkr.ecr.us-east-1.amazonaws.com_my-image:v0"
    )
    assert sorted(made["aliases"]) == ["develop", "latest"]


@pytest.mark.git_servers
@pytest.mark.parametrize("scheme", ["https", "ssh"])
async def test_a_repository_is_pinned_with_the_credentials_of_its_urls_form(
    home: Home, git_servers: GitFacts, scheme: str
) -> None:
    home.configure(quick(**PROCESSES, **git_settings(git_servers)))
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    url = git_servers.https_url if scheme == "https" else git_servers.ssh_url
    made = await ok(home, "job", "create", "-p", "P", "-n", "N", "--json", "git", url,
                    "-g", "v1.2", "-b", "jobs/hello_world", "-E", "python job.py")  # fmt: skip
    told = made.json()
    assert told["commit"] == git_servers.commits["v1.2"]
    item = await item_of(home, "--job", told["job"])
    assert item["phase"] == "SUCCEEDED", item
    assert "hello from v1.2" in (await ok(home, "item", "logs", item["id"])).out


@pytest.mark.git_servers
async def test_a_checkout_with_a_password_in_its_remote_becomes_a_git_job_without_it(
    home: Home, git_servers: GitFacts
) -> None:
    settings = git_settings(git_servers)
    del settings["sources"]["git"]["credentials"]
    home.configure(quick(**PROCESSES, **settings))
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    login = f"{git_servers.https_username}:{git_servers.https_password}@"
    url = git_servers.https_url.replace("https://", f"https://{login}")
    clone = ("git", "-c", "transfer.credentialsInUrl=allow", "clone", "--quiet", url, "checkout")
    cloned = await home.run(*clone, GIT_SSL_CAINFO=git_servers.https_ca_file)
    assert cloned.code == 0, cloned.err
    made = await ok(home, "job", "create", "-p", "P", "-n", "N", "--source", "git", "code",
                    "checkout/jobs/hello_world", "-E", "python job.py")  # fmt: skip
    assert "becomes a Git job of https://" in made.err
    source = (await ok(home, "job", "describe", "P/N", "--json")).json()["job"]["source"]
    assert source["git"]["commit"] == git_servers.commits["main"]
    assert source["build_context"] == "jobs/hello_world"
    assert git_servers.https_password not in made.out + made.err + json.dumps(source)


async def test_a_job_that_does_not_exist_queues_nothing(plane: Home, code: Path) -> None:
    await ok(plane, "job", "create", "-p", "P", "-n", "train", "code", "path/to/code.py")
    entity = (await ok(plane, "job", "versions", "train", "-p", "P", "--json")).json()
    assert len(entity) == 1
    name = json.loads((plane.root / "state" / "embedded.json").read_text())["entity"]
    done = await plane.launch("submit", "-q", "--job", f"{name}/P/trian:latest")
    assert (done.code, "`train`" in done.err) == (1, True)
    assert (await ok(plane, "item", "list", "--json")).json() == []


async def test_an_upload_that_is_killed_leaves_no_version_and_the_next_sends_what_is_missing(
    plane: Home, code: Path
) -> None:
    size, count = 50_000, 400
    for number in range(count):
        (code / f"{number}.bin").write_bytes(number.to_bytes(2) * (size // 2))
    create = ("job", "create", "-p", "P", "-n", "N", "--json", "code", "path/to/code.py")
    process = await asyncio.create_subprocess_exec(
        "launch", *create, cwd=plane.root, env=plane.env,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    async with asyncio.timeout(60):
        while arrived(plane, size) < count // 20:
            assert process.returncode is None
            await asyncio.sleep(0.01)
    process.kill()
    await process.wait()
    assert (await ok(plane, "job", "list", "-p", "P")).out == "No jobs found\n"
    there = arrived(plane, size)
    assert there < count
    again = (await ok(plane, *create)).json()
    assert again["action"] == "Created"
    assert again["sentFiles"] < count


def arrived(plane: Home, size: int) -> int:
    """Contents of this size that the control plane keeps."""
    count = 0
    for folder, _, names in os.walk(plane.root / "data"):
        for name in names:
            # What is only just being written may get its final name meanwhile.
            with suppress(FileNotFoundError):
                count += (Path(folder) / name).stat().st_size == size
    return count
