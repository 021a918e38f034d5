"""Commands while the server is away for a moment, or an answer of it is lost."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from agent.cli.main import launch
from tests.unit.cli.conftest import Ran, Run
from tests.unit.cli.far_end import WHEN, FarEnd, RefusalError, agent, item, queue

#: Each command that changes something, and the call that does it.
WRITES = {
    "queue create gpu -r local-process": "saveLaunchQueue",
    "queue update default -r local-process": "saveLaunchQueue",
    "queue delete default": "deleteLaunchQueue",
    "queue pause default": "pauseLaunchQueue",
    "queue resume default": "pauseLaunchQueue",
    "submit -q default -d busybox": "submitLaunchItem",
    "submit -q default -u code -E main.py": "createArtifact",
    "item stop i": "stopLaunchItem",
    "item retry i": "retryLaunchItem",
    "item move i --to training": "moveLaunchItem",
    "item priority i high": "setLaunchItemPriority",
    "agent drain desk": "stopLaunchAgent",
    "agent stop desk": "stopLaunchAgent",
    "key revoke k": "revokeLaunchKey",
    "user create bob": "createLaunchUser",
    "user disable bob": "disableLaunchUser",
    "user enable bob": "disableLaunchUser",
    "entity create team": "createLaunchTeam",
    "entity member team bob none": "setLaunchMember",
    "entity join team": "answerLaunchInvitation",
    "entity leave team": "answerLaunchInvitation",
    "open": "POST",
    "job create code code -p p -E main.py": "createArtifact",
    "job create code code -p p -E main.py ": "createArtifactManifest",
    "job create code  code -p p -E main.py": "createArtifactFiles",
    "job create  code code -p p -E main.py": "PUT",
    "job  create code code -p p -E main.py": "commitArtifact",
    "job alias one:v0 best -p p": "addAliases",
    "job alias --remove one:v0 best -p p": "deleteAliases",
    "job delete one:v0 -p p": "deleteArtifact",
    "job automatic on": "setOwnLaunchJobCreation",
    "job automatic on -p p": "setLaunchJobCreation",
}
#: A repeat would make a second key, and the first one would be unknown.
NOT_REPEATED = {
    "key create mine": "createLaunchKey",
    "key create mine --for-agent": "createLaunchAgentKey",
}
#: Change nothing on a server, or run as long as a server or a job does.
OTHERS = """
agent list|agent show|audit|doctor|entity invitations|entity list|entity members|explain|item list
item logs|item show|job describe|job list|job versions|key list|login|queue list|queue show|render
run|server|user list
"""


def commands(group: click.Command, *above: str) -> Iterator[str]:
    """Each command of a program, by its words."""
    if not isinstance(group, click.Group):
        yield " ".join(above)
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield from commands(found, *above, name)


def test_each_command_is_among_those_that_are_tried_here() -> None:
    listed = {name for line in OTHERS.split("\n") for name in line.split("|") if name}
    tried = [" ".join(each.split()) for each in (*WRITES, *NOT_REPEATED)]
    for name in commands(launch):
        assert name in listed or any(f"{each} ".startswith(f"{name} ") for each in tried), name


@pytest.fixture
def ready(run: Run, far_end: FarEnd, tmp_path: Path) -> Run:
    """Runs a command line; the far end answers every command."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text("print()")
    key = {"id": "k", "name": "mine", "kind": "user", "hint": "1234", "queues": None,
           "createdAt": WHEN, "expiresAt": None, "revokedAt": None, "user": "ada",
           "entity": None}  # fmt: skip
    user = {"id": "u", "name": "bob", "email": None, "admin": False, "entity": "bob",
            "createdAt": WHEN, "disabledAt": None}  # fmt: skip
    made = {"secret": "launch-s", "key": key}
    far_end.answers |= {
        "saveLaunchQueue": queue("gpu"), "pauseLaunchQueue": queue(), "deleteLaunchQueue": True,
        "submitLaunchItem": item(), "stopLaunchItem": item(), "retryLaunchItem": item(),
        "moveLaunchItem": item(), "setLaunchItemPriority": item(), "stopLaunchAgent": agent(),
        "revokeLaunchKey": True, "createLaunchUser": user, "disableLaunchUser": user,
        "createLaunchTeam": {"id": "t"}, "setLaunchMember": True, "answerLaunchInvitation": True,
        "createLaunchKey": made, "createLaunchAgentKey": made, "setLaunchJobCreation": True,
        "setOwnLaunchJobCreation": True,
    }  # fmt: skip

    def words(line: str) -> Ran:
        return run(*line.split())

    return words


