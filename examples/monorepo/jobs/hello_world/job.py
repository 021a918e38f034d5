"""One of several jobs in one repository."""

import os

if os.environ.setdefault("WANDB_MODE", "offline") == "offline":
    # W&B's client would note on the server which job this is, and refuses to offline.
    os.environ.pop("WANDB_ARTIFACTS", None)

import wandb

with wandb.init(config={"name": "world"}) as run:
    print(f"Hello, {run.config.name}!")
    run.log({"greetings": 1})
