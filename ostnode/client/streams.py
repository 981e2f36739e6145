"""A blob as a stream of bytes that survives broken connections.

A blob's bytes never change, so a stream goes on where a connection broke, by range. What came
whole is checked against the blob's id before its end is told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

import trio
from blake3 import blake3

from ostnode.client.answers import Extent, extent_of, filename_of
from ostnode.client.errors import BadAnswerError, IntegrityError, UnreachableError
from ostnode.client.http import Body
from ostnode.client.node import Node
from ostnode.client.retry import RetryPolicy
from ostnode.client.routes import blob_call
from ostnode.env import Rng
from ostnode.errors import InvalidArgumentError
from ostnode.ids import BlobId, Principal


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes [start, end) of a blob; without an end, all from `start` on."""

    start: int
    end: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise InvalidArgumentError("a range has 0 ≤ start < end")

    def header(self) -> str:
        """As a Range header's value (RFC 9110 §14.2), whose last byte is inclusive."""
        return f"bytes={self.start}-{'' if self.end is None else self.end - 1}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a stream's bytes come from, and by what right.

    `accessor` with its read token, or the owner's own principal without one.
    """

    node: Node
    accessor: Principal
    blob_id: BlobId
    token: bytes
    retry: RetryPolicy
    rng: Rng

    async def open(self, byte_range: ByteRange | None) -> tuple[Body, Extent]:
        """Ask for bytes; raises what the node refused, BadAnswerError for other bytes."""
        header = None if byte_range is None else byte_range.header()
        call = blob_call(self.accessor, self.blob_id, self.token, header)
        body = await self.node.open(call)
        start = None if byte_range is None else byte_range.start
        try:
            return body, extent_of(self.node.url, body.status, body.headers, start)
        except BadAnswerError:
            await body.aclose()
            raise


class BlobStream:
    """An open blob; iterate over it for its bytes, in pieces of tens of KiB.

    `size` is the whole blob's, `extent` what this stream carries. Iterating raises IntegrityError
    at the end when the whole blob was asked for and is not what its id says, UnreachableError
    when the policy gives up, NotFoundError when the blob was deleted meanwhile.
    """

    def __init__(self, origin: Origin, body: Body, extent: Extent, *, verify: bool) -> None:
        self.size = extent.size
        self.extent = extent
        self.content_type = body.headers.get("content-type", "")
        self.filename = filename_of(body.headers)
        self._origin = origin
        self._body = body
        self._offset = extent.start
        self._failures = 0
        self._hasher = blake3() if verify else None

    async def aclose(self) -> None:
        """Give the connection back, or cut it when there is more to come."""
        await self._body.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while self._offset < self.extent.end:
            try:
                piece = await self._receive()
            except UnreachableError as error:
                await self._go_on_after(error)
            else:
                self._take(piece)
                return piece
        await self._finish()
        raise StopAsyncIteration

    async def _receive(self) -> bytes:
        piece = await self._body.receive()
        if not piece:
            raise UnreachableError(self._origin.node.url, "the answer ended early")
        return piece

    def _take(self, piece: bytes) -> None:
        self._failures = 0
        self._offset += len(piece)
        if self._offset > self.extent.end:
            raise BadAnswerError(self._origin.node.url, "more bytes than it announced")
        if self._hasher is not None:
            self._hasher.update(piece)

    async def _go_on_after(self, error: UnreachableError) -> None:
        self._failures += 1
        delay_s = self._origin.retry.delay_s(self._failures, error, self._origin.rng)
        if delay_s is None:
            raise error
        await self._body.aclose()
        await trio.sleep(delay_s)
        self._body, rest = await self._origin.open(ByteRange(self._offset, self.extent.end))
        if (rest.end, rest.size) != (self.extent.end, self.size):
            raise BadAnswerError(self._origin.node.url, "the blob changed its size")

    async def _finish(self) -> None:
        """Read up to the answer's end, so that the connection can serve again; check the hash."""
        with suppress(UnreachableError):  # all bytes are here: how it ends does not matter
            await self._body.receive()
        if self._hasher is not None and self._hasher.digest() != self._origin.blob_id:
            raise IntegrityError(f"what came is not blob {self._origin.blob_id}")


@asynccontextmanager
async def open_stream(origin: Origin, byte_range: ByteRange | None) -> AsyncIterator[BlobStream]:
    """A stream, closed with the block. Only a stream without a range is verified."""
    body, extent = await origin.open(byte_range)
    stream = BlobStream(origin, body, extent, verify=byte_range is None)
    try:
        yield stream
    finally:
        await stream.aclose()
