from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from ostnode.client import source as source_module
from ostnode.client.chunks import Span
from ostnode.client.errors import SourceChangedError
from ostnode.client.progress import Phase, Progress, ignore_progress
from ostnode.client.source import SLICE_BYTES, Prepared, Source, prepare
from ostnode.env import InlineWorker
from tests.support.client_fakes import Stream, contents

DATA = bytes(range(256)) * 4


def _read(prepared: Prepared, offset: int, length: int) -> bytes:
    return bytes(prepared.read_into(Span(offset, length), bytearray(max(length, 10))))


@pytest.mark.parametrize("kind", ["path", "bytes", "memoryview", "stream"])
async def test_every_source_is_hashed_and_read_by_offset(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    sources: dict[str, Source] = {
        "path": path,
        "bytes": DATA,
        "memoryview": memoryview(DATA).cast("I"),
        "stream": Stream(DATA[:5], b"", DATA[5:600], DATA[600:]),
    }
    async with prepare(sources[kind], InlineWorker(), ignore_progress, tmp_path) as prepared:
        assert prepared.blob_id == blake3(DATA).digest()
        assert prepared.size == len(DATA)
        assert _read(prepared, 0, 4) == DATA[:4]
        assert _read(prepared, 1000, 24) == DATA[1000:]
        assert _read(prepared, 1024, 0) == b""
    assert contents(tmp_path) == {"file": DATA}


@pytest.mark.parametrize("empty", [b"", Stream()])
async def test_b05_an_empty_source_has_the_empty_hash(empty: Source) -> None:
    async with prepare(empty, InlineWorker(), ignore_progress) as prepared:
        assert (prepared.blob_id, prepared.size) == (blake3().digest(), 0)


async def test_hashing_holds_one_slice_and_lets_others_run(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source_module, "SLICE_BYTES", 100)
    monkeypatch.setattr(source_module, "SLICES_PER_HOP", 2)
    path = tmp_path / "file"
    path.write_bytes(DATA[:450])
    seen: list[Progress] = []
    async with prepare(path, InlineWorker(), seen.append) as prepared:
        assert prepared.blob_id == blake3(DATA[:450]).digest()
    assert [(p.phase, p.done, p.total) for p in seen] == [
        (Phase.HASH, done, 450) for done in (200, 400, 450)
    ]
    assert SLICE_BYTES == 1 << 20


async def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    async with prepare(path, InlineWorker(), ignore_progress) as prepared:
        path.write_bytes(b"short")
        with pytest.raises(SourceChangedError):
            _read(prepared, 0, 10)


async def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with prepare(tmp_path / "none", InlineWorker(), ignore_progress):
            pytest.fail("there is nothing to hash")
