"""What the documents promise, by its numbers; the commands stand here word for word.

P6, P10, P13, P16, P18, P20, P28 and P33 need W&B's own client and are no part of this suite.
"""

import shlex
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.e2e.harness.promises import PROGRAM, REQUIRING, User, at_home, git_settings
from tests.infrastructure.state import DockerFacts, GitFacts

pytestmark = [pytest.mark.docker, pytest.mark.git_servers]
EXAMPLES = Path(__file__).parents[2] / "examples"
HELLO = "jobs/hello_world"
Build = Callable[[User, str, str], Awaitable[None]]


@pytest.fixture
async def user(
    home: Home, git_servers: GitFacts, docker_engine: DockerFacts
) -> AsyncIterator[User]:
    home.configure(quick(**git_settings(git_servers)))
    async with at_home(home) as user:
        yield user


@pytest.fixture
async def built(docker_engine: DockerFacts) -> AsyncIterator[Build]:
    """`docker build FOLDER -t NAME`; the images go with the test."""
    made: list[tuple[User, str]] = []

    async def build(user: User, folder: str, name: str) -> None:
        made.append((user, name))
        done = await user.home.run("docker", "build", folder, "-t", name)
        assert done.code == 0, done.err

    yield build
    for user, name in made:
        await user.home.run("docker", "rmi", "--force", name)


def names_of(jobs: list[dict[str, object]]) -> set[object]:
    return {job["name"] for job in jobs}


async def test_p1_a_job_is_versioned_described_and_launched_again(user: User) -> None:
    user.write({"main.py": PROGRAM})
    line = 'job create --project P -e {E} --name N code code -E "python main.py" --runtime 3.11'
    first, same = await user.launch(line), await user.launch(line)
    user.write({"main.py": PROGRAM + "print('second')\n"})
    second = await user.launch(line)
    assert f"Created job: {user.entity}/P/N:v0" in first.out
    assert f"No changes detected for job: {user.entity}/P/N:v0" in same.out
    assert f"Updated job: {user.entity}/P/N:v1" in second.out
    _, old = await user.run("submit --job {E}/P/N:v0 --queue default")
    _, new = await user.run("submit --job {E}/P/N:latest --queue default")
    assert ("second" in old, "second" in new) == (False, True)


async def test_p2_an_agent_takes_the_job_as_an_image_to_the_queues_resource(user: User) -> None:
    user.write({"main.py": PROGRAM})
    item, _ = await user.run('submit --uri code -E "python main.py" --queue default')
    assert item["facts"]["image"].startswith("sha256:")


async def test_p3_the_queues_page_shows_an_agent_that_polls(user: User) -> None:
    page = await user.page("/launch")
    assert "All entities" in page or "default" in page
    assert "View queue" in page
    agents = await user.page(f"/launch/queues/{user.entity}/default?tab=agents")
    assert "desk" in agents
    assert "POLLING" in agents


async def test_p4_a_file_names_the_directory_and_the_entry_point(user: User) -> None:
    user.write({"code.py": PROGRAM, "beside.txt": "x"}, "path/to")
    await user.launch('job create --project "P" -e "{E}" --name "N" code "path/to/code.py"')
    job = (await user.job("P/N:latest"))["job"]
    assert job["source"]["entrypoint"] == ["python", "code.py"]
    _, log = await user.run("submit --job {E}/P/N:latest --queue default")
    assert "files" in log
    assert "beside.txt" in log


@pytest.mark.parametrize(
    ("files", "flags", "runtime"),
    [
        ({"runtime.txt": "3.10"}, "--runtime 3.11", "3.11"),
        ({"runtime.txt": "python-3.11.4\n", ".python-version": "3.9"}, "", "3.11"),
        ({"runtime.txt": "3.10"}, "", "3.10"),
        ({".python-version": "3.12.1\n"}, "", "3.12"),
        ({"pyproject.toml": '[project]\nname = "x"\nrequires-python = ">=3.12"\n'}, "", "3.12"),
    ],
)
async def test_p5_the_runtime_is_said_or_found(
    user: User, files: dict[str, str], flags: str, runtime: str
) -> None:
    user.write({"main.py": PROGRAM, **files})
    line = f'job create -p P -e {{E}} --name N code code -E "python main.py" {flags}'
    await user.launch(line)
    assert (await user.job("P/N:latest"))["job"]["runtime"] == runtime


