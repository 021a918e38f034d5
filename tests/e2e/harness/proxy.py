"""A TCP proxy that misbehaves on request: cut, refuse, swallow replies."""

import asyncio
import ssl
from contextlib import suppress
from typing import Final, Self

_METHODS: Final = (b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ")


class Proxy:
    """Forwards bytes to `target`; the attributes may be changed at any time."""

    def __init__(
        self,
        target: tuple[str, int],
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.target = target
        self._host = host
        #: How clients are spoken to; the target is always spoken to in the clear.
        self._tls = tls
        #: New connections are closed at once.
        self.refusing = False
        self.refused = 0
        #: Bytes of requests that, once seen, make the reply vanish and the connection break.
        self.cut_reply_to: bytes | None = None
        #: Bytes of a request: the first one that has them does not arrive, or is not answered.
        self.lost_requests: set[bytes] = set()
        self.lost_answers: set[bytes] = set()
        #: What was lost, of these two.
        self.losses: asyncio.Queue[bytes] = asyncio.Queue()
        self.cuts = 0
        #: First lines of the requests, where they are in plain HTTP.
        self.requests: list[str] = []
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
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._tls)
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
            self.refused += 1
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        condemned = asyncio.Event()
        unanswered: list[bytes] = []
        try:
            await asyncio.gather(
                self._requests(reader, far_writer, condemned, unanswered),
                self._replies(far_reader, writer, condemned, unanswered),
            )
        except OSError:
            pass
        finally:
            for end in (writer, far_writer):
                self._writers.discard(end)
                end.transport.abort()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        condemned: asyncio.Event,
        unanswered: list[bytes],
    ) -> None:
        while data := await reader.read(65536):
            if data.startswith(_METHODS):
                self.requests.append(data.partition(b"\r\n")[0].decode())
            if self.cut_reply_to and self.cut_reply_to in data:
                self.cut_reply_to = None
                condemned.set()
            if (lost := _first(self.lost_requests, data)) is not None:
                self.losses.put_nowait(lost)
                raise ConnectionAbortedError
            if (lost := _first(self.lost_answers, data)) is not None:
                unanswered.append(lost)
            writer.write(data)
            await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()

    async def _replies(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        condemned: asyncio.Event,
        unanswered: list[bytes],
    ) -> None:
        while data := await reader.read(65536):
            if condemned.is_set():
                self.cuts += 1
                if self.refuse_after_cut:
                    self.refusing = True
                    self.cut_all()
                raise ConnectionAbortedError
            if unanswered:
                self.losses.put_nowait(unanswered[0])
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
        writer.close()


def _first(markers: set[bytes], data: bytes) -> bytes | None:
    """Take the marker that the bytes contain."""
    found = next((marker for marker in markers if marker in data), None)
    markers.discard(found or b"")
    return found
