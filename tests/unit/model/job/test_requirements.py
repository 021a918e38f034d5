"""Requirement files: in pip's grammar and decoding, each line with its place."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job.requirements import (
    RequirementList,
    decode,
    project_dependencies,
    read_requirement_text,
    read_requirements,
)

FILE = """\
# what the job needs
wandb>=0.13.8

numpy >= 2 , < 3   # for arrays
torch[extra]==2.4.0 ; python_version < "3.13"
--index-url https://index.example/simple
--no-binary=a,b --pre
pillow==11.0 --hash=sha256:aa \\
    --hash=sha256:bb
git+https://git.example/o/r.git@v1#egg=r
-e git+ssh://git@git.example/o/r.git@v1#egg=r
tool @ https://files.example/tool.zip#sha256=00
${EXTRA}
long-\\
name
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "libs/foo/pyproject.toml", "my libs/foo/setup.py", "wheels/x-1.0-py3-none-any.whl",
        "x-1.0.tar.gz", "app/here/setup.py",
    ):  # fmt: skip
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def read(root: Path, text: str | bytes, name: str = "requirements.txt") -> RequirementList:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_requirements(file, root, root)


def rendered(root: Path, found: RequirementList) -> list[str]:
    return [line.render(root, Path("/src")) for line in found.packages]


def test_a_file_is_read_line_by_line(root: Path) -> None:
    found = read(root, FILE)
    assert [(line.where, line.text) for line in found.packages] == [
        ("requirements.txt, line 2", "wandb>=0.13.8"),
        ("requirements.txt, line 4", "numpy >= 2 , < 3"),
        ("requirements.txt, line 5", 'torch[extra]==2.4.0 ; python_version < "3.13"'),
        ("requirements.txt, line 6", "--index-url https://index.example/simple"),
        ("requirements.txt, line 7", "--no-binary a"),
        ("requirements.txt, line 7", "--no-binary b"),
        ("requirements.txt, line 8", "pillow==11.0 --hash=sha256:aa     --hash=sha256:bb"),
        ("requirements.txt, line 10", "git+https://git.example/o/r.git@v1#egg=r"),
        ("requirements.txt, line 11", "git+ssh://git@git.example/o/r.git@v1#egg=r"),
        ("requirements.txt, line 12", "tool @ https://files.example/tool.zip#sha256=00"),
        ("requirements.txt, line 13", "${EXTRA}"),
        ("requirements.txt, line 14", "long-name"),
    ]
    assert found.options == ("--prerelease", "allow")


@pytest.mark.parametrize(
    "data",
    [
        "six==1.16.0\n".encode("utf-16"),
        "six==1.16.0\n".encode("utf-16-le").join((b"\xff\xfe", b"")),
        "\ufeffsix==1.16.0\r\n".encode(),
        "# -*- coding: latin-1 -*-\n# \xe9\nsix==1.16.0\n".encode("latin-1"),
        b"# see C:\\path\\\nsix==1.16.0\n",
        b"six==1.16.0\\",
    ],
)
def test_every_decoding_of_pip_s(root: Path, data: bytes) -> None:
    assert rendered(root, read(root, data)) == ["six==1.16.0"]


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("-e libs/foo", "-e file:///src/libs/foo"),
        ("--editable=libs/foo", "-e file:///src/libs/foo"),
        ("libs/foo", "file:///src/libs/foo"),
        ("./libs/foo[b,a] ; python_version > '3'",
         'file:///src/libs/foo[a,b] ; python_version > "3"'),
        ("wheels/x-1.0-py3-none-any.whl", "file:///src/wheels/x-1.0-py3-none-any.whl"),
        ("x-1.0.tar.gz", "file:///src/x-1.0.tar.gz"),
        ('-e "./my libs/foo"', "-e file:///src/my%20libs/foo"),
        ("./my libs/foo", "file:///src/my%20libs/foo"),
        ("-e ./libs/foo#egg=foo", "-e file:///src/libs/foo"),
        ("-e .[dev]", "-e file:///src[dev]"),
        (".", "file:///src"),
        ("file:libs/foo", "file:///src/libs/foo"),
        ("file:./my%20libs/foo", "file:///src/my%20libs/foo"),
        ("foo @ ./libs/foo", "foo @ file:///src/libs/foo"),
        ("foo[a] @ file:./libs/foo", "foo[a] @ file:///src/libs/foo"),
        ("--find-links ./wheels", "--find-links file:///src/wheels"),
        ("-f https://files.example/", "--find-links https://files.example/"),
    ],
)  # fmt: skip
def test_paths_of_the_source(root: Path, line: str, result: str) -> None:
    assert rendered(root, read(root, line)) == [result]


