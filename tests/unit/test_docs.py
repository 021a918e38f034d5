"""Documents that could disagree with the code are compared with it."""

import re
from pathlib import Path

import click
import pytest

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


def test_the_readme_has_the_tour_word_for_word() -> None:
    tour = [
        "launch-agent --queue default ",
        "launch queue create gpu --resource local-container #",
        (
            "launch submit --queue default --uri ./examples/hello"
            ' --entry-point "python main.py" --name hello --follow'
        ),
        (
            "launch submit --queue default --uri https://git.example/org/repo.git -g v1.2"
            ' --entry-point "python train.py"'
        ),
        "launch submit --queue default --docker-image repo/name:tag",
        "launch queue list | show Q | update Q | delete Q | pause Q | resume Q",
        (
            "launch item list | show ID | logs ID --follow | stop ID | retry ID"
            " | move ID --to Q | priority ID high"
        ),
        "launch agent list | show A | drain A | stop A ",
        "launch explain ID ",
    ]
    readme = (ROOT / "README.md").read_text()
    assert [line for line in tour if line not in readme] == []


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
