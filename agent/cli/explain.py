"""`launch explain`: one answer."""

from typing import Any

import click

from agent.cli.connect import Target, json_option, on_server
from agent.cli.output import phase_word, print_json, safe
from agent.model.phase import TERMINAL, Phase


@click.command("explain")
@click.argument("item_id", metavar="ID")
@on_server
@json_option
def explain(target: Target, item_id: str, *, as_json: bool) -> None:
    """Why is it waiting, or why did it fail, and what to do?"""
    found = target.call(lambda console: console.item(item_id))
    if as_json:
        kept = ("id", "phase", "lostContact", "message", "exitCode", "explanation")
        print_json({key: found[key] for key in kept})
        return
    for line in explanation_lines(found):
        print(safe(line))


def explanation_lines(found: dict[str, Any]) -> list[str]:
    """The situation, why, the details, and what to do."""
    told = found["explanation"]
    title = f" ({found['name']})" if found["name"] else ""
    lines = [f"{found['id']}{title} is {phase_word(found)}: {told['cause']}", told["summary"]]
    over = Phase(found["phase"]) in TERMINAL
    message = str(found["message"] or "") if over else ""
    said = [line for line in message.splitlines() if _plain(line) not in _plain(told["summary"])]
    known = {_plain(line) for line in message.splitlines()}
    details = [line for detail in told["details"] for line in detail.splitlines()]
    lines += said + [f"  {line}" for line in details if _plain(line) not in known]
    return [*lines, f"What to do: {told['remedy']}"]


def _plain(text: str) -> str:
    return text.strip().rstrip(".").lower()
