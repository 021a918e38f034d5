"""Frozen requirements: written as the client writes them, read by the way they are installed."""

import pytest

from agent.model.job.requirements import Frozen, frozen_text, read_frozen


@pytest.mark.parametrize(
    ("requirements", "frozen"),
    [(None, ""), ("", ""), ("wandb\n", "wandb"), ("a\r\nb\n\n# c", "a\nb\n\n# c")],
)
def test_the_text_of_a_new_job(requirements: str | None, frozen: str):
    assert frozen_text(requirements) == frozen


LIST = """\
# frozen
numpy==2.1.0
wandb==0.28.3.dev1
torch==2.4.0+cu121
torchvision==0.19.0+cu121
torchaudio==2.4.0+cpu
torchmetrics==1.0.0
-e git+https://git.example/o/r@1#egg=r

tool @ file:///x
"""


def test_a_list_is_sorted_by_how_it_is_installed():
    assert read_frozen(LIST) == Frozen(
        ("numpy==2.1.0", "wandb", "torchmetrics==1.0.0", "tool @ file:///x"),
        (
            ("cu121", ("torch==2.4.0+cu121", "torchvision==0.19.0+cu121")),
            ("cpu", ("torchaudio==2.4.0+cpu",)),
        ),
    )


def test_a_released_wandb_and_others_development_builds_stay():
    assert read_frozen("wandb==0.31.0\nother==1.0.dev1").plain == (
        "wandb==0.31.0",
        "other==1.0.dev1",
    )


def test_an_empty_list_is_false():
    assert not read_frozen("# nothing\n")
    assert read_frozen("torch==1.0+cpu")
