"""The same jobs as local processes, on Docker and on Kubernetes, through the installed commands."""

import asyncio
import html
import json
import re
import shlex
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from agent.runners.kubernetes.access import RIGHTS
from tests.e2e.conftest import QUICK, quick
from tests.e2e.harness.cluster import way_to_cluster
from tests.e2e.harness.home import BIN, Home
from tests.e2e.test_tour import git_settings, ok
from tests.infrastructure import engine
from tests.infrastructure.kubernetes_account import (
    MANIFEST,
    kubectl,
    make_account,
    write_kubeconfig,
)
from tests.infrastructure.process import free_port
from tests.infrastructure.state import (
    BuildkitFacts,
    DockerFacts,
    GitFacts,
    KubernetesFacts,
    RegistryFacts,
)

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]

ROOT = Path(__file__).parents[2]
#: Of the interpreter that the virtual environment was made from.
BASE = sys.base_prefix
EVERYWHERE = ("local-process", "local-container", "kubernetes")
ERROR_LINE = "a line of standard error\n"
#: Says what it was given, asks the control plane for a sign of life, and fails as it is told to.
PROGRAM = """
import json, os, sys, urllib.request
config = json.load(open(os.environ["LAUNCH_CONFIG_FILE"]))
print("arguments", sys.argv[1:], "parameters", config)
probe = urllib.request.urlopen(os.environ["WANDB_BASE_URL"] + "/healthz")
print("control plane", probe.status)
print("a line of standard error", file=sys.stderr)
sys.exit(config["exit"])
"""


@dataclass(frozen=True)
class Tenant:
    """A namespace, and the kubeconfig of an account with the documented rights in it."""

    cluster: KubernetesFacts
    namespace: str
    kubeconfig: Path

    def settings(self, **runner: Any) -> dict[str, Any]:
        """Jobs in this namespace; pods reach the embedded plane by this machine's address."""
        control = quick()["control"] | {"also_listen": [self.cluster.host_address]}
        kubernetes = {"enabled": True, "kubeconfig": str(self.kubeconfig), **runner}
        return QUICK | {"control": control, "runners": {"kubernetes": kubernetes}}


@pytest.fixture
def tenant(kubernetes_cluster: KubernetesFacts, tmp_path: Path) -> Iterator[Tenant]:
    namespace = f"e2e-{uuid.uuid4().hex[:12]}"
    make_account(kubernetes_cluster, namespace)
    kubeconfig = write_kubeconfig(kubernetes_cluster, namespace, tmp_path / "kubeconfig")
    yield Tenant(kubernetes_cluster, namespace, kubeconfig)
    kubectl(kubernetes_cluster, "delete", "namespace", namespace, "--wait=false")


@pytest.fixture
async def everywhere(
    home: Home, tenant: Tenant, registries: RegistryFacts, git_servers: GitFacts
) -> Home:
    """One agent with all three backends."""
    settings = tenant.settings() | git_settings(git_servers)
    settings["runners"] |= {"local-process": {"enabled": True}}
    destination = {"destination": f"{registries.address}/launch-test/everywhere"}
    home.configure(settings | {"builder": destination})
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    return home


@dataclass(frozen=True)
class Shown:
    """All that a user is shown of an ended item."""

    phase: str
    cause: str
    message: str
    exit_code: int
    log: str
    #: Of its page: the steps of its progress, the explanation, and the log again.
    steps: tuple[str, ...]
    explanation: str
    page_log: str


async def launched(home: Home, resource: str, *flags: str) -> Shown:
    """Submit to the queue, which is for this resource from now on; wait for the item's end."""
    await ok(home, "queue", "update", "default", "--resource", resource)
    done = await home.launch("submit", "--queue", "default", *flags, "--wait", "--json")
    assert done.out, done.err
    item = (await home.launch("item", "show", done.json()["id"], "--json")).json()
    page = await page_of(home, f"items/{item['id']}")
    found = {
        name: [plain(text) for text in re.findall(pattern, page, re.DOTALL)]
        for name, pattern in PARTS.items()
    }
    (explanation,), (log,) = found["explanation"], found["log"]
    return Shown(
        item["phase"], item["cause"], item["message"], item["exitCode"],
        error_last(await ok(home, "item", "logs", item["id"])),
        tuple(found["steps"]), explanation.replace(item["id"], "ID"), error_last(log),
    )  # fmt: skip


