"""Reads a run by `wandb.Api()`; prints what was seen."""

import json
import sys
from pathlib import Path

import wandb

api = wandb.Api()
path = f"vision/{sys.argv[1]}"
run = api.run(path)
seen = {
    "state": run.state,
    "config": run.config,
    "best": run.summary["best"],
    "acc": run.summary["acc"]["max"],
    "system": bool(run.system_metrics),
    "last_step": run.lastHistoryStep,
    "keys": sorted(run.history_keys["keys"]),
    "history": len(run.history(pandas=False)),
    "sampled": run.history(keys=["loss", "nest.a"], pandas=False),
    "few": [row["_step"] for row in run.history(keys=["loss"], samples=3, pandas=False)],
    "scan": [row["_step"] for row in run.scan_history(page_size=7)],
    "odd": [str(row.get("odd")) for row in run.scan_history(max_step=2)],
    "scan_keys": [row["loss"] for row in run.scan_history(keys=["loss"])],
    "part": [row["_step"] for row in run.scan_history(min_step=5, max_step=8)],
    "files": {file.name: file.size for file in run.files()},
    "extra": run.file("extra.txt").download(sys.argv[2], replace=True).read(),
    "lines": [(line.level, line.content) for line in run.console_logs(per_page=2)],
    "last": [line.content for line in run.console_logs(last=2)],
    "logged": sorted(
        each.name.partition(":")[0].partition("-")[0] for each in run.logged_artifacts()
    ),
    "used": [each.name for each in run.used_artifacts()],
    "missing": run.file("nothing.txt").size,
}
run.summary["post"] = 7
run.summary.update()
run.config["post"] = 1
run.tags.append("new")
run.notes, run.display_name = "changed", "renamed"
run.update()
run.upload_file(__file__, root=str(Path(__file__).parent))
again = wandb.Api().run(path)
seen["changed"] = [again.name, again.tags, again.notes, again.config["post"], again.state]
seen["post"] = again.summary["post"]
for name, filters in json.loads(sys.argv[3]).items():
    found = api.runs("vision", filters=filters, per_page=1)
    seen[name] = (len(found), [each.name for each in found])
print(json.dumps(seen))
