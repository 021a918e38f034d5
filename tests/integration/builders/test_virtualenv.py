"""Virtual environments with the real uv: cached, reused, pruned, and failing with a name."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agent.builders import virtualenv
from agent.builders.uv import uv_program
from agent.builders.virtualenv import VirtualenvBuilder
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.model.errors import JobError
from agent.sources.address_policy import AddressPolicy
from agent.sources.url_access import UrlAccess
from agent.testing.builder_suite import RecordingLog
from tests.integration.builders.locked import LOCKED_PROJECT, UV_LOCK
from tests.integration.builders.refusing import refused


@pytest.fixture
def virtualenvs(tmp_path, threads):
    def make(*, environment=None, processes=Path("/proc"), urls=None, **config):
        return VirtualenvBuilder(
            BuilderConfig(**config), tmp_path / "cache", threads=threads, processes=processes,
            urls=urls, environment=dict(os.environ) if environment is None else environment,
        )  # fmt: skip

    return make


def python(image, code):
    program = image.environment / "bin/python"
    return subprocess.run([program, "-c", code], check=True, capture_output=True, text=True).stdout


async def test_packages_are_there_and_the_code_does_not_count(virtualenvs, request_for, build, job):
    made = virtualenvs()
    first, log = await build(made, request_for(job))
    assert python(first, "import six; print(six.__version__)") == "1.16.0\n"
    assert first.pinned_by == "environment"
    assert "six==1.16.0" in log.text
    (job / "main.py").write_text("changed")
    again, log = await build(made, request_for(job))
    assert again.reused
    assert again.environment == first.environment
    assert log.data == b""


async def test_without_requirements_there_is_still_an_environment(
    virtualenvs, request_for, build, tmp_path
):
    bare = tmp_path / "bare"
    bare.mkdir()
    image, log = await build(virtualenvs(), request_for(bare))
    assert python(image, "import sys; print(sys.prefix)").strip() == str(image.environment)
    assert "nothing to install" in log.text


async def test_constraints_and_packages_in_the_code_count(virtualenvs, request_for, build, job):
    (job / "lib").mkdir()
    (job / "lib/setup.py").write_text(
        "from setuptools import setup\nsetup(name='mylib', py_modules=['mylib'])\n"
    )
    (job / "lib/mylib.py").write_text("NAME = 1\n")
    (job / "requirements.txt").write_text("six\n-c pins.txt\n-e ./lib\n")
    (job / "pins.txt").write_text("six==1.15.0\n")
    made = virtualenvs()
    first, _ = await build(made, request_for(job))
    assert python(first, "import six, mylib; print(six.__version__, mylib.NAME)") == "1.15.0 1\n"
    # Not editable: the attempt's folder goes away, the environment stays.
    assert str(job) not in python(first, "import mylib; print(mylib.__file__)")
    (job / "lib/mylib.py").write_text("NAME = 2\n")
    second, _ = await build(made, request_for(job))
    assert python(second, "import mylib; print(mylib.NAME)") == "2\n"


async def test_a_package_that_does_not_exist_is_named_and_nothing_stays(
    virtualenvs, request_for, build, job, tmp_path
):
    (job / "requirements.txt").write_text("launch-agent-no-such-package\n")
    error = await refused(virtualenvs(), request_for(job), build)
    assert error.cause is Cause.BUILD_REQUIREMENTS
    assert "package `launch-agent-no-such-package` does not exist" in error.message
    assert list((tmp_path / "cache/environments").iterdir()) == []


async def test_an_index_that_does_not_answer_is_told(virtualenvs, request_for, build, job):
    (job / "requirements.txt").write_text("launch-agent-unheard-of\n")
    made = virtualenvs(index_url="http://user:hunter22@127.0.0.1:1/simple")
    error = await refused(made, request_for(job), build)
    assert error.cause is Cause.BUILD_UNAVAILABLE
    assert "hunter22" not in str(error)


async def test_equal_builds_at_once_make_one_environment(virtualenvs, request_for, job):
    made = virtualenvs()
    request = request_for(job)
    key = await made.key(request)
    logs = [RecordingLog() for _ in range(3)]
    built = await asyncio.gather(*(made.build(request, key, log) for log in logs))
    assert len({image.reference for image in built}) == 1
    assert sum("making a virtual environment" in log.text for log in logs) == 1


async def test_the_rest_of_a_killed_build_is_no_environment(
    virtualenvs, request_for, job, tmp_path
):
    made = virtualenvs()
    request = request_for(job)
    key = await made.key(request)
    half = tmp_path / "cache/environments" / key[:32]
    (half / "venv/bin").mkdir(parents=True)
    (half / "venv/bin/python").write_text("half")
    assert await made.find(key) is None
    image = await made.build(request, key, RecordingLog())
    assert python(image, "print(1)") == "1\n"


@pytest.mark.parametrize("version", [None, "own", "full"])
async def test_the_agent_s_own_python_serves_where_it_matches(
    virtualenvs, request_for, build, tmp_path, version
):
    own = sys.version_info
    wanted = {None: None, "own": f"{own[0]}.{own[1]}", "full": f"{own[0]}.{own[1]}.{own[2]}"}
    bare = tmp_path / "bare"
    bare.mkdir()
    image, _ = await build(virtualenvs(), request_for(bare, python=wanted[version]))
    assert python(image, "import sys; print(sys.version_info[:2])").strip() == str(own[:2])


async def test_a_python_that_is_not_installed_is_named(virtualenvs, request_for, build, job):
    error = await refused(virtualenvs(), request_for(job, python="3.99"), build)
    assert error.cause is Cause.BUILD_UNAVAILABLE
    assert "Python 3.99 is not installed on the agent's machine" in error.message


async def test_a_version_that_cannot_be_read_is_named(virtualenvs, request_for, build, job):
    error = await refused(virtualenvs(), request_for(job, python="three"), build)
    assert error.cause is Cause.SOURCE_INVALID


async def test_another_installed_python_is_found(virtualenvs, request_for, build, tmp_path):
    """A stand-in with another version, first on the path."""
    bare, folder = tmp_path / "bare", tmp_path / "bin"
    bare.mkdir()
    folder.mkdir()
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (folder / f"python{own}").symlink_to(os.path.realpath(sys.executable))
    found = await virtualenv.find_interpreter(own, {"PATH": str(folder)}, uv_program(), None)
    assert found.path == Path(sys.executable)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(virtualenv.sys, "version_info", (3, 5, 0))
        found = await virtualenv.find_interpreter(own, {"PATH": str(folder)}, uv_program(), None)
    assert found.path.exists()
    assert own in found.identity


@pytest.mark.parametrize("changes", [{"dockerfile": "x"}, {"base_image": "x:1"}])
async def test_what_needs_images_is_refused(virtualenvs, request_for, build, job, changes):
    error = await refused(virtualenvs(), request_for(job, **changes), build)
    assert error.cause is Cause.BUILD_UNAVAILABLE
    assert "virtual environments only" in error.message


def age(image, seconds):
    mark = image.environment.parent / ".used"
    then = mark.stat().st_mtime - seconds
    os.utime(mark, (then, then))


async def test_environments_are_pruned_unless_a_process_uses_them(
    virtualenvs, request_for, build, tmp_path
):
    bare = tmp_path / "bare"
    bare.mkdir()
    made = virtualenvs()
    image, _ = await build(made, request_for(bare))
    age(image, 100_000)
    env = {"PATH": f"{image.environment}/bin:/usr/bin:/bin"}
    process = await asyncio.create_subprocess_exec("sleep", "60", env=env)
    try:
        assert await made.prune(3600, 0) == 0
        assert image.environment.exists()
    finally:
        process.kill()
        await process.wait()
    assert await made.prune(3600, 0) > 0
    assert not image.environment.exists()


async def test_what_is_being_built_is_not_pruned(virtualenvs, request_for, build, tmp_path):
    from agent.system.locks import locked

    bare = tmp_path / "bare"
    bare.mkdir()
    made = virtualenvs(processes=tmp_path / "no-proc")
    image, _ = await build(made, request_for(bare))
    age(image, 100_000)
    folder = image.environment.parent
    async with locked(tmp_path / "cache/locks" / f"{folder.name}.lock"):
        assert await made.prune(3600, 0) == 0
    assert await made.prune(3600, 0) > 0


async def test_a_folder_that_cannot_be_made_is_told(virtualenvs, request_for, build, job, tmp_path):
    (tmp_path / "cache").mkdir()
    made = virtualenvs()
    request = request_for(job)
    key = await made.key(request)
    (tmp_path / "cache/environments").mkdir()
    (tmp_path / "cache/environments" / key[:32]).write_text("in the way")
    with pytest.raises(JobError):
        await made.build(request, key, RecordingLog())


async def test_a_frozen_list_leaves_out_what_no_index_has(
    virtualenvs, request_for, build, tmp_path
):
    root = tmp_path / "frozen"
    root.mkdir()
    listed = root / "requirements.frozen.txt"
    listed.write_text("six==1.16.0\nlaunch-agent-no-such-package==1\n")
    image, log = await build(virtualenvs(), request_for(root))
    assert python(image, "import six; print(six.__version__)") == "1.16.0\n"
    assert "Failed to install: launch-agent-no-such-package==1. During" in log.text
    listed.write_text("launch-agent-no-such-package==1\n")
    error = await refused(virtualenvs(), request_for(root), build)
    assert "launch-agent-no-such-package" in error.message


async def test_a_lock_is_installed_as_it_stands(virtualenvs, request_for, build, tmp_path):
    root = tmp_path / "locked"
    root.mkdir()
    (root / "pyproject.toml").write_text(LOCKED_PROJECT)
    (root / "uv.lock").write_text(UV_LOCK)
    image, log = await build(virtualenvs(), request_for(root))
    assert python(image, "import six; print(six.__version__)") == "1.16.0\n"
    assert "installing from uv.lock" in log.text


async def test_a_pylock_is_read_by_uv_itself(virtualenvs, request_for, build, tmp_path):
    root = tmp_path / "pylock"
    root.mkdir()
    (root / "pylock.toml").write_text('lock-version = "1.0"\ncreated-by = "x"\npackages = []\n')
    image, log = await build(virtualenvs(), request_for(root))
    assert "installing from pylock.toml" in log.text
    assert image.environment is not None
    (root / "pylock.toml").write_text("lock-version = [")
    error = await refused(virtualenvs(), request_for(root), build)
    assert error.cause is Cause.BUILD_REQUIREMENTS


@pytest.fixture
async def inner():
    """A server on this machine's loopback, which counts what asks it."""
    asked = []

    async def answer(request):
        asked.append(request.path)
        return web.Response(text="<a href='/x-1-py3-none-any.whl'>x-1-py3-none-any.whl</a>")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as made:
        yield f"127.0.0.1:{made.port}", asked


