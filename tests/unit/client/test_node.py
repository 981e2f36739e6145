from __future__ import annotations

import httpx2
import pytest
import trio

from ostnode.client import (
    Attempt,
    BadAnswerError,
    ClientOptions,
    RetryPolicy,
    UnreachableError,
    connect,
)
from ostnode.client.http import ANSWER_BYTES_MAX
from ostnode.errors import (
    AllowanceExceededError,
    BusyError,
    InvalidArgumentError,
    NotFoundError,
    TokenExpiredError,
)
from ostnode.ids import BlobId
from ostnode.wire import messages as m
from tests.support.client_fakes import (
    ADDRESS,
    ALICE,
    BUCKET,
    BUCKET_URL,
    GENERAL,
    INDEX,
    INDEX_URL,
    FakeCluster,
    FakeRng,
    client_of,
    fail_first,
    problem,
    refused,
)

BLOB = BlobId(bytes(32))
ALLOCATE = "POST /v1/allocations"
LOGIN = "POST /v1/session"


async def test_one_login_serves_many_calls_at_once(autojump_clock) -> None:
    cluster = FakeCluster()
    async with client_of(cluster) as client, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(client.allocated_bucket, BLOB, 3)
    assert cluster.requests == {LOGIN: 1, ALLOCATE: 5}


async def test_each_node_has_its_own_session(autojump_clock) -> None:
    cluster = FakeCluster()
    async with client_of(cluster) as client:
        await client.allocated_bucket(BLOB, 3)
        for _ in range(2):
            with pytest.raises(NotFoundError):
                await client.upload_status(ADDRESS, BLOB)
    assert cluster.requests[LOGIN] == 2


async def test_the_sessions_of_the_last_buckets_are_kept(monkeypatch, autojump_clock) -> None:
    monkeypatch.setattr("ostnode.client.client.NODES_MAX", 2)
    cluster = FakeCluster()
    addresses = [m.BucketAddress(BUCKET.principal, f"http://bucket.test/{i}") for i in range(3)]
    logins = []
    async with client_of(cluster) as client:
        for i in (0, 1, 0, 2, 0, 1):
            with pytest.raises(NotFoundError):
                await client.upload_status(addresses[i], BLOB)
            logins.append(sum(n for name, n in cluster.requests.items() if "session" in name))
    assert logins == [1, 2, 2, 3, 3, 4]


async def test_a_session_is_renewed_before_it_ends(autojump_clock) -> None:
    cluster = FakeCluster()
    async with client_of(cluster) as client:
        await client.allocated_bucket(BLOB, 3)
        await trio.sleep(cluster.session_ttl_s - 125)
        await client.allocated_bucket(BLOB, 3)
        assert cluster.requests[LOGIN] == 1
        await trio.sleep(10)
        await client.allocated_bucket(BLOB, 3)
        assert cluster.requests[LOGIN] == 2


