"""Names: of workloads and images, of projects, and suggestions for mistyped ones."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from agent.model.errors import InvalidInputError
from agent.model.work import Lease

LABEL_PREFIX: Final = "launch-agent"
LABEL_CONTROL_PLANE: Final = f"{LABEL_PREFIX}.control-plane"
LABEL_ITEM: Final = f"{LABEL_PREFIX}.item"
LABEL_ATTEMPT: Final = f"{LABEL_PREFIX}.attempt"
LABEL_EPOCH: Final = f"{LABEL_PREFIX}.epoch"
LABEL_BUILD_KEY: Final = f"{LABEL_PREFIX}.build-key"
#: `network`, `image`, `container`: what a pruner may remove.
LABEL_KIND: Final = f"{LABEL_PREFIX}.kind"

_LONGEST_PROJECT: Final = 128
_FORBIDDEN_IN_PROJECTS: Final = frozenset("/\\#?%:")


def workload_name(control_plane_id: str, item_id: str, attempt: int) -> str:
    """`launch-<control plane>-<item>-<attempt>`; valid for Docker, DNS labels and folders."""
    return f"launch-{control_plane_id[:8]}-{item_id}-{attempt}".lower()


def workload_labels(control_plane_id: str, lease: Lease) -> dict[str, str]:
    """What identifies a workload as one attempt's."""
    return {
        LABEL_CONTROL_PLANE: control_plane_id,
        LABEL_ITEM: lease.item_id,
        LABEL_ATTEMPT: str(lease.attempt),
        LABEL_EPOCH: str(lease.epoch),
    }


def lease_from_labels(labels: dict[str, str]) -> Lease | None:
    """The attempt that labels speak of; `None` when they are not ours or malformed."""
    try:
        return Lease(labels[LABEL_ITEM], int(labels[LABEL_ATTEMPT]), int(labels[LABEL_EPOCH]))
    except (KeyError, ValueError):
        return None


def safe_image_name(text: str) -> str:
    """A valid repository name for an image: lower-case, separators between letters."""
    lowered = re.sub(r"[^a-z0-9._/-]", "-", text.lower())
    parts = [re.sub(r"^[._-]+|[._-]+$", "", part) for part in lowered.split("/")]
    kept = [re.sub(r"[._-]{2,}", "-", part) for part in parts if part]
    return "/".join(kept)[:200] or "image"


def checked_project(name: str) -> str:
    """`name`, if a project may have it.

    Raises:
        InvalidInputError: a reference or an address with it could not be read.
    """
    fits = 0 < len(name) <= _LONGEST_PROJECT and name == name.strip() and name not in {".", ".."}
    if fits and not _FORBIDDEN_IN_PROJECTS & set(name) and name.isprintable():
        return name
    shown = "".join(c if c.isprintable() else "�" for c in name[:_LONGEST_PROJECT])
    hint = f"1 to {_LONGEST_PROJECT} characters, without `/ \\ # ? % :` and no blank at either end."
    raise InvalidInputError(f"'{shown}' cannot be the name of a project.", hint=hint)


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that looks most like the given one, if any looks alike at all."""
    by_folded = {_folded(candidate): candidate for candidate in known}
    matches = get_close_matches(_folded(name), by_folded, n=1, cutoff=cutoff)
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str], noun: str) -> str:
    """A sentence: the nearest name, else all there are, else that there are none."""
    names = sorted(known)
    match = nearest(name, names)
    if match is not None:
        return f"Did you mean `{match}`?"
    if not names:
        return f"There is no {noun} yet."
    return f"Known: {', '.join(f'`{each}`' for each in names[:20])}."


def _folded(name: str) -> str:
    return name.lower().replace("_", "-")
