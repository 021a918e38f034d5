"""W&B's page "Create a launch job" by the letter, with the unmodified client 0.31.0.

One test for each row of the promises that needs W&B's client; the programs are those of the page.
The client's own job creation is off, as it is by default: the control plane makes the jobs.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.e2e.harness.promises import User, at_home, git_settings
from tests.e2e.harness.wandb_client import Client, client_of, training
from tests.infrastructure.state import DockerFacts, GitFacts

pytestmark = pytest.mark.git_servers
PROCESSES = {
    "builder": {"type": "virtualenv"},
    "runners": {"local-container": {"enabled": False}},
}
#: P6, with the entity of the test.
SIMPLE_JOB = training(
    "launch_demo",
    'job_type="eval", settings=wandb.Settings(job_source="artifact"), entity="{E}",',
    "run.log_code()",
)
ARGPARSE = """
import argparse
import wandb

parser = argparse.ArgumentParser()
parser.add_argument("--learning_rate", type=float, default=0.01)
parser.add_argument("--batch_size", type=int, default=32)
args = parser.parse_args()

# Pass the arguments to wandb.init to store them in wandb.config and allow
# the launch agent to modify them.
wandb.init(config=args)

# Use the values in wandb.config instead of args. The wandb.config supports
# dot and dictionary style access, e.g. wandb.config.learning_rate or
# wandb.config["learning_rate"].
args = wandb.config
print("learning rate", args.learning_rate, "batch size", args["batch_size"])
wandb.run.log_code()
"""


@pytest.fixture
async def client(home: Home, git_servers: GitFacts) -> AsyncIterator[Client]:
    """An agent for processes, and W&B's client."""
    home.configure(quick(**git_settings(git_servers), **PROCESSES))
    home.timeout = 600.0
    async with at_home(home) as user:
        yield client_of(user)


@pytest.fixture
async def docker_client(
    home: Home, git_servers: GitFacts, docker_engine: DockerFacts
) -> AsyncIterator[Client]:
    home.configure(quick(**git_settings(git_servers)))
    home.timeout = 600.0
    async with at_home(home) as user:
        yield client_of(user)


async def jobs_in(user: User, project: str) -> set[str]:
    return {each["name"] for each in await user.json(f"job list -p {project}")}


async def clone(client: Client, git: GitFacts) -> Path:
    """A checkout of the HTTPS server's repository, cloned with its password."""
    folder = client.user.home.root / "checkout"
    scheme, _, rest = git.https_url.partition("://")
    url = f"{scheme}://{git.https_username}:{git.https_password}@{rest}"
    words = ("git", "clone", "-q", url, str(folder))
    done = await client.raw(client.user.home.root, *words, GIT_SSL_CAINFO=git.https_ca_file)
    assert done.code == 0, done.err
    return folder


async def test_p6_logged_code_becomes_a_job_which_runs_again(client: Client) -> None:
    user = client.user
    folder = user.write({"create_simple_job.py": SIMPLE_JOB.replace("{E}", user.entity)})
    done = await client.succeeds(folder, "create_simple_job.py")
    assert f"{user.url}/{user.entity}/launch_demo/runs/" in done.err + done.out
    name = "job-source-launch_demo-create_simple_job.py"
    job = await user.job(f"launch_demo/{name}:latest")
    assert job["job"]["source_type"] == "artifact"
    assert job["job"]["source"]["entrypoint"] == ["python3.11", "create_simple_job.py"]
    shown = await client.wandb(
        folder, "job", "describe", f"{user.entity}/launch_demo/{name}:latest"
    )
    assert "artifact" in shown.out + shown.err
    item, log = await user.run(f"submit --job {{E}}/launch_demo/{name}:latest --queue default")
    assert "epoch=9" in log
    # Equal inputs are one version: the launched run, too, made no other.
    listed = await user.json(f"job versions {{E}}/launch_demo/{name}")
    assert len(listed) == 1
    run = await client.value(
        folder,
        f"run = api.run(f'{{entity}}/launch_demo/{item['runName']}')\n"
        "inputs = [each.type for each in run.used_artifacts()]\n"
        "print(json.dumps([run.state, run.config['epochs'], inputs]))",
    )
    assert run == ["finished", 10, ["job"]]