async def test_a_short_session_is_used_for_half_its_life(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.session_ttl_s = 60
    async with client_of(cluster) as client:
        await client.allocated_bucket(BLOB, 3)
        await trio.sleep(29)
        await client.allocated_bucket(BLOB, 3)
        assert cluster.requests[LOGIN] == 1
        await trio.sleep(2)
        await client.allocated_bucket(BLOB, 3)
        assert cluster.requests[LOGIN] == 2


async def test_a_session_that_is_refused_is_replaced_once(autojump_clock) -> None:
    cluster = FakeCluster()
    seen: list[Attempt] = []
    async with client_of(cluster, observer=seen.append) as client:
        await client.allocated_bucket(BLOB, 3)
        cluster.sessions.clear()
        await client.allocated_bucket(BLOB, 3)
        assert trio.current_time() == 0
    assert [(a.call, a.number, a.code, a.retry_in_s) for a in seen] == [
        ("session", 1, "", None),
        ("allocated_bucket", 1, "", None),
        ("allocated_bucket", 1, "unauthenticated", 0.0),
        ("session", 1, "", None),
        ("allocated_bucket", 1, "", None),
    ]


async def test_b12_a_401_under_a_new_session_is_final(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.faults.append(
        fail_first(9, "/v1/allocations", lambda: problem(TokenExpiredError("over")))
    )
    async with client_of(cluster) as client:
        with pytest.raises(TokenExpiredError, match="over"):
            await client.allocated_bucket(BLOB, 3)
    assert cluster.requests == {LOGIN: 1, ALLOCATE: 1}


async def test_b12_a_terminal_code_stops_at_once(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.limit = 2
    async with client_of(cluster) as client:
        with pytest.raises(AllowanceExceededError) as caught:
            await client.allocated_bucket(BLOB, 3)
    assert caught.value.details == {"limit": 2, "used": 0, "reserved": 0, "needed": 3}
    assert cluster.requests[ALLOCATE] == 1
    assert trio.current_time() == 0


async def test_b12_retryable_codes_back_off_with_jitter_until_they_succeed(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.faults.append(fail_first(3, "/v1/allocations", lambda: problem(BusyError())))
    seen: list[Attempt] = []
    async with client_of(cluster, observer=seen.append, rng=FakeRng(part=1.0)) as client:
        await client.allocated_bucket(BLOB, 3)
    assert cluster.requests[ALLOCATE] == 4
    assert [(a.number, a.code, a.retry_in_s) for a in seen if a.call == "allocated_bucket"] == [
        (1, "busy", 0.2),
        (2, "busy", 0.4),
        (3, "busy", 0.8),
        (4, "", None),
    ]
    assert trio.current_time() == pytest.approx(1.4)


async def test_b12_retry_after_is_honoured(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.faults.append(
        fail_first(1, "/v1/allocations", lambda: problem(BusyError(), {"retry-after": "30"}))
    )
    async with client_of(cluster, rng=FakeRng(part=0.0)) as client:
        await client.allocated_bucket(BLOB, 3)
    assert trio.current_time() == pytest.approx(30)


async def test_b12_attempts_are_counted_and_bounded(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.faults.append(fail_first(99, "/v1/allocations", refused))
    options = ClientOptions(retry=RetryPolicy(attempts_max=3))
    async with client_of(cluster, options) as client:
        with pytest.raises(UnreachableError, match="refused") as caught:
            await client.allocated_bucket(BLOB, 3)
    assert caught.value.node == INDEX_URL
    assert cluster.requests[ALLOCATE] == 3


async def test_a_login_that_fails_is_tried_again_with_a_new_statement(autojump_clock) -> None:
    cluster = FakeCluster()
    cluster.faults.append(fail_first(2, "/v1/session", refused))
    async with client_of(cluster) as client:
        await client.allocated_bucket(BLOB, 3)
    logins = [body for name, _, body in cluster.bodies if name == LOGIN]
    assert len(set(logins)) == 3


@pytest.mark.parametrize("answer", [{}, [], {"session": 5, "expires_at": 5}, {"session": "s"}])
async def test_a_malformed_session_is_a_bad_answer(autojump_clock, answer: object) -> None:
    cluster = FakeCluster()
    cluster.faults.append(fail_first(1, "/v1/session", lambda: httpx2.Response(200, json=answer)))
    async with client_of(cluster) as client:
        with pytest.raises(BadAnswerError):
            await client.allocated_bucket(BLOB, 3)


async def test_silence_ends_at_the_deadline(autojump_clock) -> None:
    class Silent(FakeCluster):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            await trio.sleep_forever()
            raise AssertionError

    options = ClientOptions(retry=RetryPolicy(attempts_max=1), answer_deadline_s=7)
    async with client_of(Silent(), options) as client:
        with pytest.raises(UnreachableError, match="within 7 s"):
            await client.allocated_bucket(BLOB, 3)
    assert trio.current_time() == pytest.approx(7)


async def test_an_endless_answer_is_cut(autojump_clock) -> None:
    class Endless(httpx2.AsyncByteStream):
        sent = 0
        closed = False

        async def __aiter__(self):
            while not self.closed:
                self.sent += 1 << 16
                yield bytes(1 << 16)
            raise httpx2.ReadError("closed")

        async def aclose(self) -> None:
            self.closed = True

    endless = Endless()
    cluster = FakeCluster()
    cluster.faults.append(
        fail_first(1, "/v1/allocations", lambda: httpx2.Response(201, stream=endless))
    )
    async with client_of(cluster) as client:
        with pytest.raises(BadAnswerError, match="bytes of answer"):
            await client.allocated_bucket(BLOB, 3)
    assert endless.sent <= ANSWER_BYTES_MAX + (1 << 16)
    assert endless.closed


@pytest.mark.parametrize("url", ["index.test:7100", "ftp://index.test", "http://a:port", ""])
async def test_an_address_that_is_none_is_an_invalid_argument(url: str) -> None:
    async with connect(url, ALICE, index=INDEX.principal) as client:
        with pytest.raises(InvalidArgumentError):
            await client.allowance()


async def test_locate_names_the_bucket(autojump_clock) -> None:
    async with client_of(FakeCluster()) as client:
        address = await client.locate(GENERAL.principal, BLOB, token=b"t")
    assert address.http == BUCKET_URL
