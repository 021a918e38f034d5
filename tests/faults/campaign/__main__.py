"""`python -m tests.faults.campaign --jobs 10000 --seed 1 --store sqlite --runner process`."""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.campaign.campaign import Size, run
from tests.faults.campaign.database import empty_database
from tests.faults.campaign.installation import Plan


async def main() -> int:
    given = _parser().parse_args()
    root = Path(tempfile.mkdtemp(prefix="lc-"))
    size = Size(given.jobs, given.seconds)
    began = time.monotonic()
    async with empty_database(given.store) as url:
        plan = Plan(given.runner, url, given.agents, given.width)
        verdict = await run(root, plan, given.seed, size, interval=given.interval)
    print(f"seed {given.seed}, {given.store}, {given.runner}, {time.monotonic() - began:.0f} s")
    print("\n".join(verdict.lines()))
    if verdict.violations:
        print(f"ledger, logs and state: {root}")
        return 1
    shutil.rmtree(root)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__)
    parser.add_argument("--jobs", type=int, help="jobs to submit")
    parser.add_argument("--seconds", type=float, help="or seconds of submissions")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--runner", choices=["process", "docker"], default="process")
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--width", type=int, default=4, help="jobs of one agent at a time")
    parser.add_argument("--interval", type=float, default=1.5, help="seconds between faults")
    return parser


sys.exit(asyncio.run(main()))
