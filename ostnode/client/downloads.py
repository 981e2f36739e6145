"""A stream into a file: a temporary name, the hash checked, synced, then the name asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ostnode.client.progress import Phase, Progress, ProgressCallback
from ostnode.client.streams import BlobStream
from ostnode.env import Rng, Worker

WRITE_BYTES: Final = 1 << 20
"""Gathered before they are written, so that a hop to a thread is paid once per MiB."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that has come whole. `size` is what was written: the range's, if one was asked for.

    `content_type` is what the bucket serves it as: unsafe types come as octet-stream.
    """

    path: Path
    size: int
    content_type: str
    filename: str | None


async def download_to(
    stream: BlobStream, path: Path, worker: Worker, rng: Rng, progress: ProgressCallback
) -> Downloaded:
    """Write a stream to `path`, replacing what is there only when all of it has come.

    Whatever fails, and cancelling too, leaves no part behind. Raises OSError for the disk.
    """
    total = stream.extent.length
    with _PartFile(path, f".{path.name}.{rng.token(6).hex()}.part") as part:
        await worker.run(part.create)
        pieces: list[bytes] = []
        gathered = done = 0
        async for piece in stream:
            pieces.append(piece)
            gathered += len(piece)
            if gathered >= WRITE_BYTES:
                await worker.run(part.write, pieces)
                done += gathered
                progress(Progress(Phase.DOWNLOAD, done, total))
                pieces, gathered = [], 0
        await worker.run(part.write, pieces)
        await worker.run(part.publish)
    progress(Progress(Phase.DOWNLOAD, total, total))
    return Downloaded(path, total, stream.content_type, stream.filename)


class _PartFile:
    """The file under its temporary name, removed with the block unless it was published."""

    def __init__(self, path: Path, part_name: str) -> None:
        self._path = path
        self._part = path.with_name(part_name)
        self._descriptor = -1

    def create(self) -> None:
        self._descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def write(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def publish(self) -> None:
        # A name that says "whole" must not survive a power cut that its bytes do not.
        os.fsync(self._descriptor)
        self._part.replace(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._part.unlink(missing_ok=True)
