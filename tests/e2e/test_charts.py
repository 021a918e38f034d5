"""The charts in `helm/`: rendered, refused where values are wrong, and installed for real."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infrastructure import engine, helm
from tests.infrastructure.errors import ServiceError
from tests.infrastructure.process import run
from tests.infrastructure.state import DockerFacts, KubernetesFacts, RegistryFacts

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
ALL_OF_PLANE = (
    "--set=replicas=2,persistence.accessModes={ReadWriteMany}",
    "--set=database.existingSecret=database,signingKeys.existingSecret=keys",
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
    [(AGENT, LEAST), (AGENT, ALL_OF_AGENT), (PLANE, ()), (PLANE, ALL_OF_PLANE)],
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
        (PLANE, ("--set=replicas=2",), "needs PostgreSQL"),
        (PLANE, ("--set=replicas=2,database.existingSecret=db",), "ReadWriteMany"),
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
    assert config["runners"]["kubernetes"]["namespace"] == "wandb"
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


@pytest.fixture(scope="module")
def own_image(docker_engine: DockerFacts, registries: RegistryFacts) -> str:
    """This tree's image, where pods pull from."""
    name = f"{registries.address}/tests/launch-agent:{uuid.uuid4().hex[:12]}"
    build = ("build", "--quiet", "--file", str(ROOT / "deploy/Dockerfile"), "--tag", name)
    engine.docker(docker_engine.host, *build, str(ROOT))
    engine.docker(docker_engine.host, "push", "--quiet", name)
    engine.docker(docker_engine.host, "image", "rm", name)
    return name


@pytest.mark.timeout(900)
def test_both_charts_run_a_job_through_an_upgrade_and_leave_nothing(
    cluster: Cluster, own_image: str, cluster_image: str, tmp_path: Path
) -> None:
    plane = (f"--set=image={own_image}", "--set=persistence.enabled=false")
    cluster.helm("install", "control-plane", PLANE, *plane, "--wait", "--timeout=5m")
    cluster.helm("test", "control-plane")
    cluster.launch("queue", "create", "default", "--resource", "kubernetes")
    made = json.loads(
        cluster.launch("key", "create", "agent", "--for-agent", "-q", "default", "--json")
    )
    values = tmp_path / "values.yaml"
    url = f"http://control-plane.{cluster.namespace}:8450"
    values.write_text(
        yaml.safe_dump(
            {
                "server": url,
                "agent": {"image": own_image, "apiKey": made["key"]},
                # The tests' registry is on loopback, where an agent looks only if it is told to.
                "config": {"sources": {"private_hosts": ["127.0.0.1"]}},
            }
        )
    )
    cluster.helm("install", "launch-agent", AGENT, "--values", values, "--wait", "--timeout=5m")
    cluster.helm("test", "launch-agent")

    script = "echo begins; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo ends"
    config = json.dumps({"overrides": {"entry_point": ["sh", "-c", script]}})
    submit = ("submit", "--queue", "default", "--docker-image", cluster_image, "--json")
    item = json.loads(cluster.launch(*submit, "--config", config))["id"]
    cluster.kubectl("wait", "--for=create", "job", "--all", "--timeout=120s")
    cluster.kubectl("wait", "--for=jsonpath={.status.ready}=1", "job", "--all", "--timeout=120s")
    # Another agent takes over while the job runs.
    upgrade = ("upgrade", "launch-agent", AGENT, "--values", values, "--set=agent.maxJobs=7")
    cluster.helm(*upgrade, "--wait", "--timeout=5m")
    (job,) = cluster.names("jobs")
    cluster.kubectl("exec", job, "--", "touch", "/tmp/go")
    assert cluster.launch("item", "logs", "--follow", item).splitlines() == ["begins", "ends"]
    shown = json.loads(cluster.launch("item", "show", item, "--json"))
    assert (shown["phase"], shown["attempt"]) == ("SUCCEEDED", 1), shown

    cluster.kubectl("wait", "--for=delete", job, "--timeout=120s")
    for release in ("launch-agent", "control-plane"):
        cluster.helm("uninstall", release, "--wait")
    kinds = "deployments,services,secrets,configmaps,serviceaccounts,roles,rolebindings,jobs"
    assert cluster.names(kinds) <= {"configmap/kube-root-ca.crt", "serviceaccount/default"}