def error_last(log: str) -> str:
    """Two pipes of a container have no order between them: standard error follows the rest."""
    return "".join(sorted(log.splitlines(keepends=True), key=lambda line: line == ERROR_LINE))


PARTS = {
    "steps": r"<strong>(\w+)</strong> <span class=\"quiet\">",
    "explanation": r'aria-label="Explanation">(.*?)</section>',
    "log": r'role="log"[^>]*><pre>(.*?)</pre>',
}


def plain(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", text))


async def page_of(home: Home, path: str) -> str:
    link = (await ok(home, "open")).strip()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        await session.get(link)
        async with session.get(URL(link).origin().join(URL(f"/launch/{path}"))) as answer:
            assert answer.status == 200
            return await answer.text()


async def test_a_directory_of_code_runs_alike_everywhere(everywhere: Home) -> None:
    folder = everywhere.root / "job"
    folder.mkdir()
    (folder / "main.py").write_text(f"{PROGRAM}\n# {uuid.uuid4()}\n")
    create = ("job", "create", "-p", "P", "-n", "same", "code", "job", "-E", "python -u main.py")
    await ok(everywhere, *create)
    config = json.dumps({"overrides": {"run_config": {"exit": 7}, "args": ["--x", "y z"]}})
    flags = ("-p", "P", "--job", "same", "--config", config)
    process, container, pod = [await launched(everywhere, each, *flags) for each in EVERYWHERE]
    assert (process.phase, process.cause, process.exit_code) == ("FAILED", "RUN_EXIT_CODE", 7)
    assert process.log.splitlines() == [
        "arguments ['--x', 'y z'] parameters {'exit': 7}",
        "control plane 200",
        ERROR_LINE.strip(),
    ]
    assert "failed" in process.steps
    assert process.page_log == process.log
    assert container == process
    assert pod == process


def without_machine(shown: Shown) -> Shown:
    """Without what differs for a process: Python's version, that runner's own mark, one address."""
    log, page_log = (
        re.sub(" (LAUNCH_WORKLOAD|WANDB_APP_URL)", "", re.sub(r"python [0-9.]+", "python", each))
        for each in (shown.log, shown.page_log)
    )
    return replace(shown, log=log, page_log=page_log)


@pytest.mark.git_servers
async def test_a_repository_runs_alike_everywhere(everywhere: Home, git_servers: GitFacts) -> None:
    flags = ("--uri", git_servers.https_url, "-g", "v1.2", "--build-context", "jobs/hello_world")
    process, container, pod = [
        without_machine(await launched(everywhere, each, *flags, "-E", "python job.py"))
        for each in EVERYWHERE
    ]
    assert (process.phase, process.exit_code) == ("SUCCEEDED", 0)
    assert "hello from v1.2" in process.log
    assert container == process
    assert pod == process


async def test_an_image_runs_alike_in_containers_and_pods(
    everywhere: Home, cluster_image: str
) -> None:
    flags = ("--docker-image", cluster_image, "-E", "sh -c 'echo from the image; exit 3'")
    container, pod = [
        await launched(everywhere, each, *flags) for each in ("local-container", "kubernetes")
    ]
    assert (container.exit_code, container.log) == (3, "from the image\n")
    assert pod == container
    (item, *_) = (await everywhere.launch("item", "list", "--json")).json()
    found = re.search(
        r'aria-label="Pods">(.*?)</section>',
        await page_of(everywhere, f"items/{item['id']}"),
        re.DOTALL,
    )
    assert found is not None
    told = plain(found[1]).split()
    assert {"node1", "failed"} < set(told)
    assert "exit code 3" in " ".join(told)
    shown = await ok(everywhere, "item", "show", item["id"])
    assert re.search(r"pods +\S+  node1  failed; \w+: exit code 3", shown)


#: Says where and as whom it runs, and writes beside its code and to its home.
IN_A_BASE_IMAGE = "pwd; id -u; echo $HOME; ls -R; touch here ~/there && echo written; exit 4\n"


async def created_from_code(home: Home, base: str, script: str = IN_A_BASE_IMAGE) -> None:
    folder = home.root / "job"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "main.sh").write_text(script)
    (folder / "data" / "x.txt").write_text(str(uuid.uuid4()))
    create = ("job", "create", "-p", "P", "-n", "based", "code", "job", "-E", "sh main.sh")
    await ok(home, *create, "-B", base)


