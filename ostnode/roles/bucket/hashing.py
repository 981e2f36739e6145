"""Bytes at the bucket's edges: hashing them without stopping the event loop."""

from __future__ import annotations

from typing import Final

import typing_extensions
from blake3 import blake3

from ostnode.env import Worker
from ostnode.wire.buffers import Buffer

THREAD_FROM_BYTES: Final = 1 << 20
"""A hop to a thread costs some 90 µs, hashing a MiB 130 to 400."""


async def update_hash(hasher: blake3, data: Buffer, worker: Worker) -> None:
    """Hash the bytes, in a thread when there are many."""
    if len(data) >= THREAD_FROM_BYTES:
        await worker.run(hasher.update, data)
    else:
        hasher.update(data)


async def hash_of(data: Buffer, worker: Worker) -> bytes:
    """BLAKE3-256 of the bytes."""
    hasher = blake3()
    await update_hash(hasher, data, worker)
    return hasher.digest()


def plain(data: typing_extensions.Buffer) -> Buffer:
    """What the store read, as one of the types that answers carry; never a copy."""
    return data if isinstance(data, bytes | bytearray) else memoryview(data)
