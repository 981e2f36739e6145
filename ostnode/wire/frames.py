"""Frames: `u32 header length | u32 body length | header | body`, lengths big-endian.

The header is one strict CBOR map, the body raw bytes. Bodies never pass through the codec: a
reader offers the body's own buffer to be received into, so that a chunk is written once.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from ostnode.codec import CBOR_BYTES_MAX
from ostnode.errors import FrameTooLargeError, OstError, bare
from ostnode.wire.buffers import BodyBuffers, Buffer
from ostnode.wire.fields import READ_BYTES_MAX

HEADER_BYTES_MAX: Final = CBOR_BYTES_MAX
BODY_BYTES_MAX: Final = READ_BYTES_MAX + 4096
"""The largest chunk, with a margin for what may one day ride beside it."""
GREETING_BYTES_MAX: Final = 4096
"""A header's limit until the peer has proven who it is; bodies are refused until then."""
PREFIX: Final = struct.Struct(">II")
SCRATCH_BYTES: Final = PREFIX.size + HEADER_BYTES_MAX
"""Room for the largest prefix and header; small frames arrive many at a time."""
SCRATCH_BYTES_IDLE: Final = PREFIX.size + GREETING_BYTES_MAX
"""Until that is once filled: most links have nothing to say most of the time."""


class LocalProtocolError(Exception):
    """We tried to do what the protocol's state does not allow: a bug on this side."""


class RemoteProtocolError(Exception):
    """The peer broke the protocol. `refusal` is the typed error to tell it before closing."""

    def __init__(self, refusal: OstError) -> None:
        super().__init__(refusal.message)
        self.refusal = bare(refusal)


class Frame(NamedTuple):
    """One whole frame; the body's buffer belongs to whoever takes the frame."""

    header: bytes
    body: Buffer


def pack_frame(header: bytes, body: Buffer = b"") -> bytes:
    """Prefix and header; the body, of the length given here, is to follow on the wire."""
    if len(header) > HEADER_BYTES_MAX:
        raise FrameTooLargeError(f"a header of {len(header)} bytes is over {HEADER_BYTES_MAX}")
    size = memoryview(body).nbytes
    if size > BODY_BYTES_MAX:
        raise FrameTooLargeError(f"a body of {size} bytes is over {BODY_BYTES_MAX}")
    return PREFIX.pack(len(header), size) + header


class FrameReader:
    """Cuts a byte stream into frames, however the stream was cut before.

    Receive into `buffer()`, say how much came with `received(count)`, then take frames with
    `next_frame()` until it has none. Holds at most one scratch buffer and one body; `buffers` may
    be shared with other readers.
    """

    def __init__(self, buffers: BodyBuffers | None = None) -> None:
        self.header_bytes_max = GREETING_BYTES_MAX
        self.body_bytes_max = 0
        self._scratch = memoryview(bytearray(SCRATCH_BYTES_IDLE))
        self._scratch_bytes = SCRATCH_BYTES_IDLE
        self._start = 0
        self._end = 0
        self._header: bytes | None = None
        self._buffers = BodyBuffers() if buffers is None else buffers
        self._body = bytearray()
        self._body_filled = 0

    def trim(self) -> None:
        """Let go of memory that is kept for frames to come."""
        self._buffers.forget()
        self._scratch_bytes = SCRATCH_BYTES_IDLE

    @property
    def inside_frame(self) -> bool:
        """Whether a frame has begun that is not whole yet."""
        return self._header is not None or self._start != self._end

    def buffer(self) -> memoryview:
        """Where the next bytes of the stream go; never empty once `next_frame` had nothing."""
        if self._header is not None:
            return memoryview(self._body)[self._body_filled :]
        if self._start == self._end:
            self._start = self._end = 0
            # Here and nowhere else: bytes may still be on their way into the old one.
            if len(self._scratch) != self._scratch_bytes:
                self._scratch = memoryview(bytearray(self._scratch_bytes))
        elif self._start:
            unread = self._end - self._start
            self._scratch[:unread] = self._scratch[self._start : self._end]
            self._start, self._end = 0, unread
        if self._end == len(self._scratch):
            rest = bytes(SCRATCH_BYTES - self._end)
            self._scratch = memoryview(bytearray(self._scratch) + rest)
        return self._scratch[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes were put at the front of `buffer()`."""
        if self._header is not None:
            self._body_filled += count
        else:
            self._end += count
            if self._end == len(self._scratch):
                self._scratch_bytes = SCRATCH_BYTES

    def next_frame(self) -> Frame | None:
        """The next whole frame; raises RemoteProtocolError for one over the limits."""
        header = self._header
        if header is None:
            return self._begun()
        if self._body_filled < len(self._body):
            return None
        frame = Frame(header, self._body)
        self._header, self._body = None, bytearray()
        return frame

    def _begun(self) -> Frame | None:
        """Take prefix and header off the scratch buffer, if they are there.

        Returns the frame if its body is there as well, or sets the body up to be received.
        """
        start, unread = self._start, self._end - self._start
        if unread < PREFIX.size:
            return None
        header_bytes, body_bytes = PREFIX.unpack_from(self._scratch, start)
        if header_bytes > self.header_bytes_max or body_bytes > self.body_bytes_max:
            raise self._refusal(header_bytes, body_bytes)
        at = start + PREFIX.size + header_bytes
        if at > self._end:
            return None
        header = bytes(self._scratch[start + PREFIX.size : at])
        if not body_bytes:
            self._start = at
            return Frame(header, b"")
        # The buffer is made only now: a lying prefix alone costs no memory.
        body = self._buffers.take(body_bytes)
        filled = min(self._end - at, body_bytes)
        body[:filled] = self._scratch[at : at + filled]
        self._start = at + filled
        if filled == body_bytes:
            return Frame(header, body)
        self._header, self._body, self._body_filled = header, body, filled
        return None

    def _refusal(self, header_bytes: int, body_bytes: int) -> RemoteProtocolError:
        if header_bytes > self.header_bytes_max:
            over = f"a header of {header_bytes} bytes is over {self.header_bytes_max}"
        else:
            over = f"a body of {body_bytes} bytes is over {self.body_bytes_max}"
        return RemoteProtocolError(FrameTooLargeError(over))
