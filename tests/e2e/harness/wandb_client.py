"""W&B's own client, unmodified, as a user types it; its environment is another one than ours."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.contract.wandb_client.environment import NEWEST, installed_client
from tests.e2e.harness.home import Result
from tests.e2e.harness.promises import User

#: The training function of W&B's page, which every example there has.
TRAINING = """
def run_training_run(epochs, lr):
    print(f"Training for {{epochs}} epochs with learning rate {{lr}}")

    run = wandb.init(
        # Set the project where this run will be logged
        project="{project}",
        {more}
        # Track hyperparameters and run metadata
        config={{
        "learning_rate": lr,
        "epochs": epochs,
        }})

    offset = random.random() / 5
    print(f"lr: {{lr}}")

    for epoch in range(2, epochs):
        # simulating a training run
        acc = 1 - 2 ** -epoch - random.random() / epoch - offset
        loss = 2 ** -epoch + random.random() / epoch + offset
        print(f"epoch={{epoch}}, acc={{acc}}, loss={{loss}}")
        wandb.log({{"acc": acc, "loss": loss}})
    {end}


run_training_run(epochs=10, lr=0.01)
"""


def training(project: str = "job_example", more: str = "", end: str = "") -> str:
    """The program `canonical_job_example.py` of W&B's page."""
    return "import random\nimport wandb\n\n" + TRAINING.format(project=project, more=more, end=end)


@dataclass
class Client:
    """Runs the client beside our own commands, for the same user and server."""

    user: User
    python: Path
    version: str = NEWEST

    async def run(self, folder: Path, *argv: str, **env: str) -> Result:
        """A Python program or module of the client's environment, in a folder."""
        return await self.raw(folder, str(self.python), *argv, **env)

    async def raw(self, folder: Path, *argv: str, **env: str) -> Result:
        """A command with the client's variables set and its programs first in the path."""
        path = f"{self.python.parent}{os.pathsep}{self.user.home.env['PATH']}"
        given = {
            "WANDB_BASE_URL": self.user.url,
            "WANDB_API_KEY": self.user.key,
            "WANDB_SILENT": "false",
            "PATH": path,
            **env,
        }
        return await self.user.home.run("env", "-C", str(folder), *argv, **given)

    async def succeeds(self, folder: Path, *argv: str, **env: str) -> Result:
        done = await self.run(folder, *argv, **env)
        assert done.code == 0, f"{argv}\n{done.out}\n{done.err}"
        return done

    async def wandb(self, folder: Path, *words: str, **env: str) -> Result:
        """`wandb …`, which must succeed."""
        return await self.succeeds(folder, "-m", "wandb", *words, **env)

    async def value(self, folder: Path, program: str, **env: str) -> Any:
        """What a program prints last, as JSON; `api` is `wandb.Api()`, `entity` the user's."""
        text = f"import json, wandb\napi = wandb.Api()\nentity = {self.user.entity!r}\n{program}"
        done = await self.succeeds(folder, "-c", text, **env)
        return json.loads(done.out.splitlines()[-1])


def client_of(user: User) -> Client:
    return Client(user, installed_client())
