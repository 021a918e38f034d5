"""Logs steps at a pace; prints how many `log` returned from."""

import sys
import time

import wandb

name, count, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with wandb.init(project="vision", id=name) as run:
    for step in range(count):
        run.log({"loss": 1 / (step + 1), "name": name})
        time.sleep(pause)
print(count)
