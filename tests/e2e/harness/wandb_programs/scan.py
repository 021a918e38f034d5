"""Reads a whole history by `scan_history`, and the same lines from disk; prints the seconds."""

import json
import sys
import time
from pathlib import Path

import wandb

run = wandb.Api().run(f"vision/{sys.argv[1]}")
begin = time.monotonic()
rows = list(run.scan_history())
scan = time.monotonic() - begin
path = Path(sys.argv[2])
path.write_text("".join(json.dumps(row) + "\n" for row in rows))
begin = time.monotonic()
with path.open() as lines:
    again = [json.loads(line) for line in lines]
disk = time.monotonic() - begin
assert again == rows
print(json.dumps({"scan": scan, "disk": disk}))
