"""Every flag of the W&B commands, hidden ones too, is one of ours: only first words change."""

import click
import pytest

from agent.cli.job import create, describe, list_jobs
from agent.cli.launch_agent import launch_agent
from agent.cli.render import render
from agent.cli.submit import submit
from tests.contract.wandb_client.environment import WandbClient

COMMANDS = [
    ("launch", submit),
    ("launch-agent", launch_agent),
    ("job create", create),
    ("job list", list_jobs),
    ("job describe", describe),
]
#: Names beside W&B's own: what one command calls so, the other shall take as well.
BOTH_SPELLINGS = {"-g", "--git-version", "--git-hash"}


def named(command: click.Command, name: str) -> click.Option | None:
    """The option that goes by a name."""
    options = (each for each in command.params if isinstance(each, click.Option))
    return next((each for each in options if name in each.opts), None)


@pytest.mark.parametrize(("words", "ours"), COMMANDS)
def test_every_flag_and_short_form_is_taken_and_written_alike(
    wandb_client: WandbClient, words: str, ours: click.Command
) -> None:
    theirs = wandb_client.call("flags", words=words.split())
    assert theirs
    for flag in (each for each in theirs if each["option"]):
        for name in flag["names"]:
            option = named(ours, name)
            assert option is not None, f"{words} has {name}"
            assert (option.multiple or option.count, option.is_flag) == (
                flag["repeated"],
                flag["alone"],
            ), name
            assert set(flag["names"]) <= set(option.opts), name
            assert flag["bare"] in {None, option.flag_value}, name
            given = option.envvar or ()
            variables = {given} if isinstance(given, str) else set(given)
            assert flag["envvar"] is None or flag["envvar"] in variables, name
    arguments = [each["names"] for each in theirs if not each["option"]]
    places = [each for each in ours.params if isinstance(each, click.Argument) and each.nargs == 1]
    assert len(arguments) == len(places)


@pytest.mark.parametrize("command", [submit, create, render])
def test_a_commit_is_chosen_by_either_spelling(command: click.Command) -> None:
    option = named(command, "-g")
    assert option is not None
    assert set(option.opts) == BOTH_SPELLINGS
