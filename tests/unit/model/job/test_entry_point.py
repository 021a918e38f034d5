"""Entry points: words, the file they run, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.errors import InvalidInputError
from agent.model.job import entry_point, paths


def test_words_are_split_as_a_shell_would():
    assert entry_point.split("python main.py") == ("python", "main.py")
    assert entry_point.split("python  'my file.py' --x=\"a b\"") == (
        "python",
        "my file.py",
        "--x=a b",
    )
    assert entry_point.split("echo $HOME *") == ("echo", "$HOME", "*")


@pytest.mark.parametrize("text", ["", "  ", "''", "python 'open", "a\0b"])
def test_what_names_no_program_is_refused(text: str):
    with pytest.raises(InvalidInputError):
        entry_point.split(text)


@pytest.mark.parametrize(
    ("words", "script"),
    [
        ("python main.py", "main.py"),
        ("main.py --x 1", "main.py"),
        ("python -u jobs/train.py data.py", "jobs/train.py"),
        ("python3.11 -W ignore train.py", "train.py"),
        ("env python3 train.py", "train.py"),
        ("torchrun --nproc_per_node 2 train.py", "train.py"),
        ("bash run", "run"),
        ("bash ./run.sh", "./run.sh"),
        ("./start --now", "./start"),
        ("jupyter nbconvert analysis.ipynb", "analysis.ipynb"),
        ("python -m package.train --file a.py", None),
        ("python -c print(1).py", None),
        ("python", None),
        ("/usr/bin/python3 -V", None),
        ("/bin/cat /x", None),
        ("/opt/conda/bin/torchrun --standalone train.py", "train.py"),
        ("python /app/main.py", "/app/main.py"),
        ("train --epochs 3", None),
        ("", None),
    ],
)
def test_the_file_of_an_entry_point(words: str, script: str | None):
    assert entry_point.script_of(words.split()) == script


@pytest.mark.parametrize(
    ("words", "context", "program"),
    [
        ("python job.py", "jobs/hello", "jobs/hello/job.py"),
        ("python ./a/../b.py", "", None),
        ("python ./a//b.py", "", "a/b.py"),
        ("python -m pkg", "jobs", ""),
    ],
)
def test_the_program_relative_to_the_root(words: str, context: str, program: str | None):
    if program is None:
        with pytest.raises(InvalidInputError):
            entry_point.program_of(words.split(), context)
    else:
        assert entry_point.program_of(words.split(), context) == program


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["train.py", "--x"], ("python", "train.py", "--x")),
        (["run.sh"], ("bash", "run.sh")),
        (["book.ipynb"], ("python", "book.ipynb")),
        (["python", "train.py"], ("python", "train.py")),
        (["./start"], ("./start",)),
        ([], ()),
    ],
)
def test_a_script_alone_gets_its_interpreter(words: list[str], command: tuple[str, ...]):
    assert entry_point.runnable(words) == command
    assert entry_point.runnable(command) == command


def test_notebooks_are_seen():
    assert entry_point.notebook_of(["python", "a/b.ipynb"]) == "a/b.ipynb"
    assert entry_point.notebook_of(["python", "a.py", "b.ipynb"]) is None
    assert entry_point.notebook_of(["python", "-m", "x"]) is None


def test_a_file_tells_its_own_entry_point():
    assert entry_point.for_file("code.py") == "python code.py"
    assert entry_point.for_file("my run.sh") == "bash 'my run.sh'"
    with pytest.raises(InvalidInputError, match=r"unknown how to start 'data\.csv'.*--entry-point"):
        entry_point.for_file("data.csv")


@pytest.mark.parametrize(
    "text",
    [
        "python ../x.py",
        "python a/../../x.py",
        "python x.py --out ../y",
        "python x.py --out=../y",
        r"python ..\x.py",
        "python /etc/x.py",
        "/start.sh",
        "~/x.py",
    ],
)
def test_what_leads_out_of_the_source_is_refused(text: str):
    with pytest.raises(InvalidInputError):
        entry_point.check_words(text.split(" "))


@pytest.mark.parametrize(
    "text", ["python a..b.py", "/usr/bin/python3 x.py", "bash run.sh --data /mnt/x", "train ..."]
)
def test_what_only_looks_so_is_not(text: str):
    entry_point.check_words(text.split(" "))


@pytest.mark.parametrize(
    "text",
    ["python /app/main.py", "/app/start.sh --fast", "/bin/cat /x", "python m.py --data ../data"],
)
def test_absolute_paths_belong_to_an_image_of_the_jobs_own(text: str):
    words = text.split()
    entry_point.check_words(words, own_image=True)
    assert not entry_point.program_of(words).startswith("/")
    with pytest.raises(InvalidInputError):
        entry_point.check_words(["python", "../x.py"], own_image=True)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("python main.py | tee log", "|"),
        ("FOO=1 python main.py", "FOO=1"),
        ("cd sub && python main.py", "cd"),
        ("python a.py && python b.py", "&&"),
        ("python main.py > out.txt", ">"),
        ("python main.py 2>&1", "2>&1"),
        ("python main.py >>log", ">>log"),
        ("python main.py --out $HOME/x", "$HOME/x"),
        ("python main.py --n ${N}", "${N}"),
        ("python main.py `date`", "`date`"),
        ("python main.py --at $(date)", "$(date)"),
        ("source env.sh; python main.py", "source"),
        ("python main.py; echo done", "main.py;"),
        ("python main.py --data ~/data", "~/data"),
        ("export A=1", "export"),
        ("python main.py &", "&"),
    ],
)
def test_words_for_a_shell_are_remarked(text: str, found: str):
    remark = entry_point.shell_remark(entry_point.split(text))
    assert remark is not None
    assert f"'{found}' is passed on" in remark
    assert "bash -c" in remark


@pytest.mark.parametrize(
    ("text", "suggested"),
    [
        ("python a.py && python b.py", "bash -c 'python a.py && python b.py'"),
        ("python -c 'print(1)' && echo hi", "bash -c \"python -c 'print(1)' && echo hi\""),
        ("echo 'a b' | wc", "bash -c \"echo 'a b' | wc\""),
        ("python -c 'print(\"a\")' | wc", 'bash -c "…"'),
    ],
)
def test_the_line_for_a_shell_that_is_suggested_keeps_its_quotes(text: str, suggested: str):
    assert f"`{suggested}`" in str(entry_point.shell_remark(entry_point.split(text)))


@pytest.mark.parametrize(
    "text",
    [
        "python main.py --lr 1e-4 --name a=b",
        "bash -c 'cd sub && python main.py | tee log'",
        "/bin/sh -c 'FOO=1 python main.py'",
        "python -m pkg --filter 'a<b'",
        "env FOO=1 python main.py",
        "python main.py --regex ^a|b$",
        "torchrun --nproc_per_node 2 train.py",
        "",
    ],
)
def test_other_words_are_not(text: str):
    words = entry_point.split(text) if text else ()
    assert entry_point.shell_remark(words) is None


@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_words_have_an_answer(words: list[str]):
    script = entry_point.script_of(words)
    assert script is None or script in words
    assert entry_point.runnable(entry_point.runnable(words)) == entry_point.runnable(words)


@pytest.mark.parametrize(
    ("path", "shortest"), [(".", ""), ("./", ""), ("a", "a"), ("./a//b/", "a/b"), ("a/./b", "a/b")]
)
def test_paths_inside_in_shortest_form(path: str, shortest: str):
    assert paths.inside(path, "build context") == shortest


@pytest.mark.parametrize(
    "path", ["", " ", "/", "/abs", "~", "~user/x", "..", "a/../b", "a/..", "C:/x", "\\\\x", "a\0b"]
)
def test_paths_outside_are_refused_by_their_role(path: str):
    with pytest.raises(InvalidInputError, match="The build context"):
        paths.inside(path, "build context")


@given(st.text("./ab\\", max_size=12))
def test_a_path_that_is_let_in_stays_in(path: str):
    try:
        shortest = paths.inside(path, "path")
    except InvalidInputError:
        return
    assert not shortest.startswith("/")
    assert ".." not in shortest.split("/")
    assert shortest == "" or paths.inside(shortest, "path") == shortest


def test_candidates_go_from_the_build_context_to_the_root():
    assert paths.candidates(["x", "y"], "a/b") == ["a/b/x", "a/b/y", "x", "y"]
    assert paths.candidates(["x", "y"]) == ["x", "y"]
