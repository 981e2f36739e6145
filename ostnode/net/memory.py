"""A network in memory: the same interface as TCP, bounded buffers, deterministic."""

from __future__ import annotations

import contextlib
import errno
import operator
from collections.abc import Iterator
from typing import Final

import trio
from typing_extensions import override

from ostnode.net.transport import Handler, LinkClosedError, Network, guarded, split_address

PIPE_BYTES_MAX: Final = 64 * 1024
"""Of one direction. Small enough that tests meet backpressure as sockets do."""
_FIRST_FREE_PORT: Final = 49152
_BACKLOG: Final = 128


class _Pipe:
    """One direction: a bounded buffer that a writer fills and a reader empties."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._data = bytearray()
        self._ended = False
        self._broken = False
        self._changed = trio.lowlevel.ParkingLot()

    async def put(self, data: memoryview) -> None:
        """Add all of `data`, waiting for room as often as it takes."""
        while True:
            self.check_writable()
            room = self._bytes_max - len(self._data)
            if room and data:
                self._data += data[:room]
                data = data[room:]
                self._changed.unpark_all()
            if not data:
                return
            await self._changed.park()

    async def wait_room(self) -> None:
        """Wait until a byte could be added."""
        self.check_writable()
        while len(self._data) >= self._bytes_max:
            await self._changed.park()
            self.check_writable()

    def check_writable(self) -> None:
        """Raise what a writer gets once its side has ended or the other is gone."""
        if self._ended:
            raise trio.ClosedResourceError("this side has ended the stream")
        if self._broken:
            raise trio.BrokenResourceError("the other side is gone")

    async def take(self, bytes_max: int) -> bytes:
        """At least one byte, b"" at the end."""
        while not self._data:
            if self._broken:
                raise trio.BrokenResourceError("the other side is gone")
            if self._ended:
                return b""
            await self._changed.park()
        taken = bytes(self._data[:bytes_max])
        del self._data[:bytes_max]
        self._changed.unpark_all()
        return taken

    def end(self) -> None:
        """The writer is done: what is buffered can still be read."""
        self._ended = True
        self._changed.unpark_all()

    def break_off(self) -> None:
        """Nothing more gets through, like a reset."""
        self._broken = True
        self._data.clear()
        self._changed.unpark_all()


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a connection in memory."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._closed = False
        self._is_sending = False
        self._receiving = False

    @override
    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._sending():
            await trio.lowlevel.checkpoint()
            await self._outgoing.put(memoryview(data))

    @override
    async def wait_send_all_might_not_block(self) -> None:
        with self._sending():
            await trio.lowlevel.checkpoint()
            await self._outgoing.wait_room()

    @override
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        bytes_max = PIPE_BYTES_MAX if max_bytes is None else operator.index(max_bytes)
        if bytes_max < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            return await self._incoming.take(bytes_max)
        except trio.BrokenResourceError:
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed") from None
            raise
        finally:
            self._receiving = False

    @override
    async def send_eof(self) -> None:
        with self._sending():
            if self._closed:
                raise trio.ClosedResourceError("this stream is closed")
            self._outgoing.end()
            await trio.lowlevel.checkpoint()

    @override
    async def aclose(self) -> None:
        self._closed = True
        self._outgoing.end()
        self._incoming.break_off()
        await trio.lowlevel.checkpoint()

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending")
        self._is_sending = True
        try:
            yield
        finally:
            self._is_sending = False

    def sever(self) -> None:
        """Break both directions for both ends, as a cut cable or a killed process does."""
        self._incoming.break_off()
        self._outgoing.break_off()


def memory_stream_pair(bytes_max: int = PIPE_BYTES_MAX) -> tuple[MemoryStream, MemoryStream]:
    """Two connected ends, each direction holding at most `bytes_max` bytes."""
    there, back = _Pipe(bytes_max), _Pipe(bytes_max)
    return MemoryStream(back, there), MemoryStream(there, back)


def _sever_waiting(accepted: trio.MemoryReceiveChannel[MemoryStream]) -> None:
    with accepted, contextlib.suppress(trio.EndOfChannel):
        while True:
            accepted.receive_nowait().sever()


class MemoryNetwork(Network):
    """Connections within one process, by address."""

    def __init__(self, *, pipe_bytes_max: int = PIPE_BYTES_MAX) -> None:
        self._pipe_bytes_max = pipe_bytes_max
        self._served: dict[str, trio.MemorySendChannel[MemoryStream]] = {}
        self._open: dict[str, list[MemoryStream]] = {}
        self._free_port = _FIRST_FREE_PORT

    @override
    async def connect(self, address: str) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        channel = self._served.get(address)
        if channel is None:
            raise LinkClosedError(f"cannot connect to {address}: nobody is there")
        ours, theirs = memory_stream_pair(self._pipe_bytes_max)
        try:
            channel.send_nowait(theirs)
        except trio.WouldBlock:
            raise LinkClosedError(f"cannot connect to {address}: too many are waiting") from None
        return ours

    @override
    async def serve(
        self,
        address: str,
        handler: Handler,
        *,
        task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        bound = self._bind(address)
        accept, accepted = trio.open_memory_channel[MemoryStream](_BACKLOG)
        self._served[bound] = accept
        self._open[bound] = []
        try:
            async with trio.open_nursery() as nursery:
                task_status.started(bound)
                async for stream in accepted:
                    nursery.start_soon(self._serve_one, bound, handler, stream)
        finally:
            del self._served[bound]
            accept.close()
            _sever_waiting(accepted)

    def sever(self, address: str) -> None:
        """Break every open connection to `address`; who serves it goes on serving."""
        for stream in self._open.get(address, ()):
            stream.sever()

    async def _serve_one(self, address: str, handler: Handler, stream: MemoryStream) -> None:
        self._open[address].append(stream)
        try:
            await guarded(handler, stream)
        finally:
            self._open[address].remove(stream)

    def _bind(self, address: str) -> str:
        host, port = split_address(address)
        if port == 0:
            address = f"{host}:{self._free_port}"
            self._free_port += 1
        if address in self._served:
            raise OSError(errno.EADDRINUSE, f"{address} is served already")
        return address
