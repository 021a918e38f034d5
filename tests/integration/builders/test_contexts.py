"""What reaches an image, and what is installed into it: the engine has the last word."""

import os
import subprocess
import uuid

import pytest

from agent.builders.image.content_key import tree_digest
from agent.builders.image.ignore import Ignore
from agent.builders.image.plan import make_plan
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.system.tasks import Stop
from tests.integration.builders.locked import LOCKED_PROJECT, UV_LOCK

pytestmark = pytest.mark.docker

FILES = (
    "main.py", "a.log", "sub/b.log", "sub/keep.log", "data/x", "data/keep/y", ".env", "sub/.env",
    ".git/config", "wandb/run", "sub/wandb/file", "id_rsa", "pkg/__pycache__/x.pyc", "a.b", "aXb",
    "[x]", "deep/er/data/z",
)  # fmt: skip
RULES = """
# a comment
**/*.log
!sub/keep.log
data
!data/keep
/a.b
!.env
deep/**/z
"""
OWN = """FROM {base}
USER 0
WORKDIR /job
COPY . .
ENTRYPOINT ["python", "main.py"]
"""


def files_in(image, folder):
    listed = subprocess.run(
        ["docker", "run", "--rm", "--entrypoint", "find", image.reference, folder, "-type", "f"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return {line.removeprefix(f"{folder}/") for line in listed.split()}


def run(image):
    return subprocess.run(
        ["docker", "run", "--rm", image.reference], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("print('hello')\n")
    (root / ".dockerignore").write_text(RULES)
    return root


@pytest.mark.parametrize("own", [True, False])
async def test_exactly_the_files_that_count_in_the_key_are_sent(
    builder, request_for, build, tree, own
):
    dockerfile = None
    if own:
        dockerfile = tree / "Dockerfile"
        dockerfile.write_text(OWN.format(base="python:3.11-slim"))
    request = request_for(tree, dockerfile=dockerfile)
    image, log = await build(builder(), request)
    assert (
        "they look like secrets: id_rsa; to include one, add `!id_rsa` to .dockerignore" in log.text
    )
    rules = Ignore(make_plan(request, BuilderConfig()).ignore)
    every = {p.relative_to(tree).as_posix() for p in tree.rglob("*") if p.is_file()}
    sent = files_in(image, "/job" if own else "/home/launch/src")
    assert sent == {path for path in every if not rules.excludes(path)}
    assert ".env" in sent
    assert not sent & {".git/config", "wandb/run", "id_rsa", "sub/.env", "data/x"}


async def test_what_is_not_sent_builds_nothing_anew(builder, request_for, tree):
    request = request_for(tree)
    made = builder()
    before = await made.key(request)
    (tree / "data/x").write_text("other")
    (tree / ".git/config").write_text("other")
    assert await made.key(request) == before
    (tree / "data/keep/y").write_text("other")
    assert await made.key(request) != before


async def test_a_build_context_below_the_root_takes_the_root_s_requirements(
    builder, request_for, build, tmp_path
):
    root = tmp_path / "mono"
    (root / "jobs/hello").mkdir(parents=True)
    (root / "jobs/hello/job.py").write_text("import six, os\nprint(six.__version__, os.getcwd())\n")
    (root / "requirements.txt").write_text("six==1.16.0\n")
    request = request_for(root, context=root / "jobs/hello", command=("python", "job.py"))
    image, _ = await build(builder(), request)
    assert run(image) == "1.16.0 /home/launch/src\n"
    assert files_in(image, "/home/launch/src") == {"job.py"}


async def test_frozen_requirements_leave_out_what_no_index_has(
    builder, request_for, build, tmp_path
):
    root = tmp_path / "frozen"
    root.mkdir()
    (root / "main.py").write_text("import six\nprint(six.__version__)\n")
    # A cached step says nothing: the name is one that no earlier run has looked for.
    missing = f"launch-agent-no-such-{uuid.uuid4().hex}"
    frozen = f"six==1.16.0\n{missing}==1\n"
    (root / "requirements.frozen.txt").write_text(frozen)
    image, log = await build(builder(), request_for(root))
    assert run(image) == "1.16.0\n"
    told = f"ERROR: Failed to install: {missing}==1. During automated build"
    assert told in log.text


async def test_a_lock_is_installed_as_it_stands(builder, request_for, build, tmp_path):
    root = tmp_path / "locked"
    root.mkdir()
    (root / "main.py").write_text("import six\nprint(six.__version__)\n")
    (root / "pyproject.toml").write_text(LOCKED_PROJECT)
    (root / "uv.lock").write_text(UV_LOCK)
    image, _ = await build(builder(), request_for(root))
    assert run(image) == "1.16.0\n"


def test_an_ignored_folder_is_not_even_looked_into(tree):
    (tree / "data2").mkdir()
    os.mkfifo(tree / "data2/pipe")
    assert tree_digest(tree, everything=True, stop=Stop(), ignore=Ignore("data2\n"))
    with pytest.raises(JobError, match="'data2/pipe' is neither"):
        tree_digest(tree, everything=True, stop=Stop(), ignore=Ignore(""))


async def test_an_accelerator_s_image_keeps_its_python_or_is_told_that_none_can_be_had(
    builder, request_for, build, docker_engine, tmp_path
):
    root = tmp_path / "cuda"
    root.mkdir()
    (root / "main.py").write_text("print('on it')\n")
    own = request_for(root, base_image="python:3.11-slim", accelerated=True)
    image, _ = await build(builder(), own)
    assert run(image) == "on it\n"
    bare = request_for(root, base_image=docker_engine.shell_image, accelerated=True)
    with pytest.raises(JobError, match="has neither Python nor apt-get") as caught:
        await build(builder(), bare)
    assert caught.value.cause is Cause.BUILD_REQUIREMENTS


async def test_a_pyproject_that_is_no_toml_and_an_unknown_option_are_named_before_a_build(
    builder, request_for, tmp_path
):
    root = tmp_path / "bad"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project\n")
    with pytest.raises(JobError, match=r"pyproject\.toml is not TOML"):
        await builder().key(request_for(root))
    (root / "requirements.txt").write_text("six --frobnicate\n")
    with pytest.raises(JobError, match=r"requirements\.txt, line 1: unknown option `--frobnicate`"):
        await builder().key(request_for(root))
