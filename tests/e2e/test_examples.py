"""What the examples' READMEs say to type works as it stands there, from their folder."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import quick
from tests.e2e.harness.home import Home
from tests.infrastructure.state import DockerFacts

pytestmark = pytest.mark.docker
EXAMPLES = Path(__file__).parents[2] / "examples"
READMES = sorted(EXAMPLES.glob("*/README.md"))
LINES = 5
COMMAND = re.compile(r"`((?:launch|docker build) [^`]+)`")
#: What each example prints when it has run as its README says.
PRINTED = {
    "argparse": "batch_size=64",
    "fashion_mnist_train": "epoch 5/5",
    "hello_world_code": "logged a metric",
    "monorepo": "Hello, world!",
    "own_dockerfile": "Training for",
    "training": "Training for 5 epochs",
}


@pytest.fixture
async def at_desk(home: Home, docker_engine: DockerFacts) -> Home:
    home.configure(quick())
    home.env["LAUNCH_CONFIG"] = str(home.config)
    await home.start("launch-agent", "--queue", "default")
    return home


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
async def test_a_readme_of_five_lines_can_be_typed_line_by_line(
    at_desk: Home, readme: Path
) -> None:
    text = readme.read_text()
    assert len(text.splitlines()) == LINES
    folder = at_desk.root / readme.parent.name
    shutil.copytree(readme.parent, folder)
    said, images = "", []
    try:
        for command in COMMAND.findall(text):
            if command.startswith("docker"):
                images.append(shlex.split(command)[-1])
            line = followed(command)
            done = await at_desk.run("sh", "-c", f"cd {shlex.quote(str(folder))} && {line}")
            assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
            said += done.out
    finally:
        for image in images:
            await at_desk.run("docker", "rmi", "--force", image)
    assert PRINTED[readme.parent.name] in said


def followed(command: str) -> str:
    """A submission is waited for, whether its README says so or not."""
    waits = not command.startswith("launch submit") or "--follow" in command
    return command if waits else f"{command} --follow"
