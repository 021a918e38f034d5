"""Starts a run in one way of resuming, logs some steps and ends with an exit code."""

import json
import sys

import wandb

name, resume, steps, code = sys.argv[1:5]
run = wandb.init(project="vision", id=name, resume=resume or None)
first = run.starting_step
for step in range(int(steps)):
    run.log({"step": step})
if code == "raise":
    raise SystemError("broken")
run.finish(exit_code=int(code))
print(json.dumps(first))