async def test_p5_requirements_beside_the_script_are_installed(user: User) -> None:
    user.write({"main.py": REQUIRING, "requirements.txt": "six==1.16.0\n"})
    line = 'submit --uri code -E "python main.py" --queue default'
    assert "six 1.16.0" in (await user.run(line))[1]


async def test_p7_the_name_comes_from_the_environment(user: User) -> None:
    user.write({"main.py": PROGRAM})
    line = 'job create -p P -e {E} code code -E "python main.py"'
    await user.launch(line, WANDB_JOB_NAME="awesome-job-name")
    assert names_of(await user.json("job list -p P -e {E}")) == {"awesome-job-name"}


async def test_p8_default_names_tell_the_source(user: User, git_servers: GitFacts) -> None:
    user.write({"main.py": PROGRAM}, "train_src")
    url = git_servers.https_url
    await user.launch('job create -p P -e {E} code ./train_src -E "python main.py"')
    await user.launch("job create -p P -e {E} image repo/name:tag")
    await user.launch(f'job create -p P -e {{E}} git {url} --entry-point "python {HELLO}/job.py"')
    safe_url = url.replace(":", "_").replace("/", "_")
    assert names_of(await user.json("job list -p P -e {E}")) == {
        "job-code-train_src_main.py",
        "job-repo_name",
        f"job-{safe_url}_jobs_hello_world_job.py",
    }


async def test_p9_an_image_that_was_built_here_becomes_a_job(user: User, built: Build) -> None:
    folder = user.home.root / "fashion_mnist_train"
    shutil.copytree(EXAMPLES / "fashion_mnist_train", folder)
    await built(user, str(folder), "fashion-mnist")
    await user.launch('job create --project "P" --entity "{E}" --name "N" image fashion-mnist')
    assert (await user.job("P/N:latest"))["job"]["source"]["image"] == "fashion-mnist"
    config = shlex.quote('{"overrides": {"run_config": {"epochs": 2}}}')
    _, log = await user.run(f"submit --job {{E}}/P/N:latest --queue default -c {config}")
    assert "epoch 2/2 accuracy" in log


async def test_p11_the_registrys_path_is_kept_and_the_tag_is_an_alias(user: User) -> None:
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/my-image:develop"
    await user.launch(f"job create --project P -e {{E}} --name N image {image}")
    job = await user.job("P/N:develop")
    assert job["job"]["source"]["image"] == image
    assert set(job["aliases"]) >= {"develop", "latest"}


@pytest.mark.parametrize("ref", ["develop", "v1.2", "second", None])
async def test_p12_a_repository_is_pinned_at_a_branch_a_tag_a_commit_or_its_head(
    user: User, git_servers: GitFacts, ref: str | None
) -> None:
    commit = git_servers.commits[ref or "main"]
    chosen = {None: "", "second": f"-g {commit}"}.get(ref, f"-g {ref}")
    await user.launch(
        f"job create --project P -e {{E}} --name N git {git_servers.https_url} "
        f'--entry-point "{HELLO}/job.py" {chosen}'
    )
    job = await user.job("P/N:latest")
    assert job["job"]["source"]["git"] == {"remote": git_servers.https_url, "commit": commit}


@pytest.mark.parametrize("scheme", ["https", "ssh"])
async def test_p14_the_urls_form_decides_how_it_is_fetched(
    user: User, git_servers: GitFacts, scheme: str
) -> None:
    url = git_servers.https_url if scheme == "https" else git_servers.ssh_url
    await user.launch(
        f"job create -p P -e {{E}} --name N git {url} -b {HELLO} --entry-point 'python job.py'"
    )
    item, log = await user.run("submit --job {E}/P/N:latest --queue default")
    assert item["facts"]["commit"] == git_servers.commits["main"]
    assert "hello from main" in log


async def test_p14_a_repository_in_the_short_form_of_ssh(user: User, git_servers: GitFacts) -> None:
    url = git_servers.ssh_scp_url
    if not url:
        pytest.skip("port 22 is taken on every loopback address, and the short form needs it")
    await user.launch(
        f"job create --project P -e {{E}} --name N git {url} -b {HELLO} "
        '--entry-point "python job.py"'
    )
    source = (await user.job("P/N:latest"))["job"]["source"]
    assert source["git"] == {"remote": url, "commit": git_servers.commits["main"]}
    item, log = await user.run("submit --job {E}/P/N:latest --queue default")
    assert item["facts"]["source"] == f"git+{url}@{git_servers.commits['main']}"
    assert "hello from main" in log
    _, log = await user.run(
        f'submit --uri {url} -g v1.2 --build-context {HELLO} -E "python job.py" --queue default'
    )
    assert "hello from v1.2" in log


