import os

os.environ.setdefault("WANDB_MODE", "offline")

import wandb

with wandb.init() as run:
    run.log({"metric": 0.5})
    print(f"logged a metric; config {dict(run.config)}")
