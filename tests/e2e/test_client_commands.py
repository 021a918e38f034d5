"""Commands and `Api` of the unmodified client 0.31.0 against our server, beside our own agent."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.e2e.harness.jobs import until
from tests.e2e.harness.promises import at_home, git_settings
from tests.e2e.harness.wandb_client import Client, client_of
from tests.e2e.test_documented_jobs import PROCESSES
from tests.infrastructure.process import free_port
from tests.infrastructure.state import DockerFacts, GitFacts

pytestmark = pytest.mark.git_servers
HELLO = """
import wandb
with wandb.init() as run:
    run.log({"x": 1})
    print("hello", run.config.get("lr"))
"""
#: What a run is at least: it begins, and ends. Importing W&B's library 200 times would take long.
BRIEF = """
import base64, json, os, urllib.request
def post(path, body):
    text = base64.b64encode(f"api:{os.environ['WANDB_API_KEY']}".encode()).decode()
    headers = {"Authorization": f"Basic {text}", "Content-Type": "application/json"}
    url = os.environ["WANDB_BASE_URL"] + path
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()
entity, project, run = (os.environ[f"WANDB_{name}"] for name in ("ENTITY", "PROJECT", "RUN_ID"))
post("/graphql", {"query": "mutation ($i: UpsertBucketInput!) { upsertBucket(input: $i) "
    "{ inserted } }",
    "variables": {"i": {"name": run, "entityName": entity, "modelName": project}}})
