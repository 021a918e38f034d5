import os

if os.environ.setdefault("WANDB_MODE", "offline") == "offline":
    # W&B's client would note on the server which job this is, and refuses to offline.
    os.environ.pop("WANDB_ARTIFACTS", None)

import wandb

with wandb.init() as run:
    run.log({"metric": 0.5})
    print(f"logged a metric; config {dict(run.config)}")
