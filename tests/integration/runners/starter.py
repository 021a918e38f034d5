"""An agent reduced to starting one job, following its log and waiting: to be killed."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.ports.runner import LOG_START
from agent.testing.runner_suite import Scenario, ended, launched
from tests.contract.runner_drivers import DockerDriver, ProcessDriver


async def main(kind: str, root: Path, control_plane_id: str, *engine: str) -> None:
    threads = ThreadPoolExecutor(4)
    if kind == "docker":
        driver: DockerDriver | ProcessDriver = DockerDriver(root, threads, *engine)
    else:
        driver = ProcessDriver(root, threads)
    driver.folders.control_plane_id = control_plane_id
    runner = driver.runner()
    scenario = Scenario(b"first line\nlast line\n", exit_code=5, waits=True)
    workload = await launched(runner, driver.request(scenario))
    waiting = asyncio.create_task(ended(runner, workload))
    async for _ in runner.logs(workload, LOG_START):
        print(workload.name, flush=True)
    await waiting


asyncio.run(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
