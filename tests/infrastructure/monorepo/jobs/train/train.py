"""Fit a line to a few points by gradient descent, an epoch a line."""

import argparse
import sys
import time

POINTS = [(x, 3.0 * x + 1.0) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between epochs")
    options = parser.parse_args()
    slope = offset = 0.0
    for epoch in range(1, options.epochs + 1):
        errors = [(slope * x + offset - y, x) for x, y in POINTS]
        loss = sum(error * error for error, _ in errors) / len(errors)
        slope -= options.rate * sum(error * x for error, x in errors) / len(errors)
        offset -= options.rate * sum(error for error, _ in errors) / len(errors)
        print(f"epoch {epoch}/{options.epochs} loss {loss:.4f}", flush=True)
        time.sleep(options.pause)
    return 0


if __name__ == "__main__":
    sys.exit(main())
