"""Waits to be stopped; prints how it ended."""

import json
import time

import wandb

run = wandb.init(project="vision", id="waiting")
try:
    for step in range(3_000):
        run.log({"step": step})
        time.sleep(0.1)
except KeyboardInterrupt:
    run.finish(exit_code=1)
    print(json.dumps("stopped"))