who = "ours" if "LAUNCH_ITEM_ID" in os.environ else "stock"
line = f"{who} {json.loads(os.environ['WANDB_CONFIG'])['n']}\\n"
descriptor = os.open("STARTS", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(descriptor, line.encode())
post(f"/files/{entity}/{project}/{run}/file_stream", {"complete": True, "exitcode": 0})
"""
PUSH = (
    "mutation pushToRunQueueByName($entityName: String!, $queueName: String!, "
    "$runSpec: JSONString!) { pushToRunQueueByName(input: {entityName: $entityName, "
    'projectName: "model-registry", queueName: $queueName, runSpec: $runSpec}) '
    "{ runQueueItemId } }"
)


@pytest.fixture
async def client(home: Home, git_servers: GitFacts) -> AsyncIterator[Client]:
    home.configure(quick(**git_settings(git_servers), **PROCESSES, max_jobs=4))
    home.timeout = 600.0
    async with at_home(home) as user:
        yield client_of(user)


@pytest.fixture
async def patient(home: Home) -> AsyncIterator[Client]:
    """With the times of production: the stock agent says every 10 s that it is alive."""
    home.configure({"control": {"port": free_port()}, "max_jobs": 4, **PROCESSES})
    home.timeout = 600.0
    async with at_home(home) as user:
        yield client_of(user)


async def ended(client: Client, count: int) -> list[dict[str, Any]]:
    """All items, once so many are over."""
    found: list[dict[str, Any]] = []

    async def over() -> bool:
        found[:] = await client.user.home.items(500)
        return sum(each["finishedAt"] is not None for each in found) >= count

    await until(over, f"{count} ended items", 300, pause=0.5)
    return found


async def test_login_verifies_the_key(client: Client) -> None:
    root = client.user.home.root
    done = await client.wandb(root, "login", "--verify")
    assert f"Currently logged in as: {client.user.entity}" in done.err + done.out
    key = "launch-" + "k" * 40
    refused = await client.run(root, "-m", "wandb", "login", "--verify", WANDB_API_KEY=key)
    assert refused.code != 0
    assert "does not know this key" in refused.err + refused.out


async def test_jobs_are_created_listed_and_described(client: Client, git_servers: GitFacts) -> None:
    user, root = client.user, client.user.home.root
    user.write({"code.py": HELLO, "requirements.txt": "wandb==0.31.0\n"}, "path")
    place = ("-p", "P", "-e", user.entity)
    scheme, _, rest = git_servers.https_url.partition("://")
    login = f"{scheme}://{git_servers.https_username}:{git_servers.https_password}@"
    git = {
        "GIT_SSL_CAINFO": git_servers.https_ca_file,
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{login}{rest}.insteadOf",
        "GIT_CONFIG_VALUE_0": git_servers.https_url,
    }
    code = ("code", "path", "-E", "python code.py")
    for words, env in (
        ((*code[:2], *code[2:]), {}),
        (("image", "org/app:v-1"), {}),
        (("git", git_servers.https_url, "-E", "python jobs/hello_world/job.py"), git),
    ):
        done = await client.wandb(root, "job", "create", *place, "-n", words[0], *words, **env)
        assert f"Created job: {user.entity}/P/{words[0]}:v0" in done.err + done.out
    again = await client.wandb(root, "job", "create", *place, "-n", "code", *code)
    assert "No changes detected" in again.err + again.out
    unnamed = await client.wandb(root, "job", "create", *place, *code)
    name = "job-code-path_code.py"
    assert f"Created job: {user.entity}/P/{name}:v0" in unnamed.err + unnamed.out
    ours = await user.launch('job create -p P -e {E} code path -E "python code.py"')
    assert f"{name}:v" in ours.out + ours.err
    jobs = json.loads((await user.launch("job list -p P -e {E} --json")).out)
    assert sorted(each["name"] for each in jobs) == sorted(["code", "image", "git", name])
    listed = await client.wandb(root, "job", "list", *place)
    assert all(name in listed.err + listed.out for name in ("code", "image", "git"))
    described = await client.wandb(root, "job", "describe", f"{user.entity}/P/git:latest")
    assert git_servers.commits["main"] in described.err + described.out
    missing = await client.run(root, "-m", "wandb", "job", "describe", f"{user.entity}/P/no:v0")
    assert "Traceback" not in missing.err + missing.out


async def test_launch_puts_every_kind_of_source_on_a_queue(client: Client) -> None:
    user, root = client.user, client.user.home.root
    user.write({"main.py": HELLO, "requirements.txt": "wandb==0.31.0\n"})
    common = ("-q", "default", "-p", "P", "-e", user.entity, "-r", "local-process")
    config = json.dumps({"overrides": {"run_config": {"lr": 2}}})
    first = ("-u", "code", "-E", "python main.py", "--job-name", "N", "-c", config)
    await client.wandb(root, "launch", *first, *common)
    await client.wandb(root, "launch", "-j", f"{user.entity}/P/N:latest", *common)
    items = await ended(client, 2)
    assert {each["phase"] for each in items} == {"SUCCEEDED"}
    logs = [(await user.launch(f"item logs {each['id']}")).out for each in items]
    assert sorted(log.splitlines()[-1] for log in logs if "hello" in log)
    assert any("hello 2" in log for log in logs)
    done = await client.wandb(root, "launch", "-d", "org/app:v-1", *common)
    assert "org/app:v-1" in done.err + done.out
    unknown = await client.run(root, "-m", "wandb", "launch", "-d", "a/b", *common[2:], "-q", "no")
    assert unknown.code != 0


async def test_variables_of_a_queue_that_our_command_made_are_set_by_the_client(
    client: Client,
) -> None:
    user, root = client.user, client.user.home.root
    described = {
        "name": "sizes", "resource": "local-process",
        "resource_args": {"local-process": {"env": ["SIZE={{size}}"]}},
        "template_variables": {"size": {"schema": {"type": "integer", "maximum": 8}}},
    }  # fmt: skip
    folder = user.write({"queue.json": json.dumps(described)}, "made")
    await user.launch(f"queue create -e {{E}} -f {folder / 'queue.json'}")
    common = ("-d", "org/app:v-1", "-q", "sizes", "-p", "P", "-e", user.entity)
    await client.wandb(root, "launch", *common, "-v", "size=4")
    (item,) = await user.json("item list")
    assert (item["queueName"], item["phase"]) == ("sizes", "QUEUED")
    spec = (await user.json(f"item show {item['id']}"))["runSpec"]
    assert spec["resource_args"]["local-process"]["env"] == ["SIZE=4"]
    large = await client.run(root, "-m", "wandb", "launch", *common, "-v", "size=9")
    assert large.code != 0
    assert "Traceback" not in large.err + large.out


@pytest.mark.docker
async def test_launch_without_a_queue_runs_an_image_here(
    client: Client, docker_engine: DockerFacts
) -> None:
    place = ("-p", "p", "-e", client.user.entity, "-r", "local-container")
    image = docker_engine.shell_image
    done = await client.wandb(client.user.home.root, "launch", "-d", image, *place)
    assert f"{image}" in done.out + done.err
    assert "docker run" in done.out + done.err


@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.long)])
async def test_both_agents_drain_one_queue(patient: Client, count: int) -> None:
    """None of the items is lost, none starts twice, and each agent has had some."""
    client = patient
    user, root = client.user, client.user.home.root
    starts = root / "starts"
    user.write({"main.py": BRIEF.replace("STARTS", str(starts))})
    await user.launch('job create -p P -e {E} -n N code code -E "python3 main.py"')
    await push(client, count)
    stock = await stock_agent(client)
    try:

        async def all_started() -> bool:
            return starts.exists() and len(starts.read_text().splitlines()) >= count

        await until(all_started, f"{count} starts", 600, pause=0.5)
        items = await ended(client, count)
    finally:
        stock.terminate()
        await stock.wait()
    lines = [line.split() for line in starts.read_text().splitlines()]
    assert sorted(int(number) for _, number in lines) == list(range(count))
    assert {who for who, _ in lines} == {"ours", "stock"}
    assert [each["phase"] for each in items] == ["SUCCEEDED"] * count


async def push(client: Client, count: int) -> None:
    headers = {"Authorization": f"Bearer {client.user.key}"}
    async with aiohttp.ClientSession(client.user.url, headers=headers) as session:
        for number in range(count):
            spec = {
                "job": f"{client.user.entity}/P/N:latest",
                "entity": client.user.entity,
                "project": "p",
                "resource": "local-process",
                "overrides": {"run_config": {"n": number}},
            }
            variables = {
                "entityName": client.user.entity,
                "queueName": "default",
                "runSpec": json.dumps(spec),
            }
            body = {"query": PUSH, "variables": variables}
            async with session.post("/graphql", json=body) as answer:
                assert "errors" not in await answer.json()


async def stock_agent(client: Client) -> asyncio.subprocess.Process:
    """`wandb launch-agent`, until it is terminated."""
    user = client.user
    env = {**user.home.env, "WANDB_BASE_URL": user.url, "WANDB_API_KEY": user.key}
    with (user.home.root / "stock.log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *(client.python, "-m", "wandb", "launch-agent", "-q", "default", "-e", user.entity),
            *("-j", "4"),
            env=env,
            cwd=user.home.root,
            stdout=log,
            stderr=log,
        )


async def test_artifacts_are_put_listed_and_fetched(client: Client) -> None:
    user, root = client.user, client.user.home.root
    user.write({"a.txt": "A", "sub/b.txt": "B"}, "data")
    name = f"{user.entity}/P/set"
    await client.wandb(root, "artifact", "put", "-n", name, "-t", "dataset", "data")
    listed = await client.wandb(root, "artifact", "ls", f"{user.entity}/P")
    assert "set:v0" in listed.err + listed.out
    await client.wandb(root, "artifact", "get", f"{name}:latest", "--root", "got")
    got = Path(root / "got")
    assert ((got / "a.txt").read_text(), (got / "sub/b.txt").read_text()) == ("A", "B")


QUEUES = """
queue = api.create_run_queue(
    "gpu", "local-process", entity=entity, prioritization_mode="V0",
    config={"env": {"A": "{{n}}"}},
    template_variables={"n": {"schema": {"type": "integer", "minimum": 1, "default": 2}}},
)
found = [[queue.name, queue.access, queue.prioritization_mode, queue.type]]
try:
    api.create_run_queue("gpu", "local-process", entity=entity)
except Exception as error:
    found.append("already" in str(error))
changed = api.upsert_run_queue("gpu", {}, "local-process", entity=entity,
    external_links={"docs": "https://example.org"})
queue = api.run_queue(entity, "gpu")
found.append([queue.default_resource_config, queue.external_links])
job = api.job(f"{entity}/P/N:latest")
queued = job.call({}, project="P", entity=entity, queue="gpu", resource="local-process")
listed = [item.id for item in api.run_queue(entity, "gpu").items]
found.append([queued.state, listed == [queued.id]])
queued.delete()
found.append([item.state for item in api.run_queue(entity, "gpu").items])
queue.delete()
try:
    found.append(api.run_queue(entity, "gpu").id)
except Exception as error:
    found.append("gone")
queued = job.call({}, project="P", entity=entity, queue="default", resource="local-process")
run = queued.wait_until_finished()
found.append([run.state, run.summary["x"]])
print(json.dumps(found))
"""


async def test_the_api_manages_queues_and_waits_for_a_job(client: Client) -> None:
    client.user.write({"main.py": HELLO, "requirements.txt": "wandb==0.31.0\n"})
    await client.user.launch('job create -p P -e {E} -n N code code -E "python main.py"')
    found = await client.value(client.user.home.root, QUEUES)
    links = {"links": [{"label": "docs", "url": "https://example.org"}]}
    assert found == [
        ["gpu", "PROJECT", "V0", "local-process"],
        True,
        [{"resource_args": {"local-process": {}}}, links],
        ["pending", True],
        # A deleted item stays listed: it was stopped.
        ["claimed"],
        "gone",
        ["finished", 1],
    ]
