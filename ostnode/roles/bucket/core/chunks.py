"""Which chunks an upload takes."""

from __future__ import annotations

from typing import Final

from ostnode.errors import BlobTooLargeError, ChunkOutOfRangeError, ChunkSizeMismatchError
from ostnode.roles.bucket.records import Upload
from ostnode.wire.chunks import chunk_count, chunk_length

CHUNKS_MAX: Final = 1 << 18
"""What the bitmap of upload_status can say: 256 GiB in chunks of 1 MiB."""


def count_chunks(upload: Upload) -> int:
    """How many chunks an upload has.

    Raises BlobTooLargeError for more than can be told apart.
    """
    count = chunk_count(upload.size, upload.chunk_bytes)
    if count > CHUNKS_MAX:
        limit = CHUNKS_MAX * upload.chunk_bytes
        raise BlobTooLargeError("too many chunks", limit=limit, needed=upload.size)
    return count


def check_chunk(upload: Upload, index: int, length: int) -> None:
    """Raise ChunkOutOfRangeError or ChunkSizeMismatchError unless this can be one of the chunks."""
    count = count_chunks(upload)
    if index >= count:
        raise ChunkOutOfRangeError(f"chunk {index} of {count}")
    expected = chunk_length(index, upload.size, upload.chunk_bytes)
    if length != expected:
        raise ChunkSizeMismatchError(
            f"chunk {index} has {expected} bytes, not {length}", expected=expected, got=length
        )