def test_paths_are_relative_to_the_file_then_to_where_pip_would_be_started(root: Path) -> None:
    found = read(root, "./here\nlibs/foo\n-f ../wheels\n", "app/requirements.txt")
    assert rendered(root, found) == [
        "file:///src/app/here", "file:///src/libs/foo", "--find-links file:///src/wheels",
    ]  # fmt: skip
    assert found.packages[1].render(root, Path("/src"), editable=False) == "file:///src/libs/foo"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("--editable './libs/foo[dev]'", "-e file:///src/libs/foo[dev]"),
        ("-elibs/foo[test]", "-e file:///src/libs/foo[test]"),
        ("--editable=libs/foo", "-e file:///src/libs/foo"),
        ("file:./libs/foo", "file:///src/libs/foo"),
        ("-e ./libs/foo   # via other", "-e file:///src/libs/foo"),
        ('-e ./libs/foo ; python_version >= "3.9"', "-e file:///src/libs/foo"),
        ("httpx \\\n  == 0.0.1", "httpx   == 0.0.1"),
        ("pandas #选装，仅音频", "pandas"),
        ("mod-wsgi==${VERSION}", "mod-wsgi==${VERSION}"),
        ("-e git+ssh://git@host.example/r.git#egg=foo", "git+ssh://git@host.example/r.git#egg=foo"),
    ],
)
def test_forms_that_pip_takes_and_other_readers_refused(root: Path, text: str, result: str) -> None:
    (line,) = read(root, text).packages
    rendered = line.render(root, Path("/src"))
    assert rendered.replace(' ; python_version >= "3.9"', "") == result


