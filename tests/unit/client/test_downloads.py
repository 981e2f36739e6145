from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import trio
from blake3 import blake3

from ostnode.client import (
    BadAnswerError,
    ByteRange,
    Client,
    ClientOptions,
    IntegrityError,
    Phase,
    Progress,
    RetryPolicy,
    UnreachableError,
)
from ostnode.client import downloads as downloads_module
from ostnode.errors import InvalidArgumentError, NotFoundError, RangeNotSatisfiableError
from ostnode.ids import BlobId, PrincipalKind
from tests.support.client_fakes import (
    ADDRESS,
    GENERAL,
    FakeCluster,
    client_of,
    contents,
    fail_first,
    problem,
    refused,
)

DATA = b"0123456789abcdefghijklmnopqrstuvwxyz"
BLOB = BlobId(blake3(DATA).digest())
CHAT = GENERAL.principal
PATH = f"/{CHAT.text(PrincipalKind.ACCESSOR)}/{BLOB}"
GET = f"GET {PATH}"


def _cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.blobs[BLOB] = DATA
    return cluster


def _ranges(cluster: FakeCluster) -> list[str | None]:
    return [headers.get("range") for name, headers, _ in cluster.bodies if name == GET]


async def _read_while(client: Client, happens: Callable[[], None]) -> None:
    async with client.stream(CHAT, BLOB, bucket=ADDRESS) as stream:
        async for _ in stream:
            happens()


async def test_a_download_is_verified_and_named(tmp_path: Path, autojump_clock) -> None:
    target = tmp_path / "cat.png"
    async with client_of(_cluster()) as client:
        downloaded = await client.download(CHAT, BLOB, to=target, token=b"t", bucket=ADDRESS)
    assert (downloaded.path, downloaded.size) == (target, len(DATA))
    assert (downloaded.content_type, downloaded.filename) == ("image/png", "a cat.png")
    assert contents(tmp_path) == {"cat.png": DATA}


async def test_without_a_bucket_the_index_is_asked(autojump_clock) -> None:
    cluster = _cluster()
    async with client_of(cluster) as client:
        assert await client.read(CHAT, BLOB, token=b"t") == DATA
        assert await client.read(CHAT, BLOB, token=b"t", bucket=ADDRESS) == DATA
    assert cluster.requests[f"GET /v1/locate{PATH}"] == 1
    sent = [headers["ost-token"] for name, headers, _ in cluster.bodies if name == GET]
    assert sent == ["dA", "dA"]


