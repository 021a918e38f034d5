"""Memory of TLS connections."""

from asyncio import sslproto
from typing import Final

#: The most that one TLS record holds.
_BUFFER: Final = 16 * 1024


def use_small_buffers() -> None:
    """Let each TLS connection of this process that is opened from now on have a small buffer.

    asyncio's is 256 KiB, for as long as the connection lasts, and a thousand followed logs are a
    thousand connections.
    """
    sslproto.SSLProtocol.max_size = _BUFFER
