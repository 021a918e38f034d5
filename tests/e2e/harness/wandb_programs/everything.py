"""Uses what a training program uses of the client, and prints the run's id."""

import json
import math
import sys
import time
from pathlib import Path

import wandb

work = Path(sys.argv[1])
work.mkdir()
(work / "extra.txt").write_text("extra")
(work / "train.py").write_text("print('training')\n")
run = wandb.init(
    project="vision",
    name="first",
    config={"lr": 0.1, "opt": {"name": "sgd", "steps": [1, 2]}},
    tags=["a", "b"],
    group="g",
    job_type="train",
    notes="hello",
    dir=work,
)
run.define_metric("acc", summary="max")
for step in range(20):
    odd = math.nan if step % 2 else math.inf
    nest = {"a": step, "b": {"c": -step}}
    acc = step / 20 if step < 15 else 0.1
    run.log({"loss": 1 / (step + 1), "acc": acc, "odd": odd, "nest": nest})
table = wandb.Table(columns=["x", "y"], data=[[1, "a"], [2, "b"]])
run.log({"histogram": wandb.Histogram(np_histogram=([1, 2], [0, 1, 2])), "table": table})
run.summary["best"] = 0.93
run.config.update({"late": 5})
run.save(str(work / "extra.txt"), base_path=str(work))
run.alert("Slow", "It takes long.", level=wandb.AlertLevel.WARN)
run.log_code(str(work))
made = wandb.Artifact("data", "dataset")
made.add_file(str(work / "extra.txt"))
run.log_artifact(made, aliases=["best"])
made.wait()
assert Path(run.use_artifact("data:best").download(str(work / "copy")), "extra.txt").read_text()
for step in range(50):
    print(f"\rprogress {step}", end="", flush=True)
    time.sleep(0.01)
print("\ndone")
print("problem", file=sys.stderr)
run.finish()
print(json.dumps(run.id))
