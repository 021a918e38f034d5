"""Stops or deletes a run, or changes its state."""

import sys

import wandb

run = wandb.Api().run(f"vision/{sys.argv[1]}")
getattr(run, sys.argv[2])(*sys.argv[3:])
