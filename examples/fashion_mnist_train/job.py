"""Train a perceptron on pictures of clothes, as `configs/example.yml` and the launch say."""

import os
from pathlib import Path

if os.environ.setdefault("WANDB_MODE", "offline") == "offline":
    # W&B's client would note on the server which job this is, and refuses to offline.
    os.environ.pop("WANDB_ARTIFACTS", None)

import wandb
import yaml
from data_loader import KINDS, Picture, load

DEFAULTS = yaml.safe_load((Path(__file__).parent / "configs" / "example.yml").read_text())


def kind_of(weights: list[list[float]], pixels: list[float]) -> int:
    scores = [sum(w * p for w, p in zip(row, pixels, strict=True)) for row in weights]
    return scores.index(max(scores))


def train_once(weights: list[list[float]], pictures: list[Picture], rate: float) -> float:
    """One pass over the pictures; gives the share of those that were right at first."""
    right = 0
    for pixels, kind in pictures:
        guess = kind_of(weights, pixels)
        right += guess == kind
        if guess != kind:
            weights[kind] = [w + rate * p for w, p in zip(weights[kind], pixels, strict=True)]
            weights[guess] = [w - rate * p for w, p in zip(weights[guess], pixels, strict=True)]
    return right / len(pictures)


def main() -> None:
    with wandb.init(config=DEFAULTS) as run:
        config = run.config
        pictures = load(config.pictures, config.noise, config.seed)
        weights = [[0.0] * len(pictures[0][0]) for _ in KINDS]
        for epoch in range(1, config.epochs + 1):
            accuracy = train_once(weights, pictures, config.learning_rate)
            run.log({"epoch": epoch, "accuracy": accuracy})
            print(f"epoch {epoch}/{config.epochs} accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
