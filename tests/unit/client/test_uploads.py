from __future__ import annotations

from collections import Counter
from pathlib import Path

import httpx2
import pytest
import trio
from blake3 import blake3

from ostnode.client import (
    BadAnswerError,
    ClientOptions,
    Phase,
    Progress,
    RetryPolicy,
    SourceChangedError,
    UnreachableError,
)
from ostnode.errors import (
    BucketFullError,
    BusyError,
    GrantClosedError,
    GrantExpiredError,
    HashMismatchError,
    InvalidArgumentError,
    NotFoundError,
    OstError,
    UploadConflictError,
    WrongBucketError,
)
from ostnode.ids import BlobId, GrantId
from ostnode.wire import messages as m
from tests.support.client_fakes import (
    ADDRESS,
    ALICE,
    GENERAL,
    FakeCluster,
    Stream,
    Upload,
    answer,
    client_of,
    fail_first,
    problem,
    refused,
)

DATA = b"0123456789abcdefghijklmnopqrstuvwxyz"  # 9 chunks of 4
BLOB = BlobId(blake3(DATA).digest())
CHAT = GENERAL.principal
PUSH = "POST /v1/chunks"
ALLOCATE = "POST /v1/allocations"


def _indexes(cluster: FakeCluster) -> Counter[int]:
    """How often each chunk was sent."""
    return Counter(
        int(headers["ost-chunk-index"]) for name, headers, _ in cluster.bodies if name == PUSH
    )


@pytest.mark.parametrize("kind", ["path", "bytes", "stream"])
async def test_an_upload_stores_the_bytes(kind: str, tmp_path: Path, autojump_clock) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    source = {"path": path, "bytes": DATA, "stream": Stream(DATA[:10], DATA[10:])}[kind]
    cluster = FakeCluster()
    async with client_of(cluster) as client:
        uploaded = await client.upload(source, accessors=[CHAT])
    assert cluster.blobs == {BLOB: DATA}
    assert uploaded.reference.blob_id == BLOB
    assert uploaded.reference.accessors == (CHAT,)
    assert uploaded.bucket == ADDRESS
    assert (uploaded.chunks_sent, uploaded.chunks_total) == (9, 9)
    assert set(_indexes(cluster).values()) == {1}


@pytest.mark.parametrize("data", [b"", b"abc", b"abcd"])
async def test_b05_one_chunk_is_three_calls(data: bytes, autojump_clock) -> None:
    cluster = FakeCluster()
    async with client_of(cluster) as client:
        uploaded = await client.upload(data)
    assert cluster.blobs == {uploaded.reference.blob_id: data}
    assert cluster.requests == {"POST /v1/session": 2, ALLOCATE: 1, PUSH: 1}


async def test_parameters_ride_with_every_chunk(autojump_clock) -> None:
    cluster = FakeCluster()
    async with client_of(cluster) as client:
        await client.upload(
            DATA[:8], ref_id=b"\x01", content_type="image/png", filename="käse", expires_at=9
        )
    pushes = [headers for name, headers, _ in cluster.bodies if name == PUSH]
    assert len(pushes) == 2
    for headers in pushes:
        assert headers["ost-ref"] == "AQ"
        assert headers["content-type"] == "image/png"
        assert headers["ost-filename"] == "k%C3%A4se"
        assert headers["ost-expires-at"] == "9"


