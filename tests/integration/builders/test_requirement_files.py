"""Forms of requirement files that pip takes, installed by the real builders.

The rows are complaints of users of other tools; see also `tests/unit/model/job`.
"""

import functools
import os
import shutil
import subprocess
import threading
import uuid
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.builders.virtualenv import VirtualenvBuilder
from agent.config.execution import BuilderConfig
from agent.model.cause import Cause
from agent.testing.builder_suite import RecordingLog
from tests.integration.builders.refusing import refused

#: Line and folder of the package that it installs.
LOCAL = {
    "editable": ("-e libs/foo", "libs/foo"),
    "plain": ("libs/foo", "libs/foo"),
    "quoted": ('-e "./my libs/foo"', "my libs/foo"),
    "wheel": ("wheels/foo-1.0-py3-none-any.whl", None),
    "links": ("--no-index\n--find-links ./wheels\nfoo", None),
}


def package(folder: Path, name: str, value: int) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text(f"VALUE = {value}\n")
    project = f'[project]\nname = "{name}"\nversion = "1.0"\n'
    system = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
    (folder / "pyproject.toml").write_text(system + project)


def wheel(folder: Path, name: str, value: int, version: str = "1.0") -> None:
    """A wheel by hand, since an index may be away."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"VALUE = {value}\n",
        f"{facts}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{facts}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{facts}/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as made:
        for path, text in files.items():
            # Without the time of day: equal content is an equal file.
            made.writestr(zipfile.ZipInfo(path), text)


@pytest.fixture
def package_indexes(tmp_path):
    """Two package indexes: the one that is asked first has foo 1.0 only.

    The other has a version of its own in each test: BuildKit must not have its layer already.
    """
    folder = tmp_path / "indexes"
    newer = f"2.{uuid.uuid4().int % 10**9}"
    for index, version in (("first", "1.0"), ("second", newer)):
        wheel(folder / index / "foo", "foo", 1, version)
        name = f"foo-{version}-py3-none-any.whl"
        (folder / index / "foo/index.html").write_text(f'<a href="{name}">{name}</a>')
    handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        # uv asks the extra index before the default one.
        yield newer, {"index_url": f"{url}/second", "extra_index_urls": (f"{url}/first",)}
        server.shutdown()


def provide(root: Path, where: str | None, name: str, value: int) -> None:
    if where is None:
        wheel(root / "wheels", name, value)
    else:
        package(root / where, name, value)


@pytest.fixture
def virtualenvs(tmp_path, threads):
    return VirtualenvBuilder(
        BuilderConfig(), tmp_path / "cache", threads=threads, environment=dict(os.environ)
    )


@pytest.mark.parametrize("row", LOCAL)
async def test_processes_get_the_package_as_it_is_now(
    virtualenvs, request_for, build, tmp_path, row
):
    """Each attempt has a folder of its own, which is gone when the next one runs."""
    line, where = LOCAL[row]
    found = {}
    for attempt, value in (("a", 1), ("b", 2), ("c", 2)):
        root = tmp_path / attempt
        root.mkdir()
        provide(root, where, "foo", value)
        (root / "requirements.txt").write_text(f"{line}\n")
        image, _ = await build(virtualenvs, request_for(root))
        shutil.rmtree(root)
        code = "import foo; print(foo.VALUE)"
        argv = (image.environment / "bin/python", "-c", code)
        assert subprocess.check_output(argv, text=True, cwd=tmp_path) == f"{value}\n"
        found[attempt] = image
    assert found["c"].reference == found["b"].reference != found["a"].reference


@pytest.mark.docker
async def test_containers_get_the_packages_as_they_are_now(builder, request_for, build, tmp_path):
    """All forms in one image; then one package changes."""
    root = tmp_path / "job"
    root.mkdir()
    forms = {
        "editable": ("-e libs/editable", "libs/editable"),
        "plain": ("libs/plain", "libs/plain"),
        "quoted": ('-e "./my libs/quoted"', "my libs/quoted"),
        "archived": ("wheels/archived-1.0-py3-none-any.whl", None),
        "linked": ("--find-links ./wheels\nlinked", None),
    }
    for name, (_, where) in forms.items():
        provide(root, where, name, 1)
    (root / "my reqs").mkdir()
    (root / "my reqs/base.txt").write_bytes("six==1.16.0\n".encode("utf-16"))
    lines = [line for line, _ in forms.values()]
    (root / "requirements.txt").write_text("\n".join([*lines, '-r "my reqs/base.txt"', ""]))
    names = ", ".join(forms)
    values = ", ".join(f"{name}.VALUE" for name in forms)
    (root / "main.py").write_text(f"import six, {names}\nprint(six.__version__, {values})\n")
    for value in (1, 2):
        package(root / "libs/plain", "plain", value)
        image, _ = await build(builder(), request_for(root))
        output = subprocess.check_output(("docker", "run", "--rm", image.reference), text=True)
        assert output == f"1.16.0 1 {value} 1 1 1\n"


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["image", "environment"])
async def test_the_agents_index_strategy_reaches_the_installation(
    builder, threads, request_for, build, tmp_path, package_indexes, kind
):
    version, indexes = package_indexes
    root = tmp_path / "job"
    root.mkdir()
    (root / "requirements.txt").write_text(f"foo=={version}\n")

    def make(strategy):
        environment = {**os.environ, **strategy}
        if kind == "image":
            return builder(environment=environment, network="host", **indexes)
        config = BuilderConfig(**indexes)
        cache = tmp_path / "cache"
        return VirtualenvBuilder(config, cache, threads=threads, environment=environment)

    error = await refused(make({}), request_for(root), build)
    assert "that index hides the others" in error.message
    assert "set `UV_INDEX_STRATEGY=unsafe-best-match`" in error.message
    _, log = await build(make({"UV_INDEX_STRATEGY": "unsafe-best-match"}), request_for(root))
    assert f"+ foo=={version}" in log.text


@pytest.mark.docker
async def test_a_list_that_plays_no_part_is_not_read(
    builder, request_for, build, tmp_path, docker_engine
):
    root = tmp_path / "own"
    root.mkdir()
    (root / "requirements.txt").write_bytes(b"\xff\xfe\x00 no text at all \xe9")
    (root / "Dockerfile").write_text(f'FROM {docker_engine.shell_image}\nCMD ["echo", "hello"]\n')
    image, _ = await build(builder(), request_for(root, dockerfile=root / "Dockerfile"))
    output = subprocess.check_output(("docker", "run", "--rm", image.reference), text=True)
    assert output == "hello\n"


@pytest.mark.docker
async def test_a_base_image_without_git_is_named_with_the_cure(
    builder, request_for, build, tmp_path
):
    root = tmp_path / "git"
    root.mkdir()
    (root / "requirements.txt").write_text("foo @ git+https://git.example.org/o/foo\n")
    base = f"launch-test/no-git:{uuid.uuid4().hex}"
    text = "FROM python:3.11-slim\nRUN rm -f /usr/bin/git /usr/local/bin/git\n"
    make = ("docker", "build", "-q", "-t", base, "-")
    subprocess.run(make, input=text, text=True, check=True, capture_output=True)
    try:
        error = await refused(builder(), request_for(root, base_image=base), build)
    finally:
        subprocess.run(("docker", "rmi", base), check=True, capture_output=True)
    assert error.cause is Cause.BUILD_REQUIREMENTS
    assert "the base image has none: choose one that has it (--base-image" in error.message


async def test_locks_that_are_not_read_are_named_in_the_log(
    virtualenvs, request_for, build, tmp_path
):
    root = tmp_path / "poetry"
    root.mkdir()
    (root / "poetry.lock").write_text("")
    request = request_for(root)
    (warning,) = (await virtualenvs.preview(request)).warnings
    assert warning.startswith("build: no packages are installed: poetry.lock is not read")
    log = RecordingLog()
    await virtualenvs.build(request, await virtualenvs.key(request), log)
    assert "warning: poetry.lock is not read; to install from it: `poetry export" in log.text
