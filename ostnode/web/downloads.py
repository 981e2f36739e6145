"""GET and HEAD of a blob: authorised first, then conditional, then a range, in bounded slices."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, Protocol

from ostnode.errors import (
    InvalidArgumentError,
    NotAuthorizedError,
    NotFoundError,
    TokenExpiredError,
    TokenInvalidError,
    UnauthenticatedError,
)
from ostnode.ids import BlobId, Principal
from ostnode.web.asgi import WebRequest
from ostnode.web.headers import SAFE, HeaderList, presentation
from ostnode.web.ranges import Span, not_modified, requested_span
from ostnode.web.sessions import Sessions
from ostnode.wire.buffers import Buffer
from ostnode.wire.calls import Caller

TEMPLATE: Final = "/{accessor}/{blob_id}"
SLICE_BYTES: Final = 1 << 19
"""What a slow reader makes us hold, and how soon a deleted blob stops flowing. 256 KiB cost 10 %;
1 MiB gains nothing, and is several times slower while malloc gives each slice back to the system.
"""
ACCESSORS_REMEMBERED: Final = 4096
"""Checking a Bech32m text takes as long as all the rest of a small GET."""

_DENIALS: Final = (
    InvalidArgumentError,
    UnauthenticatedError,
    TokenInvalidError,
    TokenExpiredError,
    NotAuthorizedError,
    NotFoundError,
)
_NOT_THERE: Final = "there is no such blob, or it is not for you"


class BlobReader(Protocol):
    """A blob that its reader may read, with what its reference says about it."""

    @property
    def blob_id(self) -> BlobId: ...
    @property
    def size(self) -> int: ...
    @property
    def content_type(self) -> str: ...
    @property
    def filename(self) -> str | None: ...

    async def read(self, offset: int, length: int) -> Buffer:
        """Exactly `length` bytes (at most 1 MiB) that lie within the blob.

        Raises NotFoundError once the reference is gone, DataCorruptError for bad bytes.
        """
        ...


class BlobSource(Protocol):
    """Who decides about reads: the bucket role."""

    async def open_blob(
        self, caller: Caller, accessor: Principal, blob_id: BlobId, token: bytes
    ) -> BlobReader:
        """The blob, if this caller may read it now; NotFoundError for every other case."""
        ...


class Downloads:
    """The route `/{accessor}/{blob_id}`."""

    def __init__(self, blobs: BlobSource, sessions: Sessions) -> None:
        self._blobs = blobs
        self._sessions = sessions

    async def serve(self, request: WebRequest) -> None:
        """Answer a GET or HEAD."""
        reader = await self._open(request)
        etag = b'"%b"' % reader.blob_id.hex().encode()
        headers = _common_headers(etag)
        asked = request.headers.get
        if not_modified(asked(b"if-none-match"), etag):
            await request.answer(304, headers, b"")
            return
        span = requested_span(asked(b"range"), asked(b"if-range"), etag, reader.size)
        status = 200
        if span is None:
            span = Span(0, reader.size)
        else:
            status = 206
            last = b"bytes %d-%d/%d" % (span.start, span.stop - 1, reader.size)
            headers.append((b"content-range", last))
        headers.append((b"content-length", b"%d" % (span.stop - span.start)))
        headers += presentation(reader.content_type, reader.filename)
        # Read before the head goes out: damage, or a deletion meanwhile, can still be told.
        first = b"" if request.method == "HEAD" else await self._first(reader, span)
        await request.start(status, headers)
        if request.method == "HEAD":
            await request.send(b"", more=False)
        else:
            await _send(request, reader, span, first)

    async def _first(self, reader: BlobReader, span: Span) -> Buffer:
        try:
            return await _slice(reader, span.start, span)
        except NotFoundError:
            raise NotFoundError(_NOT_THERE) from None

    async def _open(self, request: WebRequest) -> BlobReader:
        """The blob asked for. Whatever speaks against reading it is one and the same refusal.

        A session that is over is told as such: it says nothing about any blob.
        """
        caller = request.caller(self._sessions)
        try:
            _, accessor_text, blob_text = request.path.split("/")
            accessor, blob_id = parse_accessor(accessor_text), BlobId.from_hex(blob_text)
            if caller.principal is None:
                raise NotFoundError
            return await self._blobs.open_blob(caller, accessor, blob_id, request.token())
        except _DENIALS:
            raise NotFoundError(_NOT_THERE) from None


@lru_cache(maxsize=ACCESSORS_REMEMBERED)
def parse_accessor(text: str) -> Principal:
    """A principal of any kind: owners name themselves. Raises InvalidArgumentError."""
    return Principal.parse(text)


def _common_headers(etag: bytes) -> HeaderList:
    """What 200, 206 and 304 have in common (RFC 9110 §15.4.5)."""
    return [
        (b"etag", etag),
        (b"accept-ranges", b"bytes"),
        # To revalidate is a cheap 304, and a deletion takes effect at once.
        (b"cache-control", b"private, no-cache"),
        (b"vary", b"Authorization, Ost-Token"),
        *SAFE,
    ]


async def _slice(reader: BlobReader, offset: int, span: Span) -> Buffer:
    length = min(SLICE_BYTES, span.stop - offset)
    return await reader.read(offset, length) if length else b""


async def _send(request: WebRequest, reader: BlobReader, span: Span, data: Buffer) -> None:
    """Send the span, of which `data` is the beginning.

    An error in its midst leaves the answer short, which the client can see.
    """
    offset = span.start
    while True:
        offset += min(SLICE_BYTES, span.stop - offset)
        await request.send(data, more=offset < span.stop)
        if offset >= span.stop:
            return
        data = await _slice(reader, offset, span)