async def test_b05_an_empty_blob_downloads(tmp_path: Path, autojump_clock) -> None:
    cluster = FakeCluster()
    empty = BlobId(blake3().digest())
    cluster.blobs[empty] = b""
    async with client_of(cluster) as client:
        assert await client.read(CHAT, empty, bucket=ADDRESS) == b""
        await client.download(CHAT, empty, to=tmp_path / "empty", bucket=ADDRESS)
    assert (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize(
    ("byte_range", "header"),
    [
        (ByteRange(0, 1), "bytes=0-0"),
        (ByteRange(3, 12), "bytes=3-11"),
        (ByteRange(30), "bytes=30-"),
    ],
)
async def test_b20_a_range_is_half_open(
    byte_range: ByteRange, header: str, tmp_path: Path, autojump_clock
) -> None:
    cluster = _cluster()
    target = tmp_path / "part"
    expected = DATA[byte_range.start : byte_range.end]
    async with client_of(cluster) as client:
        assert await client.read(CHAT, BLOB, bucket=ADDRESS, byte_range=byte_range) == expected
        part = await client.download(CHAT, BLOB, to=target, bucket=ADDRESS, byte_range=byte_range)
    assert target.read_bytes() == expected
    assert part.size == len(expected)
    assert _ranges(cluster) == [header, header]


@pytest.mark.parametrize(("start", "end"), [(-1, None), (3, 3), (3, 2)])
def test_a_range_that_is_none_is_refused(start: int, end: int | None) -> None:
    with pytest.raises(InvalidArgumentError):
        ByteRange(start, end)


@pytest.mark.parametrize(
    "error", [NotFoundError("no"), RangeNotSatisfiableError(size=36)], ids=["404", "416"]
)
async def test_refusals_are_typed(error, tmp_path: Path, autojump_clock) -> None:
    cluster = _cluster()
    cluster.faults.append(fail_first(1, PATH, lambda: problem(error)))
    async with client_of(cluster) as client:
        with pytest.raises(type(error)):
            await client.download(CHAT, BLOB, to=tmp_path / "x", bucket=ADDRESS)
    assert contents(tmp_path) == {}


async def test_other_bytes_than_the_blobs_leave_nothing(tmp_path: Path, autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.blobs[BLOB] = DATA.upper()
    target = tmp_path / "cat.png"
    target.write_bytes(b"old")
    async with client_of(cluster) as client:
        with pytest.raises(IntegrityError, match=str(BLOB)):
            await client.download(CHAT, BLOB, to=target, bucket=ADDRESS)
        with pytest.raises(IntegrityError):
            await client.read(CHAT, BLOB, bucket=ADDRESS)
    assert contents(tmp_path) == {"cat.png": b"old"}


async def test_a_broken_connection_is_resumed_where_it_broke(
    tmp_path: Path, autojump_clock
) -> None:
    cluster = _cluster()
    cluster.cut_after = [12, 9]
    async with client_of(cluster) as client:
        assert await client.read(CHAT, BLOB, bucket=ADDRESS) == DATA
    assert _ranges(cluster) == [None, "bytes=12-35", "bytes=21-35"]


async def test_a_resumed_range_keeps_its_end(autojump_clock) -> None:
    cluster = _cluster()
    cluster.cut_after = [6]
    async with client_of(cluster) as client:
        data = await client.read(CHAT, BLOB, bucket=ADDRESS, byte_range=ByteRange(2, 20))
    assert data == DATA[2:20]
    assert _ranges(cluster) == ["bytes=2-19", "bytes=8-19"]


async def test_b21_a_blob_deleted_while_it_streams_is_not_found(
    tmp_path: Path, autojump_clock
) -> None:
    cluster = _cluster()
    cluster.cut_after = [12]
    async with client_of(cluster) as client:
        with pytest.raises(NotFoundError):
            await _read_while(client, cluster.blobs.clear)


async def test_b12_breaks_without_progress_are_bounded(autojump_clock) -> None:
    cluster = _cluster()
    cluster.cut_after = [0] * 99
    options = ClientOptions(retry=RetryPolicy(attempts_max=3))
    async with client_of(cluster, options) as client:
        with pytest.raises(UnreachableError, match="cut"):
            await client.read(CHAT, BLOB, bucket=ADDRESS)
    assert cluster.requests[GET] == 3


async def test_breaks_with_progress_are_not_counted(autojump_clock) -> None:
    cluster = _cluster()
    cluster.cut_after = [3] * 11
    options = ClientOptions(retry=RetryPolicy(attempts_max=2))
    async with client_of(cluster, options) as client:
        assert await client.read(CHAT, BLOB, bucket=ADDRESS) == DATA


async def test_silence_within_a_download_is_a_break(autojump_clock) -> None:
    class Stalls(httpx2.AsyncByteStream):
        async def __aiter__(self):
            yield DATA[:5]
            await trio.sleep_forever()

    cluster = _cluster()
    headers = {"content-length": str(len(DATA))}
    cluster.faults.append(
        fail_first(1, PATH, lambda: httpx2.Response(200, headers=headers, stream=Stalls()))
    )
    async with client_of(cluster, ClientOptions(stall_deadline_s=7)) as client:
        assert await client.read(CHAT, BLOB, bucket=ADDRESS) == DATA
    assert _ranges(cluster) == [None, "bytes=5-35"]
    assert 7 <= trio.current_time() < 8


@pytest.mark.parametrize(
    "answer",
    [
        httpx2.Response(206, headers={"content-range": "bytes 0-35/36"}, content=DATA),
        httpx2.Response(200, headers={"content-length": "3"}, content=DATA),
    ],
    ids=["a range nobody asked for", "more than announced"],
)
async def test_an_answer_to_another_question_is_refused(answer, autojump_clock) -> None:
    cluster = _cluster()
    cluster.faults.append(fail_first(1, PATH, lambda: answer))
    async with client_of(cluster) as client:
        with pytest.raises(BadAnswerError):
            await client.read(CHAT, BLOB, bucket=ADDRESS)


async def test_a_blob_cannot_change_its_size_midway(autojump_clock) -> None:
    cluster = _cluster()
    cluster.cut_after = [6]
    async with client_of(cluster) as client:
        with pytest.raises(BadAnswerError, match="size"):
            await _read_while(client, lambda: cluster.blobs.update({BLOB: DATA + b"more"}))


async def test_b13_what_does_not_fit_in_memory_is_refused(autojump_clock) -> None:
    cluster = _cluster()
    async with client_of(cluster, ClientOptions(read_bytes_max=20)) as client:
        with pytest.raises(InvalidArgumentError, match="download to a file"):
            await client.read(CHAT, BLOB, bucket=ADDRESS)
        part = ByteRange(0, 20)
        assert await client.read(CHAT, BLOB, bucket=ADDRESS, byte_range=part) == DATA[:20]


async def test_a_stream_can_be_left_in_the_middle(autojump_clock) -> None:
    """filterwarnings = error: a generator that is dropped half-way would fail this test."""
    async with client_of(_cluster()) as client:
        async with client.stream(CHAT, BLOB, bucket=ADDRESS) as stream:
            assert stream.size == len(DATA)
            assert await anext(stream) == DATA[:3]
        async with client.stream(CHAT, BLOB, bucket=ADDRESS):
            pass


async def test_progress_of_a_download(tmp_path: Path, monkeypatch, autojump_clock) -> None:
    monkeypatch.setattr(downloads_module, "WRITE_BYTES", 10)
    seen: list[Progress] = []
    async with client_of(_cluster()) as client:
        await client.download(CHAT, BLOB, to=tmp_path / "x", bucket=ADDRESS, progress=seen.append)
    assert [p.done for p in seen] == [12, 24, 36, 36]
    assert {(p.phase, p.total) for p in seen} == {(Phase.DOWNLOAD, 36)}
    assert (tmp_path / "x").read_bytes() == DATA


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_the_name_appears_once_the_bytes_are_on_disk(
    tmp_path: Path, monkeypatch, autojump_clock
) -> None:
    sync, synced = os.fsync, []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, (tmp_path / "x").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    open_before = _open_files()
    async with client_of(_cluster()) as client:
        await client.download(CHAT, BLOB, to=tmp_path / "x", bucket=ADDRESS)
    assert synced == [(36, False)]
    assert _open_files() == open_before


async def test_a_directory_that_is_not_there_is_an_os_error(tmp_path: Path, autojump_clock) -> None:
    async with client_of(_cluster()) as client:
        with pytest.raises(FileNotFoundError):
            await client.download(CHAT, BLOB, to=tmp_path / "no" / "x", bucket=ADDRESS)


async def test_b12_a_bucket_that_is_down_is_tried_again(autojump_clock) -> None:
    cluster = _cluster()
    cluster.faults.append(fail_first(2, PATH, refused))
    async with client_of(cluster) as client:
        assert await client.read(CHAT, BLOB, bucket=ADDRESS) == DATA
