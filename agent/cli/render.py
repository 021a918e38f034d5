"""`launch render`: what a submission would be run as; nothing is queued, built or started."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import Target, example, json_option, on_server, with_options
from agent.cli.output import (
    print_json,
    print_pairs,
    print_stderr,
    print_table,
)
from agent.cli.submit_options import RUN_OPTIONS, read_options
from agent.cli.terminal import escape_control_characters

if TYPE_CHECKING:
    from agent.jobs.request import SubmitOptions
    from agent.pipeline.preview import Preview
    from agent.remote.user_operations import UserOperations


@click.command(
    "render", epilog=example('launch render -q default --uri ./examples/hello -E "python main.py"')
)
@with_options(RUN_OPTIONS)
@click.option(
    "-q", "--queue", is_flag=False, flag_value="default",
    help="Queue whose template is used; without it, as for a direct run, none.",
)  # fmt: skip
@click.option(
    "-v", "--set-var", "variables", multiple=True, metavar="K=V",
    help="Value of a template variable of the queue; repeatable.",
)  # fmt: skip
@click.option(
    "--server-side",
    is_flag=True,
    help="Let the cluster's API server check the manifest and fill it in (dry run).",
)
@on_server
@json_option
@click.argument("reference", required=False, metavar="[JOB]")
def render(
    target: Target, *, reference: str | None, server_side: bool, as_json: bool, **flags: Any
) -> None:
    """Show what a job would be run as: Dockerfile, container, environment, and who set what.

    JOB is entity/project/name:alias; or give --uri or --docker-image. Secrets are masked, and
    nothing is queued, built or started. The agent's part follows this machine's configuration.
    """
    if reference is not None:
        flags["job"] = reference
    options = read_options(target.entity, {**flags, "args": ()})
    show(target, options, as_json=as_json, server_side=server_side)


def show(
    target: Target, options: "SubmitOptions", *, as_json: bool, server_side: bool = False
) -> None:
    """Print what a submission would be run as; also for `launch submit --dry-run`.

    Raises:
        LaunchError: what would refuse the submission or its run, in the same words.
    """

    async def work(api: "UserOperations") -> "Preview":
        from agent.compose.preview import preview_submission
        from agent.config.load import load

        config = load(os.environ).config
        log = _SetupLog(quiet=as_json)
        return await preview_submission(api, config, options, log, server_side=server_side)

    preview = target.call(work)
    if as_json:
        print_json(asdict(preview))
    else:
        _print(preview)


class _SetupLog:
    """`LogSink` that prints the log of fetching on standard error."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    async def write(self, data: bytes) -> None:
        """Print it line by line."""
        for line in data.decode("utf-8", "replace").splitlines():
            if not self._quiet:
                print_stderr(line)


def _print(preview: "Preview") -> None:
    _heading("Source")
    build = preview.build
    print_pairs([*preview.facts.items(), ("requirements", build and build.requirements)])
    for warning in build.warnings if build is not None else ():
        print_stderr(f"warning: {warning}")
    if build is not None and build.dockerfile is not None:
        _heading(f"Dockerfile ({build.own_dockerfile or 'generated'})")
        print(_safe_lines(build.dockerfile))
    _heading(f"Workload ({preview.resource})")
    print(_json(preview.workload))
    for service in preview.side_services:
        kind = escape_control_characters(service["kind"])
        _heading(f"Side service ({kind} {service['metadata']['name']})")
        print(_json(service))
    _heading("Environment")
    print_pairs(sorted(preview.environment.items()))
    _heading("Who set what")
    rows = [
        (each.path, json.dumps(each.value, ensure_ascii=False), each.layer)
        for each in preview.settings
    ]
    print_table(("FIELD", "VALUE", "LAYER"), rows, "No field is set.")


def _json(value: Any) -> str:
    """Indented JSON, in which control characters are escaped."""
    return json.dumps(value, indent=2)


def _safe_lines(text: str) -> str:
    return "\n".join(escape_control_characters(line) for line in text.rstrip("\n").splitlines())


def _heading(text: str) -> None:
    print(f"\n# {text}")
