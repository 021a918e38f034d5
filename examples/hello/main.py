"""Says hello, counts, and shows what a job is told about itself."""

import json
import os
import platform
import sys
import time

import humanize

CONFIG = json.loads(os.environ.get("WANDB_CONFIG") or "{}")
STEPS = int(sys.argv[1] if len(sys.argv) > 1 else CONFIG.get("steps", 5))


def main() -> None:
    print(f"Hello from Python {platform.python_version()} on {platform.node()}")
    print(f"item {os.environ['LAUNCH_ITEM_ID']}, attempt {os.environ['LAUNCH_ATTEMPT']}")
    began = time.time()
    for step in range(1, STEPS + 1):
        print(f"\rworking: {step}/{STEPS}", end="", flush=True)
        time.sleep(0.2)
    print(f"\ndone after {humanize.naturaldelta(time.time() - began)}")


if __name__ == "__main__":
    main()
