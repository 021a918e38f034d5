"""`launch job`: what is printed, what is refused, what the far end has afterwards."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.unit.cli.authoring.conftest import Cli
from tests.unit.jobs.plane import Plane


async def test_creating_says_created_updated_no_changes(cli: Cli, folder: Path, far: Plane) -> None:
    command = (
        *("job", "create", "--project", "p", "-e", "team", "--name", "n", "-a", "best"),
        *("code", str(folder), "-E", "python main.py", "--runtime", "3.11"),
    )
    said = await cli(*command)
    assert (said.code, said.out.splitlines()[0]) == (
        0,
        "Created job: team/p/n:v0, with aliases best, latest",
    )
    assert f"{far.url}/team/p/jobs" in said.out
    again = await cli(*command)
    assert again.out.startswith("No changes detected for job: team/p/n:v0")
    (folder / "main.py").write_text("print(2)\n")
    assert (await cli(*command)).out.startswith("Updated job: team/p/n:v1")


async def test_a_directory_says_why_it_became_a_code_job(cli: Cli, folder: Path) -> None:
    said = await cli("job", "create", "-p", "p", "--source", "git", "code", str(folder))
    assert said.code == 0
    assert "becomes a code job, not a Git job: it is no checkout" in said.err
    assert "`main.py` is run" in said.err


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("code", "."), "No project is given"),
    (("-p", "p", "image", "a/b:1", "-B", "base:1"), "--base-image is for Git and code jobs"),
    (("-p", "p", "git", "./somewhere"), "is not the URL of a git repository"),
    (("-p", "p", "git", "ftp://host/r"), "`ftp` is not a protocol"),
    (("-p", "p", "code", "./nowhere"), "neither a directory nor a file"),
    (("-p", "p", "-n", "a/b", "code", "."), "Did you mean `a_b`?"),
    (("-p", "p", "-r", "py3", "code", "."), "--runtime: 'py3'"),
    (("-p", "p", "-s", "proxy", "code", "."), "NAME=POLICY"),
    (("-p", "p", "-s", "=never", "code", "."), "NAME=POLICY"),
    (("-p", "p", "-s", "a=b", "code", "."), "'b' is not a policy"),
    (("-p", "p", "--schema", "none.json", "code", "."), "--schema: there is no file"),
    (("-p", "p", "--schema", "{bad", "code", "."), "--schema:1: not valid JSON"),
    (("-p", "p", "--schema", '{"type": 3}', "code", "."), "--schema: it is not a JSON schema"),
    (("-p", "p", "-g", "main", "code", "."), "--git-hash belongs to Git jobs"),
    (("-p", "p", "--lfs", "code", "."), "--lfs belongs to Git jobs"),
    (("-p", "p", "--no-submodules", "image", "a/b:1"), "--submodules belongs to Git jobs"),
    (("-p", "p", "zip", "."), "'zip' is not one of"),
    (("-p", "p", "code", ""), "The path is empty, which would mean the current directory"),
    (("-p", "p", "code", "/dev/null"), "'/dev/null' is a device, pipe or socket"),
    (("-p", "p", "--source", "git", "image", "a/b:1"), "--source says what a directory becomes"),
    (("-p", "p", "--source", "code", "git", "https://h/r"), "--source says what a directory"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED)
async def test_wrong_input_ends_with_code_2_and_its_name(
    cli: Cli,
    far: Plane,
    folder: Path,
    flags: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    said = await cli("job", "create", *flags)
    assert said.code == 2, said.err
    assert message in " ".join(said.err.split())
    assert far.versions == []


async def test_jobs_are_listed_with_versions_and_aliases(cli: Cli, folder: Path) -> None:
    assert (await cli("job", "list", "-p", "p")).out == "No jobs found\n"
    await cli("job", "create", "-p", "p", "-n", "one", "-a", "best", "code", str(folder))
    await cli("job", "create", "-p", "p", "image", "org/app:7")
    listed = (await cli("job", "list", "-p", "p", "-e", "team")).out
    assert "one" in listed
    assert "best" in listed
    assert "job-org_app" in listed
    raw = json.loads((await cli("job", "list", "-p", "p", "--json")).out)
    assert [each["name"] for each in raw] == ["job-org_app", "one"]


async def test_a_job_is_described_key_by_key(cli: Cli, folder: Path) -> None:
    await cli("job", "create", "-p", "p", "-n", "one", "-d", "words", "code", str(folder))
    said = await cli("job", "describe", "team/p/one:latest")
    assert said.code == 0, said.err
    shown = dict(line.split(None, 1) for line in said.out.splitlines())
    assert shown["job"] == "team/p/one:v0"
    assert shown["source_type"] == "artifact"
    assert "wandb-artifact://_id/" in shown["source"]
    assert "_version" not in shown
    missing = await cli("job", "describe", "team/p/oen")
    assert (missing.code, "`one`" in missing.err) == (1, True)


async def test_uncommitted_changes_are_described(
    cli: Cli,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path_factory.mktemp("config") / "config.yaml"
    config.write_text("sources: {git: {protocols: [https, ssh, file]}}\n")
    monkeypatch.setenv("LAUNCH_CONFIG", str(config))
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    origin = config.with_name("origin.git")
    for words in (
        ["init", "--quiet", "--initial-branch=main"], ["add", "--all"],
        ["commit", "--quiet", "--message=one"], ["clone", "--quiet", "--bare", ".", str(origin)],
        ["remote", "add", "origin", f"file://{origin}"],
    ):  # fmt: skip
        subprocess.run([*git, *words], check=True, capture_output=True)
    (folder / "main.py").write_text("print('changed')\n")
    flags = ("-p", "p", "-n", "one", "--source", "git", "--diff", "-E", "python main.py")
    made = await cli("job", "create", *flags, "code", str(folder))
    assert made.code == 0, made.err
    said = await cli("job", "describe", "team/p/one:latest")
    assert "uncommitted changes" in said.out
    assert "+print('changed')" in said.out
    raw = json.loads((await cli("job", "describe", "team/p/one:latest", "--json")).out)
    assert raw["diff"].startswith("diff --git a/main.py b/main.py")


async def test_aliases_move_between_versions_and_go(cli: Cli, folder: Path, far: Plane) -> None:
    await cli("job", "create", "-p", "p", "-n", "one", "code", str(folder))
    (folder / "main.py").write_text("print(2)\n")
    await cli("job", "create", "-p", "p", "-n", "one", "code", str(folder))
    await cli("job", "alias", "team/p/one:v0", "best")
    moved = await cli("job", "alias", "team/p/one:v1", "best", "newest")
    assert moved.out == "team/p/one:v1 has `best`, `newest`\n"
    assert [each.aliases for each in far.committed("one")] == [[], ["latest", "best", "newest"]]
    gone = await cli("job", "alias", "--remove", "team/p/one:v1", "newest")
    assert gone.code == 0, gone.err
    refused = await cli("job", "alias", "--remove", "team/p/one:v1", "bset")
    assert (refused.code, "`best`" in refused.err) == (1, True)
    version = await cli("job", "alias", "team/p/one:v1", "v7")
    assert (version.code, "name of a version" in version.err) == (2, True)
    listed = (await cli("job", "versions", "team/p/one")).out.splitlines()
    assert [line.split()[0] for line in listed[1:]] == ["v1", "v0"]


async def test_a_version_and_a_whole_job_are_deleted(cli: Cli, folder: Path, far: Plane) -> None:
    await cli("job", "create", "-p", "p", "-n", "one", "code", str(folder))
    (folder / "main.py").write_text("print(2)\n")
    await cli("job", "create", "-p", "p", "-n", "one", "code", str(folder))
    unclear = await cli("job", "delete", "team/p/one")
    assert (unclear.code, "names no version" in unclear.err) == (2, True)
    assert (await cli("job", "delete", "team/p/one:v1")).out == "Deleted team/p/one:v1\n"
    await cli("job", "alias", "team/p/one:v0", "best")
    assert len(far.committed("one")) == 1
    told = await cli("job", "delete", "team/p/one", "--all-versions")
    assert (told.code, told.out) == (0, "Deleted team/p/one:v0, and with it `best`\n")
    assert far.committed("one") == []
    gone = await cli("job", "versions", "team/p/one")
    assert (gone.code, "no job `one`" in gone.err) == (1, True)
