"""Which packages a job needs, and where that stands."""

import pytest

from agent.builders.requirements import LocalPackage, Requirements, find_requirements
from agent.model.cause import Cause
from agent.model.errors import JobError


def write(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def root(tmp_path):
    made = tmp_path / "root"
    (made / "jobs/hello").mkdir(parents=True)
    return made


def find(root):
    return find_requirements(root / "jobs/hello", root)


def refused(root):
    with pytest.raises(JobError) as caught:
        find(root)
    assert caught.value.cause is Cause.SOURCE_INVALID
    return caught.value.message


def test_the_build_context_comes_before_the_root(root):
    write(root, requirements_dot_txt="root\n", jobs__hello__requirements_dot_txt="context\n")
    found = find(root)
    assert found == Requirements("jobs/hello/requirements.txt", "context\n")


def test_the_root_is_looked_at_next(root):
    write(root, requirements_dot_txt="root\n")
    assert find(root) == Requirements("requirements.txt", "root\n")


def test_a_list_comes_before_the_project_file(root):
    project = '[project]\nname = "x"\ndependencies = ["other"]\n'
    write(root, requirements_dot_txt="listed\n", pyproject_dot_toml=project)
    assert find(root).packages == "listed\n"


def test_the_project_file_s_dependencies_count(root):
    project = '[project]\nname = "x"\ndependencies = ["six>=1", "numpy ; python_version<\'3\'"]\n'
    write(root, jobs__hello__pyproject_dot_toml=project, requirements_dot_txt="root\n")
    found = find(root)
    assert found.found_in == "jobs/hello/pyproject.toml"
    assert found.packages == "six>=1\nnumpy ; python_version<'3'\n"


@pytest.mark.parametrize("project", ["[tool.x]\n", '[project]\nname = "x"\ndependencies = []\n'])
def test_a_project_file_without_dependencies_is_passed_over(root, project):
    write(root, jobs__hello__pyproject_dot_toml=project)
    assert find(root) is None


def test_nothing_is_nothing(root):
    assert find(root) is None


def test_included_files_become_one_text(root):
    write(
        root,
        requirements_dot_txt="# all\n-r base.txt\n--requirement=more/extra.txt\n"
        "-cpins.txt\nlast==1 \\\n  --hash=sha256:aa\n\n",
        base_dot_txt="base==1  # why\n",
        more__extra_dot_txt="-r ../base2.txt\n--constraint ../pins2.txt\n--index-url https://x/\n",
        base2_dot_txt="base2\n",
        pins_dot_txt="pin==1\n",
        pins2_dot_txt="-r pins3.txt\n",
        pins3_dot_txt="pin3==1\n",
    )
    found = find(root)
    assert found.packages.splitlines() == [
        "base==1  # why",
        "base2",
        "--index-url https://x/",
        "last==1    --hash=sha256:aa",
    ]
    assert found.constraints.splitlines() == ["pin3==1", "pin==1"]
    assert found.line(2) == "base2"
    assert found.line(0) == found.line(99) == ""


def test_packages_in_the_code_are_set_apart(root):
    write(
        root,
        requirements_dot_txt="-e .\n./lib[extra] # local\n--editable=./lib\nname @ file:./lib\n"
        "six\n-e git+https://h/r#egg=x\n",
        lib__setup_dot_py="",
    )
    found = find(root)
    assert found.packages == "six\n-e git+https://h/r#egg=x\n"
    assert found.local == (
        LocalPackage(root.resolve(), "", True),
        LocalPackage(root.resolve() / "lib", "[extra]", False),
        LocalPackage(root.resolve() / "lib", "", True),
        LocalPackage(root.resolve() / "lib", "", False),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-r missing.txt\n", "includes 'missing.txt', which does not exist"),
        ("-r ../../etc/passwd\n", "not in the source"),
        ("-r https://h/r.txt\n", "not in the source"),
        ("-e ../other\n", "points out of the source"),
        ("/srv/package\n", "points out of the source"),
        ("-r requirements.txt\n", "include each other without end"),
        ("x" * 1024 * 1024 + "\n", "larger than 1 MiB"),
    ],
)
def test_what_cannot_be_used_is_named(root, text, words):
    write(root, requirements_dot_txt=text)
    message = refused(root)
    assert words in message
    assert "`requirements.txt`" in message