async def test_p6_the_recorded_requirements_are_what_the_job_installs(client: Client) -> None:
    """The client's environment has packages that no file of the source names."""
    program = training(end="run.log_code()") + "\nimport yaml\nprint('yaml', yaml.__version__)\n"
    folder = client.user.write({"train.py": program})
    await client.succeeds(folder, "train.py")
    name = "job-source-job_example-train.py"
    frozen = await client.value(
        folder,
        f"job = api.artifact(f'{{entity}}/job_example/{name}:latest')\n"
        "path = job.get_entry('requirements.frozen.txt').download()\n"
        "print(json.dumps(open(path).read().splitlines()))",
    )
    assert "wandb==0.31.0" in frozen
    _, log = await client.user.run(f"submit --job {{E}}/job_example/{name} --queue default")
    version = next(
        line.partition("==")[2] for line in frozen if line.lower().startswith("pyyaml==")
    )
    assert f"yaml {version}" in log


@pytest.mark.parametrize("by", ["settings", "variable"])
async def test_p7_a_job_has_the_name_that_the_user_chose(client: Client, by: str) -> None:
    """The variable is recorded nowhere: with it, the client is to make the job itself."""
    more = 'settings=wandb.Settings(job_name="awesome-job-name"),' if by == "settings" else ""
    folder = client.user.write({"train.py": training("named", more, "run.log_code()")})
    env = {"WANDB_JOB_NAME": "awesome-job-name", "WANDB_DISABLE_JOB_CREATION": "false"}
    await client.succeeds(folder, "train.py", **(env if by == "variable" else {}))
    assert await jobs_in(client.user, "named") == {"awesome-job-name"}
    versions = await client.user.json("job versions {E}/named/awesome-job-name")
    assert len(versions) == 1


@pytest.mark.docker
async def test_p10_p22_an_image_run_with_wandb_docker_becomes_a_job(
    docker_client: Client, docker_engine: DockerFacts
) -> None:
    client, user = docker_client, docker_client.user
    dockerfile = (
        f"FROM {docker_engine.base_image}\nCOPY . /src\nWORKDIR /src\n"
        'RUN pip install -q wandb==0.31.0\nENTRYPOINT [ "env", "python3", "train.py"]\n'
    )
    folder = user.write({"Dockerfile": dockerfile, "train.py": training()})
    image = "launch-container-job:main"
    try:
        built = await client.raw(folder, "docker", "build", ".", "-q", "-t", image)
        assert built.code == 0, built.err
        # The container is on the host's network, since the embedded server listens on loopback.
        ran = await client.raw(
            folder, "docker", "run", "--rm", "--network=host", "-e", "WANDB_PROJECT=containers",
            "-e", f"WANDB_ENTITY={user.entity}", "-e", f"WANDB_API_KEY={user.key}",
            "-e", f"WANDB_DOCKER={image}", "-e", f"WANDB_BASE_URL={user.url}", image,
        )  # fmt: skip
        assert ran.code == 0, ran.err + ran.out
        # The program names its project, which has precedence.
        job = await user.job("job_example/job-launch-container-job:main")
        assert job["job"]["source"] == {"image": image}
        item, log = await user.run(
            "submit --job {E}/job_example/job-launch-container-job:main --queue default"
        )
        assert "epoch=9" in log
        state = await client.value(
            folder, f"print(json.dumps(api.run(f'{{entity}}/job_example/{item['runName']}').state))"
        )
        assert state == "finished"
    finally:
        await client.raw(folder, "docker", "rmi", "--force", image)


async def test_p11_the_full_registry_path_is_kept(client: Client) -> None:
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/my-image:develop"
    folder = client.user.write({"train.py": training("images")})
    await client.succeeds(folder, "train.py", WANDB_DOCKER=image)
    name = "job-123456789012.dkr.ecr.us-east-1.amazonaws.com_my-image"
    job = await client.user.job(f"images/{name}:develop")
    assert job["job"]["source"] == {"image": image}


async def test_p13_p16_a_checkout_becomes_a_git_job_with_commit_and_diff(
    client: Client, git_servers: GitFacts
) -> None:
    user = client.user
    folder = await clone(client, git_servers)
    program = folder / "jobs/hello_world/job.py"
    program.write_text(training("git_jobs"))
    await client.succeeds(folder / "jobs/hello_world", "job.py")
    (name,) = await jobs_in(user, "git_jobs")
    assert name.startswith("job-https___")
    assert name.endswith("_jobs_hello_world_job.py")
    job = await user.job(f"git_jobs/{name}:latest")
    git = job["job"]["source"]["git"]
    assert git["commit"] == git_servers.commits["main"]
    assert git_servers.https_password not in json.dumps(job)
    item, log = await user.run(f"submit --job {{E}}/git_jobs/{name}:latest --queue default")
    assert item["facts"]["commit"] == git_servers.commits["main"]
    # The uncommitted lines ran.
    assert "epoch=9" in log