async def test_code_in_a_base_image_runs_without_a_build_as_if_built(
    home: Home, tenant: Tenant, registries: RegistryFacts, cluster_image: str, own_image: str
) -> None:
    """Built for the engine, fetched into the pod, in a namespace that permits nothing special."""
    level = "pod-security.kubernetes.io/enforce=restricted"
    kubectl(tenant.cluster, "label", "namespace", tenant.namespace, level)
    destination = {"destination": f"{registries.address}/launch-test/mounted"}
    settings = tenant.settings(code_image=own_image, run_as_non_root=True)
    home.configure(settings | {"builder": destination})
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    await created_from_code(home, cluster_image)
    flags = ("-p", "P2", "--job", "P/based")
    container, pod = [
        await launched(home, each, *flags) for each in ("local-container", "kubernetes")
    ]
    assert pod.log.splitlines() == [
        "/home/launch/src", "1000", "/home/launch", ".:", "data", "main.sh", "", "./data:",
        "x.txt", "written",
    ]  # fmt: skip
    assert (pod.cause, pod.exit_code) == ("RUN_EXIT_CODE", 4)
    assert pod == container
    (listed, *_) = (await home.launch("item", "list", "--json")).json()
    item = (await home.launch("item", "show", listed["id"], "--json")).json()
    assert item["facts"]["image"].startswith(f"{cluster_image.rpartition(':')[0]}@sha256:")
    told = await ok(home, "item", "logs", item["id"], "--channel", "setup")
    assert f"nothing to build: the code is mounted into {cluster_image}" in told


async def test_an_agent_that_was_killed_adopts_a_job_with_mounted_code(
    home: Home, tenant: Tenant, cluster_image: str, own_image: str
) -> None:
    """Nothing builds here, so that its packages are the base image's."""
    home.configure(tenant.settings(code_image=own_image) | {"builder": {"type": "noop"}})
    home.env["LAUNCH_CONFIG"] = str(home.config)
    agent = await home.start("launch-agent", "--queue", "default")
    script = "echo begins; while [ ! -e ~/go ]; do sleep 0.1; done; echo ends\n"
    (home.root / "job").mkdir()
    (home.root / "job" / "requirements.txt").write_text("six\n")
    await created_from_code(home, cluster_image, script)
    await ok(home, "queue", "update", "default", "--resource", "kubernetes")
    submitted = await home.launch("submit", "--queue", "default", "--job", "P/based", "--json")
    item = submitted.json()["id"]

    async def shown() -> dict[str, Any]:
        found: dict[str, Any] = (await home.launch("item", "show", item, "--json")).json()
        assert found["phase"] not in {"REFUSED", "ERRORED", "FAILED", "LOST"}, found
        return found

    async with asyncio.timeout(200):
        while await ok(home, "item", "logs", item) != "begins\n":
            await shown()
    await agent.kill()
    await home.start("launch-agent", "--queue", "default")
    namespace = ("-n", tenant.namespace)
    pods = kubectl(tenant.cluster, *namespace, "get", "pods", "-o", "name").split()
    go = ("exec", *pods, "-c", "launch0", "--", "touch", "/home/launch/go")
    kubectl(tenant.cluster, *namespace, *go)
    assert await ok(home, "item", "logs", "--follow", item) == "begins\nends\n"
    async with asyncio.timeout(60):
        while (ended := await shown())["phase"] != "SUCCEEDED":
            await asyncio.sleep(0.2)
    assert ended["attempt"] == 1
    assert "the base image has to bring them" in await ok(
        home, "item", "logs", item, "--channel", "setup"
    )


