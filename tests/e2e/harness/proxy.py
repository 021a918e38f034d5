"""A TCP proxy on loopback that misbehaves on request: cut, refuse, swallow replies."""

import asyncio
from contextlib import suppress
from typing import Self


class Proxy:
    """Forwards bytes to `target`; the attributes may be changed at any time."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        #: New connections are closed at once.
        self.refusing = False
        #: Bytes of requests that, once seen, make the reply vanish and the connection break.
        self.cut_reply_to: bytes | None = None
        self.cuts = 0
        #: From the first cut on, everything is refused.
        self.refuse_after_cut = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> tuple[str, int]:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        await self._server.wait_closed()

    def cut_all(self) -> None:
        """Break every connection now."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        condemned = asyncio.Event()
        try:
            await asyncio.gather(
                self._requests(reader, far_writer, condemned),
                self._replies(far_reader, writer, condemned),
            )
        except OSError:
            pass
        finally:
            for end in (writer, far_writer):
                self._writers.discard(end)
                end.transport.abort()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, condemned: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            if self.cut_reply_to and self.cut_reply_to in data:
                self.cut_reply_to = None
                condemned.set()
            writer.write(data)
            await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, condemned: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            if condemned.is_set():
                self.cuts += 1
                if self.refuse_after_cut:
                    self.refusing = True
                    self.cut_all()
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
        writer.close()
