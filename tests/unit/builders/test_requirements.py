"""Which packages a job needs, and which file says so."""

from pathlib import Path

import pytest

from agent.builders.requirements import NONE, fetch_requirements, find_requirements
from agent.model.cause import Cause
from agent.model.errors import JobError, PolicyError
from agent.ports.builder import BuildRequest


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


def request(root):
    return BuildRequest(
        root=root, context=root, dockerfile=None, base_image=None, python=None, command=(),
        user_id=1000, title="job", entity="team", queue="q", labels={},
    )  # fmt: skip


def find(root):
    return find_requirements(root / "jobs/hello", root)


def texts(root):
    found = find(root)
    return [line.text for line in found.lines]


def refused(root):
    with pytest.raises(JobError) as caught:
        find(root)
    assert caught.value.cause is Cause.SOURCE_INVALID
    return caught.value.message


def test_the_build_context_comes_before_the_root(root):
    write(root, requirements_dot_txt="root\n", jobs__hello__requirements_dot_txt="context\n")
    assert find(root).found_in == "jobs/hello/requirements.txt"
    assert texts(root) == ["context"]


def test_the_root_is_looked_at_next(root):
    write(root, requirements_dot_txt="root\n")
    assert (find(root).found_in, texts(root)) == ("requirements.txt", ["root"])


def test_a_list_comes_before_the_project_file(root):
    project = '[project]\nname = "x"\ndependencies = ["other"]\n'
    write(root, requirements_dot_txt="listed\n", pyproject_dot_toml=project)
    assert texts(root) == ["listed"]


def test_the_project_file_s_dependencies_count(root):
    project = '[project]\nname = "x"\ndependencies = ["six>=1", "numpy ; python_version<\'3\'"]\n'
    write(root, jobs__hello__pyproject_dot_toml=project, requirements_dot_txt="root\n")
    assert find(root).found_in == "jobs/hello/pyproject.toml"
    assert texts(root) == ["six>=1", "numpy ; python_version<'3'"]


@pytest.mark.parametrize("project", ["[tool.x]\n", '[project]\nname = "x"\ndependencies = []\n'])
def test_a_project_file_without_dependencies_is_passed_over(root, project):
    write(root, jobs__hello__pyproject_dot_toml=project)
    assert find(root) == NONE


def test_nothing_is_nothing(root):
    assert not find(root)


def test_what_is_in_the_source_is_installed_after_the_code_is_there(root):
    write(
        root, requirements_dot_txt="six\n-e lib\n-c pins.txt\n",
        lib__setup_dot_py="", pins_dot_txt="six<2\n",
    )  # fmt: skip
    found = find(root)
    assert found.local
    assert found.files(root, Path("/x y")) == {
        "requirements.txt": "six\n",
        "local.txt": "six\n",
        "folders.txt": "-e file:///x%20y/lib\n",
        "constraints.txt": "six<2\n",
        "pylock.toml": "",
    }
    assert found.files(root, Path("/x"), editable=False)["folders.txt"] == "file:///x/lib\n"
    assert found.where("local.txt", 1) == "requirements.txt, line 1"
    assert found.where("constraints.txt", 1) == "pins.txt, line 1"
    assert found.where("requirements.txt", 2) is found.where("other.txt", 1) is None


@pytest.mark.parametrize("text", ["--no-index\n-f lib\nsix\n", "six\n-c pins.txt\n"])
def test_packages_wait_for_archives_and_pins_in_the_source(root, text):
    write(root, requirements_dot_txt=text, lib__setup_dot_py="", pins_dot_txt="foo @ ./lib\n")
    found = find(root)
    assert found.before_code == ()
    assert "six\n" in found.files(root, Path("/x"))["local.txt"]


def test_what_cannot_be_used_is_named(root):
    write(root, requirements_dot_txt="six\nnum py==2\n")
    assert "requirements.txt, line 2: 'num py==2' is no requirement" in refused(root)


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


class Urls:
    """`UrlPort` that allows everything."""

    def __init__(self, fetch):
        self.fetch = fetch

    async def check(self, url):
        pass


async def test_included_urls_are_fetched_with_what_they_include(root, threads):
    write(root, requirements_dot_txt="six\n-c https://host/a.txt\n")
    files = {"https://host/a.txt": b"six<2\n-c b.txt\n", "https://host/b.txt": b"seven<8\n"}

    async def fetch(url):
        return files[url]

    found = await fetch_requirements(request(root), {}, threads, Urls(fetch))
    assert found.files(root, root)["constraints.txt"] == "six<2\nseven<8\n"


