"""A run's parameters as a file, for jobs that use no library of W&B's.

`LAUNCH_CONFIG_FILE` names a JSON file with `overrides.run_config`, read-only; a job without
parameters has neither. The same JSON is in `WANDB_CONFIG`, as W&B's library reads it.
"""

import json
from pathlib import Path
from typing import Final

from agent.model.work import Claim
from agent.pipeline.offers import Offered
from agent.ports.runner import Mount

VARIABLE: Final = "LAUNCH_CONFIG_FILE"
#: Where containers see it.
TARGET: Final = "/run/launch/config.json"


def parameters_of(claim: Claim, folder: Path, *, containers: bool) -> Offered:
    """Write the file below `folder`, the attempt's own. Blocks."""
    config = claim.spec.overrides.run_config
    if not config:
        return Offered()
    file = folder / "parameters" / "config.json"
    file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(json.dumps(config, indent=2), encoding="utf-8")
    # Whichever user the job has may read it, and none may write.
    file.chmod(0o444)
    if containers:
        return Offered({VARIABLE: TARGET}, (Mount(file, TARGET),))
    return Offered({VARIABLE: str(file)})