async def test_submodules_and_large_files_are_fetched_on_request(
    user: User, git_servers: GitFacts
) -> None:
    url, weights = git_servers.https_url, "jobs/weights"
    line = (
        f"job create -p P -e {{E}} --name N git {url} -g with-lfs -b {weights} -E 'python job.py'"
    )
    await user.launch(line)
    commit = {"remote": url, "commit": git_servers.commits["with-lfs"]}
    assert (await user.job("P/N:latest"))["job"]["source"]["git"] == commit
    item, log = await user.run("submit --job {E}/P/N:latest --queue default")
    assert "weights: a pointer" in log
    setup = await user.launch(f"item logs {item['id']} --channel setup")
    assert "files in Git LFS are not fetched" in setup.out
    await user.launch(f"{line} --lfs --no-submodules")
    said = {"submodules": False, "lfs": True}
    assert (await user.job("P/N:latest"))["job"]["source"]["git"] == commit | said
    assert '"lfs": true' in (await user.launch("job describe {E}/P/N:latest")).out
    _, log = await user.run("submit --job {E}/P/N:latest --queue default")
    assert "weights: 3000 numbers" in log
    rendered = await user.json("render {E}/P/N:latest --queue default")
    layers = {each["path"]: (each["value"], each["layer"]) for each in rendered["settings"]}
    assert layers["source.lfs"] == (True, "job")
    assert "source.submodules" not in layers


async def test_a_repository_is_run_here_with_its_submodules_and_large_files(
    user: User, git_servers: GitFacts
) -> None:
    _, log = await user.run(
        f"submit --uri {git_servers.ssh_url} -g with-lfs --build-context jobs/weights --lfs "
        "--job-name N -E 'python job.py' --queue default"
    )
    assert "weights: 3000 numbers" in log
    program = "python -c 'import library; print(library.__name__)'"
    line = f"run --uri {git_servers.https_url} -g with-submodule --build-context library"
    done = await user.launch(f'{line} --submodules --job-name S -E "{program}"')
    assert done.out == "library\n"
    done = await user.fails(f'{line} --no-submodules --job-name S -E "{program}"')
    assert done.code == 1
    assert "No module named 'library'" in done.out


async def test_p15_details_are_on_the_jobs_page_and_in_describe(user: User) -> None:
    made = await user.launch("job create -p P -e {E} --name N image repo/name:tag")
    address = made.out.split("Page: ")[1].split()[0]
    assert ">N</a>" in await user.page(urlsplit(address).path)
    described = (await user.launch("job describe {E}/P/N:tag")).out
    page = await user.page(f"/launch/jobs/{user.entity}/P/N")
    for text in ("repo/name:tag", "image", "v0"):
        assert text in described
        assert text in page
    assert "wandb-job.json" in page


async def test_p17_the_requirements_of_a_repository_are_installed(
    user: User, git_servers: GitFacts
) -> None:
    await user.launch(
        f"job create -p P -e {{E}} --name N git {git_servers.https_url} "
        f'-b {HELLO} --entry-point "python job.py"'
    )
    _, log = await user.run("submit --job {E}/P/N:latest --queue default")
    assert ", six 1." in log


async def test_p19_launched_values_reach_the_configuration_and_argparse(user: User) -> None:
    shutil.copytree(EXAMPLES / "argparse", user.home.root / "argparse")
    await user.launch(
        "job create -p P -e {E} -n argparse --schema argparse/schema.json "
        'code argparse -E "python train.py"'
    )
    (user.home.root / "overrides.json").write_text(
        '{"overrides": {"run_config": {"batch_size": 64}}}'
    )
    line = "submit --job {E}/P/argparse:latest --queue default --config "
    _, log = await user.run(f"{line} overrides.json")
    assert "learning_rate=0.01 batch_size=64" in log
    wrong = shlex.quote('{"overrides": {"run_config": {"batch_size": 63}}}')
    refused = await user.fails(f"{line} {wrong}")
    assert refused.code != 0
    assert "`overrides.run_config.batch_size`: 63 breaks the rule `enum:" in refused.err


async def test_p21_the_projects_page_lists_its_jobs(user: User) -> None:
    await user.launch("job create -p P -e {E} --name N image repo/name:tag")
    assert ">N</a>" in await user.page(f"/launch/jobs/{user.entity}/P")
    assert "N" in (await user.launch("job list -p P -e {E}")).out


