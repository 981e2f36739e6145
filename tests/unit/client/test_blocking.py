from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from ostnode.client import ClientError, ClientOptions, blocking
from ostnode.client.client import Client as TrioClient
from ostnode.errors import AllowanceExceededError, InvalidArgumentError
from ostnode.ids import BlobId
from tests.support.client_fakes import (
    ADDRESS,
    ALICE,
    GENERAL,
    INDEX,
    INDEX_URL,
    FakeCluster,
    RealClockCluster,
)

DATA = b"0123456789abcdefghijklmnopqrstuvwxyz"
BLOB = BlobId(blake3(DATA).digest())


@contextmanager
def _client(cluster: FakeCluster) -> Iterator[blocking.Client]:
    with blocking.connect(INDEX_URL, ALICE, index=INDEX.principal, transport=cluster) as client:
        yield client


def test_the_facade_has_every_name_of_the_trio_client() -> None:
    def names(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert names(TrioClient) - names(blocking.Client) == {"ask_index", "stream"}


def test_uploads_and_downloads_without_trio(tmp_path: Path) -> None:
    cluster = RealClockCluster()
    with _client(cluster) as client:
        uploaded = client.upload(iter([DATA[:7], DATA[7:]]), accessors=[GENERAL.principal])
        client.download(GENERAL.principal, BLOB, to=tmp_path / "x", bucket=uploaded.bucket)
        assert client.read(GENERAL.principal, BLOB, bucket=ADDRESS) == DATA
        assert client.upload(b"").reference.size == 0
        assert client.principal == ALICE.principal
    assert (tmp_path / "x").read_bytes() == DATA


def test_refusals_arrive_typed() -> None:
    cluster = RealClockCluster()
    cluster.limit = 2
    with _client(cluster) as client, pytest.raises(AllowanceExceededError) as caught:
        client.upload(DATA)
    assert caught.value.details["needed"] == len(DATA)


def test_several_threads_share_a_client() -> None:
    cluster = RealClockCluster()
    with _client(cluster) as client:
        threads = [threading.Thread(target=client.upload, args=(bytes([i]) * 9,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(cluster.blobs) == 8


def test_a_closed_client_says_so() -> None:
    with _client(RealClockCluster()) as client:
        pass
    with pytest.raises(ClientError, match="closed"):
        client.allocated_bucket(BLOB, 3)


def test_closing_ends_the_calls_of_other_threads() -> None:
    errors: list[BaseException] = []
    started = threading.Event()

    async def never() -> None:
        started.set()
        await trio.sleep_forever()

    def wait_in_thread(client: blocking.Client) -> None:
        try:
            client.wait(never)
        except ClientError as error:
            errors.append(error)

    with _client(RealClockCluster()) as client:
        thread = threading.Thread(target=wait_in_thread, args=(client,))
        thread.start()
        started.wait(5)
    thread.join(5)
    assert [str(error) for error in errors] == ["the client is closed"]


def test_ctrl_c_cancels_the_call_and_leaves_the_client_open() -> None:
    started, cancelled = threading.Event(), threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    async def never() -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    def interrupt() -> None:
        started.wait(5)
        signal.pthread_kill(main, signal.SIGINT)

    # Whoever is started in the background by a shell ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with _client(RealClockCluster()) as client:
            threading.Thread(target=interrupt).start()
            with pytest.raises(KeyboardInterrupt):
                client.wait(never)
            assert cancelled.wait(5)
            assert client.allocated_bucket(BLOB, 3).bucket == ADDRESS
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_of_connecting_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_kwargs: object) -> None:
        raise InvalidArgumentError("no pool")

    monkeypatch.setattr("ostnode.client.client.open_http", broken)
    with pytest.raises(InvalidArgumentError, match="no pool"), _client(RealClockCluster()):
        pytest.fail("it never opened")


def test_options_reach_the_client() -> None:
    with blocking.connect(
        INDEX_URL,
        ALICE,
        index=INDEX.principal,
        transport=RealClockCluster(),
        options=ClientOptions(parallel=1, fruitless_rounds_max=1),
    ) as client:
        assert client.upload(DATA).chunks_sent == 9
