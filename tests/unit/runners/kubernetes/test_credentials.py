"""Where the agent finds the cluster and its credentials there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config.execution import KubernetesRunnerConfig
from agent.model.errors import ConfigError
from agent.runners.kubernetes.credentials import Credentials, read_credentials


def kubeconfig(folder: Path, **more: Any) -> Path:
    document = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {"name": "first", "context": {"cluster": "c", "user": "u", "namespace": "one"}},
            {"name": "second", "context": {"cluster": "c", "user": "u"}},
        ],
        "current-context": "first",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document | more))
    return path


async def read(path: Path, **settings: Any) -> Credentials:
    return await read_credentials(KubernetesRunnerConfig(kubeconfig=path, **settings))


async def token(found: Credentials) -> str:
    return str(await found.settings.get_api_key_with_prefix("BearerToken")).lower()


@pytest.mark.parametrize(
    ("settings", "namespace"),
    [
        ({}, "one"),
        ({"context": "second"}, "default"),
        ({"context": "second", "namespace": "own"}, "own"),
        ({"namespace": "own"}, "own"),
    ],
)
async def test_the_namespace_is_the_chosen_context_s(
    tmp_path: Path, settings: dict[str, str], namespace: str
) -> None:
    found = await read(kubeconfig(tmp_path), **settings)
    assert (found.namespace, found.settings.host) == (namespace, "http://127.0.0.1:1")
    assert await token(found) == "bearer t"


async def test_kubeconfig_and_home_name_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path)))
    assert (await read_credentials(KubernetesRunnerConfig())).namespace == "one"
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no kubeconfig at ~/\.kube/config"):
        await read_credentials(KubernetesRunnerConfig())


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        ({}, {"context": "frist"}, "there is no context 'frist' in .*Did you mean `first`"),
        ({"current-context": ""}, {}, "has no current context.*Known: `first`, `second`"),
        ({"current-context": "gone"}, {}, "there is no context 'gone'"),
        ({"clusters": []}, {}, "the credentials cannot be used"),
        ({"contexts": None}, {}, "has no context|there is no context"),
        ({"users": [{"name": "u", "user": {"client-key": "/none"}}]}, {}, None),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_told(
    tmp_path: Path, more: dict[str, Any], settings: dict[str, str], message: str | None
) -> None:
    path = kubeconfig(tmp_path, **more)
    if message is None:
        assert (await read(path, **settings)).settings.host  # TLS alone needs the key
        return
    with pytest.raises(ConfigError) as error:
        await read(path, **settings)
    assert re.search(message, str(error.value).replace("\n", " "))


@pytest.mark.parametrize("text", ["{", "- a list", "3"])
async def test_a_kubeconfig_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"`runners\.kubernetes"):
        await read(path)


@pytest.fixture
def service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a pod has."""
    for name, text in {"token": "first", "ca.crt": "pem", "namespace": "agents"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    return tmp_path


async def test_in_a_pod_its_service_account_counts_and_a_new_token_is_read(
    service_account: Path,
) -> None:
    config = KubernetesRunnerConfig(in_cluster=True)
    found = await read_credentials(config, service_account)
    assert (found.namespace, found.settings.host) == ("agents", "https://[fd00::1]:443")
    assert await token(found) == "bearer first"
    (service_account / "token").write_text("second")
    assert await token(await read_credentials(config, service_account)) == "bearer second"
    elsewhere = KubernetesRunnerConfig(in_cluster=True, namespace="jobs")
    assert (await read_credentials(elsewhere, service_account)).namespace == "jobs"


@pytest.mark.parametrize("absent", ["token", "ca.crt", "namespace"])
async def test_outside_of_a_pod_in_cluster_is_refused(service_account: Path, absent: str) -> None:
    (service_account / absent).unlink()
    with pytest.raises(ConfigError, match=r"`runners\.kubernetes\.in_cluster`"):
        await read_credentials(KubernetesRunnerConfig(in_cluster=True), service_account)
