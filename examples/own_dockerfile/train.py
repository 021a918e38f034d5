"""A simulated training run; its parameters may be changed when it is launched."""

import os
import random

if os.environ.setdefault("WANDB_MODE", "offline") == "offline":
    # W&B's client would note on the server which job this is, and refuses to offline.
    os.environ.pop("WANDB_ARTIFACTS", None)

import wandb


def run_training_run(epochs: int, lr: float) -> None:
    run = wandb.init(project="job_example", config={"learning_rate": lr, "epochs": epochs})
    print(f"Training for {run.config.epochs} epochs, learning rate {run.config.learning_rate}")
    offset = random.random() / 5
    for epoch in range(2, run.config.epochs):
        acc = 1 - 2**-epoch - random.random() / epoch - offset
        loss = 2**-epoch + random.random() / epoch + offset
        print(f"epoch={epoch}, acc={acc:.3f}, loss={loss:.3f}")
        wandb.log({"acc": acc, "loss": loss})
    run.finish()


run_training_run(epochs=10, lr=0.01)
