"""Fits a line by gradient descent; the launched configuration arrives in WANDB_CONFIG."""

import json
import os
import random

CONFIG = {"steps": 40, "rate": 0.1, "seed": 7, **json.loads(os.environ.get("WANDB_CONFIG", "{}"))}


def main() -> None:
    chance = random.Random(CONFIG["seed"])
    data = [(x / 50, 3 * x / 50 + 1 + chance.gauss(0, 0.05)) for x in range(50)]
    slope = intercept = 0.0
    for step in range(CONFIG["steps"] + 1):
        errors = [(slope * x + intercept - y, x) for x, y in data]
        loss = sum(error**2 for error, _ in errors) / len(errors)
        if step % 10 == 0:
            print(f"step {step:3d}  loss {loss:.4f}", flush=True)
        slope -= CONFIG["rate"] * 2 * sum(error * x for error, x in errors) / len(errors)
        intercept -= CONFIG["rate"] * 2 * sum(error for error, _ in errors) / len(errors)
    print(f"y = {slope:.2f} x + {intercept:.2f}")


if __name__ == "__main__":
    main()