async def test_urls_that_may_not_be_fetched_are_refused_with_the_line(root, threads):
    write(root, requirements_dot_txt="six\n-c https://host/a.txt\n")

    async def fetch(url):
        raise PolicyError(Cause.POLICY_SOURCE, "Not allowed.", hint="Ask.")

    for given, words in (
        (Urls(fetch), "line 2: Not allowed. Ask."),
        (None, "is not fetched. Copy the"),
    ):
        with pytest.raises(PolicyError) as caught:
            await fetch_requirements(request(root), {}, threads, given)
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("six\n", ("--index-strategy", "unsafe-first-match")),
        ("--extra-index-url https://b\nsix\n", ("--index-strategy", "unsafe-best-match")),
    ],
)
async def test_the_agents_index_strategy_holds_unless_the_file_asks_for_one(
    root, threads, text, expected
):
    write(root, requirements_dot_txt=text)
    environment = {"UV_INDEX_STRATEGY": "unsafe-first-match"}
    found = await fetch_requirements(request(root), environment, threads, None)
    assert found.options == expected


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
    assert [line.text.split() for line in found.lines] == [
        ["six==1.16.0", f"--hash=sha256:{'ab' * 32}"]
    ]


def test_a_lock_without_its_project_is_passed_over_and_a_broken_one_named(root):
    write(root, uv_dot_lock=UV_LOCK)
    assert not find(root)
    write(root, uv_dot_lock="version = [", pyproject_dot_toml=PROJECT)
    assert "uv.lock cannot be used" in refused(root)


@pytest.mark.parametrize(
    "text",
    [
        "[[tool.poetry.dependencies]]\nsix = 1\n",
        "[tool.poetry]\ndependencies = [{six = 1}]\n",
        "[tool.pixi]\ndependencies = 5\n",
    ],
)
def test_tables_of_wrong_types_are_no_remark(root, text):
    (root / "pyproject.toml").write_text(text)
    assert find(root).remarks == ()


def test_folders_outside_of_the_source_are_not_looked_into(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "customer-requirements.txt").write_text("six")
    (root / "requirements").symlink_to(outside)
    (root / "reqs").symlink_to("reqs")
    assert find(root).remarks == ()


@pytest.mark.parametrize(
    ("lock", "remedy"),
    [
        ("poetry.lock", "`poetry export -f requirements.txt -o requirements.txt`"),
        ("Pipfile.lock", "`pipenv requirements > requirements.txt`"),
    ],
)
def test_locks_of_other_tools_are_not_read_and_that_is_remarked(root, lock, remedy):
    (root / lock).write_text("anything")
    assert not find(root)
    remark = f"{lock} is not read; to install from it: {remedy}"
    assert find(root).remarks == (remark,)
    assert find(root).warnings == (f"build: no packages are installed: {remark}",)
    write(root, pyproject_dot_toml=PROJECT)
    assert texts(root) == ["six>=1"]
    assert len(find(root).remarks) == 1
    assert find(root).warnings == ()
    write(root, requirements_dot_txt="six\n")
    assert find(root).remarks == ()