async def test_p22_a_dockerfile_of_ones_own_runs_by_its_entry_point_again_and_again(
    user: User, built: Build
) -> None:
    shutil.copytree(EXAMPLES / "own_dockerfile", user.home.root / "own")
    await built(user, "own", "launch-container-job")
    await user.launch("job create -p P -e {E} -n N image launch-container-job:latest")
    for epochs in (4, 5):
        config = shlex.quote(f'{{"overrides": {{"run_config": {{"epochs": {epochs}}}}}}}')
        _, log = await user.run(f"submit --job {{E}}/P/N:latest --queue default -c {config}")
        assert f"Training for {epochs} epochs" in log


async def test_p23_a_repository_is_launched_by_one_command(
    user: User, git_servers: GitFacts
) -> None:
    item, log = await user.run(
        f'submit --uri "{git_servers.https_url}" --build-context jobs/hello_world '
        '--dockerfile Dockerfile.wandb --project "hello-world" --job-name "hello-world" '
        '--entry-point "python job.py" --queue default'
    )
    assert item["facts"]["commit"] == git_servers.commits["main"]
    assert "hello from main" in log
    source = (await user.job("hello-world/hello-world:latest"))["job"]["source"]
    assert source["build_context"] == "jobs/hello_world"
    assert source["dockerfile"] == "Dockerfile.wandb"
    assert source["git"]["commit"] == git_servers.commits["main"]


@pytest.mark.parametrize("flag", ["-g", "--git-hash", "--git-version"])
async def test_p24_branch_or_commit_by_every_spelling(
    user: User, git_servers: GitFacts, flag: str
) -> None:
    _, log = await user.run(
        f"submit --uri {git_servers.https_url} --build-context {HELLO} {flag} v1.2 "
        '--job-name N --entry-point "python job.py" --queue default'
    )
    assert "hello from v1.2" in log
    assert flag in (await user.launch("submit --help")).out


async def test_p25_a_directory_becomes_code_a_job_an_image_and_a_run(user: User) -> None:
    folder = user.home.root / "quickstart"
    shutil.copytree(EXAMPLES / "hello_world_code", folder)
    line = (
        "submit --uri quickstart --job-name hello-world-code --project launch-quickstart "
        '--entry-point "python main.py" --queue default'
    )
    _, log = await user.run(line)
    assert "logged a metric" in log
    job = await user.job("launch-quickstart/hello-world-code:latest")
    assert job["job"]["source"]["entrypoint"] == ["python", "main.py"]
    assert job["job"]["source"]["artifact"].startswith("wandb-artifact://_id/")


async def test_p26_an_image_runs_by_its_own_entry_point_or_the_given_one(
    user: User, docker_engine: DockerFacts
) -> None:
    line = f'submit --docker-image "{docker_engine.shell_image}" --project "hello-world"'
    item, log = await user.run(f'{line} --queue default -E "echo from the image"')
    assert "from the image" in log
    assert item["projectName"] == "hello-world"


async def test_p27_making_a_job_runs_nothing(user: User) -> None:
    await user.launch("job create -p P -e {E} --name N image repo/name:tag")
    assert await user.items() == []


async def test_p29_only_the_build_context_is_in_the_image(user: User) -> None:
    user.write({"jobs/one/main.py": PROGRAM, "jobs/two/other.py": "", "top.txt": ""}, "mono")
    _, log = await user.run(
        'submit --uri mono --build-context jobs/one -E "python main.py" --queue default'
    )
    assert "main.py" in log
    assert "top.txt" not in log
    assert "other.py" not in log


async def test_p30_the_dockerfile_is_relative_to_the_build_context(
    user: User, docker_engine: DockerFacts
) -> None:
    dockerfile = f"FROM {docker_engine.base_image}\nCOPY . /here\nWORKDIR /here\nENV OWN=yes\n"
    program = "import os\nprint('own', os.environ.get('OWN'))\n"
    user.write({"jobs/one/main.py": program, "jobs/one/Own.Dockerfile": dockerfile}, "mono")
    line = 'submit --uri mono --build-context jobs/one -E "python main.py" --queue default'
    assert "own yes" in (await user.run(f"{line} --dockerfile Own.Dockerfile"))[1]
    assert "own None" in (await user.run(line))[1]