async def test_an_image_that_cannot_fetch_code_is_named(
    home: Home, tenant: Tenant, cluster_image: str
) -> None:
    settings = tenant.settings(code_image=cluster_image) | {"builder": {"type": "noop"}}
    home.configure(settings)
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    await created_from_code(home, cluster_image)
    ended = await launched(home, "kubernetes", "-p", "P", "--job", "based")
    assert (ended.phase, ended.cause, ended.log) == ("ERRORED", "START_CODE", "")
    assert f"image {cluster_image} (`code_image`) cannot run the fetch" in ended.message
    assert "python3" in ended.message


@pytest.mark.buildkit
async def test_a_buildkitd_and_a_cluster_need_no_engine(
    home: Home,
    tenant: Tenant,
    registries: RegistryFacts,
    buildkitd: BuildkitFacts,
    cluster_image: str,
) -> None:
    folder = home.root / "job"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {cluster_image}\nRUN echo {uuid.uuid4()} > /built\n")
    destination = f"{registries.address}/launch-test/alone"
    settings = tenant.settings() | {
        "builder": {"destination": destination, "buildkit": buildkitd.address}
    }
    settings["runners"]["local-container"] = {"enabled": False}
    home.configure(settings)
    home.env |= {"DOCKER_HOST": f"unix://{home.root}/no-engine.sock"}
    daemon = await home.start("launch-agent", "--queue", "default")
    assert "a new queue takes kubernetes" in daemon.output()
    flags = ("--uri", "job", "-D", "Dockerfile", "-E", "cat /built", "--wait", "--json")
    done = await home.launch("submit", "--queue", "default", *flags)
    item = (await home.launch("item", "show", done.json()["id"], "--json")).json()
    assert item["phase"] == "SUCCEEDED", item["message"]
    assert item["facts"]["image"].startswith(f"{destination}@sha256:")
    assert len(await ok(home, "item", "logs", item["id"])) > 30


# ---- what keeps an agent from starting


async def refusal(home: Home, settings: dict[str, Any]) -> str:
    """What an agent says that cannot start."""
    home.configure(settings)
    done = await home.run("launch-agent", "--queue", "default", "--config", str(home.config))
    assert done.code == 2, done.out + done.err
    assert "Traceback" not in done.err
    return done.err


async def test_an_agent_waits_for_a_cluster_that_does_not_answer(
    home: Home, tenant: Tenant
) -> None:
    """It says so, keeps systemd from ending it, and begins when the cluster answers."""
    async with way_to_cluster(tenant.cluster, tenant.kubeconfig) as way:
        way.refusing = True
        home.configure(tenant.settings())
        agent = await home.start("launch-agent", "--queue", "default", ready=False)
        async with asyncio.timeout(120):
            await agent.notify.until("EXTEND_TIMEOUT_USEC=60000000")
        told = agent.output()
        assert "waiting for the Kubernetes API" in told
        assert f":{way.address[1]} does not answer" in told
        way.refusing = False
        await agent.ready()
    assert "the Kubernetes API answers" in agent.output()


async def test_a_wrong_context_and_a_missing_kubeconfig_are_named(
    home: Home, tenant: Tenant
) -> None:
    told = await refusal(home, tenant.settings(context="nowhere"))
    assert "`runners.kubernetes.context`: there is no context 'nowhere'" in told
    assert "jobs" in told
    tenant.kubeconfig.unlink()
    told = await refusal(home, tenant.settings())
    assert f"there is no kubeconfig at {tenant.kubeconfig}" in told


async def test_a_token_that_is_no_longer_accepted_is_told(home: Home, tenant: Tenant) -> None:
    kubectl(tenant.cluster, "-n", tenant.namespace, "delete", "serviceaccount", "launch-agent")
    told = await refusal(home, tenant.settings())
    assert "it does not accept the credentials: Unauthorized" in told


async def test_missing_rights_are_named_by_verb_and_resource(home: Home, tenant: Tenant) -> None:
    rules = json.dumps({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]})
    patch = ("patch", "role", "launch-agent", "--type=merge", "-p", rules)
    kubectl(tenant.cluster, "-n", tenant.namespace, *patch)
    told = await refusal(home, tenant.settings())
    assert f"lacks rights in the namespace '{tenant.namespace}'" in told
    for right in ("`create jobs.batch`", "`get pods --subresource=log`", "`watch events`"):
        assert right in told
    assert "`list pods`" not in told
    assert "deploy/kubernetes.yaml" in told


