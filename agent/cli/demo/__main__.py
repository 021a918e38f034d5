"""`python -m agent.cli.demo`."""

import sys

from agent.cli.demo.main import demo
from agent.cli.top import run_command

sys.exit(run_command(demo, "launch demo"))
