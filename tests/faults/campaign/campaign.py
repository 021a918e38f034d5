"""One campaign: submit under a storm of faults, let everything end, and judge."""

import asyncio
import random
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults.campaign.client import STOP
from tests.faults.campaign.installation import QUEUE, Installation, Plan, installed
from tests.faults.campaign.jobs import Job, Ledger
from tests.faults.campaign.storm import Storm
from tests.faults.campaign.verdict import Verdict, judge, judge_log

#: Seconds for all items to end after the last fault, without any of them ending.
_STALL = 240.0
#: Seconds for leftovers to be removed.
_REMOVAL = 60.0
#: Items that wait on the queue, for each that may run.
_AHEAD = 3


@dataclass(frozen=True)
class Size:
    """How long a campaign is: a number of jobs, or seconds of submissions."""

    jobs: int | None = None
    seconds: float | None = None

    def is_reached(self, submitted: int, began: float) -> bool:
        if self.jobs is not None and submitted >= self.jobs:
            return True
        return self.seconds is not None and time.monotonic() - began >= self.seconds


async def run(root: Path, plan: Plan, seed: int, size: Size, *, interval: float = 1.5) -> Verdict:
    """Run one; `interval`: seconds between two faults on average."""
    async with installed(root, plan) as installation:
        storm = Storm(installation.places, random.Random(seed), interval)
        jobs: dict[str, Job] = {}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(storm.run())
            await _submit_all(installation, jobs, random.Random(seed + 1), size)
            storm.end()
        await _all_ended(installation)
        verdict = await _judged(installation, jobs)
        verdict.faults = storm.counts
        return verdict


async def _submit_all(
    installation: Installation, jobs: dict[str, Job], chance: random.Random, size: Size
) -> None:
    client, began = installation.client, time.monotonic()
    room = _AHEAD * installation.plan.agents * installation.plan.width
    async with asyncio.TaskGroup() as stops:
        while not size.is_reached(len(jobs), began):
            if await client.alive(QUEUE) >= room:
                await asyncio.sleep(0.1)
                continue
            for _ in range(room // 3):
                job, key = Job.draw(chance), f"job-{len(jobs)}"
                item = await client.submit(QUEUE, installation.spec(job), key)
                jobs[item] = job
                if job.stopped_after is not None:
                    stops.create_task(_stop(installation, item, job.stopped_after))


async def _stop(installation: Installation, item: str, after: float) -> None:
    await asyncio.sleep(after)
    await installation.client.query(STOP, id=item)


async def _all_ended(installation: Installation) -> None:
    """Everybody is alive; what is left has to end by itself."""
    least, since = None, time.monotonic()
    while alive := await installation.client.alive(QUEUE):
        if least is None or alive < least:
            least, since = alive, time.monotonic()
        if time.monotonic() - since > _STALL:
            return  # the verdict names them
        await asyncio.sleep(0.2)


async def _judged(installation: Installation, jobs: dict[str, Job]) -> Verdict:
    client = installation.client
    items = [one for one in await client.items() if one["id"] != installation.first]
    ledger = Ledger.read(installation.ledger)
    ledger.starts.pop((installation.first, 1), None)
    verdict = judge(jobs, items, ledger)
    for item in items:
        if item["phase"] in {"SUCCEEDED", "FAILED"} and item["id"] in jobs:
            text = await client.log(item["id"], item["attempt"])
            judge_log(verdict, item, jobs[item["id"]], text)
    began = time.monotonic()
    while (left := await installation.left()) and time.monotonic() - began < _REMOVAL:
        await asyncio.sleep(0.5)
    verdict.left = left
    if left:
        verdict.violations.append(f"left behind: {left[:10]}")
    return verdict
