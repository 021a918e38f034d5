"""What a hostile submitter tries on a machine that she shares, kind by kind: she finds nothing.

Mallory owns her entity and its queues. She wants what is the agent's (its keys, its secrets, its
files), what is alice's (jobs, logs, secrets), and what listens on the host's loopback. See
docs/security.md for what is protected from whom.

The probe prints what it finds as single characters (see `PROBE`), because the values themselves
would be masked. Attacks by a kind of input stand under its heading.
"""

import asyncio
import base64
import json
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.conftest import QUICK, free_port
from tests.e2e.harness.shared_machine import PROBE, SharedMachine, shared_machine
from tests.e2e.harness.token_attacks import Targets, caller, gave
from tests.infrastructure.state import Facts
from tests.integration.control_wire.wire import Caller

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(services: Facts) -> AsyncIterator[SharedMachine]:
    assert services.docker is not None
    control = {"port": free_port(), "token_grace": "5s"}
    settings = QUICK | {"control": QUICK["control"] | control}
    async with shared_machine(settings, services.docker.shell_image) as machine:
        yield machine


@pytest.fixture
def machine(shared: SharedMachine) -> SharedMachine:
    shared.loopback.requests.clear()
    return shared


def probe(root: object, *addresses: str) -> str:
    """The command line that looks for everything below `root` and behind the addresses."""
    return shlex.join(["sh", "-c", PROBE, "sh", str(root), *addresses])


# ------------------------------------------------------------------ the probe itself


async def test_the_probe_finds_what_it_may_read(machine: SharedMachine) -> None:
    """Without this, silence of the other tests would prove nothing."""
    open_file = machine.root / "open"
    open_file.write_text(machine.loopback.canary)
    try:
        item = await machine.submit(
            "processes", "-u", str(machine.code(probe__sh=PROBE)), "-E", f"sh probe.sh {open_file}"
        )
    finally:
        open_file.unlink()
    with pytest.raises(AssertionError, match="a service on the host's loopback"):
        machine.assert_nothing_found(item)


# ------------------------------------------------------------------ a process with `user`


async def test_a_process_of_another_user_reads_nothing_of_the_agents(
    machine: SharedMachine,
) -> None:
    code = machine.code(probe__sh=PROBE)
    item = await machine.submit("processes", "-u", str(code), "-E", f"sh probe.sh {machine.root}")
    assert "PROBED" in item["log"]
    machine.assert_nothing_found(item)


# ------------------------------------------------------------------ a container


async def test_a_container_reads_nothing_and_reaches_no_loopback(machine: SharedMachine) -> None:
    port = machine.loopback.port
    hosts = ("127.0.0.1", "host.docker.internal", "localhost", "[::1]", "0.0.0.0")
    addresses = [f"http://{host}:{port}/container" for host in hosts]
    item = await machine.submit("containers", "-d", machine.image, "-E", probe("/", *addresses))
    assert "PROBED" in item["log"]
    machine.assert_nothing_found(item)


