"""Runtimes: every accepted form is one minor version; files of other tools are never refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job import runtime


@pytest.mark.parametrize(
    "text",
    [
        "3.11",
        "3.11.7",
        " 3.11.4\n",
        "python-3.11.4",
        "python-3.11",
        "python3.11",
        "Python 3.11.4",
        "CPython 3.11.7",
        "cpython-3.11.4-linux-x86_64-gnu",
        "cpython@3.11",
        "3.11.0rc1",
    ],
)
def test_accepted_forms(text: str):
    assert runtime.parse_python(text) == "3.11"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "2.7",
        "3.11.x",
        "3.011",
        "three",
        "3.11-slim",
        "pypy3.10",
        "3.11 3.12",
        "3.",
        "31.1",
    ],
)
def test_other_forms_are_refused_with_the_accepted_ones(text: str):
    with pytest.raises(InvalidInputError, match=r"Accepted: `3\.11`"):
        runtime.parse_python(text)


@given(st.text(max_size=40))
def test_whatever_is_accepted_normalises_to_itself(text: str):
    try:
        python = runtime.parse_python(text)
    except InvalidInputError:
        return
    assert runtime.parse_python(python) == python


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (None, None),
        ("", None),
        ("3.11", "3.11"),
        ("CPython 3.11.7", "3.11"),
        ("PyPy 3.10.14", "3.10"),
        ("python-3.9", "3.9"),
    ],
)
def test_stored_runtimes_are_repaired(stored: str | None, read: str | None):
    assert runtime.repaired_runtime(stored) == read


def test_a_stored_runtime_without_a_version_is_refused():
    with pytest.raises(InvalidInputError, match="The job's runtime: 'snake' is no version"):
        runtime.repaired_runtime("snake")


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("pythonCPython 3.11", "python3.11"),
        ("pythonPyPy 3.10.2", "python3.10"),
        ("python3.11", "python3.11"),
        ("python", "python"),
        ("CPython 3.11", "CPython 3.11"),
    ],
)
def test_the_entry_points_program_is_repaired(word: str, read: str):
    assert runtime.repaired_word(word) == read


def chosen(option: str | None, **files: str) -> runtime.Runtime:
    named = {name.replace("__", "/"): text for name, text in files.items()}
    order = runtime.runtime_candidates("app")
    spelled = {"runtime": "runtime.txt", "version": ".python-version", "project": "pyproject.toml"}
    found = []
    for path in order:
        for short, text in named.items():
            folder, _, kind = short.rpartition("/")
            if path == f"{folder}/{spelled[kind]}".lstrip("/"):
                found.append((path, text))
    return runtime.choose_runtime(option, found, "3.13.1")


PROJECT = '[project]\nname = "x"\nrequires-python = "=={}.*"\n'


def test_candidates_are_the_build_contexts_before_the_roots():
    assert runtime.runtime_candidates("app") == [
        "app/runtime.txt",
        "app/.python-version",
        "app/pyproject.toml",
        "runtime.txt",
        ".python-version",
        "pyproject.toml",
    ]
    assert len(runtime.runtime_candidates()) == 3


def test_the_order_of_precedence():
    files = {
        "app__runtime": "3.6",
        "app__version": "3.7",
        "app__project": PROJECT.format("3.8"),
        "runtime": "3.9",
        "version": "3.10",
        "project": PROJECT.format("3.11"),
    }
    assert chosen("3.5", **files) == runtime.Runtime("3.5", "--runtime")
    expected = {
        "app/runtime.txt, line 1": "3.6",
        "app/.python-version, line 1": "3.7",
        "app/pyproject.toml, line 3": "3.8",
        "runtime.txt, line 1": "3.9",
        ".python-version, line 1": "3.10",
        "pyproject.toml, line 3": "3.11",
    }
    for (origin, python), name in zip(expected.items(), list(files), strict=True):
        assert chosen(None, **files) == runtime.Runtime(python, origin)
        del files[name]
    assert chosen(None) == runtime.Runtime("3.13", "the Python in use")


def test_a_project_that_says_nothing_passes_on_to_the_next():
    found = chosen(None, app__project='[project]\nname = "x"\n', runtime="3.9")
    assert found == runtime.Runtime("3.9", "runtime.txt, line 1")


def test_comments_blank_lines_and_further_versions_of_pyenv():
    text = "\ufeff# tools\n\n3.12.1  # main\n3.11.4\npypy3.10\n"
    assert chosen(None, version=text) == runtime.Runtime("3.12", ".python-version, line 3")


IN_USE = "3.13"


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("3.9.9/envs/x", "3.9"),
        ("3.11-dev", "3.11"),
        ("3.13t", "3.13"),
        ("3.12t-dev", "3.12"),
        ("3.13+freethreaded", "3.13"),
        ("3.12-debug", "3.12"),
        ("3.11.4 3.10.9", "3.11"),
        ("system 3.10.9", "3.10"),
        ("3.11.2\nhome\n\n", "3.11"),
        ("testenv3.12\n3.12.7", "3.12"),
        ("pypy3.10-7.3.12\n3.11.4", "3.11"),
        ("3", IN_USE),
        ("3.x", IN_USE),
        ("python3", IN_USE),
        (">=3.10", IN_USE),
        (">=3.10, <3.12", "3.11"),
        ("==3.11.*", "3.11"),
        ("~=3.10.2", "3.10"),
        ("python>=3.8,<3.10", "3.9"),
        ("python-3.11.x", "3.11"),
        ("3.11.*", "3.11"),
        ("v3.11", "3.11"),
        ("python=3.11", "3.11"),
        ("'3.11'", "3.11"),
        ("cpython@3.11.4", "3.11"),
        ("python-3.11.4\r\n", "3.11"),
        ("\n# pinned\n  3.11  # for torch\n", "3.11"),
    ],
)
@pytest.mark.parametrize("name", [".python-version", "runtime.txt"])
def test_what_names_a_version_counts(name: str, text: str, python: str):
    found = runtime.choose_runtime(None, [(name, text)], IN_USE)
    assert (found.python, found.remarks) == (python, ())
    assert found.origin.startswith(f"{name}, line ")


@pytest.mark.parametrize(
    ("name", "text", "remark"),
    [
        (".python-version", "myproject-env", "'myproject-env' is no version of Python 3"),
        (".python-version", "system", "line 1: 'system' is no version"),
        (".python-version", "pypy3.10-7.3.12", "is no version of Python 3"),
        (".python-version", "miniconda3-4.7.12", "is no version of Python 3"),
        (".python-version", "2.7.18", "line 1: '2.7.18' is no version of Python 3"),
        (".python-version", "<3", "'<3' is no version of Python 3"),
        (".python-version", "", ".python-version names no version"),
        ("runtime.txt", "r-2020-01-01", "line 1: 'r-2020-01-01' is no version"),
        ("runtime.txt", "nodejs-18", "is no version of Python 3"),
        ("app/runtime.txt", "\n\nsnake\n", "app/runtime.txt, line 3: 'snake' is no version"),
        ("runtime.txt", b"\xff\xfe\x00\xd8", "runtime.txt cannot be decoded"),
        ("pyproject.toml", '[project]\n\nrequires-python = "^3.9"', "line 3: `requires-python`"),
        ("pyproject.toml", "[project]\nrequires-python = 3.11", "`requires-python` is 3.11"),
        ("pyproject.toml", '[project]\nrequires-python = ">=4"', "admits no Python 3"),
        ("pyproject.toml", "[project\n", "pyproject.toml is not TOML"),
        ("pyproject.toml", "project = 3", "`project` is 3, not a table"),
    ],
)
def test_what_names_none_is_passed_over_with_a_remark(name: str, text: str | bytes, remark: str):
    after = ("pyproject.toml", '[project]\nrequires-python = "==3.8.*"')
    found = runtime.choose_runtime(None, [(name, text), after], IN_USE)
    assert found.python == "3.8"
    assert remark in found.remarks[0]
    alone = runtime.choose_runtime(None, [(name, text)], IN_USE)
    assert (alone.python, alone.remarks) == (IN_USE, found.remarks)
    assert runtime.choose_runtime("3.7", [(name, text)], IN_USE).remarks == ()


def test_a_file_written_by_a_shell_of_windows_is_decoded():
    content = "3.11\r\n".encode("utf-16")
    assert runtime.choose_runtime(None, [(".python-version", content)], IN_USE).python == "3.11"


@given(st.binary(max_size=60))
def test_any_content_is_read_or_passed_over(content: bytes):
    names = ("runtime.txt", ".python-version", "pyproject.toml")
    runtime.choose_runtime(None, [(name, content) for name in names], IN_USE)


@pytest.mark.parametrize(
    ("wanted", "current", "python"),
    [
        (">=3.9", "3.11", "3.11"),
        (">=3.12", "3.11", "3.12"),
        ("<3.10", "3.11", "3.9"),
        (">=3.8,!=3.11.*", "3.11", "3.12"),
        ("==3.10.4", "3.11", "3.10"),
        (">=3.11.4", "3.11", "3.11"),
        ("~=3.10", "3.14", "3.14"),
        ("", "3.11", "3.11"),
    ],
)
def test_of_a_range_the_version_nearest_to_the_one_in_use_is_taken(
    wanted: str, current: str, python: str
):
    text = f'[project]\nrequires-python = "{wanted}"\n'
    assert runtime.choose_runtime(None, [("pyproject.toml", text)], current).python == python


def test_files_behind_the_first_answer_are_not_read():
    def found():
        yield "runtime.txt", "3.11"
        raise AssertionError("read too far")

    assert runtime.choose_runtime(None, found(), "3.13").python == "3.11"