async def test_a_namespace_that_does_not_exist_is_named(home: Home, tenant: Tenant) -> None:
    absent = {"namespace": "nowhere", "kubeconfig": tenant.cluster.kubeconfig}
    told = await refusal(home, tenant.settings(**absent))
    assert "has no namespace 'nowhere'" in told
    assert "kubectl create namespace nowhere" in told


async def test_an_address_that_means_the_pod_is_refused(home: Home, tenant: Tenant) -> None:
    settings = tenant.settings()
    del settings["control"]["also_listen"]
    assert "`control.also_listen`" in await refusal(home, settings)


# ---- launch doctor


async def doctor(home: Home, code: int) -> dict[str, list[str]]:
    """Its findings about the cluster, by subject: `level: message`."""
    done = await home.launch("doctor", "--config", str(home.config), "--json")
    assert done.code == code, done.out + done.err
    found: dict[str, list[str]] = {}
    for each in done.json()["findings"]:
        found.setdefault(each["subject"], []).append(f"{each['level']}: {each['message']}")
    return found


async def test_the_doctor_looks_at_rights_registry_code_and_gpus(
    home: Home, tenant: Tenant, registries: RegistryFacts, cluster_image: str, own_image: str
) -> None:
    destination = {"destination": f"{registries.address}/launch-test/doctor"}
    home.configure(tenant.settings() | {"builder": destination})
    found = await doctor(home, 1)  # this machine's engine has known holes
    assert found["cluster"][0].startswith("ok: https://")
    assert found["rights in the cluster"] == [
        f"ok: The account has all {len(RIGHTS)} that it needs in '{tenant.namespace}'."
    ]
    assert found["registry from a node"] == [
        f"ok: A node reaches {registries.address} and may pull."
    ]
    assert found["GPUs of the cluster"][0].startswith("note: The account may not list nodes")
    assert found["builds for the cluster"][0].startswith("ok: By the container engine")
    assert "`runners.kubernetes.code_image` is not set" in found["code without a build"][0]
    for image, told in (
        (own_image, f"ok: A node starts {own_image}"),
        (cluster_image, f"problem: {cluster_image} (`runners.kubernetes.code_image`) does not"),
        (f"{cluster_image}-absent", f"problem: {cluster_image}-absent"),
    ):
        home.configure(tenant.settings(code_image=image))
        assert (await doctor(home, 1))["code without a build"][0].startswith(told)
    left = kubectl(tenant.cluster, "-n", tenant.namespace, "get", "jobs", "-o", "name")
    assert left == ""


async def test_the_doctor_names_what_is_missing(
    home: Home, tenant: Tenant, registries: RegistryFacts
) -> None:
    repository = f"{registries.private_address}/launch-test/doctor"
    builder = {"destination": repository, "type": "kubernetes"}
    home.configure(tenant.settings() | {"builder": builder})
    found = await doctor(home, 1)
    (build,) = found["builds for the cluster"]
    assert build.startswith("problem: No pod can be started to build in")
    assert "`create pods --subresource=portforward`" in build
    (refused,) = found["registry from a node"]
    assert refused.startswith("problem: A node cannot pull from")
    rules = json.dumps([{"op": "remove", "path": "/rules/0/verbs/0"}])
    patch = ("patch", "role", "launch-agent", "--type=json", "-p", rules)
    kubectl(tenant.cluster, "-n", tenant.namespace, *patch)
    found = await doctor(home, 1)
    (missing,) = found["rights in the cluster"]
    assert missing.startswith("problem: The agent's account may not `create jobs.batch`")
    administrator = tenant.settings(kubeconfig=tenant.cluster.kubeconfig)
    home.configure(administrator)
    found = await doctor(home, 1)
    assert (
        "note: The account may read the Secrets of every namespace."
        in (found["rights in the cluster"])
    )
    assert found["GPUs of the cluster"] == ["ok: No node offers any."]
    assert "`builder.destination` is not set" in found["images for the cluster"][0]


