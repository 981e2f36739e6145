"""Reading a blob that the caller may read, for as long as it may."""

from __future__ import annotations

from ostnode.env import Clock
from ostnode.errors import DataCorruptError, NotFoundError
from ostnode.ids import BlobId
from ostnode.roles.bucket.core.reading import Access, Readable, find_readable, still_readable
from ostnode.roles.bucket.damages import Damages, Unreadable
from ostnode.roles.bucket.hashing import plain
from ostnode.roles.bucket.views import View
from ostnode.store.store import Store
from ostnode.wire.buffers import Buffer
from ostnode.wire.fields import READ_BYTES_MAX


class BlobReader:
    """One caller's view of one blob. Type, name and time are of the reference it reads through.

    Nothing in it tells when, or by whom else, the blob was stored.
    """

    def __init__(self, store: Store, clock: Clock, access: Access, damages: Damages) -> None:
        self._store, self._clock, self._access = store, clock, access
        self._damages = damages
        self._readable = find_readable(View(store.durable), access, clock.now())

    @property
    def blob_id(self) -> BlobId:
        """BLAKE3 of the whole."""
        return self._access.blob_id

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return self._readable.blob.size

    @property
    def content_type(self) -> str:
        """As the reference says; not to be believed."""
        return self._readable.reference.content_type

    @property
    def filename(self) -> str | None:
        """As the reference says; not to be believed."""
        return self._readable.reference.filename

    @property
    def created_at(self) -> int:
        """When the reference was made, in seconds since 1970."""
        return self._readable.reference.created_at

    async def read(self, offset: int, length: int) -> Buffer:
        """`length` bytes from `offset`, at most READ_BYTES_MAX, fewer only at the blob's end.

        A slice within one chunk is not copied. Raises NotFoundError as soon as the caller may
        read no more, DataCorruptError when the stored bytes are damaged.
        """
        view = View(self._store.durable)
        self._readable = still_readable(view, self._access, self._readable, self._clock.now())
        end = min(self.size, offset + min(length, READ_BYTES_MAX))
        if offset >= end:
            return b""
        chunk_bytes = self._readable.blob.chunk_bytes
        if offset // chunk_bytes == (end - 1) // chunk_bytes:
            return await self._read_chunk(view, self._readable, offset, end)
        joined = bytearray()
        while offset < end:
            stop = min(end, (offset // chunk_bytes + 1) * chunk_bytes)
            joined += await self._read_chunk(view, self._readable, offset, stop)
            offset = stop
        return joined

    async def _read_chunk(self, view: View, readable: Readable, offset: int, end: int) -> Buffer:
        """Bytes of one chunk. Its blob may be dropped meanwhile; its segment is still there."""
        index, within = divmod(offset, readable.blob.chunk_bytes)
        number = readable.blob.number
        row = view.own_chunk(number, index)
        if row is None:
            if view.blob(self.blob_id) != readable.blob:
                raise NotFoundError
            self._damages.note(self.blob_id, Unreadable(number, index, None))
            raise DataCorruptError("a chunk of the blob is missing")
        try:
            return plain(await self._store.read(row.extent, within, end - offset))
        except DataCorruptError:
            self._damages.note(self.blob_id, Unreadable(number, index, row.extent))
            raise