def test_included_files_become_one_list(root: Path) -> None:
    files = {
        "my reqs/base.txt": "base==1  # why\n-r ../more/extra.txt\n",
        "more/extra.txt": "extra\n--constraint pins.txt\n",
        "more/pins.txt": "pin==1\n-r pins2.txt\n",
        "more/pins2.txt": "pin2==1\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    found = read(root, '-r "my reqs/base.txt"\n-c more/pins2.txt\nlast\n')
    assert [(line.text, line.where) for line in found.packages] == [
        ("base==1", "my reqs/base.txt, line 1"),
        ("extra", "more/extra.txt, line 1"),
        ("last", "requirements.txt, line 3"),
    ]
    assert [line.text for line in found.constraints] == ["pin==1", "pin2==1", "pin2==1"]


def test_urls_are_read_as_far_as_they_were_fetched(root: Path) -> None:
    url = "https://host.example/pins/constraints.txt"
    found = read(root, f"six\n-c {url}\n")
    assert found.unread == ((url, "requirements.txt, line 2"),)
    data = {url: b"six<2\n-c more.txt\n", "https://host.example/pins/more.txt": b"seven\n"}
    found = read_requirements(root / "requirements.txt", root, root, data)
    assert [line.where for line in found.constraints] == [
        f"{url}, line 1", "https://host.example/pins/more.txt, line 1",
    ]  # fmt: skip
    with pytest.raises(InvalidInputError, match="a file that was fetched cannot name a path"):
        read_requirements(root / "requirements.txt", root, root, {url: b"./libs/foo\n"})
    with pytest.raises(InvalidInputError, match="include each other without end"):
        read_requirements(root / "requirements.txt", root, root, {url: f"-c {url}\n".encode()})


def test_extra_indexes_of_the_file_count_as_with_pip(root: Path) -> None:
    found = read(root, "--extra-index-url https://a/ \n--extra-index-url https://b/\nsix\n")
    assert found.options == ("--index-strategy", "unsafe-best-match")


def test_options_without_effect_are_remarked(root: Path) -> None:
    found = read(root, "--prefer-binary\n--trusted-host h\n--use-feature fast-deps\nsix\n")
    assert rendered(root, found) == ["six"]
    assert len(found.remarks) == 3
    assert found.remarks[1].startswith("requirements.txt, line 2: `--trusted-host` is ignored")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wandb\n--unknown x", "requirements.txt, line 2: unknown option `--unknown`"),
        ("--index-ulr https://x", "line 1: unknown option `--index-ulr`.*`--index-url`"),
        ("--index-url", "line 1: '--index-url': --index-url option requires 1 argument"),
        ("--pre=yes", "line 1: '--pre=yes': --pre option does not take a value"),
        ("numpy --hsah=sha256:00", "unknown option `--hsah`.*`--hash`"),
        ("a\n\nnumpy=>2", "requirements.txt, line 3: 'numpy=>2' is no requirement"),
        ("two words", "line 1: 'two words' is no requirement.*For example"),
        ("-r 'open", "line 1: .*No closing quotation"),
        ("six --global-option=x", "line 1: .*does not take `--global-option`. Remove"),
        ("foo @ hg+https://host.example/r", "line 1: .*uv takes those of git only.*Dockerfile"),
        ("-e svn+https://host.example/r#egg=foo", "line 1: .*uv takes those of git only"),
        ('six --config-settings="a=b"', "line 1: uv takes no `--config-settings`.*Dockerfile"),
        ("six @ file:///croot/six/work", "line 1: .*where the list was made.*pip list --format"),
        ("/srv/package", "line 1: .*where the list was made"),
        ("libs/bar", "line 1: .*'libs/bar' does not exist in the source. Correct the path"),
        ("../other", "line 1: .*leads out of the source. Copy the package"),
        ("-r missing.txt", "line 1: it includes 'missing.txt', which does not exist"),
        ("-r ../../etc/passwd", "line 1: .*is not in the source. Copy the file"),
        ("-r requirements.txt", "include each other without end"),
        (b"six\xe9\n", "requirements.txt cannot be decoded.*coding: latin-1"),
        (b"# coding: klingon\nsix", "requirements.txt cannot be decoded: unknown encoding"),
        ("x" * 1024 * 1024 + "\n", "requirements.txt is larger than 1 MiB"),
    ],
)
def test_errors_name_file_line_and_cure(root: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        read(root, text)
    assert caught.value.hint or "include each other" in message


def test_a_link_out_of_the_source_is_refused(root: Path) -> None:
    (root / "src").mkdir()
    (root / "src/requirements.txt").symlink_to(root / "libs/foo/pyproject.toml")
    with pytest.raises(InvalidInputError, match="is a link out of the source"):
        read_requirements(root / "src/requirements.txt", root / "src", root / "src")


@example("six\n\0/")
@given(st.text(max_size=60) | st.text("-ab=#\\ \n'[]{}@:/.", max_size=40))
def test_any_text_is_read_or_refused_by_line(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            found = read_requirement_text(text, root / "requirements.txt", root, root)
        except InvalidInputError as error:
            assert error.message.startswith("requirements.txt, line ")  # noqa: PT017
            return
        assert all(line.render(root.resolve(), root) for line in found.packages)


def test_plain_text_needs_no_parser() -> None:
    assert decode("six # \xe9".encode(), "x") == "six # \xe9"


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


def test_a_projects_dependencies_know_their_lines() -> None:
    found = project_dependencies(PROJECT, "pyproject.toml")
    assert [(line.text, line.where) for line in found] == [
        ("wandb", "pyproject.toml, line 5"),
        ("numpy>=2", "pyproject.toml, line 6"),
        ("a @ https://files.example/a.zip", "pyproject.toml, line 7"),
    ]


@pytest.mark.parametrize("text", ["", "[project]\nname='x'\n", "[project]\ndependencies = []\n"])
def test_a_project_without_dependencies_lists_none(text: str) -> None:
    assert project_dependencies(text, "pyproject.toml") == ()


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
def test_what_is_wrong_in_a_project_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        project_dependencies(text, "pyproject.toml")
