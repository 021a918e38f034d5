"""The charts in `helm/`: rendered, refused where values are wrong, and installed for real."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infrastructure import certificates, helm
from tests.infrastructure.errors import ServiceError
from tests.infrastructure.https_git_server import Settings
from tests.infrastructure.process import Daemon, accepts, free_port, run
from tests.infrastructure.state import KubernetesFacts, RegistryFacts

pytestmark = [pytest.mark.kubernetes, pytest.mark.docker, pytest.mark.registry]

ROOT = Path(__file__).parents[2]
AGENT, PLANE = ROOT / "helm/launch-agent", ROOT / "helm/control-plane"
#: The least that an agent needs to know.
LEAST = ("--set=server=http://control-plane:8450", "--set=agent.apiKey=key")
#: Everything that the charts have a switch for.
ALL_OF_AGENT = (
    *LEAST,
    "--set=agent.replicas=2",
    "--set=namespace=jobs",
    "--set-string=customCABundle=authority",
    "--set=rbac.customResources[0].apiGroups={kubeflow.org}",
    "--set=rbac.customResources[0].resources={pytorchjobs}",
)
#: BuildKit with everything beside it, in each of its modes.
BUILDKIT = (
    *LEAST,
    "--set=buildkit.enabled=true,buildkit.persistence.enabled=true",
    "--set=config.builder.destination=registry.example.org/launch",
    "--set-string=customCABundle=authority,buildkit.config=debug = true",
)
MODES = tuple(
    (*BUILDKIT, f"--set=buildkit.mode={mode}")
    for mode in ("user-namespace", "rootless", "privileged")
)
ALL_OF_PLANE = (
    "--set=replicas=2,database.existingSecret=database,signingKeys.existingSecret=keys",
    "--set=objectStore.url=s3://launch/a,objectStore.endpoint=http://s3:9000",
    "--set=objectStore.region=eu-central-1,objectStore.existingSecret=s3",
    "--set=administratorKey.existingSecret=key,serviceAccountName=launch",
    "--set=ingress.enabled=true,ingress.host=launch.example.org,ingress.tlsSecret=tls",
)


class Cluster:
    """kubectl and helm in a namespace of their own."""

    def __init__(self, facts: KubernetesFacts, namespace: str) -> None:
        self.namespace = namespace
        self._facts = facts

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        config = f"--kubeconfig={self._facts.kubeconfig}"
        return run([self._facts.kubectl, config, "-n", self.namespace, *arguments], stdin=stdin)

    def helm(self, *arguments: str | Path) -> str:
        config = f"--kubeconfig={self._facts.kubeconfig}"
        return run([helm.PROGRAM.path(), config, "-n", self.namespace, *arguments])

    def launch(self, *arguments: str) -> str:
        """`launch …` beside the control plane, as its administrator."""
        return self.kubectl("exec", "deployment/control-plane", "--", "launch", *arguments)

    def names(self, kinds: str) -> set[str]:
        """What is in the namespace."""
        return set(self.kubectl("get", kinds, "-o=name").split())


@pytest.fixture
def cluster(kubernetes_cluster: KubernetesFacts) -> Iterator[Cluster]:
    made = Cluster(kubernetes_cluster, f"charts-{uuid.uuid4().hex[:12]}")
    made.kubectl("create", "namespace", made.namespace)
    yield made
    made.kubectl("delete", "namespace", made.namespace, "--wait=false")


def template(chart: Path, *flags: str) -> list[dict[str, Any]]:
    text = run([helm.PROGRAM.path(), "template", "release", chart, "--namespace=release", *flags])
    return [each for each in yaml.safe_load_all(text) if each]


@pytest.mark.parametrize(
    ("chart", "flags"),
    [
        (AGENT, LEAST),
        (AGENT, ALL_OF_AGENT),
        *((AGENT, flags) for flags in MODES),
        (PLANE, ()),
        (PLANE, ALL_OF_PLANE),
    ],
)
def test_the_api_server_takes_what_is_rendered(
    cluster: Cluster, chart: Path, flags: tuple[str, ...]
) -> None:
    run([helm.PROGRAM.path(), "lint", "--strict", chart, *flags])
    manifests = template(chart, *flags)
    for each in manifests:
        each["metadata"]["namespace"] = cluster.namespace
    text = yaml.safe_dump_all(manifests)
    made = cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f=-", stdin=text)
    assert made.count("server dry run") == len(manifests)


@pytest.mark.parametrize(
    ("chart", "flags", "sentence"),
    [
        (AGENT, (), "Set `server` to the address of the control plane"),
        (AGENT, LEAST[:1], "Set `agent.existingSecret`"),
        (AGENT, (*LEAST, "--set=agent.replica=2"), "additional properties 'replica' not allowed"),
        (AGENT, (*LEAST, "--set=agent.replicas=two"), "/agent/replicas"),
        (AGENT, (*LEAST, "--set=agent.replicas=2,persistence.enabled=true"), "must be 1"),
        (AGENT, (*LEAST, "--set-string=launchConfig=a: [b"), "launchConfig is no YAML"),
        (AGENT, (*LEAST, "--set=additionalTargetNamespaces={a}"), "jobs in one namespace"),
        (AGENT, (*LEAST, "--set=buildkit.enabled=true"), "set `config.builder.destination`"),
        (AGENT, (*BUILDKIT, "--set=buildkit.tls.serverSecret=a"), "or none"),
        (AGENT, (*BUILDKIT, "--set=buildkit.mode=rootfull"), "/buildkit/mode"),
        (PLANE, ("--set=replicas=2",), "needs PostgreSQL"),
        (PLANE, ("--set=replicas=2,database.existingSecret=db",), "needs an object store"),
        (PLANE, (*ALL_OF_PLANE, "--set=signingKeys.existingSecret="), "the same signing keys"),
        (PLANE, (*ALL_OF_PLANE, "--set=administratorKey.existingSecret="), "administrator's key"),
        (PLANE, ("--set=objectStore.region=eu",), "begins with s3://"),
        (PLANE, ("--set=objectStore.url=ftp://x",), "/objectStore/url"),
        (PLANE, ("--set=ingress.enabled=true",), "Set `ingress.host`"),
    ],
)
def test_wrong_values_are_refused_with_a_sentence(
    chart: Path, flags: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ServiceError) as refused:
        template(chart, *flags)
    assert sentence in str(refused.value)


def test_values_of_wandbs_chart_mean_the_same() -> None:
    values = {
        "agent": {"apiKey": "secret-key", "image": "example.org/launch:2", "labels": {"team": "a"}},
        "baseUrl": "https://launch.example.org",
        "namespace": "wandb",
        "launchConfig": "entity: research\nqueues: [gpu]\nmax_jobs: 7\n",
        "serviceAccount": {"annotations": {"role": "launcher"}},
    }  # fmt: skip
    flag = f"--set-json={','.join(f'{key}={json.dumps(value)}' for key, value in values.items())}"
    found = template(AGENT, flag)
    by_kind = {each["kind"]: each for each in found}
    config = yaml.safe_load(by_kind["ConfigMap"]["data"]["config.yaml"])
    assert (config["entity"], config["queues"], config["max_jobs"]) == ("research", ["gpu"], 7)
    assert config["server"]["url"] == "https://launch.example.org"
    cluster = {"namespace": "wandb", "code_image": "example.org/launch:2"}
    assert cluster.items() <= config["runners"]["kubernetes"].items()
    pod = by_kind["Deployment"]["spec"]["template"]
    assert pod["metadata"]["labels"]["team"] == "a"
    assert pod["spec"]["containers"][0]["image"] == "example.org/launch:2"
    assert "secret-key" not in json.dumps(by_kind["Deployment"]) + json.dumps(by_kind["ConfigMap"])
    assert by_kind["ServiceAccount"]["metadata"]["annotations"] == {"role": "launcher"}
    namespaces = {each["metadata"]["namespace"] for each in found if each["kind"] == "Role"}
    assert namespaces == {"wandb"}


def test_the_chart_grants_what_the_manifest_for_kubectl_grants() -> None:
    manifests = yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text())
    (wanted,) = (each["rules"] for each in manifests if each["kind"] == "Role")
    (found,) = (each["rules"] for each in template(AGENT, *LEAST) if each["kind"] == "Role")
    assert found == wanted


def test_alerts_and_a_dashboard_are_made_if_wanted() -> None:
    """The test cluster has no operator for them, hence only rendered."""
    wanted = (*LEAST, "--set=alerts.enabled=true")
    made = template(AGENT, *wanted) + template(PLANE, "--set=alerts.enabled=true")
    rules = [
        each["spec"]["groups"][0]["rules"] for each in made if each["kind"] == "PrometheusRule"
    ]
    assert [len(each) for each in rules] == [3, 5]
    for rule in (*rules[0], *rules[1]):
        assert "{{" not in rule["expr"]
        assert rule["annotations"]["summary"]
    for each in template(PLANE, "--set=dashboard.enabled=true"):
        if each["metadata"]["name"].endswith("-dashboard"):
            assert json.loads(each["data"]["launch.json"])["panels"]
            return
    pytest.fail("there is no dashboard")


#: Runs in a pod, beside a container that finds the tests' services on its own loopback.
RELAY = (ROOT / "tests/infrastructure/relay.py").read_text()
#: Of a job that waits for a file, built from a Git repository.
SCRIPT = "echo begins; while [ ! -e /tmp/go ]; do sleep 0.1; done; cat /built\n"


@dataclass(frozen=True)
class Repository:
    """A Git repository with a Dockerfile, behind HTTPS on loopback."""

    url: str
    port: int
    authority: str
    login: dict[str, Any]


@pytest.fixture
def repository(tmp_path: Path, cluster_image: str) -> Iterator[Repository]:
    folder, tree = tmp_path / "git", tmp_path / "tree"
    tree.mkdir()
    (tree / "main.sh").write_text(SCRIPT)
    (tree / "Dockerfile").write_text(
        f"FROM {cluster_image}\nRUN echo 'built in the cluster' > /built\n"
        'COPY main.sh /main.sh\nENTRYPOINT ["sh", "/main.sh"]\n'
    )
    commit = ("-c", "user.name=Tests", "-c", "user.email=tests@localhost", "commit", "--quiet")
    run(["git", "init", "--quiet", "--initial-branch=main"], cwd=tree)
    run(["git", "add", "--all"], cwd=tree)
    run(["git", *commit, "--message=A job"], cwd=tree)
    run(["git", "clone", "--quiet", "--bare", tree, folder / "job.git"])
    server = Settings(
        port=free_port(), repositories=str(folder), certificate=str(folder / "server.pem"),
        key=str(folder / "server.key"), username="launch", password=uuid.uuid4().hex,
        access_log=str(folder / "access.log"),
    )  # fmt: skip
    authority = certificates.make(folder).authority.read_text()
    (folder / "settings.json").write_text(json.dumps(asdict(server)))
    program = ROOT / "tests/infrastructure/https_git_server.py"
    daemon = Daemon("git-of-charts", folder)
    daemon.start([sys.executable, "-P", program, folder / "settings.json"])
    origin = f"https://127.0.0.1:{server.port}/"
    login = {"url": origin, "username": "launch", "password": {"value": server.password}}
    try:
        daemon.wait_ready(lambda: accepts(server.port), 60)
        yield Repository(f"{origin}job.git", server.port, authority, login)
    finally:
        daemon.stop()


@contextmanager
def reachable_from_pods(host: str, *ports: int) -> Iterator[None]:
    """Carry ports of this machine's loopback to the address by which pods reach it."""
    with ExitStack() as stack:
        for port in ports:
            places = (f"tcp:{host}:{port}", f"tcp:127.0.0.1:{port}")
            argv = [sys.executable, "-m", "tests.infrastructure.relay", *places]
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield


def relays(image: str, host: str, *ports: int) -> list[dict[str, Any]]:
    """Containers that bring those ports to the loopback of their pod."""
    return [
        {
            "name": f"relay-{port}",
            "image": image,
            "command": ["/opt/launch-agent/bin/python", "-c", RELAY],
            "args": [f"tcp:127.0.0.1:{port}", f"tcp:{host}:{port}"],
            "securityContext": {"allowPrivilegeEscalation": False, "runAsUser": 10001},
        }
        for port in ports
    ]


@pytest.mark.timeout(900)
def test_both_charts_build_and_run_a_job_through_an_upgrade_and_leave_nothing(
    cluster: Cluster,
    kubernetes_cluster: KubernetesFacts,
    registries: RegistryFacts,
    repository: Repository,
    own_image: str,
    buildkit_image: str,
    tmp_path: Path,
) -> None:
    """A Git job: BuildKit in the cluster builds it, and it runs while the agent is replaced."""
    host, registry = kubernetes_cluster.host_address, int(registries.address.partition(":")[2])
    plane = (f"--set=image={own_image}", "--set=persistence.enabled=false")
    cluster.helm("install", "control-plane", PLANE, *plane, "--wait", "--timeout=5m")
    cluster.helm("test", "control-plane")
    cluster.launch("queue", "create", "default", "--resource", "kubernetes")
    agents, mine = (
        json.loads(cluster.launch("key", "create", *flags, "--json"))["key"]
        for flags in (("agent", "--for-agent", "-q", "default"), ("mine",))
    )
    url = f"http://control-plane.{cluster.namespace}:8450"
    values = {
        "server": url,
        "agent": {
            "image": own_image,
            "apiKey": agents,
            "extraContainers": relays(own_image, host, registry, repository.port),
        },
        "customCABundle": repository.authority,
        "buildkit": {
            "enabled": True,
            "image": buildkit_image,
            "extraContainers": relays(own_image, host, registry),
        },
        "config": {
            "builder": {"destination": f"{registries.address}/tests/{cluster.namespace}"},
            # The tests' services are on loopback, where an agent looks only if it is told to.
            "sources": {
                "private_hosts": ["127.0.0.1"],
                "git": {"credentials": [repository.login], "ca_bundle": "/run/launch/ca/ca.pem"},
            },
        },
    }
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    with reachable_from_pods(host, registry, repository.port):
        cluster.helm("install", "launch-agent", AGENT, "--values", file, "--wait", "--timeout=5m")
        cluster.helm("test", "launch-agent")
        environment = (f"LAUNCH_SERVER={url}", f"LAUNCH_API_KEY={mine}", "HOME=/tmp")
        submit = ("submit", "-q", "default", "-u", repository.url, "-D", "Dockerfile", "--json")
        words = ("env", *environment, "LAUNCH_CONFIG=/etc/launch-agent/config.yaml", "launch")
        item = json.loads(
            cluster.kubectl("exec", "deployment/launch-agent", "--", *words, *submit)
        )["id"]
        cluster.kubectl("wait", "--for=create", "job", "--all", "--timeout=180s")
        cluster.kubectl("wait", "--for=jsonpath={.status.ready}=1", "job", "--all", "--timeout=60s")
        certificate = ("get", "secret", "launch-agent-buildkit-client", "-o=jsonpath={.data}")
        made = cluster.kubectl(*certificate)
        # Another agent takes over while the job runs.
        upgrade = ("upgrade", "launch-agent", AGENT, "--values", file, "--set=agent.maxJobs=7")
        cluster.helm(*upgrade, "--wait", "--timeout=5m")
        assert cluster.kubectl(*certificate) == made
        (job,) = cluster.names("jobs")
        cluster.kubectl("exec", job, "--", "touch", "/tmp/go")
        log = cluster.launch("item", "logs", "--follow", item)
    assert log.splitlines() == ["begins", "built in the cluster"]
    shown = json.loads(cluster.launch("item", "show", item, "--json"))
    assert (shown["phase"], shown["attempt"]) == ("SUCCEEDED", 1), shown
    assert shown["facts"]["image"].startswith(f"{values['config']['builder']['destination']}@")
    assert "buildkitd at tcp://launch-agent-buildkit" in shown["facts"]["image_built_by"]

    cluster.kubectl("wait", "--for=delete", job, "--timeout=120s")
    for release in ("launch-agent", "control-plane"):
        cluster.helm("uninstall", release, "--wait")
    kinds = "deployments,services,secrets,configmaps,serviceaccounts,roles,rolebindings,jobs"
    kinds += ",networkpolicies,poddisruptionbudgets"
    assert cluster.names(kinds) <= {"configmap/kube-root-ca.crt", "serviceaccount/default"}