async def test_the_doctor_looks_at_the_kinds_that_queues_name(home: Home, tenant: Tenant) -> None:
    home.configure(tenant.settings())
    home.env["LAUNCH_CONFIG"] = str(home.config)
    agent = await home.start("launch-agent", "--queue", "default")
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"}}
    template = {
        "resource_args": {"kubernetes": lease},
        "additional_services": [{"config": service}],
    }
    unknown = {"resource_args": {"kubernetes": {"apiVersion": "no.example/v1", "kind": "Job"}}}
    for name, config in (("leases", template), ("unknown", unknown), ("not-ours", template)):
        words = ("queue", "create", name, "-r", "kubernetes", "--config", json.dumps(config))
        assert (await home.launch(*words)).code == 0
    home.configure(tenant.settings() | {"queues": ["leases", "unknown"]})
    found = await doctor(home, 1)
    told = " ".join(found["queue leases"])
    for verb in ("create", "get", "list", "watch", "delete"):
        assert f"problem: The agent's account may not `{verb} leases.coordination.k8s.io`" in told
    for right in ("create services", "get services", "list endpointslices.discovery.k8s.io"):
        assert f"may not `{right}` in the namespace '{tenant.namespace}'" in told
    assert "the cluster has no API 'no.example/v1'" in found["queue unknown"][0]
    assert "queue not-ours" not in found
    account = f"--serviceaccount={tenant.namespace}:launch-agent"
    kinds = "leases.coordination.k8s.io,services,endpointslices.discovery.k8s.io"
    for grant in (
        ("role", "more", "--verb=create,get,list,watch,delete", f"--resource={kinds}"),
        ("rolebinding", "more", "--role=more", account),
    ):
        kubectl(tenant.cluster, "-n", tenant.namespace, "create", *grant)
    found = await doctor(home, 1)
    assert found["queue leases"] == [
        f"ok: The account has the rights on its kinds in '{tenant.namespace}'."
    ]
    assert await agent.terminate() == 0


# ---- the way from a cluster to a first job, as docs/kubernetes.md has it


