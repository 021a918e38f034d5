"""The program that fetches code in a pod, against a control plane, with a run's own token."""

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.compose.fetch_code import fetch_code, main
from agent.model.errors import LaunchError
from agent.model.work import CodeVersion
from agent.remote.client import Endpoint
from agent.remote.retry_policy import RetryPolicy
from agent.sources.artifact import digest_of
from tests.infrastructure.artifacts import ArtifactShelf
from tests.integration.control_wire.agents import submitted_and_claimed
from tests.integration.control_wire.uploading import PLACE, Upload
from tests.integration.control_wire.wire import Wire

FILES = {"main.sh": b"echo hello\n", "jobs/a.sh": b"echo a\n", ".git/config": b"secret"}
#: In another project than the run.
SOURCE_PLACE = {**PLACE, "projectName": "sources"}
QUICK = RetryPolicy(total=0.5, first_wait=0.01)


def pinned(name: str, files: dict[str, bytes]) -> CodeVersion:
    """As the agent knows the version."""
    found = ArtifactShelf().put(name, files)
    return CodeVersion(f"ann/sources/{name}:v0", digest_of(found))


async def token_for(wire: Wire, artifact_id: str) -> dict[str, Any]:
    """The claim of a run whose code that is."""
    source = {"type": "artifact", "artifact": f"wandb-artifact://_id/{artifact_id}"}
    spec = {"source": source, "project": "demo", "overrides": {"entry_point": ["sh", "main.sh"]}}
    _, claim = await submitted_and_claimed(wire.ann, spec)
    return claim


async def stored(wire: Wire, name: str, files: dict[str, bytes]) -> Upload:
    return await Upload(wire.ann, name, files, place=dict(SOURCE_PLACE)).whole()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (".", {"home/src/main.sh": b"echo hello\n", "home/src/jobs/a.sh": b"echo a\n"}),
        ("jobs", {"home/src/a.sh": b"echo a\n"}),
    ],
)
async def test_the_run_gets_its_code_and_nothing_else_is_left(
    wire: Wire, tmp_path: Path, context: str, expected: dict[str, bytes]
) -> None:
    code = await stored(wire, "code", FILES)
    claim = await token_for(wire, code.id)
    endpoint = Endpoint(wire.server.url, claim["runToken"])
    target = tmp_path / "volume"
    for _ in range(2):  # an interrupted fetch begins anew
        await fetch_code(endpoint, pinned("code", FILES), context, target, QUICK)
        assert contents(target) == expected
    assert {each.name for each in target.iterdir()} == {"home"}


async def refused(endpoint: Endpoint, version: CodeVersion, target: Path) -> str:
    with pytest.raises(LaunchError) as caught:
        await fetch_code(endpoint, version, ".", target, QUICK)
    assert not (target / "home").exists()
    return caught.value.message


async def test_what_is_not_the_pinned_version_does_not_run(wire: Wire, tmp_path: Path) -> None:
    code, other = await stored(wire, "code", FILES), await stored(wire, "other", FILES)
    endpoint = Endpoint(wire.server.url, (await token_for(wire, code.id))["runToken"])
    version = pinned("code", FILES)
    changed = pinned("code", FILES | {"main.sh": b"echo other\n"})
    told = await refused(endpoint, changed, tmp_path / "a")
    assert told == "ann/sources/code:v0 is not the version that the agent has read."
    # The token reads its own code only.
    assert other.id
    told = await refused(endpoint, replace(version, reference="ann/sources/other:v0"), tmp_path)
    assert "'sources'" in told
    told = await refused(replace(endpoint, api_key="launchrun-" + "x" * 40), version, tmp_path)
    assert told


async def test_the_program_says_what_is_wrong_in_one_line(wire: Wire, tmp_path: Path) -> None:
    code = await stored(wire, "code", FILES)
    claim = await token_for(wire, code.id)
    environment = {"WANDB_BASE_URL": wire.server.url, "WANDB_API_KEY": claim["runToken"]}
    version = pinned("code", FILES)
    arguments = [version.reference, version.digest, ".", str(tmp_path / "volume")]
    assert await asyncio.to_thread(main, arguments, environment) is None
    assert (tmp_path / "volume/home/src/main.sh").read_bytes() == b"echo hello\n"
    shutil.rmtree(tmp_path / "volume")
    (tmp_path / "volume").write_text("no folder")
    for given, variables in (
        (arguments, environment),
        ([*arguments, "more"], environment),
        (arguments, {}),
        (["no reference", *arguments[1:]], environment),
    ):
        told = await asyncio.to_thread(main, given, variables)
        assert told
        assert "\n" not in told
