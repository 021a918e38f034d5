"""`requirements.frozen.txt`: what a job's Python had installed, and how it is put back.

W&B's library writes `name==version` lines at a run's end; its command line copies
`requirements.txt` of a directory, and writes nothing for Git and image jobs.
"""

import re
from dataclasses import dataclass
from typing import Final

FILE_NAME: Final = "requirements.frozen.txt"

_DEVELOPMENT: Final = re.compile(r"wandb==[^\s;]*\.dev[0-9]+(?:[\s;].*)?")
#: Builds of PyTorch and its companions for one accelerator: `2.4.0+cu121`, `2.4.0+cpu`.
_VARIANT: Final = re.compile(r"torch(?:vision|audio)?==[0-9.]+\+(?P<variant>cu[0-9]{2,3}|cpu).*")


@dataclass(frozen=True, slots=True)
class Frozen:
    """A frozen list by how each part is installed; dependencies are not resolved."""

    plain: tuple[str, ...]
    #: Accelerator's name (`cu121`, `cpu`) → packages that only its own index has.
    variants: tuple[tuple[str, tuple[str, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.plain or self.variants)


def frozen_text(requirements: str | None) -> str:
    """The file's content for a directory whose `requirements.txt` has this text, if any.

    Byte by byte what W&B's command line writes: lines joined, no newline at the end.
    """
    return "\n".join((requirements or "").splitlines())


def read_frozen(text: str) -> Frozen:
    """Read a frozen list; options and comments are left out.

    A development build of `wandb` is in no index; the newest release replaces it.
    """
    plain: list[str] = []
    variants: dict[str, list[str]] = {}
    for line in text.splitlines():
        stated = line.partition("#")[0].strip()
        if not stated or stated.startswith("-"):
            continue
        variant = _VARIANT.fullmatch(stated)
        if variant is not None:
            variants.setdefault(variant["variant"], []).append(stated)
        else:
            plain.append("wandb" if _DEVELOPMENT.fullmatch(stated) else stated)
    return Frozen(tuple(plain), tuple((key, tuple(found)) for key, found in variants.items()))