async def test_p18_code_is_logged_by_a_function(client: Client) -> None:
    program = (
        "import wandb\nrun = wandb.init(project='snippets')\n"
        'run.log_code(".", include_fn=lambda path: path.endswith(".py"))\n'
    )
    folder = client.user.write({"main.py": program, "notes.txt": "none of it", "lib/a.py": "A = 1"})
    await client.succeeds(folder, "main.py")
    job = await client.user.job("snippets/job-source-snippets-main.py:latest")
    assert job["job"]["source"]["entrypoint"] == ["python3.11", "main.py"]
    files = await client.value(
        folder,
        "code = api.artifact(f'{entity}/snippets/source-snippets-main.py:latest')\n"
        "print(json.dumps(sorted(each.name for each in code.files())))",
    )
    assert files == ["lib/a.py", "main.py"]


async def test_p19_launched_values_fill_the_configuration(client: Client) -> None:
    user = client.user
    folder = user.write({"train.py": ARGPARSE})
    done = await client.succeeds(folder, "train.py", "--batch_size", "16", WANDB_PROJECT="args")
    assert "batch size 16" in done.out
    (user.home.root / "o.json").write_text('{"overrides": {"run_config": {"batch_size": 64}}}')
    line = "submit --job {E}/args/job-source-args-train.py:latest --queue default --config o.json"
    item, log = await user.run(line)
    assert "learning rate 0.01 batch size 64" in log
    config = await client.value(
        folder, f"print(json.dumps(api.run(f'{{entity}}/args/{item['runName']}').config))"
    )
    assert config.items() >= {"learning_rate": 0.01, "batch_size": 64}.items()


async def test_p20_git_comes_before_code_and_code_before_an_image(
    client: Client, git_servers: GitFacts
) -> None:
    folder = await clone(client, git_servers)
    for name, more, end in (
        ("all", "", "run.log_code()"),
        ("no_git", "settings=wandb.Settings(disable_git=True),", "run.log_code()"),
        ("image", "settings=wandb.Settings(disable_git=True),", ""),
    ):
        (folder / f"{name}.py").write_text(training(name, more, end))
        await client.succeeds(folder, f"{name}.py", WANDB_DOCKER="org/app:v-1")
    found = {}
    for project in ("all", "no_git", "image"):
        (name,) = await jobs_in(client.user, project)
        found[project] = (await client.user.job(f"{project}/{name}:latest"))["job"]["source_type"]
    assert found == {"all": "repo", "no_git": "artifact", "image": "image"}


async def test_p21_the_projects_page_lists_the_jobs(client: Client) -> None:
    folder = client.user.write({"train.py": training("listed", end="run.log_code()")})
    await client.succeeds(folder, "train.py")
    page = await client.user.page(f"/{client.user.entity}/listed/jobs")
    assert "job-source-listed-train.py" in page


async def test_p28_jobs_come_of_runs_unless_somebody_says_no(client: Client) -> None:
    user = client.user
    folder = user.write({"train.py": training("runs", end="run.log_code()")})
    await client.succeeds(folder, "train.py")
    assert await jobs_in(user, "runs") == {"job-source-runs-train.py"}
    await user.launch("job automatic off -p runs")
    (folder / "other.py").write_text(training("runs", end="run.log_code()"))
    await client.succeeds(folder, "other.py")
    assert await jobs_in(user, "runs") == {"job-source-runs-train.py"}
    await user.launch("job automatic on -p runs")
    more = "settings=wandb.Settings(disable_job_creation=True),"
    (folder / "third.py").write_text(training("runs", more, "run.log_code()"))
    await client.succeeds(folder, "third.py")
    assert await jobs_in(user, "runs") == {"job-source-runs-train.py"}


async def test_an_offline_run_becomes_a_job_when_it_is_synced(client: Client) -> None:
    folder = client.user.write({"train.py": training("offline")})
    await client.succeeds(folder, "train.py", WANDB_MODE="offline", WANDB_DOCKER="org/app:v-1")
    (run,) = (folder / "wandb").glob("offline-run-*")
    await client.wandb(folder, "sync", str(run))
    assert await jobs_in(client.user, "offline") == {"job-org_app"}
