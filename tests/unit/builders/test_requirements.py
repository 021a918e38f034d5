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
    project = (
        '[project]\nname = "x"\ndependencies = ["six>=1", "numpy\\n ; python_version<\'3\'"]\n'
    )
    write(root, jobs__hello__pyproject_dot_toml=project, requirements_dot_txt="root\n")
    found = find(root)
    assert found.found_in == "jobs/hello/pyproject.toml"
    assert found.packages == "six>=1\nnumpy ; python_version<'3'\n"


@pytest.mark.parametrize(
    "project", ["[tool.x]\n", '[project]\nname = "x"\ndependencies = []\n', "project = 3\n"]
)
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
        ("-r missing.txt\n", "includes «missing.txt», which does not exist"),
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
        ("[project\n", "not valid TOML"),
        ('[project]\ndependencies = "six"\n', "not a list of strings"),
        ("[project]\ndependencies = [1]\n", "not a list of strings"),
    ],
)
def test_a_project_file_that_cannot_be_read_is_named(root, text, words):
    write(root, jobs__hello__pyproject_dot_toml=text)
    message = refused(root)
    assert words in message
    assert "`jobs/hello/pyproject.toml`" in message
