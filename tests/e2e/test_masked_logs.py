"""What a job or a build prints by accident: no stored log, message or service log has it."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.infrastructure.state import DockerFacts

SECRET = "pa/ss+wörd&more-of-it"
FILE = "line-one-of-a-key\nline-two-of-a-key\n"
#: Prints everything it was given, in every usual way, also in pieces with a pause.
PROGRAM = """\
import base64, json, os, sys, time, urllib.parse
for name in ("OWN_SECRET", "HF_TOKEN", "WANDB_API_KEY"):
    value = os.environ[name]
    print(name, value, [value], json.dumps(value), urllib.parse.quote(value, safe=""))
    for before in ("", "x", "xy"):
        print(base64.b64encode((before + value + "z").encode()).decode())
    print(value.encode().hex())
    sys.stdout.write(value[:9])
    sys.stdout.flush()
    time.sleep(0.3)
    print(value[9:])
print("end of the job")
"""


def settings(tmp_path: Path, **more: Any) -> dict[str, Any]:
    key = tmp_path / "key"
    key.write_text(FILE)
    secrets = {
        "own": {"value": SECRET, "as_env": "OWN_SECRET", "queues": ["*"]},
        "key": {"file": str(key), "as_env": "KEY_FILE", "queues": ["*"]},
    }
    return quick(
        secrets=secrets, builder={"secrets": {"index": {"value": SECRET, "queues": ["*"]}}}, **more
    )


async def stored(home: Home, item: str) -> str:
    """Everything that the control plane shows about an item."""
    logs = [
        (await home.launch("item", "logs", item, "--channel", channel)).out
        for channel in ("job", "setup")
    ]
    shown = (await home.launch("item", "show", item, "--json")).json()
    shown.pop("runSpec")
    return "\n".join([*logs, json.dumps(shown, ensure_ascii=False)])


@pytest.mark.parametrize(
    "resource", ["local-process", pytest.param("local-container", marks=pytest.mark.docker)]
)
async def test_what_a_job_prints_of_its_secrets_is_not_stored(
    home: Home, tmp_path: Path, resource: str
) -> None:
    more = {"runners": {"local-container": {"enabled": False}}}
    home.configure(settings(tmp_path, **(more if resource == "local-process" else {})))
    daemon = await home.start("launch-agent", "--queue", "default")
    arguments = {resource: {"secrets": ["own"], "env": ["HF_TOKEN=hf-of-the-queue"]}}
    template = json.dumps({"resource_args": arguments})
    made = await home.launch("queue", "update", "default", "-r", resource, "--config", template)
    assert made.code == 0, made.err
    code = tmp_path / "code"
    code.mkdir()
    (code / "main.py").write_text(PROGRAM)
    done = await home.launch(
        *("submit", "-q", "default", "-u", str(code), "-E", "python main.py", "--wait", "--json")
    )
    assert done.code == 0, done.err
    item = done.json()["id"]
    log = (await home.launch("item", "logs", item)).out
    assert log.endswith("end of the job\n")
    # Three values, each written ten times and in pieces.
    assert log.count("******") >= 27
    everything = await stored(home, item) + daemon.output()
    for value in (SECRET, "pa%2Fss", SECRET.encode().hex(), "hf-of-the-queue", "launchrun-A"):
        assert value not in everything
    assert not [word for word in log.split() if word.startswith("launchrun-") and "*" not in word]


@pytest.mark.docker
async def test_what_a_build_prints_of_its_secrets_is_not_stored(
    home: Home, tmp_path: Path, docker_engine: DockerFacts
) -> None:
    home.configure(settings(tmp_path))
    await home.start("launch-agent", "--queue", "default")
    code = tmp_path / "code"
    code.mkdir()
    (code / "Dockerfile").write_text(
        f"FROM {docker_engine.shell_image}\n"
        "RUN --mount=type=secret,id=index cd /run/secrets; cat index; base64 index; exit 3\n"
    )
    flags = ("-u", str(code), "-D", "Dockerfile", "-E", shlex.join(["sh", "-c", "true"]))
    done = await home.launch("submit", "-q", "default", *flags, "--wait", "--json")
    item = (await home.launch("item", "list", "--json")).json()[0]
    assert item["phase"] in {"ERRORED", "REFUSED", "FAILED"}, done.err
    everything = await stored(home, item["id"])
    assert SECRET not in everything
    assert "cGEvc3M" not in everything