@pytest.mark.parametrize(
    "arguments",
    [
        {"privileged": True},
        {"volume": "/:/host"},
        {"v": ["/var/run/docker.sock:/docker.sock"]},
        {"--volume": "/:/host"},
        {"mounts": ["/"]},
        {"mount": "type=bind,src=/,dst=/host"},
        {"network": "host"},
        {"net": "container:launch"},
        {"pid": "host"},
        {"ipc": "host"},
        {"userns": "host"},
        {"uts": "host"},
        {"cap_add": "SYS_ADMIN"},
        {"cap-add": ["ALL"]},
        {"device": "/dev/sda"},
        {"security_opt": "seccomp=unconfined"},
        {"runtime": "other"},
        {"cgroup-parent": "/"},
        {"cidfile": "/etc/x"},
        {"env_file": "/proc/1/environ"},
        {"label": "a=b"},
        {"log-driver": "syslog"},
        {"volumes_from": "other"},
        {"Privileged": True},
        {"HostConfig": {"Privileged": True}},
        {"secrets": ["own"]},
        {"env": "AGENT_VARIABLE"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
async def test_an_option_that_leaves_the_container_is_refused(
    machine: SharedMachine, arguments: dict[str, Any]
) -> None:
    given = json.dumps({"local-container": arguments})
    item = await machine.submit(
        "containers", "-d", machine.image, "-E", probe("/host"), "-R", given
    )
    assert item["phase"] == "REFUSED", item["message"]
    machine.assert_nothing_found(item)


async def test_the_template_of_her_own_queue_opens_no_secret_of_other_queues(
    machine: SharedMachine,
) -> None:
    """As admin of her entity she writes the template, which may name secrets and mounts."""
    home = machine.mallory.home
    naming = {"resource_args": {"local-container": {"secrets": ["own"]}}}
    changed = await home.launch("queue", "update", "containers", "--config", json.dumps(naming))
    assert changed.code == 0, changed.err
    try:
        item = await machine.submit("containers", "-d", machine.image, "-E", "env")
    finally:
        await home.launch("queue", "update", "containers", "--config", "{}")
    assert (item["phase"], item["cause"]) == ("REFUSED", "POLICY_RESOURCE"), item
    assert "offers no 'own' to queue mallory/containers" in item["message"]
    machine.assert_nothing_found(item)


# ------------------------------------------------------------------ her own Dockerfile


@pytest.mark.parametrize(
    "step",
    [
        "RUN wget -qO- -T 3 http://127.0.0.1:{port}/run; exit 3",
        "RUN wget -qO- -T 3 http://host.docker.internal:{port}/run; exit 3",
        "ADD http://127.0.0.1:{port}/add /stolen",
        "ADD http://127.0.0.1:{port}/r.git /stolen",
        "COPY --from=127.0.0.1:{port}/image:1 / /stolen",
        "FROM 127.0.0.1:{port}/image:1",
        "RUN --network=host wget -qO- http://127.0.0.1:{port}/run",
        "# syntax=127.0.0.1:{port}/frontend:1",
        "RUN cat /proc/*/environ /proc/*/cmdline; ls -R /run/secrets; exit 3",
        "RUN --mount=type=bind,source=/,target=/host,from=host find /host; exit 3",
        "RUN --security=insecure id; exit 3",
        "COPY ../../../ /stolen/\nRUN grep -rqE canary-[0-9a-f]{{32}} /stolen && exit 4; exit 3",
        "COPY private api-key config.yaml /stolen/",
    ],
)
async def test_a_dockerfile_finds_nothing_of_the_host(machine: SharedMachine, step: str) -> None:
    step = step.format(port=machine.loopback.port)
    code = machine.code(Dockerfile=f"FROM {machine.image}\n{step}\n")
    item = await machine.submit("containers", "-u", str(code), "-D", "Dockerfile", "-E", "true")
    assert item["phase"] != "SUCCEEDED", item
    assert "exit code: 4" not in item["setup"], item["setup"]
    machine.assert_nothing_found(item)


# ------------------------------------------------------------------ requirements


@pytest.mark.parametrize(
    "line",
    [
        "stolen @ http://127.0.0.1:{port}/stolen-1.0.tar.gz",
        "stolen @ git+http://127.0.0.1:{port}/r.git",
        "stolen @ file://{root}/mallory-agent/private",
        "--index-url http://127.0.0.1:{port}/simple\nstolen",
        "--extra-index-url http://localhost:{port}/simple\nstolen",
        "--find-links http://127.0.0.1:{port}/links\nstolen",
        "-r http://127.0.0.1:{port}/more.txt",
        "-r {root}/mallory-agent/private",
        "-c {root}/mallory-agent/api-key",
        "-e git+http://127.0.0.1:{port}/r.git#egg=stolen",
    ],
)
async def test_a_requirement_reaches_neither_the_loopback_nor_the_agents_files(
    machine: SharedMachine, line: str
) -> None:
    text = line.format(port=machine.loopback.port, root=machine.root)
    code = machine.code(requirements__txt=f"{text}\n", main__sh="true\n")
    item = await machine.submit("processes", "-u", str(code), "-E", "sh main.sh")
    assert item["phase"] != "SUCCEEDED", item
    machine.assert_nothing_found(item)


# ------------------------------------------------------------------ a Git URL


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/r.git",
        "https://127.0.0.1:{port}/r.git",
        "https://localhost:{port}/r.git",
        "https://[::1]:{port}/r.git",
        "https://[::ffff:127.0.0.1]:{port}/r.git",
        "https://0x7f.1:{port}/r.git",
        "https://2130706433:{port}/r.git",
        "https://0.0.0.0:{port}/r.git",
        "https://169.254.169.254/r.git",
        "ssh://git@127.0.0.1:{port}/r.git",
        "git://127.0.0.1:{port}/r.git",
        "ext::sh -c 'touch /tmp/launch-attack'",
        "file:///",
        "--upload-pack=touch /tmp/launch-attack",
    ],
)
async def test_a_git_url_reaches_neither_the_loopback_nor_the_disk(
    machine: SharedMachine, url: str
) -> None:
    spec = {
        "uri": url.format(port=machine.loopback.port),
        "project": "default",
        "resource": "local-process",
        "overrides": {"entry_point": ["sh", "-c", "true"]},
    }
    item = await machine.push("processes", spec)
    assert item["phase"] in {"REFUSED", "ERRORED"}, item
    machine.assert_nothing_found(item)


# ------------------------------------------------------------------ a schema


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:{port}/schema.json"},
        {"$ref": "file://{root}/mallory-agent/private"},
        {"$schema": "http://127.0.0.1:{port}/draft.json", "type": "string"},
        {"$id": "http://127.0.0.1:{port}/", "$ref": "other.json"},
        {"$dynamicRef": "http://127.0.0.1:{port}/schema.json#a"},
        {"allOf": [{"if": {"$ref": "http://127.0.0.1:{port}/if.json"}, "then": True}]},
    ],
    ids=lambda schema: next(iter(schema)),
)
async def test_a_schema_fetches_nothing(machine: SharedMachine, schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    for name, value in (("port", machine.loopback.port), ("root", machine.root)):
        text = text.replace("{" + name + "}", str(value))
    described = {
        "name": f"schema-{len(text)}",
        "resource": "local-container",
        "resource_args": {"local-container": {"memory": "{{size}}"}},
        "template_variables": {"size": {"schema": json.loads(text)}},
    }
    file = machine.code(queue__json=json.dumps(described)) / "queue.json"
    made = await machine.mallory.home.launch("queue", "create", "-f", str(file))
    words = ("submit", "-q", described["name"], "-d", machine.image, "-v", "size=64m")
    used = await machine.mallory.home.launch(*map(str, words))
    whole = made.out + made.err + used.out + used.err
    machine.assert_nothing_found({"log": whole})


# ------------------------------------------------------------------ an image


@pytest.mark.parametrize("image", ["127.0.0.1:{port}/a:1", "localhost:{port}/a", "sha256:0"])
async def test_an_image_is_asked_for_at_no_registry_inside(
    machine: SharedMachine, image: str
) -> None:
    item = await machine.submit("containers", "-d", image.format(port=machine.loopback.port))
    assert item["phase"] != "SUCCEEDED", item
    machine.assert_nothing_found(item)


# ------------------------------------------------------------------ the API, with her own key


@pytest.mark.parametrize(
    "document",
    [
        '{{ launchItem(id: "{item}") {{ id runSpec message facts }} }}',
        '{{ launchItems(entityName: "alice") {{ edges {{ node {{ id runSpec }} }} }} }}',
        '{{ launchKeys(entityName: "alice") {{ id hint }} }}',
        '{{ launchAgents(entityName: "alice") {{ id name }} }}',
        'mutation {{ stopLaunchItem(id: "{item}") {{ id }} }}',
        'mutation {{ retryLaunchItem(id: "{item}") {{ id }} }}',
        'mutation {{ moveLaunchItem(id: "{item}", queueName: "containers") {{ id }} }}',
        'mutation {{ deleteLaunchQueue(entityName: "alice", name: "containers") }}',
    ],
)
async def test_her_key_opens_nothing_of_alices(machine: SharedMachine, document: str) -> None:
    for item in (machine.running, machine.ended):
        answer = await machine.query(machine.mallory.key, document.format(item=item))
        assert not any((answer.get("data") or {}).values()), answer
    shown = await machine.alice.launch("item", "show", machine.running, "--json")
    assert shown.json()["phase"] == "STARTED"


@pytest.mark.parametrize("channel", ["job", "setup"])
async def test_her_key_reads_no_log_of_alices(machine: SharedMachine, channel: str) -> None:
    basic = base64.b64encode(f"api:{machine.mallory.key}".encode()).decode()
    async with aiohttp.ClientSession(machine.url) as session:
        for item in (machine.running, machine.ended):
            path = f"/launch/items/{item}/attempts/1/logs/{channel}"
            async with session.get(path, headers={"Authorization": f"Basic {basic}"}) as answer:
                assert answer.status == 404, await answer.text()


# ------------------------------------------------------------------ the API, with a run token


@dataclass
class Thief:
    """A job of mallory's that runs and has given its token away."""

    job: Caller
    targets: Targets
    item: str
    run_name: str
    #: The job ends when it is gone.
    place: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def thief(shared: SharedMachine) -> AsyncIterator[Thief]:
    launch = shared.mallory.launch
    await launch("queue", "create", "idle", "-r", "local-container")
    folder = shared.root / "tokens"
    folder.mkdir()
    folder.chmod(0o777)
    place = folder / "token"
    code = shared.code(
        job__sh='umask 0; printf %s "$WANDB_API_KEY" > "$1.new"; mv "$1.new" "$1"\n'
        'while [ -e "$1" ]; do sleep 0.1; done\n'
    )
    words = ("-u", str(code), "-E", f"sh job.sh {place}")
    async with aiohttp.ClientSession() as http, asyncio.timeout(300):
        owner, alice = (caller(shared.url, http, one.key) for one in (shared.mallory, shared.alice))
        targets = await Targets.make(owner, alice, "idle")
        item = (await launch("submit", "-q", "processes", "--json", *words)).json()["id"]
        while not place.exists():
            await asyncio.sleep(0.1)
        run_name = (await launch("item", "show", item, "--json")).json()["runName"]
        yield Thief(caller(shared.url, http, place.read_text()), targets, item, run_name, place)
        place.unlink(missing_ok=True)
        await launch("item", "logs", item, "--follow")


async def test_a_run_token_opens_nothing_but_its_own_run(thief: Thief) -> None:
    own = {"e": "mallory", "p": "default", "n": thief.run_name}
    document = (
        "mutation ($e: String, $p: String, $n: String) { upsertBucket(input: {entityName: $e, "
        'modelName: $p, name: $n, notes: "mine"}) { bucket { name } } }'
    )
    assert gave(await thief.job.ask(document, **own)), "else refusals would prove nothing"
    before = await thief.targets.state()
    for what, attack in thief.targets.documents().items():
        answer = await thief.job.ask(attack)
        assert not gave(answer), (what, answer)
    for what, (method, path) in thief.targets.routes().items():
        status = await thief.job.status(method, path, json={"files": {}})
        assert status in {401, 403, 404}, (what, status)
    assert await thief.targets.state() == before


async def test_a_run_token_ends_with_its_attempt_and_the_grace(thief: Thief) -> None:
    """The last test of this token: its job ends here."""
    thief.place.unlink()
    async with asyncio.timeout(120):
        while (
            await thief.job.status("POST", "/graphql", json={"query": "{ viewer { id } }"}) != 401
        ):
            await asyncio.sleep(0.2)
    shown = await thief.targets.owner.data(
        "query ($i: ID!) { launchItem(id: $i) { phase } }", i=thief.item
    )
    assert shown["launchItem"]["phase"] == "SUCCEEDED"
    stream = f"/files/mallory/default/{thief.run_name}/file_stream"
    assert await thief.job.status("POST", stream, json={"files": {}}) == 401
