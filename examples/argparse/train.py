"""Arguments of the command line that a launch may change."""

import argparse
import os

if os.environ.setdefault("WANDB_MODE", "offline") == "offline":
    # W&B's client would note on the server which job this is, and refuses to offline.
    os.environ.pop("WANDB_ARTIFACTS", None)

import wandb

parser = argparse.ArgumentParser()
parser.add_argument("--learning_rate", type=float, default=0.01)
parser.add_argument("--batch_size", type=int, default=32)
args = parser.parse_args()

# The arguments become the run's configuration, where the launched values take their place.
wandb.init(config=args)

# From here on the configuration counts, by dot or by key.
args = wandb.config
print(f"learning_rate={args.learning_rate} batch_size={args['batch_size']}")
wandb.finish()
