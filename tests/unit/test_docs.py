"""Documents that could disagree with the code are compared with it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from agent.cli.launch_agent import launch_agent
from agent.cli.main import COMMANDS, launch
from agent.cli.submit import submit
from agent.model.cause import MEANINGS

ROOT = Path(__file__).parents[2]


def test_every_cause_is_told_as_the_code_tells_it() -> None:
    rows = [
        f"| `{cause.value}` | {meaning.summary} | {meaning.remedy} | "
        f"{'yes' if meaning.infrastructure else 'no'} |"
        for cause, meaning in MEANINGS.items()
    ]
    told = [
        line
        for line in (ROOT / "docs" / "causes.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    assert told == rows


PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples/README.md")
GROUPS = {"launch": launch, "launch-agent": launch_agent}


def command_lines(text: str) -> Iterator[str]:
    """Each command of ours in blocks and in code within a sentence, without its comment."""
    blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    written = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", written)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in (*lines, *inline):
        for part in re.split(r"&&|;|\s\|\s|\$\(|\s#\s", line):
            command = re.sub(r"^(?:sudo )?(?:[A-Z_]+=\S* )*", "", part.strip())
            if command.partition(" ")[0] in GROUPS and not set(command) & set("…─"):
                yield re.sub(r"\s[<>]\s*\S+", "", command).rstrip(")& ")


def parse_line(line: str) -> None:
    """Raises what click raises for words that are no command line of ours."""
    name, *words = shlex.split(line)
    command: click.Command = GROUPS[name]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        context = click.Context(command, info_name=name)
        name, found, _ = command.resolve_command(context, words)
        assert found is not None
        command, words = found, words[1:]
    if words:
        command.make_context(name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_line_of_the_documents_is_one(page: Path) -> None:
    wrong = []
    for line in command_lines(page.read_text()):
        try:
            parse_line(line)
        except click.MissingParameter as error:
            # A sentence may name a command without its arguments.
            if f"`{line}`" not in page.read_text():
                wrong.append(f"{line}: {error}")
        except (click.ClickException, ValueError) as error:
            wrong.append(f"{line}: {error}")
    assert wrong == []


def leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, f"{path} {name}")


@pytest.mark.parametrize(
    ("path", "command"),
    [*leaves(launch, "launch"), ("launch-agent", launch_agent)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_help_of_every_command_has_an_example_that_is_one(
    path: str, command: click.Command
) -> None:
    help_text = command.get_help(click.Context(command, info_name=path))
    title, examples = re.split(r"\n\s*(Examples?:)\n", help_text)[1:]
    lines = [line.strip() for line in examples.splitlines()]
    assert (len(lines) > 1) == (title == "Examples:")
    for line in lines:
        assert path in line
        parsed = [*command_lines(f"`{line}`")]
        assert parsed
        parse_line(parsed[0])
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert [each.opts for each in options if not each.hidden and not each.help] == []


def test_every_flag_of_submit_is_told() -> None:
    told = (ROOT / "docs" / "cli.md").read_text()
    flags = [each.opts for each in submit.params if isinstance(each, click.Option)]
    assert [opts for opts in flags if not any(f"`{option}" in told for option in opts)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str) -> None:
    """The line in `launch --help` is the command's own first line, or as good."""
    command = launch.get_command(click.Context(launch), name)
    assert command is not None
    assert command.help
    assert COMMANDS[name].help


def test_documents_point_at_files_that_exist() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#: ]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_architecture_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.[a-z]+)?)`", text))
    named.discard("config/")
    assert len(named) > 15
    assert [name for name in named if not (ROOT / "agent" / name).exists()] == []


def test_every_test_that_the_list_of_threats_names_exists() -> None:
    told = (ROOT / "docs" / "threats.md").read_text()
    rows = re.findall(r"^\| (T\d\d) \|", told, re.MULTILINE)
    assert rows == [f"T{number:02}" for number in range(1, 55)]
    named = re.findall(r"`((?:unit|contract|integration|e2e)/[\w/]+\.py)(?:::(\w+))?`", told)
    assert len(named) > 40
    for path, test in named:
        source = (ROOT / "tests" / path).read_text()
        assert not test or f"def {test}(" in source, f"{path}::{test}"


def test_every_cell_about_a_fault_names_tests_that_exist() -> None:
    page = ROOT / "docs" / "reliability.md"
    table = page.read_text().partition("## Each call, each fault")[2].partition("\n## ")[0]
    rows = [line.split("|")[2:-1] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    for cell in (cell for row in rows for cell in row):
        named = re.findall(r'\]\(([^ )]+) "([^"]+)"\)', cell)
        assert named, f"no test: {cell}"
        for place, tests in named:
            text = (page.parent / place).read_text()
            missing = [test for test in tests.split() if f"def {test}(" not in text]
            assert not missing, f"{place}: {missing}"


def test_alerts_and_dashboard_read_metrics_that_exist() -> None:
    texts = [path.read_text() for path in (ROOT / "helm").glob("*/templates/alerts.yaml")]
    texts.append((ROOT / "helm/control-plane/dashboard.json").read_text())
    read = set(re.findall(r"\blaunch_[a-z_]+", "".join(texts)))
    sources = ("agent/control/metrics.py", "agent/daemon/health_endpoints.py")
    named = set(re.findall(r'"([a-z_]+)"', "".join((ROOT / each).read_text() for each in sources)))
    exposed = named | {f"launch_agent_{name}" for name in named}
    suffix = re.compile(r"_(bucket|count|total)$")
    assert len(read) > 8
    assert {name for name in read if suffix.sub("", name) not in exposed} == set()
