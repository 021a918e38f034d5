"""One of several jobs in one repository."""

import os

os.environ.setdefault("WANDB_MODE", "offline")

import wandb

with wandb.init(config={"name": "world"}) as run:
    print(f"Hello, {run.config.name}!")
    run.log({"greetings": 1})