@pytest.mark.parametrize(
    "files",
    [
        {"jobs/one/requirements.txt": "six==1.16.0", "requirements.txt": "six==1.15.0"},
        {"jobs/one/pyproject.toml": '[project]\nname = "x"\ndependencies = ["six==1.16.0"]\n'},
        {"requirements.txt": "six==1.16.0"},
    ],
)
async def test_p31_requirements_are_looked_for_in_the_build_context_then_at_the_root(
    user: User, files: dict[str, str]
) -> None:
    user.write({"jobs/one/main.py": REQUIRING, **files}, "mono")
    line = 'submit --uri mono --build-context jobs/one -E "python main.py" --queue default'
    assert "six 1.16.0" in (await user.run(line))[1]


async def test_p32_one_image_with_other_parameters_and_other_scale(
    user: User, docker_engine: DockerFacts
) -> None:
    await user.launch(f"job create -p P -e {{E}} --name N image {docker_engine.shell_image}")
    config = shlex.quote('{"overrides": {"run_config": {"lr": 0.5}}}')
    command = """-E "sh -c 'echo config $WANDB_CONFIG; cat /sys/fs/cgroup/memory.max; true'" """
    line = f"submit --job {{E}}/P/N:latest --queue default {command}"
    first, _ = await user.run(f"{line} --memory 64MiB")
    second, log = await user.run(f"{line} -c {config} --memory 128MiB --name run-7")
    assert '"lr": 0.5' in log or '"lr":0.5' in log
    assert first["facts"]["image"] == second["facts"]["image"]
    assert second["name"] == "run-7"


async def test_the_monorepo_of_the_examples_runs_one_of_its_jobs(user: User) -> None:
    shutil.copytree(EXAMPLES / "monorepo", user.home.root / "monorepo")
    _, log = await user.run(
        "submit --uri monorepo --build-context jobs/hello_world --dockerfile Dockerfile.wandb "
        '--job-name hello-world --entry-point "python job.py" --queue default'
    )
    assert "Hello, world!" in log


async def test_one_file_of_the_examples_becomes_a_job_that_trains(user: User) -> None:
    shutil.copytree(EXAMPLES / "training", user.home.root / "training")
    await user.launch("job create -p P -e {E} --name training code training/train.py")
    config = shlex.quote('{"overrides": {"run_config": {"epochs": 4}}}')
    _, log = await user.run(f"submit --job {{E}}/P/training:latest --queue default -c {config}")
    assert "Training for 4 epochs" in log


async def test_jobs_are_listed_given_aliases_and_deleted(user: User) -> None:
    user.write({"main.py": PROGRAM})
    line = 'job create -p P -e {E} --name N code code -E "python main.py"'
    await user.launch(line)
    user.write({"main.py": PROGRAM * 2})
    await user.launch(line)
    assert len(await user.json("job versions {E}/P/N")) == 2
    await user.launch("job alias {E}/P/N:v0 best")
    assert "best" in (await user.job("P/N:v0"))["aliases"]
    await user.launch("job delete {E}/P/N --all-versions")
    assert await user.json("job list -p P -e {E}") == []


async def test_variables_priority_name_and_overrides_go_with_one_submission(
    user: User, docker_engine: DockerFacts
) -> None:
    (user.home.root / "queue.yaml").write_text(
        "name: Q\n"
        "resource: local-container\n"
        "prioritization: true\n"
        "config: {resource_args: {local-container: "
        "{env: {REGION: '{{region}}', GPUS: '{{gpus}}'}}}}\n"
        "template_variables:\n"
        "  gpus: {schema: {type: integer}}\n"
        "  region: {schema: {type: string, enum: [eu, us]}}\n"
    )
    await user.launch("queue create -f queue.yaml")
    await user.launch(f"job create -p P -e {{E}} --name N image {docker_engine.shell_image}")
    (user.home.root / "overrides.json").write_text('{"overrides": {"run_config": {"lr": 1}}}')
    done = await user.launch(
        "submit --job {E}/P/N:latest --queue Q --config overrides.json "
        "--set-var gpus=2 -v region=eu -P high --name run-7 --json"
    )
    item = await user.json(f"item show {done.json()['id']}")
    assert (item["name"], item["priority"]) == ("run-7", 1)
    variables = item["runSpec"]["resource_args"]["local-container"]["env"]
    assert variables == {"REGION": "eu", "GPUS": 2}
    assert item["runSpec"]["overrides"]["run_config"] == {"lr": 1}


async def test_without_a_queue_it_is_built_and_run_here_with_the_jobs_exit_code(
    user: User,
) -> None:
    user.write({"main.py": PROGRAM + "sys.exit(7)\n"})
    done = await user.fails('submit --uri code --job-name N -E "python main.py"')
    assert done.code == 7, done.err
    assert "python 3.11" in done.out