@pytest.mark.parametrize(
    "lines",
    [
        "x @ http://{0}/x-1-py3-none-any.whl", "http://{0}/x-1-py3-none-any.whl",
        "--index-url http://{0}/simple\nx", "--extra-index-url http://{0}/simple\nx",
        "--find-links http://{0}/links\nx", "x @ git+http://{0}/x.git", "-e git+http://{0}/x#egg=x",
        "-r http://{0}/more.txt", "-c http://{0}/pins.txt\nsix", "x @ git+file:///tmp/x",
        "x @ git+ssh://git@{0}/x.git", "x @ http://2130706433:1/x-1-py3-none-any.whl",
    ],
)  # fmt: skip
async def test_requirements_reach_no_private_address(
    virtualenvs, request_for, build, job, inner, threads, lines
):
    address, asked = inner
    (job / "requirements.txt").write_text(lines.format(address))
    urls = UrlAccess(AddressPolicy((), embedded=False), threads)
    error = await refused(virtualenvs(urls=urls), request_for(job), build)
    assert error.cause is Cause.POLICY_SOURCE
    assert error.message.startswith("requirements.txt, line 1: ")
    assert asked == []


async def test_a_redirect_of_an_index_reaches_no_private_address(
    virtualenvs, request_for, build, job, inner, threads
):
    address, asked = inner

    async def redirect(request):
        raise web.HTTPFound(f"http://{address}{request.path}")

    app = web.Application()
    app.router.add_get("/{path:.*}", redirect)
    (job / "requirements.txt").write_text("x\n")
    async with TestServer(app) as index:
        configured = (("127.0.0.1", index.port),)
        urls = UrlAccess(AddressPolicy((), embedded=False, configured=configured), threads)
        made = virtualenvs(
            urls=urls, index_url=f"http://127.0.0.1:{index.port}/simple",
            environment={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        await refused(made, request_for(job), build)
    assert asked == []
