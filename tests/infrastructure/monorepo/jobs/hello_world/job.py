"""Say hello and show what the launcher told this job."""

import json
import os
import platform
import sys

import six

GREETING = "hello"


def main() -> int:
    print(GREETING)
    print(f"python {platform.python_version()}, six {six.__version__}")
    print(f"arguments {json.dumps(sys.argv[1:])}")
    print(f"WANDB_CONFIG {os.environ.get('WANDB_CONFIG', 'is not set')}")
    names = sorted(name for name in os.environ if name.startswith(("WANDB_", "LAUNCH_")))
    print(f"variables {' '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
