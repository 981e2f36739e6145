"""A request's body, pulled from the socket when somebody asks for it."""

from __future__ import annotations

from typing import Final, Protocol

import h11
import trio

from ostnode.config import HttpLimits
from ostnode.web.pacing import Patience

RECEIVE_BYTES: Final = 1 << 18
"""Larger receives gain nothing; 64 KiB, hypercorn's, halves the rate of large uploads."""


BODY_EXTENSION: Final = "ostnode.body"


class Source(Protocol):
    """Where bytes come from; both give nothing at the end, or when they broke."""

    async def receive(self, size: int, deadline: float) -> bytes | None:
        """At most `size` bytes; None when the deadline passed."""
        ...

    async def receive_into(self, buffer: memoryview, deadline: float) -> int | None:
        """How many bytes were put at the buffer's start; None when the deadline passed."""
        ...


class BodyReader(Protocol):
    """What the ASGI extension BODY_EXTENSION offers beside `receive`, under `reader`."""

    async def read_into(self, view: memoryview) -> int:
        """Put the next bytes at the start of `view`; 0 when the body is whole or has failed.

        For bodies of known length: from the socket to where they are wanted, without a copy.
        """
        ...


class RequestBody:
    """Reads one body of `length` bytes, or a chunked one (`length` None) through its parser.

    `buffer` holds what was received behind the head; what belongs to the next request stays in
    it. `failure` is the HTTP status that tells why the body will never be whole: 400 for a
    malformed or cut body, 408 when the client took too long. Safe to cancel while reading.
    """

    def __init__(
        self,
        source: Source,
        limits: HttpLimits,
        parser: h11.Connection,
        length: int | None,
        buffer: bytearray,
    ) -> None:
        self._source = source
        self._parser = parser
        self._left = length
        self._buffer = buffer
        self._patience = Patience(grace=limits.body_grace, rate=limits.body_rate_min)
        self.failure = 0
        if length is None and buffer:
            parser.receive_data(bytes(buffer))
            buffer.clear()

    @property
    def whole(self) -> bool:
        """Whether everything has been read."""
        return self._left == 0

    def fits(self, bytes_max: int) -> bool:
        """Whether at most `bytes_max` bytes are surely all that is still to come."""
        return self._left is not None and self._left <= bytes_max

    async def read(self) -> bytes:
        """The next bytes; b"" when it is whole or has failed."""
        if self.failure or self._left == 0:
            return b""
        if self._left is None:
            return await self._read_chunked()
        if self._buffer:
            data = bytes(self._buffer[: self._left])
            del self._buffer[: len(data)]
        else:
            data = await self._wait(min(self._left, RECEIVE_BYTES))
        self._left -= len(data)
        return data

    async def read_into(self, view: memoryview) -> int:
        """What `BodyReader` says."""
        if self.failure or not self._left:
            return 0
        view = view[: self._left]
        if self._buffer:
            taken = min(len(view), len(self._buffer))
            view[:taken] = self._buffer[:taken]
            del self._buffer[:taken]
        else:
            started = trio.current_time()
            received = await self._source.receive_into(view, started + self._patience.left)
            self._account(started, received)
            taken = received or 0
        self._left -= taken
        return taken

    async def drain(self, bytes_max: int) -> None:
        """Read and drop until the body is whole or failed, or `bytes_max` bytes have passed."""
        while bytes_max > 0 and (data := await self.read()):
            bytes_max -= len(data)

    async def _read_chunked(self) -> bytes:
        while not self.failure:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError:
                self.failure = 400
                break
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                self._left = 0
                self._buffer += self._parser.trailing_data[0]
                break
            if data := await self._wait(RECEIVE_BYTES):
                self._parser.receive_data(data)
        return b""

    async def _wait(self, size: int) -> bytes:
        started = trio.current_time()
        data = await self._source.receive(size, started + self._patience.left)
        self._account(started, None if data is None else len(data))
        return data or b""

    def _account(self, started: float, received: int | None) -> None:
        """Charge a wait to the client's patience; `received` None means that it ran out."""
        if received:
            self._patience.spent(trio.current_time() - started, received)
        else:
            self.failure = 408 if received is None else 400