@pytest.mark.parametrize(("line", "call"), WRITES.items())
def test_a_call_whose_answer_is_lost_is_repeated_as_it_was(
    ready: Run, far_end: FarEnd, line: str, call: str
) -> None:
    if "one:v0" in line:
        assert ready("job create image busybox -p p -n one -a best").code == 0
    far_end.unanswered = {call}
    done = ready(line)
    assert done.code == 0, done.err
    assert far_end.unanswered == set()
    # The HTTP library itself repeats a PUT at once where it reused a connection.
    assert done.err.count("Trying again for up to 30 s.") == (call != "PUT")
    first, second = calls(far_end, call)[:2]
    assert first == second


def calls(far_end: FarEnd, name: str) -> list[Any]:
    """What was sent with each call of a field, or each request of a method beside GraphQL."""
    if name in {"POST", "PUT"}:
        sent = [(path, body) for method, path, body in far_end.rest if method == name]
        # Several files are sent at a time; each of them once, and one twice.
        (again, times), *_ = Counter(sent).most_common(1)
        return [again] * times
    return [variables for field, variables in far_end.asked if field == name]


@pytest.mark.parametrize(("line", "call"), NOT_REPEATED.items())
def test_a_key_is_not_made_twice(ready: Run, far_end: FarEnd, line: str, call: str) -> None:
    far_end.unanswered = {call}
    done = ready(line)
    assert done.code == 3
    assert "look whether it did before you run it again" in done.err
    assert len(calls(far_end, call)) == 1


@pytest.mark.parametrize(
    "line",
    [
        *NOT_REPEATED,
        "submit -q default -d busybox",
        "job create code code -p p -E main.py",
        "audit",
    ],
)
def test_a_server_that_is_starting_is_waited_for(ready: Run, far_end: FarEnd, line: str) -> None:
    far_end.answers["launchAudit"] = {"edges": []}
    far_end.unready = 2
    done = ready(line)
    assert done.code == 0, done.err
    assert far_end.unready == 0
    assert done.err.startswith("launch: The server is starting. Trying again for up to 30 s.\n")
    assert done.err.count("Trying again") == 1


def test_how_long_is_the_users_to_say(
    ready: Run, far_end: FarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    far_end.unready = 10**6
    for line, message in (
        ("queue list --retry-for 0", "Error: The server is starting."),
        ("queue list --retry-for 300ms", "launch: The server is starting. Trying again for up to"),
    ):
        done = ready(line)
        assert (done.code, done.err.startswith(message)) == (3, True), done.err
    monkeypatch.setenv("LAUNCH_RETRY_FOR", "0s")
    assert "Trying" not in ready("queue list").err
    assert ready("queue list --retry-for soon").code == 2


def test_a_refusal_of_a_repeat_says_that_the_first_may_have_done_it(
    ready: Run, far_end: FarEnd
) -> None:
    made: list[str] = []

    def create(asked: Any) -> Any:
        if asked["name"] in made:
            raise RefusalError("ALREADY_EXISTS", "There is an entity 'team' already.")
        made.append(asked["name"])
        return {"id": "t"}

    far_end.answers["createLaunchTeam"] = create
    far_end.unanswered = {"createLaunchTeam"}
    done = ready("entity create team")
    assert (done.code, made) == (1, ["team"])
    assert "An earlier try, whose answer was lost, may have done it." in done.err
    again = ready("entity create team")
    assert "may have done it" not in again.err