@pytest.mark.parametrize("parallel", [1, 3])
async def test_lanes_are_bounded(parallel: int, autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.push_takes_s = 1.0
    async with client_of(cluster, ClientOptions(parallel=parallel)) as client:
        await client.upload(DATA)
    assert cluster.in_flight_max == parallel
    assert trio.current_time() == pytest.approx(9 / parallel)


async def test_progress_counts_bytes_to_the_end(autojump_clock) -> None:
    seen: list[Progress] = []
    async with client_of(FakeCluster(), ClientOptions(parallel=1)) as client:
        await client.upload(DATA[:10], progress=seen.append)
    assert [(p.phase, p.done, p.total) for p in seen] == [
        (Phase.HASH, 10, 10),
        *[(Phase.PUSH, done, 10) for done in (0, 4, 8, 10, 10)],
    ]


async def test_b10_only_missing_chunks_are_sent_after_a_cut(autojump_clock) -> None:
    cluster = FakeCluster()
    options = ClientOptions(parallel=1, retry=RetryPolicy(attempts_max=1))
    down = False

    def cut(request: httpx2.Request) -> httpx2.Response | None:
        return refused() if down and request.url.path == "/v1/chunks" else None

    cluster.faults.append(cut)

    def stop_after(progress: Progress) -> None:
        nonlocal down
        down = progress.phase is Phase.PUSH and progress.done >= 20

    async with client_of(cluster, options) as client:
        with pytest.raises(UnreachableError):
            await client.upload(DATA, progress=stop_after)
    cluster.bodies.clear()
    down = False
    seen: list[Progress] = []
    async with client_of(cluster, options) as client:
        uploaded = await client.upload(DATA, progress=seen.append)
    assert cluster.blobs == {BLOB: DATA}
    assert sorted(_indexes(cluster)) == [5, 6, 7, 8]
    assert (uploaded.chunks_sent, uploaded.chunks_total) == (4, 9)
    assert next(p.done for p in seen if p.phase is Phase.PUSH) == 20


async def test_what_arrived_under_another_grant_does_not_count(autojump_clock) -> None:
    class Confused(FakeCluster):
        def _status(self, blob_id: BlobId) -> httpx2.Response:
            info = m.UploadInfo(GrantId(bytes(16)), 36, 4, b"\xff\x01", 0)
            return answer(info)

    cluster = Confused()
    cluster.uploads[GrantId(bytes(16))] = Upload(GrantId(bytes(16)), BLOB, 36, open=False)
    async with client_of(cluster) as client:
        uploaded = await client.upload(DATA)
    assert uploaded.chunks_sent == 9


async def test_b10_a_node_that_comes_back_is_ridden_out(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.push_takes_s = 0.1

    def outage(request: httpx2.Request) -> httpx2.Response | None:
        return refused() if 0.1 < trio.current_time() < 2.5 else None

    cluster.faults.append(outage)
    async with client_of(cluster) as client:
        uploaded = await client.upload(DATA)
    assert cluster.blobs == {BLOB: DATA}
    assert uploaded.chunks_sent == 9


async def test_b07_a_chunk_whose_answer_was_lost_is_sent_again(autojump_clock) -> None:
    class LosesAnswers(FakeCluster):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            if request.url.path == "/v1/chunks" and self.requests[PUSH] % 2:
                raise httpx2.ReadError("the answer is lost")
            return response

    cluster = LosesAnswers()
    async with client_of(cluster) as client:
        uploaded = await client.upload(DATA)
    assert cluster.blobs == {BLOB: DATA}
    assert uploaded.reference.blob_id == BLOB


async def test_b07_the_answer_to_a_completed_upload_is_asked_for_again(autojump_clock) -> None:
    """All chunks have arrived, but nobody was told: one of them fetches the reference."""
    cluster = FakeCluster()
    async with client_of(cluster, ClientOptions(parallel=1)) as client:
        uploaded = await client.upload(DATA)
        (upload,) = cluster.uploads.values()
        upload.open = True
        cluster.bodies.clear()
        again = await client.upload(DATA)
    assert _indexes(cluster) == {8: 1}
    assert again.reference == uploaded.reference


async def test_b12_a_terminal_code_ends_every_lane(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.push_takes_s = 5.0
    cluster.faults.append(
        fail_first(1, "/v1/chunks", lambda: problem(UploadConflictError("other accessors")))
    )
    async with client_of(cluster) as client:
        with pytest.raises(UploadConflictError, match="other accessors"):
            await client.upload(DATA)
    assert cluster.requests[PUSH] <= 4
    assert trio.current_time() < 5.0


async def test_b09_a_hash_mismatch_is_final(autojump_clock) -> None:
    cluster = FakeCluster()
    data = bytearray(DATA)

    def change(progress: Progress) -> None:
        if progress.phase is Phase.PUSH:
            data[0] = 0

    async with client_of(cluster) as client:
        with pytest.raises(HashMismatchError):
            await client.upload(data, progress=change)
    assert cluster.requests[ALLOCATE] == 1
    assert cluster.blobs == {}


@pytest.mark.parametrize(
    "error", [GrantClosedError(), GrantExpiredError(), BucketFullError(), WrongBucketError()]
)
async def test_a_grant_that_died_is_followed_by_another(error: OstError, autojump_clock) -> None:
    cluster = FakeCluster()

    def kill(request: httpx2.Request) -> httpx2.Response | None:
        if request.url.path == "/v1/chunks" and cluster.requests[PUSH] == 3:
            for upload in cluster.uploads.values():
                upload.open = False
            return problem(error)
        return None

    cluster.faults.append(kill)
    async with client_of(cluster, ClientOptions(parallel=1)) as client:
        uploaded = await client.upload(DATA)
    assert cluster.requests[ALLOCATE] == 2
    assert cluster.blobs == {BLOB: DATA}
    assert uploaded.chunks_sent == 2 + 9


async def test_b12_rounds_without_progress_are_bounded(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.faults.append(fail_first(99, "/v1/chunks", lambda: problem(BucketFullError())))
    async with client_of(cluster, ClientOptions(fruitless_rounds_max=3)) as client:
        with pytest.raises(BucketFullError):
            await client.upload(DATA)
    assert cluster.requests[ALLOCATE] == 3
    assert trio.current_time() == pytest.approx(0.1 + 0.2)


async def test_rounds_that_make_progress_are_not_counted(autojump_clock) -> None:
    """A grant that ends after every second chunk still carries a long upload to its end."""
    cluster = FakeCluster()
    turn = 0

    def expire(request: httpx2.Request) -> httpx2.Response | None:
        nonlocal turn
        if request.url.path == "/v1/chunks":
            turn += 1
            return problem(GrantExpiredError()) if turn % 3 == 0 else None
        return None

    cluster.faults.append(expire)
    async with client_of(cluster, ClientOptions(parallel=1, fruitless_rounds_max=2)) as client:
        await client.upload(DATA)
    assert cluster.blobs == {BLOB: DATA}
    assert cluster.requests[ALLOCATE] == 5


async def test_an_upload_that_another_finishes_is_waited_for(autojump_clock) -> None:
    """Our chunk is in, another is on its way from elsewhere: ask until it is complete."""
    cluster = FakeCluster()
    cluster.faults.append(
        fail_first(2, "/v1/chunks", lambda: httpx2.Response(202, json={"missing": 1}))
    )
    async with client_of(cluster) as client:
        await client.upload(b"abcd")
    assert cluster.requests[ALLOCATE] == 3


async def test_an_upload_that_nobody_finishes_ends(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.faults.append(
        fail_first(99, "/v1/chunks", lambda: httpx2.Response(202, json={"missing": 1}))
    )
    async with client_of(cluster) as client:
        with pytest.raises(BusyError, match="not finished"):
            await client.upload(b"abcd")


async def test_a_blob_one_has_already_needs_no_bytes(autojump_clock) -> None:
    cluster = FakeCluster()
    async with client_of(cluster) as client:
        await client.upload(DATA)
        cluster.bodies.clear()
        cluster.already_yours = True
        uploaded = await client.upload(DATA, accessors=[CHAT])
    assert _indexes(cluster) == {}
    assert uploaded.reference.accessors == (CHAT,)
    assert uploaded.chunks_sent == 0


async def test_a_blob_one_had_is_pushed_when_it_is_gone(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.already_yours = True
    async with client_of(cluster) as client:
        await client.upload(DATA)
    assert cluster.blobs == {BLOB: DATA}


@pytest.mark.parametrize("chunk_bytes", [0, 1 << 30])
async def test_b05_absurd_chunk_sizes_are_not_believed(chunk_bytes: int, autojump_clock) -> None:
    async with client_of(FakeCluster(chunk_bytes=chunk_bytes)) as client:
        with pytest.raises(BadAnswerError):
            await client.upload(DATA)


async def test_a_file_that_shrinks_stops_the_upload(tmp_path: Path, autojump_clock) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)

    def shrink(progress: Progress) -> None:
        if progress.phase is Phase.PUSH:
            path.write_bytes(b"")

    async with client_of(FakeCluster()) as client:
        with pytest.raises(SourceChangedError):
            await client.upload(path, progress=shrink)


@pytest.mark.parametrize("content_type", ["image/png\r\nX: y", "ä"])
async def test_a_content_type_cannot_carry_a_header(content_type: str, autojump_clock) -> None:
    cluster = FakeCluster()
    async with client_of(cluster) as client:
        with pytest.raises(InvalidArgumentError):
            await client.upload(DATA, content_type=content_type)
    assert not cluster.requests


async def test_forward_moves_no_bytes(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.blobs[BLOB] = DATA
    async with client_of(cluster) as client:
        uploaded = await client.forward(BLOB, len(DATA), [CHAT], source=ALICE.principal, token=b"t")
        assert uploaded.reference.accessors == (CHAT,)
        assert cluster.requests[PUSH] == 0
        cluster.blobs.clear()
        with pytest.raises(NotFoundError):
            await client.forward(BLOB, len(DATA), [CHAT], source=CHAT, token=b"t")
