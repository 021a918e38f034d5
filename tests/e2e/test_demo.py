"""The demo of `make demo`, on a machine without a container engine."""

from pathlib import Path

from tests.e2e.harness.home import BIN, Home

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


async def test_the_demo_makes_two_jobs_and_runs_each_twice(home: Home) -> None:
    folder = home.root / "demo"
    command = (str(BIN / "python"), str(DEMO), "--folder", str(folder))
    done = await home.run(*command, DOCKER_HOST="unix:///nonexistent.sock")
    assert done.code == 0, done.out + done.err
    whole, _, last = done.out.rpartition("\n\n")
    assert "`make demo KEEP=1` keeps them open" in last
    # What printed a link to the server that has stopped now would mislead.
    assert "http://" not in done.out
    table = whole.rpartition("\n\n")[2].splitlines()
    assert [line.split("  ")[0] for line in table[1:]] == [
        *("hello 1", "hello 2", "train 1", "train 2")
    ]
    assert all("succeeded" in line for line in table[1:])
    assert "rate=0.2" in table[-1]
