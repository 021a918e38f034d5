"""The Job of one build: what each mode asks the cluster for, and what configuration adds."""

from typing import Any

import pytest

from agent.config.execution import BuildPodConfig
from agent.runners.kubernetes.build_pod_manifest import Mode, job_of, merged, secret_of


def pod(mode: Mode, spec: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    facts = {"platform": None, "pull_secrets": (), "lifetime": 60.0, **given}
    config = BuildPodConfig(image="full", rootless_image="rootless", spec=spec or {})
    found: dict[str, Any] = job_of("b", mode, config, **facts)["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize(
    ("mode", "image", "privileged", "host_users"),
    [
        ("user-namespace", "full", True, False),
        ("rootless", "rootless", None, None),
        ("privileged", "full", True, None),
    ],
)
def test_a_mode_asks_for_no_more_than_it_needs(
    mode: Mode, image: str, privileged: bool | None, host_users: bool | None
) -> None:
    found = pod(mode)
    (container,) = found["containers"]
    assert container["image"] == image
    assert container["securityContext"].get("privileged") == privileged
    assert found.get("hostUsers") == host_users
    assert ("--oci-worker-no-process-sandbox" in container["args"]) == (mode == "rootless")
    assert found["automountServiceAccountToken"] is False


def test_configuration_is_merged_by_name() -> None:
    limits = {"limits": {"memory": "8Gi"}}
    found = pod(
        "privileged",
        {
            "nodeSelector": {"pool": "builds"},
            "containers": [{"name": "buildkitd", "resources": limits}, {"name": "proxy"}],
            "volumes": [{"name": "layers", "emptyDir": {"sizeLimit": "50Gi"}}],
        },
        platform="linux/arm64",
        pull_secrets=("login",),
    )
    daemon, proxy = found["containers"]
    assert (daemon["image"], daemon["resources"], proxy) == ("full", limits, {"name": "proxy"})
    assert found["nodeSelector"] == {
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "arm64",
        "pool": "builds",
    }
    assert found["volumes"][1] == {"name": "layers", "emptyDir": {"sizeLimit": "50Gi"}}
    assert found["volumes"][0]["secret"]["secretName"] == "b"
    assert found["imagePullSecrets"] == [{"name": "login"}]


def test_lists_without_names_are_replaced() -> None:
    assert merged({"args": ["a"], "x": 1}, {"args": ["b"]}) == {"args": ["b"], "x": 1}


def test_authorities_are_trusted_besides_the_usual() -> None:
    environment = pod("privileged", authorities=True)["containers"][0]["env"]
    assert environment[0]["value"].startswith("/etc/ssl/certs:")
    assert pod("privileged")["containers"][0]["env"] == []


def test_the_secret_goes_with_the_job() -> None:
    made = secret_of({"metadata": {"name": "b", "uid": "u"}}, {"ca.pem": b"x"})
    (owner,) = made["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], made["data"]) == ("Job", "u", {"ca.pem": "eA=="})