@pytest.mark.parametrize(
    ("name", "text", "remark"),
    [
        ("pyproject.toml", '[tool.poetry.dependencies]\npython = "^3.9"\nsix = "*"\n',
         ("`[tool.poetry.dependencies]` of pyproject.toml is not read; to install from it: "
         "`uv pip compile pyproject.toml -o requirements.txt`")),
        ("pyproject.toml", '[project]\nname = "x"\ndynamic = ["version", "dependencies"]\n',
         "`dynamic dependencies` of pyproject.toml is not read"),
        ("pyproject.toml", '[project.optional-dependencies]\ntrain = ["six"]\n',
         "`[project.optional-dependencies]` of pyproject.toml is not read"),
        ("pyproject.toml", '[dependency-groups]\ndev = ["six"]\n', "`[dependency-groups]` of"),
        ("pyproject.toml", '[tool.pixi.dependencies]\nsix = "*"\n', "`[tool.pixi.dependencies]`"),
        ("setup.py", "setup(install_requires=['six'])", "`uv pip compile setup.py -o"),
        ("setup.cfg", "[options]\ninstall_requires = six\n", "setup.cfg is not read"),
        ("environment.yml", "dependencies: [six]", "environment.yml is not read"),
        ("environment-gpu.yaml", "", "environment-gpu.yaml is not read"),
        ("conda.yaml", "", "`pip list --format=freeze > requirements.txt`"),
        ("Pipfile", "[packages]", "`pipenv lock && pipenv requirements > requirements.txt`"),
        ("pixi.toml", "", "pixi.toml is not read"),
        ("apt.txt", "git", "packages of the system are for a Dockerfile or base image"),
        ("requirements/base.txt", "six", "write `-r requirements/base.txt` into requirements.txt"),
        ("binder/requirements.txt", "six", "write `-r binder/requirements.txt` into"),
        ("Requirements.txt", "six", "Requirements.txt is not read"),
        ("requirement.txt", "six", "write `-r requirement.txt` into requirements.txt"),
        ("requirements-dev.txt", "six", "requirements-dev.txt is not read"),
        ("requirements.in", "six", "requirements.in is not read"),
        ("reqs.txt", "six", "reqs.txt is not read"),
        ("demo/x.py", "# /// script\n# dependencies = ['six']\n# ///\n",
         ("The list in the header of demo/x.py is not read; to install from it: "
         "`uv export --script demo/x.py -o requirements.txt`")),
        ("demo/environment.yml", "", "demo/environment.yml is not read"),
    ],
)  # fmt: skip
def test_what_names_packages_and_is_not_read_is_told_with_the_cure(root, name, text, remark):
    (root / "demo").mkdir()
    (root / "demo/x.py").write_text("")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text)
    found = find_requirements(root, root, ("python", "demo/x.py"))
    assert not found
    (said,) = found.remarks
    assert remark in said
    assert found.warnings == (f"build: no packages are installed: {said}",)
    write(root, requirements_dot_txt="six\n")
    assert find_requirements(root, root, ("python", "demo/x.py")).remarks == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("setup.py", "from setuptools import setup\nsetup()\n"),
        ("pyproject.toml", '[tool.poetry.dependencies]\npython = "^3.9"\n'),
        ("settings.yml", ""),
        ("prerequisites.md", ""),
        ("requirements.frozen.txt", ""),
        ("requirements/readme.md", ""),
    ],
)
def test_what_names_none_is_not_remarked(root, name, text):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text)
    assert find_requirements(root, root).remarks == ()


@pytest.mark.parametrize(
    ("files", "command", "chosen"),
    [
        (["demo/requirements.txt"], "python demo/x.py", "demo/requirements.txt"),
        (["demo/pyproject.toml"], "demo/x.py --fast", "demo/pyproject.toml"),
        (["requirements.txt", "demo/requirements.txt"], "python demo/x.py", "requirements.txt"),
        (["demo/requirements.txt", "requirements.frozen.txt"], "python demo/x.py",
         "requirements.frozen.txt"),
        (["requirements.frozen.txt"], "python demo/x.py", "requirements.frozen.txt"),
        (["demo/requirements.txt"], "python -m demo.x", ""),
        (["demo/requirements.txt"], "python /demo/x.py", ""),
        (["demo/requirements.txt"], "python ../demo/x.py", ""),
    ],
)  # fmt: skip
def test_a_list_beside_the_script_counts_where_the_context_has_none(root, files, command, chosen):
    (root / "demo").mkdir()
    (root / "demo/x.py").write_text("")
    for name in files:
        (root / name).write_text(PROJECT if name.endswith("toml") else "six==1.16.0\n")
    found = find_requirements(root, root, tuple(command.split()))
    assert found.found_in == chosen


def test_a_script_that_is_a_link_out_of_the_source_leads_nowhere(root, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x.py").write_text("")
    (tmp_path / "out/requirements.txt").write_text("stolen\n")
    (root / "demo").symlink_to(tmp_path / "out")
    assert not find_requirements(root, root, ("python", "demo/x.py"))


def test_a_pylock_is_handed_on_whole(root):
    write(root, pylock_dot_toml='lock-version = "1.0"\n')
    found = find(root)
    assert (found.found_in, found.pylock) == ("pylock.toml", 'lock-version = "1.0"\n')


def test_frozen_requirements_come_last_in_each_folder(root):
    frozen = "six==1.16.0\nwandb==0.31.1.dev1\ntorch==2.4.0+cu121\n"
    write(root, requirements_dot_frozen_dot_txt=frozen)
    found = find(root)
    assert (found.found_in, found.mode) == ("requirements.frozen.txt", "frozen")
    assert [line.text for line in found.lines] == ["six==1.16.0", "wandb"]
    assert found.variants == (("cu121", ("torch==2.4.0+cu121",)),)
    write(root, pyproject_dot_toml=PROJECT)
    assert find(root).found_in == "pyproject.toml"
    write(root, requirements_dot_frozen_dot_txt="", pyproject_dot_toml="")
    assert not find(root)
