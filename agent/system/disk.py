"""What the disk says when it takes no more."""

import errno
from typing import Final

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_full(error: OSError) -> bool:
    """Whether there was no space left, on the disk or within the user's quota."""
    return error.errno in _FULL
