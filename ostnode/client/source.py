"""What is uploaded: a file, bytes in memory or a stream, hashed once and then read by offset.

Nothing here holds more than a slice: a file is read into one reused buffer, a stream is spooled
to a temporary file while it is hashed. mmap is avoided on purpose: its pages would count as the
client's memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

from blake3 import blake3
from typing_extensions import override

from ostnode.client.chunks import Span
from ostnode.client.errors import SourceChangedError
from ostnode.client.progress import Phase, Progress, ProgressCallback
from ostnode.env import Worker
from ostnode.ids import BlobId
from ostnode.wire.buffers import Buffer

Source = Path | Buffer | AsyncIterable[bytes]

SLICE_BYTES: Final = 1 << 20
"""Read and hashed at a time; BLAKE3 spreads over threads from 1 MiB on."""
SLICES_PER_HOP: Final = 32
"""Slices between two looks at the event loop (10 ms of hashing): cancelling stays prompt."""


class Content(Protocol):
    """Bytes that can be read by offset, from any thread."""

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes at `offset`; blocks. Raises SourceChangedError."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A hashed source."""

    blob_id: BlobId
    size: int
    content: Content

    def read_into(self, span: Span, target: bytearray) -> memoryview:
        """The bytes of `span`, in the first part of `target`; blocks."""
        view = memoryview(target)[: span.length]
        self.content.read_into(span.offset, view)
        return view


class FileContent(Content):
    """An open file, read with pread: lanes share the descriptor and no position."""

    def __init__(self, file: IO[bytes]) -> None:
        self._descriptor = file.fileno()

    @override
    def read_into(self, offset: int, target: memoryview) -> None:
        filled = 0
        while filled < len(target):
            got = os.preadv(self._descriptor, [target[filled:]], offset + filled)
            if got == 0:
                raise SourceChangedError("the file became shorter while it was being uploaded")
            filled += got


class MemoryContent(Content):
    """Bytes the caller holds."""

    def __init__(self, data: Buffer) -> None:
        self._view = memoryview(data).cast("B")

    @override
    def read_into(self, offset: int, target: memoryview) -> None:
        target[:] = self._view[offset : offset + len(target)]


@asynccontextmanager
async def prepare(
    source: Source, worker: Worker, progress: ProgressCallback, spool_dir: Path | None = None
) -> AsyncIterator[Prepared]:
    """Hash a source and keep it readable for the block.

    Raises OSError when a file cannot be read or the spool cannot be written, SourceChangedError
    when a file shrinks.
    """
    if isinstance(source, Path):
        with await worker.run(_open, source) as file:
            size = os.fstat(file.fileno()).st_size
            content: Content = FileContent(file)
            yield await _hashed(content, size, worker, progress)
    elif isinstance(source, bytes | bytearray | memoryview):
        content = MemoryContent(source)
        yield await _hashed(content, memoryview(source).nbytes, worker, progress)
    else:
        with await worker.run(_open_spool, spool_dir) as spool:
            yield await _spooled(source, spool, worker, progress)


def _open(path: Path) -> IO[bytes]:
    return path.open("rb", buffering=0)


def _open_spool(directory: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile(buffering=0, dir=directory)


async def _hashed(
    content: Content, size: int, worker: Worker, progress: ProgressCallback
) -> Prepared:
    hasher = blake3(max_threads=blake3.AUTO if size >= SLICE_BYTES else 1)
    buffer = bytearray(min(size, SLICE_BYTES))
    done = 0
    while done < size:
        done = await worker.run(_hash_some, hasher, content, buffer, done, size)
        progress(Progress(Phase.HASH, done, size))
    return Prepared(BlobId(hasher.digest()), size, content)


def _hash_some(hasher: blake3, content: Content, buffer: bytearray, done: int, size: int) -> int:
    """Hash up to SLICES_PER_HOP slices from `done` on; returns how far it came."""
    end = min(size, done + SLICES_PER_HOP * len(buffer))
    while done < end:
        view = memoryview(buffer)[: end - done]
        content.read_into(done, view)
        hasher.update(view)
        done += len(view)
    return done


async def _spooled(
    stream: AsyncIterable[bytes], spool: IO[bytes], worker: Worker, progress: ProgressCallback
) -> Prepared:
    hasher = blake3()
    size = 0
    async for piece in stream:
        await worker.run(_spool_piece, hasher, spool, piece)
        size += len(piece)
        progress(Progress(Phase.HASH, size, size))
    return Prepared(BlobId(hasher.digest()), size, FileContent(spool))


def _spool_piece(hasher: blake3, spool: IO[bytes], piece: bytes) -> None:
    hasher.update(piece)
    view = memoryview(piece)
    while view:
        view = view[spool.write(view) :]
