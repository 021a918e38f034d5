"""Pictures of clothes, drawn here: nothing has to be downloaded."""

import random

SIDE = 8
#: Rows of each kind that are inked: shirts above, shoes below, bags around the middle.
INKED = {"shirt": range(4), "shoe": range(4, 8), "bag": range(2, 6)}
KINDS = list(INKED)
Picture = tuple[list[float], int]


def load(count: int, noise: float, seed: int) -> list[Picture]:
    """`count` noisy pictures and the number of each one's kind."""
    chance = random.Random(seed)
    return [_picture(chance, n % len(KINDS), noise) for n in range(count)]


def _picture(chance: random.Random, kind: int, noise: float) -> Picture:
    inked = INKED[KINDS[kind]]
    ink = [float(row in inked) for row in range(SIDE) for _ in range(SIDE)]
    return [value + chance.gauss(0, noise) for value in ink], kind
