"""Requirement files: each requirement with its line, each option known or named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job import requirements
from agent.model.job.requirements import Option

FILE = """\
# what the job needs
wandb>=0.13.8

numpy >= 2 , < 3   # for arrays
torch[extra]==2.4.0 ; python_version < "3.13"
--index-url https://index.example/simple
-r more.txt
-cconstraints.txt
--pre
pillow==11.0 --hash=sha256:aa \\
    --hash=sha256:bb
./local/package
git+https://git.example/o/r.git@v1#egg=r
wheels/x-1.0-py3-none-any.whl
tool @ https://files.example/tool.zip#sha256=00
${EXTRA}
long-\\
name
"""


def read(text: str) -> requirements.Requirements:
    return requirements.read_requirements(text, "app/requirements.txt")


def test_a_file_is_read_line_by_line():
    found = read(FILE)
    assert [(d.line, d.name or d.text) for d in found.dependencies] == [
        (2, "wandb"),
        (4, "numpy"),
        (5, "torch"),
        (10, "pillow"),
        (12, "./local/package"),
        (13, "git+https://git.example/o/r.git@v1#egg=r"),
        (14, "wheels/x-1.0-py3-none-any.whl"),
        (15, "tool"),
        (16, "${EXTRA}"),
        (17, "long-name"),
    ]
    assert found.options == (
        Option("--index-url", "https://index.example/simple", 6),
        Option("--requirement", "more.txt", 7),
        Option("--constraint", "constraints.txt", 8),
        Option("--pre", None, 9),
    )
    assert [(o.name, o.value) for o in found.included] == [
        ("--requirement", "more.txt"),
        ("--constraint", "constraints.txt"),
    ]


def test_packages_are_found_by_any_spelling():
    found = read("Foo_Bar==1\n")
    assert found.names("foo-bar")
    assert found.names("FOO.BAR")
    assert not found.names("foo")


def test_a_byte_order_mark_windows_lines_and_a_last_backslash():
    found = read("\ufeffwandb\r\nnumpy\r\nscipy\\")
    assert [d.name for d in found.dependencies] == ["wandb", "numpy", "scipy"]


def test_a_comment_ends_a_continued_line():
    assert [d.text for d in read("numpy\\\n# note\nscipy").dependencies] == ["numpy", "scipy"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wandb\n--unknown x", r"app/requirements\.txt, line 2: unknown option `--unknown`"),
        ("--index-ulr https://x", r"line 1: unknown option `--index-ulr`.*`--index-url`"),
        ("-z", r"line 1: unknown option `-z`\. Known: "),
        ("--index-url", "the option `--index-url` lacks its value"),
        ("-r", "the option `-r` lacks its value"),
        ("--pre=yes", r"the option `--pre` takes no value \(seen: 'yes'\)"),
        ("numpy --hsah=sha256:00", "unknown option `--hsah`.*`--hash`"),
        ("numpy -r x.txt", "unknown option `-r`"),
        ("a\n\nnumpy=>2", r"app/requirements\.txt, line 3: 'numpy=>2' is no requirement"),
        ("two words", "line 1: 'two words' is no requirement.*For example"),
        ("-r 'open", "line 1: .*Check the quotes"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(text: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        read(text)


@given(st.text(max_size=60) | st.text("-ab=#\\ \n'[]", max_size=40))
def test_any_text_is_read_or_refused_by_line(text: str):
    try:
        found = read(text)
    except InvalidInputError as error:
        assert error.message.startswith("app/requirements.txt, line ")  # noqa: PT017
        return
    assert all(d.text for d in found.dependencies)


PROJECT = """\
[project]
name = "x"
# "numpy>=2" comes below
dependencies = [
    "wandb",
    "numpy>=2",
    "a @ https://files.example/a.zip",
]
"""


def test_a_projects_dependencies_know_their_lines():
    found = requirements.project_dependencies(PROJECT, "pyproject.toml")
    assert [(d.name, d.line) for d in found] == [("wandb", 5), ("numpy", 6), ("a", 7)]


@pytest.mark.parametrize("text", ["", "[project]\nname='x'\n", "[project]\ndependencies = []\n"])
def test_a_project_without_dependencies_lists_none(text: str):
    assert requirements.project_dependencies(text, "pyproject.toml") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project]\ndependencies = 3", r"line 2: `project\.dependencies` is no list of texts"),
        ("[project]\ndependencies = [3]", "is no list of texts"),
        ('[project]\ndependencies = [\n"ok",\n"not ok"]', "line 4: 'not ok' is no requirement"),
        ("[project", r"pyproject\.toml is not TOML"),
        ("project = []", r"`project` is \[\], not a table"),
    ],
)
def test_what_is_wrong_in_a_project_is_named(text: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        requirements.project_dependencies(text, "pyproject.toml")
