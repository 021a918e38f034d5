"""What a daemon says on standard output when it starts; its log goes elsewhere."""

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.compose.control_plane import Announcement

_WHERE: Final = {
    "local-container": "in containers",
    "local-process": "as processes of this machine",
}


def greet(told: "Announcement") -> None:
    """Print address, how to sign in, and what jobs run on."""
    print(f"Control plane  {told.url}  ({told.origin})")
    if told.sign_in is not None:
        # The link is a credential: not for files and journals, only for whoever sits here.
        how = told.sign_in if sys.stdout.isatty() else "`launch open` prints a link"
        print(f"Sign in        {how}")
    if told.resources:
        where = " or ".join(_WHERE.get(each, each) for each in told.resources)
        print(f"Jobs run       {where}; a new queue takes {told.resources[0]}")
    for remark in told.remarks:
        print(f"Note           {remark}")
    sys.stdout.flush()