def test_a_list_that_is_no_text_is_named(root):
    (root / "requirements.txt").write_bytes(b"\xff\xfe\x00x")
    assert "not UTF-8" in refused(root)


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_a_link_out_of_the_source_is_named(root, tmp_path, name):
    (tmp_path / "secret").write_text("[project]\n")
    (root / name).symlink_to(tmp_path / "secret")
    assert "link out of the source" in refused(root)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[project\n", "is not TOML: Expected"),
        ("project = 3\n", "`project` is 3, not a table"),
        ('[project]\ndependencies = "six"\n', "is no list of texts"),
        ("[project]\ndependencies = [1]\n", "is no list of texts"),
    ],
)
def test_a_project_file_that_cannot_be_read_is_named(root, text, words):
    write(root, jobs__hello__pyproject_dot_toml=text)
    message = refused(root)
    assert words in message
    assert message.startswith("jobs/hello/pyproject.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("six\n--indx-url x\n", "requirements.txt, line 2: unknown option `--indx-url`"),
        ("six\nnum py==2\n", "requirements.txt, line 2: 'num py==2' is no requirement"),
        ("six --frobnicate\n", "line 1: unknown option `--frobnicate`"),
    ],
)
def test_lines_that_mean_nothing_are_named_before_anything_is_built(root, text, words):
    write(root, requirements_dot_txt=text)
    assert words in refused(root)


UV_LOCK = """version = 1
requires-python = ">=3.11"

[[package]]
name = "job"
version = "0.1"
source = { virtual = "." }
dependencies = [{ name = "six" }]

[package.metadata]
requires-dist = [{ name = "six", specifier = ">=1" }]

[[package]]
name = "six"
version = "1.16.0"
source = { registry = "https://index.example.org/simple" }
sdist = { url = "https://index.example.org/six.tar.gz", hash = "sha256:HASH" }
""".replace("HASH", "ab" * 32)
PROJECT = '[project]\nname = "job"\nversion = "0.1"\ndependencies = ["six>=1"]\n'


def test_a_lock_of_uv_pins_what_the_project_asks_for(root):
    write(root, uv_dot_lock=UV_LOCK, pyproject_dot_toml=PROJECT)
    found = find(root)
    assert (found.found_in, found.mode) == ("uv.lock", "exact")
    assert found.packages.split() == ["six==1.16.0", f"--hash=sha256:{'ab' * 32}"]


def test_a_lock_without_its_project_is_passed_over_and_a_broken_one_named(root):
    write(root, uv_dot_lock=UV_LOCK)
    assert find(root) is None
    write(root, uv_dot_lock="version = [", pyproject_dot_toml=PROJECT)
    assert "`uv.lock` cannot be used" in refused(root)


POETRY = """
[[package]]
name = "six"
version = "1.16.0"
optional = false

[[package]]
name = "pywin32"
version = "306"
optional = false

[[package]]
name = "mine"
version = "1.0"
optional = false
[package.source]
type = "git"
url = "https://host/mine.git"
resolved_reference = "abc"
"""


def test_an_older_lock_of_poetry_constrains_what_the_project_asks_for(root):
    project = (
        '[tool.poetry.dependencies]\npython = "^3.11"\nsix = "^1"\n'
        'mine = {git = "https://host/mine.git"}\n'
        'extra = {version = "1", optional = true}\nhttpx = {version = "*", extras = ["http2"]}\n'
    )
    write(root, poetry_dot_lock=POETRY, pyproject_dot_toml=project)
    found = find(root)
    assert found.packages.splitlines() == [
        "six", "mine @ git+https://host/mine.git@abc", "httpx[http2]",
    ]  # fmt: skip
    assert found.constraints.splitlines() == ["six==1.16.0", "pywin32==306"]
    assert found.mode == "resolve"


def test_a_newer_lock_of_poetry_says_itself_what_belongs_to_the_job(root):
    lock = """
[[package]]
name = "six"
version = "1.16.0"
optional = false
groups = ["main", "dev"]
markers = "python_version > '3'"

[[package]]
name = "pytest"
version = "8.0"
optional = false
groups = ["dev"]
"""
    write(root, poetry_dot_lock=lock, pyproject_dot_toml=PROJECT)
    found = find(root)
    assert (found.packages, found.mode) == ("six==1.16.0 ; python_version > '3'\n", "exact")


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        ("[[package", "it is not TOML"),
        ('[[package]]\nname = "six\\n--evil"\nversion = "1"\n', "is no package with a version"),
    ],
)
def test_a_lock_of_poetry_that_cannot_be_read_is_named(root, lock, words):
    write(root, poetry_dot_lock=lock)
    assert words in refused(root)


def test_a_pylock_is_handed_on_whole(root):
    write(root, pylock_dot_toml='lock-version = "1.0"\n')
    found = find(root)
    assert (found.file_name, found.packages) == ("pylock.toml", 'lock-version = "1.0"\n')


def test_frozen_requirements_come_last_in_each_folder(root):
    frozen = "six==1.16.0\nwandb==0.31.1.dev1\ntorch==2.4.0+cu121\n"
    write(root, requirements_dot_frozen_dot_txt=frozen)
    found = find(root)
    assert (found.found_in, found.mode) == ("requirements.frozen.txt", "frozen")
    assert found.packages == "six==1.16.0\nwandb\n"
    assert found.variants == (("cu121", ("torch==2.4.0+cu121",)),)
    write(root, pyproject_dot_toml=PROJECT)
    assert find(root).found_in == "pyproject.toml"
    write(root, requirements_dot_frozen_dot_txt="", pyproject_dot_toml="")
    assert find(root) is None
