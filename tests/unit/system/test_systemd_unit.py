"""The unit file, against systemd's own checker."""

import asyncio
import os
import shutil
from pathlib import Path

UNIT = Path(__file__).parents[3] / "deploy" / "launch-agent.service"


async def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """With the program's path replaced by one that exists here, and units that it orders by."""
    text = UNIT.read_text().replace("/opt/launch-agent/bin/launch-agent", "/bin/true")
    (tmp_path / "launch-agent.service").write_text(text.replace("User=launch-agent", "User=root"))
    (tmp_path / "docker.service").write_text("[Service]\nExecStart=/bin/true\n")
    checker = shutil.which("systemd-analyze")
    assert checker, "install systemd: it brings systemd-analyze"
    process = await asyncio.create_subprocess_exec(
        checker,
        "verify",
        "--man=no",
        str(tmp_path / "launch-agent.service"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "launch-agent.service" not in output.decode()


def test_the_unit_keeps_jobs_alive_and_waits_for_ready() -> None:
    lines = UNIT.read_text().splitlines()
    for promise in ("Type=notify", "KillMode=process", "OOMPolicy=continue", "WatchdogSec=60"):
        assert promise in lines
