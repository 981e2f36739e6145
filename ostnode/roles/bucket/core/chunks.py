"""How a blob is cut: how many chunks, how long each."""

from __future__ import annotations

from typing import Final

from ostnode.errors import BlobTooLargeError, ChunkOutOfRangeError, ChunkSizeMismatchError
from ostnode.roles.bucket.records import Upload
from ostnode.roles.bucket.reducer import chunk_length

CHUNKS_MAX: Final = 1 << 18
"""What the bitmap of upload_status can say: 256 GiB in chunks of 1 MiB."""


def chunk_count(upload: Upload) -> int:
    """How many chunks an upload has; an empty blob has one, of no bytes.

    Raises BlobTooLargeError for more than can be told apart.
    """
    count = max(1, -(-upload.size // upload.chunk_bytes))
    if count > CHUNKS_MAX:
        limit = CHUNKS_MAX * upload.chunk_bytes
        raise BlobTooLargeError("too many chunks", limit=limit, needed=upload.size)
    return count


def check_chunk(upload: Upload, index: int, length: int) -> None:
    """Raise ChunkOutOfRangeError or ChunkSizeMismatchError unless this can be one of the chunks."""
    count = chunk_count(upload)
    if index >= count:
        raise ChunkOutOfRangeError(f"chunk {index} of {count}")
    expected = chunk_length(upload.size, upload.chunk_bytes, index)
    if length != expected:
        raise ChunkSizeMismatchError(
            f"chunk {index} has {expected} bytes, not {length}", expected=expected, got=length
        )