async def test_the_first_job_of_the_docs(
    home: Home, kubernetes_cluster: KubernetesFacts, cluster_image: str
) -> None:
    """Word for word, but for the names of the namespace, the address and the image."""
    namespace = f"e2e-{uuid.uuid4().hex[:12]}"
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    for theirs, ours in {
        "launch-jobs": namespace,
        "192.168.1.10": kubernetes_cluster.host_address,
        "--docker-image busybox": f"--docker-image {cluster_image}",
        "kubectl apply": f"{kubernetes_cluster.kubectl} apply",
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    first = text.partition("## From a cluster to a first job")[2]
    (block,) = re.findall(r"```sh\n(.*?)```", first.partition("\n## ")[0], re.DOTALL)
    apply, export, doctor, agent, submit = block.splitlines()
    (home.root / "deploy").mkdir()
    manifest = MANIFEST.read_text().replace("launch-jobs", namespace)
    (home.root / "deploy" / "kubernetes.yaml").write_text(manifest)
    home.env |= {"KUBECONFIG": kubernetes_cluster.kubeconfig}
    home.env |= dict(part.split("=", 1) for part in export.split()[1:])
    try:
        assert (await home.run(*shlex.split(apply))).code == 0
        looked = await home.run(*shlex.split(doctor))
        assert f"The account has all {len(RIGHTS)} that it needs in '{namespace}'." in looked.out
        await home.start(*shlex.split(agent.removesuffix("&")), f"--port={free_port()}")
        done = await home.run(*shlex.split(submit))
        assert done.code == 0, done.out + done.err
        assert "hello from a pod" in done.out
    finally:
        kubectl(kubernetes_cluster, "delete", "namespace", namespace, "--wait=false")


# ---- an agent in the cluster


async def test_an_agent_in_a_pod_uses_its_service_account(
    tenant: Tenant, docker_engine: DockerFacts, registries: RegistryFacts, cluster_image: str
) -> None:
    """This checkout, mounted into a pod: the job is another pod, which reaches the first one."""
    python = f"{registries.address}/tests/python:3"
    engine.docker(docker_engine.host, "tag", docker_engine.base_image, python)
    engine.docker(docker_engine.host, "push", "--quiet", python)
    job = ["--docker-image", cluster_image, "-E", "sh -c 'wget -qO- $WANDB_BASE_URL/healthz'"]
    given = {
        "HOME": "/tmp",
        "LAUNCH_RUNNERS__KUBERNETES__ENABLED": "true",
        "LAUNCH_RUNNERS__KUBERNETES__IN_CLUSTER": "true",
        "LAUNCH_RUNNERS__LOCAL_CONTAINER__ENABLED": "false",
        "LAUNCH_CONTROL__ALSO_LISTEN": "$(POD_IP)",
    }
    address = {"fieldRef": {"fieldPath": "status.podIP"}}
    folders = dict.fromkeys(str(Path(each).resolve()) for each in (ROOT, sys.prefix, BASE))
    container = {
        "name": "agent",
        "image": python,
        "command": [str(BIN / "launch"), "run", *job],
        "env": [
            {"name": "POD_IP", "valueFrom": address},
            *({"name": name, "value": value} for name, value in given.items()),
        ],
        "volumeMounts": [
            {"name": f"v{number}", "mountPath": path, "readOnly": True}
            for number, path in enumerate(folders)
        ],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent"},
        "spec": {
            "serviceAccountName": "launch-agent",
            "restartPolicy": "Never",
            "containers": [container],
            "volumes": [
                {"name": f"v{number}", "hostPath": {"path": path}}
                for number, path in enumerate(folders)
            ],
        },
    }
    here = ("-n", tenant.namespace)
    kubectl(tenant.cluster, *here, "create", "-f", "-", stdin=json.dumps(pod))
    ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated}"
    await asyncio.to_thread(
        kubectl, tenant.cluster, *here, "wait", ended, "pod/agent", "--timeout=170s"
    )
    log = kubectl(tenant.cluster, *here, "logs", "agent")
    code = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"
    assert kubectl(tenant.cluster, *here, "get", "pod", "agent", "-o", code) == "0", log
    assert "ok" in log.splitlines()
    assert "succeeded: exit code 0" in log


async def test_a_queue_s_template_and_its_variables_reach_the_pod_and_the_page(
    home: Home, tenant: Tenant, cluster_image: str
) -> None:
    settings = tenant.settings()
    settings["runners"]["local-container"] = {"enabled": False}
    home.configure(settings)
    await home.start("launch-agent", "--queue", "default")
    limits = {"resources": {"limits": {"memory": "{{memory}}"}}}
    pod = {"containers": [limits], "terminationGracePeriodSeconds": 1}
    template = {"metadata": {"labels": {"team": "red"}}, "spec": {"template": {"spec": pod}}}
    variable = {"memory": {"schema": {"type": "string", "enum": ["32Mi", "48Mi"]}}}
    described = {
        "name": "default",
        "resource": "kubernetes",
        "config": {"resource_args": {"kubernetes": template}},
        "template_variables": variable,
    }
    (home.root / "queue.json").write_text(json.dumps(described))
    await ok(home, "queue", "update", "default", "-f", "queue.json")
    owner = json.loads((home.root / "state" / "embedded.json").read_text())["entity"]
    assert "{{memory}}" in html.unescape(
        await page_of(home, f"queues/{owner}/default?tab=settings")
    )
    flags = ("--docker-image", cluster_image, "-E", "sleep 600", "--json")
    wrong = await home.launch("submit", "-q", "default", *flags, "--set-var", "memory=1Ti")
    assert wrong.code == 2, wrong.out
    assert "memory" in wrong.err
    done = await ok(home, "submit", "-q", "default", *flags, "--set-var", "memory=48Mi")
    item = json.loads(done)["id"]
    here = ("-n", tenant.namespace, "get", "jobs", "-l", "team=red", "-o")
    where = "jsonpath={.items[*].spec.template.spec.containers[0].resources.limits.memory}"
    async with asyncio.timeout(120):
        while kubectl(tenant.cluster, *here, where) != "48Mi":
            await asyncio.sleep(0.2)
    await ok(home, "item", "stop", item)
