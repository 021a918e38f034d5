"""Jobs of all three kinds over W&B's operations: names, files, versions, refusals."""

import json
import os
import platform
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.cli.job import services_from
from agent.jobs.create import CreatedJob, JobStore, create_job
from agent.jobs.request import JobKind, JobRequest
from agent.model.errors import AlreadyExistsError, InvalidInputError, UnreachableError
from tests.unit.jobs.plane import Plane, Version

CURRENT = ".".join(platform.python_version_tuple()[:2])


def wanted(kind: JobKind, path: object, **more: Any) -> JobRequest:
    return JobRequest(kind=kind, path=str(path), entity="team", project="demo", **more)


def code(folder: Path, **files: str) -> Path:
    for name, text in {"main.py": "print('hello')\n", **files}.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def stored(far: Plane, collection: str) -> tuple[Version, dict[str, bytes], dict[str, Any]]:
    version = far.committed(collection)[-1]
    files = far.files(version)
    return version, files, json.loads(files["wandb-job.json"])


# ---- code


async def test_a_directory_becomes_a_code_artifact_and_a_job(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    code(tmp_path, **{"requirements.txt": "wandb\nnumpy\n", "src__x.py": "x = 1\n"})
    made = await create_job(
        store, wanted("code", tmp_path, name="train", entry_point="python main.py --lr 1")
    )
    assert (str(made.reference), made.action) == ("team/demo/train:v0", "Created")
    assert made.aliases == ("latest",)
    source = far.committed("code-train")[0]
    assert far.files(source) == {
        "main.py": b"print('hello')\n",
        "requirements.txt": b"wandb\nnumpy\n",
        "src/x.py": b"x = 1\n",
    }
    version, files, job = stored(far, "train")
    assert version.metadata == '{"_partial": true}'
    assert files["requirements.frozen.txt"] == b"wandb\nnumpy"
    assert job["source"] == {
        "entrypoint": ["python", "main.py", "--lr", "1"],
        "notebook": False,
        "artifact": f"wandb-artifact://_id/{source.id}",
    }
    assert (job["_version"], job["runtime"]) == ("v0", CURRENT)


async def test_a_file_is_the_entry_point_and_its_directory_the_source(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    code(tmp_path, **{"code.py": "", "run.sh": ""})
    made = await create_job(store, wanted("code", tmp_path / "code.py", name="n"))
    assert stored(far, "n")[2]["source"]["entrypoint"] == ["python", "code.py"]
    assert "main.py" in far.files(far.committed("code-n")[0])
    assert made.reference.name == "n"


async def test_nothing_changed_sends_nothing_and_says_so(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    asked = wanted("code", code(tmp_path), name="same", entry_point="python main.py")
    await create_job(store, asked)
    far.puts.clear()
    again = await create_job(store, asked)
    assert (again.action, str(again.reference)) == (
        "No changes detected for",
        "team/demo/same:v0",
    )
    assert (far.puts, again.sent_files) == ([], 0)


async def test_a_change_makes_a_version_and_sends_only_what_changed(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    asked = wanted("code", code(tmp_path, big="x" * 100), name="n", entry_point="python main.py")
    await create_job(store, asked)
    far.puts.clear()
    (tmp_path / "main.py").write_text("print('changed')\n")
    made = await create_job(store, asked)
    assert (made.action, made.reference.alias) == ("Updated", "v1")
    assert "big" not in far.puts
    assert "main.py" in far.puts
    assert [each.aliases for each in far.committed("n")] == [[], ["latest"]]


async def test_left_out_is_what_is_no_code(store: JobStore, far: Plane, tmp_path: Path) -> None:
    files = {"wandb__run": "", ".git__HEAD": "", "__pycache__/m.pyc": "", "sub__wandb__kept": ""}
    code(tmp_path, **{key.replace("__pycache__/", "cache/"): text for key, text in files.items()})
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "m.pyc").write_text("")
    await create_job(store, wanted("code", tmp_path, name="n"))
    assert set(far.files(far.committed("code-n")[0])) == {
        "main.py",
        "cache/m.pyc",
        "sub/wandb/kept",
    }


async def test_what_looks_like_a_secret_is_left_out_and_named(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    code(tmp_path, **{".env": "A=1", "sub__id_rsa": "k", "sub__.netrc": "n", ".dockerignore": "x"})
    (tmp_path / "link").symlink_to("sub/.netrc")
    made = await create_job(store, wanted("code", tmp_path, name="n"))
    assert set(far.files(far.committed("code-n")[-1])) == {"main.py", ".dockerignore"}
    assert made.remarks[-1] == (
        "Not stored because they look like secrets: .env, link, sub/.netrc, sub/id_rsa; "
        "to include one, add `!.env` to .dockerignore."
    )
    (tmp_path / ".dockerignore").write_text("!.env\n!**/id_rsa\n")
    made = await create_job(store, wanted("code", tmp_path, name="n"))
    kept = {"main.py", ".dockerignore", ".env", "sub/id_rsa"}
    assert set(far.files(far.committed("code-n")[-1])) == kept
    assert "secrets: link, sub/.netrc; to include one, add `!sub/.netrc` to" in made.remarks[-1]


async def test_secrets_are_included_by_the_rules_of_the_build_context(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    code(tmp_path, **{"sub__main.py": "", "sub__.env": "A=1", ".env": "B=2"})
    asked = wanted("code", tmp_path, name="n", build_context="sub")
    made = await create_job(store, asked)
    assert ".env, sub/.env; to include one, add `!.env` to .dockerignore" in made.remarks[-1]
    (tmp_path / "sub/.dockerignore").write_text("!.env\n")
    made = await create_job(store, asked)
    kept = {"main.py", "sub/main.py", "sub/.env", "sub/.dockerignore"}
    assert set(far.files(far.committed("code-n")[-1])) == kept
    assert made.remarks[-1] == "Not stored because they look like secrets: .env."


async def test_the_key_stays_with_the_server_and_signed_headers_go_along(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    await create_job(store, wanted("code", code(tmp_path), name="n"))
    assert all("Authorization" not in headers for headers in far.put_headers)
    assert any("Content-MD5" in headers for headers in far.put_headers)


@pytest.mark.parametrize("features", [[], ["LAUNCH_LEASES"]])
async def test_foreign_servers_get_a_hidden_run_that_goes_again(
    store: JobStore, far: Plane, tmp_path: Path, features: list[str]
) -> None:
    far.features = features
    await create_job(store, wanted("code", code(tmp_path), name="n"))
    hidden = [name for name in far.operations() if name in {"UpsertBucket", "DeleteRun"}]
    assert hidden == ([] if features else ["UpsertBucket", "DeleteRun"])


async def test_very_many_files_are_announced_in_parts_and_progress_is_told(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    for number in range(1200):
        (tmp_path / f"{number}.txt").write_text(str(number))
    told: list[tuple[int, int]] = []
    asked = wanted("code", code(tmp_path), name="n")
    await create_job(store, asked, progress=lambda done, total: told.append((done, total)))
    code_told = told[:-1]  # the last word is of the job itself
    assert code_told[-1] == (1201, 1201)
    assert sorted(code_told) == code_told
    assert len(code_told) == 5
    assert len(far.files(far.committed("code-n")[0])) == 1201


async def test_a_cut_upload_is_repeated(store: JobStore, far: Plane, tmp_path: Path) -> None:
    far.cuts["main.py"] = 2
    made = await create_job(store, wanted("code", code(tmp_path), name="n"))
    assert made.action == "Created"
    assert far.puts.count("main.py") == 3


async def test_a_connection_that_stays_cut_leaves_no_version_and_the_next_try_goes_on(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    far.cuts["main.py"] = 99
    asked = wanted("code", code(tmp_path, other="x"), name="n")
    with pytest.raises(UnreachableError, match=r"'main\.py' could not be transferred.*again"):
        await create_job(store, asked)
    assert far.committed("code-n") == far.committed("n") == []
    far.cuts.clear()
    far.puts.clear()
    made = await create_job(store, asked)
    assert made.action == "Created"
    assert "other" not in far.puts


# ---- versions' extras


async def test_schema_services_aliases_and_description_are_stored(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    schema = {"type": "object", "properties": {"lr": {"type": "number"}}}
    asked = wanted(
        "code", code(tmp_path), name="n", schema=schema, aliases=("stable",),
        services=services_from(("proxy=never", "proxy=always")), description="words",
    )  # fmt: skip
    made = await create_job(store, asked)
    version, _, job = stored(far, "n")
    assert json.loads(version.metadata) == {"input_schemas": {"@wandb.config": schema}}
    assert job["services"] == {"proxy": "always"}
    assert (made.aliases, version.description) == (("stable", "latest"), "words")


async def test_a_build_context_is_where_files_are_looked_for_first(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    files = {
        "jobs__a__job.py": "",
        "jobs__a__runtime.txt": "python-3.10.4\n",
        "jobs__a__requirements.txt": "below\n",
        "requirements.txt": "root\n",
        "runtime.txt": "3.9\n",
    }
    code(tmp_path, **files)
    asked = wanted("code", tmp_path, name="n", build_context="jobs/a", entry_point="python job.py")
    made = await create_job(store, asked)
    _, stored_files, job = stored(far, "n")
    assert (job["runtime"], job["_version"]) == ("3.10", "0.17.0")
    assert stored_files["requirements.frozen.txt"] == b"below"
    assert any("jobs/a/runtime.txt, line 1" in each for each in made.remarks)


# ---- images


async def test_an_image_gives_its_name_and_its_tag(store: JobStore, far: Plane) -> None:
    made = await create_job(store, wanted("image", "host.example:5000/Team/app:1.2".lower()))
    assert str(made.reference) == "team/demo/job-host.example_5000_team_app:v0"
    assert made.aliases == ("1.2", "latest")
    _, files, job = stored(far, made.reference.name)
    assert job["source"] == {"image": "host.example:5000/team/app:1.2"}
    assert (job["runtime"], files["requirements.frozen.txt"]) == ("", b"")


async def test_what_an_image_brings_itself_is_ignored_aloud(store: JobStore) -> None:
    made = await create_job(store, wanted("image", "a/b:1", runtime="3.11", entry_point="x"))
    assert [each.split()[0] for each in made.remarks] == ["--runtime", "--entry-point"]


async def test_a_tag_that_is_the_name_of_a_version_is_no_alias_and_that_is_said(
    store: JobStore,
) -> None:
    made = await create_job(store, wanted("image", "a/b:v3"))
    assert made.aliases == ("latest",)
    assert "`v3` is the name of a version and does not become an alias" in made.remarks[0]


@pytest.mark.parametrize(
    ("image", "part"),
    [("Org/App:1", "upper-case"), ("a/b:bad tag", "white space"), ("a/b@sha256:12", "sha256")],
)
async def test_images_that_are_none_are_refused(store: JobStore, image: str, part: str) -> None:
    with pytest.raises(InvalidInputError, match=part):
        await create_job(store, wanted("image", image))


# ---- git


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false")
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null"}
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "origin"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    code(folder, **{"jobs__hello__job.py": "", "jobs__hello__.python-version": "3.12\n"})
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=one")
    git(folder, "tag", "v1")
    return folder


async def test_a_git_job_is_pinned_to_the_default_branchs_head(
    store: JobStore, far: Plane, repository: Path
) -> None:
    url = f"file://{repository}"
    made = await create_job(
        store, wanted("git", url, name="hello", entry_point="python jobs/hello/job.py")
    )
    head = git(repository, "rev-parse", "HEAD").strip()
    assert made.commit == head
    _, files, job = stored(far, "hello")
    assert job["source"]["git"] == {"remote": url, "commit": head}
    assert files["requirements.frozen.txt"] == b""
    assert head in " ".join(made.remarks)


async def test_a_tag_is_pinned_and_the_runtime_read_from_the_build_context(
    store: JobStore, far: Plane, repository: Path
) -> None:
    tagged = git(repository, "rev-parse", "HEAD").strip()
    git(repository, "commit", "--quiet", "--allow-empty", "--message=two")
    asked = wanted(
        "git", f"file://{repository}", git_version="v1", build_context="jobs/hello",
        entry_point="python job.py",
    )  # fmt: skip
    made = await create_job(store, asked)
    assert made.commit == tagged
    assert made.reference.name.endswith("_jobs_hello_job.py")
    assert stored(far, made.reference.name)[2]["runtime"] == "3.12"


async def test_an_unknown_reference_is_named_with_a_near_miss(
    store: JobStore, repository: Path
) -> None:
    asked = wanted("git", f"file://{repository}", git_version="maim", entry_point="python main.py")
    with pytest.raises(InvalidInputError, match=r"'maim'.*`main`"):
        await create_job(store, asked)


async def test_what_else_is_fetched_is_stored_only_where_it_was_asked_for(
    store: JobStore, far: Plane, repository: Path
) -> None:
    """Without the flags the file is W&B's, byte by byte."""
    asked = wanted("git", f"file://{repository}", name="n", entry_point="python main.py")
    await create_job(store, asked)
    assert stored(far, "n")[2]["source"]["git"].keys() == {"remote", "commit"}
    await create_job(store, replace(asked, submodules=False, lfs=True))
    git_said = stored(far, "n")[2]["source"]["git"]
    assert (git_said["submodules"], git_said["lfs"]) == (False, True)


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    git(tmp_path, "clone", "--quiet", f"file://{repository}", str(folder))
    return folder


async def from_checkout(store: JobStore, folder: Path, **more: Any) -> CreatedJob:
    asked = wanted("code", folder, name="n", entry_point="python main.py")
    return await create_job(store, replace(asked, source="git", **more))


async def test_a_clean_pushed_checkout_becomes_a_git_job(
    store: JobStore, far: Plane, repository: Path, checkout: Path
) -> None:
    made = await from_checkout(store, checkout)
    assert "becomes a Git job" in made.remarks[0]
    assert stored(far, "n")[2]["source"]["git"]["remote"] == f"file://{repository}"


async def test_a_folder_of_a_checkout_becomes_the_build_context(
    store: JobStore, far: Plane, checkout: Path
) -> None:
    asked = wanted("code", checkout / "jobs/hello", name="n", entry_point="python job.py")
    await create_job(store, replace(asked, source="git"))
    assert stored(far, "n")[2]["source"]["build_context"] == "jobs/hello"


async def test_a_file_of_a_checkout_is_the_entry_point_of_a_git_job(
    store: JobStore, far: Plane, checkout: Path
) -> None:
    made = await create_job(
        store, wanted("code", checkout / "jobs/hello/job.py", name="n", source="git")
    )
    assert "becomes a Git job" in made.remarks[0]
    source = stored(far, "n")[2]["source"]
    assert (source["entrypoint"], source["build_context"]) == (["python", "job.py"], "jobs/hello")


async def test_uncommitted_changes_make_a_code_job_or_are_taken_along_on_request(
    store: JobStore, far: Plane, checkout: Path
) -> None:
    (checkout / "main.py").write_text("print('local')\n")
    (checkout / "new.py").write_text("")
    made = await from_checkout(store, checkout)
    assert "uncommitted changes" in made.remarks[0]
    assert stored(far, "n")[2]["source_type"] == "artifact"
    made = await from_checkout(store, checkout, with_diff=True)
    _, files, job = stored(far, "n")
    assert job["source_type"] == "repo"
    assert b"+print('local')" in files["diff.patch"]
    assert "1 file is untracked and not part of the job: new.py." in made.remarks


async def test_changes_need_not_be_utf_8(store: JobStore, far: Plane, checkout: Path) -> None:
    (checkout / "main.py").write_bytes("# -*- coding: latin-1 -*-\nprint('é')\n".encode("latin-1"))
    await from_checkout(store, checkout, with_diff=True)
    assert "+print('é')".encode("latin-1") in stored(far, "n")[1]["diff.patch"]


async def test_the_entry_point_may_be_one_of_the_changes(
    store: JobStore, far: Plane, checkout: Path
) -> None:
    (checkout / "new.py").write_text("print('new')\n")
    (checkout / "runtime.txt").write_text("3.12\n")
    git(checkout, "add", "--all")
    asked = wanted("code", checkout, name="n", entry_point="python new.py")
    await create_job(store, replace(asked, source="git", with_diff=True))
    _, files, job = stored(far, "n")
    assert job["source"]["entrypoint"] == ["python", "new.py"]
    assert job["runtime"] == "3.12"
    assert b"+print('new')" in files["diff.patch"]


CONFIGURED = (
    (
        "diff.noprefix=true diff.relative=true diff.submodule=diff diff.context=0 "
        "diff.external=false diff.orderFile=/nonexistent/order diff.suppressBlankEmpty=true"
        " color.ui=always"
    ),
    (
        "diff.mnemonicPrefix=true diff.submodule=log diff.interHunkContext=50 diff.renames=copies "
        "diff.wsErrorHighlight=all diff.algorithm=histogram color.diff=always core.quotePath=true"
    ),
    (
        "diff.srcPrefix=old/ diff.dstPrefix=new/ status.relativePaths=true core.pager=false "
        "status.showUntrackedFiles=no diff.ignoreSubmodules=none core.commentChar=;"
    ),
)


@pytest.mark.parametrize("settings", CONFIGURED)
async def test_a_checkouts_own_configuration_changes_nothing_of_its_diff(
    store: JobStore, far: Plane, checkout: Path, settings: str
) -> None:
    """The patch is applied before anything is sent, so one that cannot be applied is refused."""
    (checkout / "jobs/hello/job.py").write_text("staged = True\n\n")
    git(checkout, "add", "jobs/hello/job.py")
    (checkout / "jobs/hello/job.py").write_text("staged = True\nlocal = True\n\n\n")
    (checkout / "jobs/räksmörgås.py").write_text("1\n")
    git(checkout, "add", "jobs/räksmörgås.py")
    git(checkout, "mv", "main.py", "moved.py")
    (checkout / "left.py").write_text("")
    for setting in settings.split():
        git(checkout, "config", *setting.split("=", 1))
    asked = wanted("code", checkout / "jobs/hello", name="n", entry_point="python job.py")
    made = await create_job(store, replace(asked, source="git", with_diff=True))
    assert "becomes a Git job" in made.remarks[0], made.remarks
    patch = stored(far, "n")[1]["diff.patch"].decode()
    assert "+++ b/jobs/hello/job.py" in patch
    assert "+staged = True\n+local = True\n" in patch
    assert "+++ b/jobs/räksmörgås.py" in patch
    assert "rename to moved.py" in patch
    assert any("untracked" in each and "left.py" in each for each in made.remarks)


async def test_what_of_the_authors_work_is_not_taken_along_is_said(
    store: JobStore, far: Plane, repository: Path, checkout: Path, tmp_path: Path
) -> None:
    """A submodule with changes, files that git does not compare, files outside the folder."""
    inner = tmp_path / "inner"
    inner.mkdir()
    git(inner, "init", "--quiet", "--initial-branch=main")
    code(inner, **{"lib.py": ""})
    git(inner, "add", "--all")
    git(inner, "commit", "--quiet", "--message=lib")
    local = ("-c", "protocol.file.allow=always")
    git(checkout, *local, "submodule", "--quiet", "add", f"file://{inner}", "libs/inner")
    git(checkout, "commit", "--quiet", "--message=submodule")
    git(checkout, "push", "--quiet", "origin", "HEAD:refs/heads/other")
    (checkout / "libs/inner/lib.py").write_text("changed\n")
    (checkout / "main.py").write_text("hidden = True\n")
    git(checkout, "update-index", "--assume-unchanged", "main.py")
    (checkout / "notes.txt").write_text("")
    (checkout / "jobs/hello/job.py").write_text("carried = True\n")
    asked = wanted("code", checkout / "jobs/hello", name="n", entry_point="python job.py")
    made = await create_job(store, replace(asked, source="git", with_diff=True, submodules=False))
    said = " ".join(made.remarks)
    assert "becomes a Git job" in made.remarks[0], made.remarks
    assert "submodule 'libs/inner' are not part of the job" in said
    assert "hidden from git (assume-unchanged, skip-worktree)" in said
    assert "main.py" in said
    assert "notes.txt" in said
    patch = stored(far, "n")[1]["diff.patch"]
    assert b"+carried = True" in patch
    assert b"Subproject" not in patch


async def test_a_merge_that_is_not_finished_is_carried_or_named(
    store: JobStore, far: Plane, checkout: Path
) -> None:
    git(checkout, "checkout", "--quiet", "-b", "side")
    (checkout / "main.py").write_text("side\n")
    git(checkout, "commit", "--quiet", "--all", "--message=side")
    git(checkout, "checkout", "--quiet", "main")
    (checkout / "main.py").write_text("main\n")
    git(checkout, "commit", "--quiet", "--all", "--message=main")
    git(checkout, "push", "--quiet", "origin", "main:refs/heads/pushed")
    with pytest.raises(subprocess.CalledProcessError):
        git(checkout, "merge", "side")
    made = await from_checkout(store, checkout, with_diff=True)
    patch = stored(far, "n")[1].get("diff.patch", b"")
    assert b"<<<<<<<" in patch, made.remarks


async def test_a_commit_that_is_not_pushed_makes_a_code_job(
    store: JobStore, far: Plane, checkout: Path
) -> None:
    git(checkout, "commit", "--quiet", "--allow-empty", "--message=local")
    made = await from_checkout(store, checkout)
    assert "is not at" in made.remarks[0]
    assert stored(far, "n")[2]["source_type"] == "artifact"


async def test_a_folder_without_a_repository_makes_a_code_job(
    store: JobStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = await from_checkout(store, code(tmp_path_factory.mktemp("plain")))
    assert "no checkout" in made.remarks[0]


# ---- bad input: nothing is stored, the message names the thing


BAD: list[tuple[dict[str, Any], dict[str, str], str]] = [
    ({"entry_point": "python ../evil.py"}, {}, r"'\.\./evil\.py'.*`\.\.`"),
    ({"entry_point": "python /etc/x.py"}, {}, "absolute"),
    ({"entry_point": "python mian.py"}, {}, r"'mian\.py' is not in the source.*`main\.py`"),
    ({"entry_point": "python 'x"}, {}, "quote"),
    ({"build_context": "../x"}, {}, r"build context '\.\./x'"),
    ({"build_context": "/x"}, {}, "build context '/x' is an absolute"),
    ({"build_context": "job"}, {"jobs__x": ""}, "'job' is not a folder.*`jobs`"),
    ({"build_context": "jobs/hello"}, {"jobs__hello_world__x": ""}, "`jobs/hello_world`"),
    ({"entry_point": "python job.py"}, {"jobs__a__job.py": ""}, "`jobs/a/job.py`"),
    ({"base_image": "Org/Base:1"}, {}, "'Org/Base:1'.*`org/base:1`"),
    ({"dockerfile": "../Dockerfile"}, {}, "Dockerfile '../Dockerfile'"),
    ({"dockerfile": "/Dockerfile"}, {}, "absolute"),
    ({"dockerfile": "Dockerfile.wand"}, {"Dockerfile.wandb": ""}, "`Dockerfile.wandb`"),
    ({"runtime": "2.7"}, {}, "--runtime: '2.7'.*Accepted"),
    ({}, {"pyproject.toml": "[project\n"}, "pyproject.toml is not TOML"),
    ({}, {"requirements.txt": "a\n--wrong-option\n"}, "requirements.txt, line 2"),
    ({"aliases": ("v3",)}, {}, "'v3' is the name of a version"),
    ({"aliases": ("a:b",)}, {}, "'a:b' cannot be an alias"),
]


@pytest.mark.parametrize(("more", "files", "message"), BAD)
async def test_bad_input_is_named(
    store: JobStore, far: Plane, tmp_path: Path, more: Any, files: Any, message: str
) -> None:
    with pytest.raises(InvalidInputError) as told:
        await create_job(store, wanted("code", code(tmp_path, **files), name="n", **more))
    assert re.search(message, str(told.value), re.DOTALL), str(told.value)
    assert far.versions == []


@pytest.mark.parametrize(
    ("more", "files", "remark"),
    [
        ({}, {"runtime.txt": "r-2020-01-01\n"}, "'r-2020-01-01' is no version of Python 3"),
        ({}, {".python-version": "my-env\n"}, "'my-env' is no version of Python 3"),
        ({}, {".python-version": "3.9.9/envs/x\n"}, "Python 3.9, by .python-version, line 1"),
        ({"runtime": "3.10"}, {".python-version": "my-env\n"}, "Python 3.10, by --runtime"),
        ({"dockerfile": "D"}, {"D": "FROM scratch", "pyproject.toml": "[pro\n"}, "is not TOML"),
        ({"dockerfile": "D"}, {"D": "FROM scratch", "requirements.txt": "-e ..\n"}, "Python 3"),
        ({"dockerfile": "D", "entry_point": "python /app/m.py"}, {"D": ""}, "Python 3"),
        ({"base_image": "a/b:1", "entry_point": "python /app/m.py"}, {}, "Python 3"),
        ({"entry_point": "/bin/cat /x"}, {}, "Python 3"),
        ({"entry_point": "python main.py | tee log"}, {}, "No shell runs the entry point: '|'"),
        ({}, {"env__pyvenv.cfg": "home = /usr"}, "Not stored: env/ (a virtual environment"),
    ],
)
async def test_what_plays_no_part_is_remarked_at_most(
    store: JobStore, tmp_path: Path, more: Any, files: Any, remark: str
) -> None:
    made = await create_job(store, wanted("code", code(tmp_path, **files), name="n", **more))
    assert remark in " ".join(made.remarks)


@pytest.mark.parametrize("name", ["main.py", "requirements.txt", "Dockerfile"])
async def test_a_link_out_of_the_directory_is_refused_where_it_would_be_followed(
    store: JobStore, far: Plane, tmp_path: Path, name: str
) -> None:
    folder = code(tmp_path)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/etc/passwd")
    more = {"dockerfile": name} if name == "Dockerfile" else {}
    with pytest.raises(InvalidInputError, match="out of the source"):
        await create_job(store, wanted("code", folder, name="n", **more))
    assert far.versions == []


async def test_a_name_taken_by_another_type_is_refused(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    far.versions.append(
        Version("a", "taken", "model", "d", None, None, [], state="COMMITTED", index=0)
    )
    with pytest.raises(AlreadyExistsError, match=r"'taken'.*`model`"):
        await create_job(store, wanted("code", code(tmp_path), name="taken"))
    assert far.puts == []


async def test_a_path_that_is_nothing_is_named_with_a_near_miss(
    store: JobStore, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match=r"neither a directory nor a file.*`main\.py`"):
        await create_job(store, wanted("code", code(tmp_path) / "mian.py"))


async def test_a_diff_needs_a_checkout(store: JobStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="--diff belongs to a local checkout"):
        await create_job(store, wanted("code", code(tmp_path), with_diff=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("proxy", "NAME=POLICY"),
        ("=always", "NAME=POLICY"),
        ("proxy=sometimes", "'sometimes' is not a policy"),
    ],
)
def test_services_are_checked(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        services_from((text,))


async def test_a_mistyped_script_in_a_folder_is_offered_its_neighbour(
    store: JobStore, tmp_path: Path
) -> None:
    code(tmp_path, **{"jobs__train__job.py": ""})
    with pytest.raises(InvalidInputError, match="is not in the source") as refused:
        await create_job(store, wanted("code", tmp_path, entry_point="python jobs/train/jbo.py"))
    assert refused.value.hint == "Did you mean `jobs/train/job.py`?"


async def test_a_script_outside_the_build_context_is_refused_now(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    """The job would run in the build context, where there is no such path."""
    code(tmp_path, **{"jobs__train__job.py": ""})
    asked = wanted(
        "code", tmp_path, build_context="jobs/train", entry_point="python jobs/train/job.py"
    )
    with pytest.raises(InvalidInputError, match="is not in the build context 'jobs/train'") as said:
        await create_job(store, asked)
    assert said.value.hint == "Known: `job.py`."
    assert far.versions == []


async def test_a_broken_notebook_is_refused_now(
    store: JobStore, far: Plane, tmp_path: Path
) -> None:
    (tmp_path / "book.ipynb").write_text("{bad")
    with pytest.raises(InvalidInputError, match="is not a Jupyter notebook"):
        await create_job(store, wanted("code", tmp_path / "book.ipynb", name="n"))
    assert far.versions == []


async def test_what_an_image_job_does_not_use_is_told(store: JobStore) -> None:
    made = await create_job(
        store, wanted("image", "org/app:1", build_context="x", dockerfile="Dockerfile")
    )
    assert "--build-context is ignored" in " ".join(made.remarks)
    assert "--dockerfile is ignored" in " ".join(made.remarks)
