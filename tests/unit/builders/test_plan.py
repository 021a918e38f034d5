"""The generated Dockerfile, against golden files; `LAUNCH_GOLDEN=1` writes them anew."""

import os
from pathlib import Path

import pytest

from agent.builders.image.plan import dockerfile, launch_context, make_plan
from agent.config.execution import Accelerator, BuilderConfig
from agent.model.errors import JobError
from agent.ports.builder import BuildRequest

GOLDEN = Path(__file__).parent / "golden"
RECIPES = {
    "plain": ("python:3.11-slim", 1000, ("python", "main.py")),
    "root": ("registry.local:5000/base@sha256:" + "a" * 64, 0, ()),
    "local": (
        "python:3.12-slim", 4242, ("python", "-c", 'print("a b\\n$HOME")')
    ),
    "accelerated": ("cuda.example.org/base:12", 1000, ("python", "main.py")),
}  # fmt: skip
OPTIONS = {"local": {"local": True}, "accelerated": {"python": "3.11"}}


@pytest.mark.parametrize("name", RECIPES)
def test_the_dockerfile_is_the_golden_one(name):
    text = dockerfile(*RECIPES[name], **OPTIONS.get(name, {}))
    golden = GOLDEN / f"{name}.Dockerfile"
    if os.environ.get("LAUNCH_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_packages_are_installed_before_the_code_is_there():
    text = dockerfile(*RECIPES["plain"])
    assert text.index("install.sh base") < text.index("COPY")
    assert "# syntax" not in text


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "root"
    (made / "sub").mkdir(parents=True)
    return made


def plan(root, config=None, **changes):
    facts = {
        "root": root, "context": root, "dockerfile": None, "base_image": None, "python": None,
        "command": ("python", "main.py"), "user_id": 1000, "title": "t",
        "entity": "team", "queue": "launch-test/q", "labels": {}, **changes,
    }  # fmt: skip
    return make_plan(BuildRequest(**facts), config or BuilderConfig())


ACCELERATED = BuilderConfig(accelerator=Accelerator(base_image="cuda:1"))


@pytest.mark.parametrize(
    ("config", "changes", "base"),
    [
        (BuilderConfig(), {}, "python:3.11-slim"),
        (BuilderConfig(python="3.13"), {}, "python:3.13-slim"),
        (BuilderConfig(), {"python": "3.12.4"}, "python:3.12-slim"),
        (ACCELERATED, {}, "cuda:1"),
        (BuilderConfig(base_image="mine:1"), {"python": "3.12"}, "mine:1"),
        (BuilderConfig(base_image="mine:1"), {"base_image": "job:1"}, "job:1"),
    ],
)
def test_the_base_image_is_the_most_particular_one(root, config, changes, base):
    made = plan(root, config, **changes)
    assert made.bases == (base,)
    assert made.text.startswith(f"FROM {base}\n")


@pytest.mark.parametrize("base", ["x y", "x\nRUN evil", "-x", "$ARG", "UPPER", ""])
def test_a_base_image_that_is_none_is_refused(root, base):
    if base == "":
        assert plan(root, base_image="").bases == ("python:3.11-slim",)
        return
    with pytest.raises(JobError, match="is not an image reference"):
        plan(root, base_image=base)


@pytest.mark.parametrize("version", ["three", "3", "3.11; rm", "python-3.11"])
def test_a_python_version_that_is_none_is_refused(root, version):
    with pytest.raises(JobError, match="cannot be read"):
        plan(root, python=version)


def test_the_job_s_own_dockerfile_is_used_and_its_bases_are_known(root):
    file = root / "sub/Dockerfile"
    file.write_text("ARG X\nFROM --platform=x base:1 AS a\nfrom other\nFROM $X\nFROM a\n")
    made = plan(root, context=root / "sub", dockerfile=file)
    assert made.job_dockerfile == file
    assert made.bases == ("base:1", "other")
    assert made.shown_dockerfile == "Dockerfile"


def test_local_packages_are_installed_from_where_the_context_is_copied_to(root):
    (root / "requirements.txt").write_text("-e .\n./sub[x]\nsix\n")
    made = plan(root)
    assert made.text.index("COPY") < made.text.index("install.sh local")
    files = launch_context(made)
    assert files["requirements.txt"] == "six\n"
    assert files["local.txt"] == "six\n"
    assert files["folders.txt"].splitlines() == [
        "-e file:///home/launch/src", "file:///home/launch/src/sub[x]",
    ]  # fmt: skip
    with pytest.raises(JobError, match="lies outside the build context"):
        plan(root, context=root / "sub")


def test_the_second_context_holds_script_and_requirements(root):
    (root / "requirements.txt").write_text("six\n-c pins.txt\n")
    (root / "pins.txt").write_text("six<2\n")
    files = launch_context(plan(root))
    assert files["requirements.txt"] == "six\n"
    assert files["constraints.txt"] == "six<2\n"
    assert files["install.sh"].startswith("#!/bin/sh")


def test_the_job_s_dockerignore_is_kept_unless_it_leads_out(root, tmp_path):
    (root / ".dockerignore").write_text("data\n")
    assert "\ndata\n**/.DS_Store" in plan(root).ignore
    (root / ".dockerignore").unlink()
    (tmp_path / "x").write_text("x")
    (root / ".dockerignore").symlink_to(tmp_path / "x")
    assert "\nx\n" not in plan(root).ignore


def test_the_rules_beside_an_own_dockerfile_come_first(root):
    (root / "sub/Dockerfile").write_text("FROM x\n")
    (root / ".dockerignore").write_text("data\n")
    assert "\ndata\n" in plan(root, dockerfile=root / "sub/Dockerfile").ignore
    (root / "sub/Dockerfile.dockerignore").write_text("other\n")
    made = plan(root, dockerfile=root / "sub/Dockerfile")
    assert "\nother\n" in made.ignore
    assert "\ndata\n" not in made.ignore
    assert made.text == "FROM x\n"


def test_python_is_brought_into_an_accelerator_s_image_only(root):
    text = plan(root, ACCELERATED, python="3.12").text
    assert "install.sh python 3.12" in text
    assert "install.sh python" not in plan(root, base_image="mine:1").text
    text = plan(root, base_image="cuda:2", accelerated=True).text
    assert text.startswith("FROM cuda:2\n")
    assert "install.sh python 3.11" in text


def test_how_the_list_is_installed_travels_with_it(root):
    (root / "requirements.frozen.txt").write_text("six==1.16.0\ntorch==2.4.0+cu121\n")
    files = launch_context(plan(root))
    assert files["mode"] == "frozen"
    assert files["variants.txt"] == "cu121 torch==2.4.0+cu121\n"
    assert files["requirements.txt"] == "six==1.16.0\n"
