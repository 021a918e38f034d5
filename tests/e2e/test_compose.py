"""deploy/compose.yaml: what Compose makes of it, and what our processes make of that."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from agent.config.load import load
from tests.infrastructure.errors import ServiceError
from tests.infrastructure.process import run

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/compose.yaml"
SECRETS = {
    "LAUNCH_DATABASE_PASSWORD": "p" * 48,
    "LAUNCH_ADMINISTRATOR_KEY": "launch-" + "k" * 40,
    "DOCKER_GROUP": "998",
}


def rendered(tmp_path: Path, **variables: str) -> dict[str, Any]:
    file = tmp_path / "env"
    file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    words = ["docker", "compose", "--file", FILE, "--env-file", file, "config", "--format=json"]
    kept = {name: "" for name in os.environ if name.startswith("LAUNCH_")}
    found: dict[str, Any] = json.loads(run(words, env=kept))
    return dict(found["services"])


def test_server_and_agent_read_what_the_file_gives_them(tmp_path: Path) -> None:
    services = rendered(tmp_path, **SECRETS)
    assert set(services) == {"postgres", "control-plane", "agent-folder", "agent"}
    plane = services["control-plane"]
    control = load({"HOME": str(tmp_path), **plane["environment"]}).config.control
    assert control.database_url is not None
    assert (
        control.database_url.get_secret_value() == f"postgresql://launch:{'p' * 48}@postgres/launch"
    )
    assert control.administrator_key is not None
    assert control.allowed_hosts == ("control-plane",)
    (port,) = plane["ports"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "8450", 8450)

    agent = services["agent"]
    config = load({"HOME": str(tmp_path), **agent["environment"]}).config
    assert config.runners.local_container.network == "launch"
    # The engine mounts files of jobs from the agent's folder: the same path inside and outside.
    folders = {each["source"]: each["target"] for each in agent["volumes"]}
    assert folders[str(config.state_dir)] == str(config.state_dir)
    assert agent["environment"]["LAUNCH_API_KEY"] == SECRETS["LAUNCH_ADMINISTRATOR_KEY"]
    assert agent["group_add"] == ["998"]
    for service in (plane, agent):
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


def test_an_agent_may_have_a_key_of_its_own(tmp_path: Path) -> None:
    services = rendered(tmp_path, **SECRETS, LAUNCH_AGENT_KEY="launch-agent-key")
    assert services["agent"]["environment"]["LAUNCH_API_KEY"] == "launch-agent-key"


@pytest.mark.parametrize("missing", SECRETS)
def test_a_missing_secret_is_named(tmp_path: Path, missing: str) -> None:
    given = {name: value for name, value in SECRETS.items() if name != missing}
    with pytest.raises(
        ServiceError, match=rf"{missing} is missing a value: see docs/operations\.md"
    ):
        rendered(tmp_path, **given)


def test_the_documented_commands_name_what_the_file_has() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    for name in SECRETS:
        assert f"{name}=" in text
    documented = set(re.findall(r"`(?:LAUNCH|DOCKER|POSTGRES)_[A-Z_]+`", text))
    for variable in re.findall(r"\$\{([A-Z_]+):-", FILE.read_text()):
        assert f"`{variable}`" in documented
