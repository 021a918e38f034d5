"""An agent reduced to starting one job, following its log and waiting: to be killed."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.testing.scripted_runner import Play
from tests.contract.runner_stages import DockerStage, ProcessStage


async def main(kind: str, root: Path, control_plane_id: str, *engine: str) -> None:
    threads = ThreadPoolExecutor(4)
    if kind == "docker":
        stage: DockerStage | ProcessStage = DockerStage(root, threads, *engine)
    else:
        stage = ProcessStage(root, threads)
    stage.scenes.control_plane_id = control_plane_id
    runner = stage.runner()
    play = Play(b"first line\nlast line\n", exit_code=5, waits=True)
    workload = await runner.start(await runner.create(stage.request(play)))
    waiting = asyncio.create_task(runner.wait(workload))
    async for _ in runner.logs(workload, 0):
        print(workload.name, flush=True)
    await waiting


asyncio.run(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
