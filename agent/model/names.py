"""Deterministic names and labels: what makes a second creation visible.

Names come from the control plane, the item and the attempt, and from nothing else, so that
whoever tries again arrives at the same name.
"""

import re
from typing import Final

from agent.model.work import Lease

LABEL_PREFIX: Final = "launch-agent"
LABEL_CONTROL_PLANE: Final = f"{LABEL_PREFIX}.control-plane"
LABEL_ITEM: Final = f"{LABEL_PREFIX}.item"
LABEL_ATTEMPT: Final = f"{LABEL_PREFIX}.attempt"
LABEL_EPOCH: Final = f"{LABEL_PREFIX}.epoch"
LABEL_BUILD_KEY: Final = f"{LABEL_PREFIX}.build-key"
#: `network`, `image`, `container`: what a pruner may remove.
LABEL_KIND: Final = f"{LABEL_PREFIX}.kind"


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
