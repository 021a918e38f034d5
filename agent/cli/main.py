"""`launch`: what people do with queues, items and agents."""

import sys

import click

from agent import __version__
from agent.cli.lazy import Later, LazyGroup
from agent.cli.lean import collect_rarely
from agent.cli.top import debug_option, run_command

COMMANDS = {
    "submit": Later("agent.cli.submit:submit", "Put a job on a queue."),
    "run": Later("agent.cli.run:run", "Build and run a job here and now."),
    "job": Later("agent.cli.job:job", "Make, list and look at jobs."),
    "render": Later("agent.cli.render:render", "Show what a job would become, and who set what."),
    "queue": Later("agent.cli.queue:queue", "Create, list and steer queues."),
    "item": Later("agent.cli.item:item", "Look at queued and running jobs, stop, retry, move."),
    "agent": Later("agent.cli.agents:agent", "Look at agents, drain and stop them."),
    "explain": Later("agent.cli.explain:explain", "Why does it wait, why did it fail?"),
    "open": Later("agent.cli.login:open_page", "Print a link that signs a browser in, once."),
    "login": Later("agent.cli.login:login", "Keep the API key for a server."),
    "key": Later("agent.cli.accounts:key", "Make, list and revoke API keys."),
    "user": Later("agent.cli.accounts:user", "Make users (administrators of the server)."),
    "entity": Later("agent.cli.accounts:entity", "List entities, make teams, set members."),
    "server": Later("agent.cli.server:server", "Serve the control plane for a team."),
    "demo": Later("agent.cli.demo.main:demo", "Run three example jobs, from nothing."),
}


@click.group(
    cls=LazyGroup,
    later=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="launch", message="%(prog)s %(version)s")
@debug_option
def launch() -> None:
    """Queues of jobs for machine learning: submit, follow, explain.

    The control plane is found by --server, else LAUNCH_SERVER with LAUNCH_API_KEY, else
    WANDB_BASE_URL with WANDB_API_KEY, else the configuration file, else the one embedded in a
    `launch-agent` that runs on this machine.
    """


def main() -> None:
    """Entry point of the console script."""
    collect_rarely()
    sys.exit(run_command(launch, "launch"))


if __name__ == "__main__":
    main()
