"""Cancelling the client at any point: nothing is left behind, the same client goes on."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
import trio
from blake3 import blake3

from ostnode.client import ClientOptions
from ostnode.ids import BlobId
from tests.support.client_fakes import ADDRESS, ALICE, FakeCluster, client_of, contents
from tests.support.client_loopback import LoopbackCluster, loopback_client

DATA = b"0123456789abcdefghijklmnopqrstuvwxyz"
BLOB = BlobId(blake3(DATA).digest())
ME = ALICE.principal


def _slow_cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.takes_s = 1.0
    return cluster


async def test_b10_an_upload_cancelled_anywhere_goes_on_later(autojump_clock) -> None:
    """Cut after half a second, one and a half, … until it is done in time."""
    for seconds in count():
        cluster = _slow_cluster()
        async with client_of(cluster, ClientOptions(parallel=2)) as client:
            with trio.move_on_after(seconds + 0.5) as scope:
                await client.upload(DATA)
            arrived = sum(len(upload.chunks) for upload in cluster.uploads.values())
            uploaded = await client.upload(DATA)
        assert cluster.blobs == {BLOB: DATA}
        assert uploaded.reference.blob_id == BLOB
        if not scope.cancelled_caught:
            break
        if arrived < 9:
            assert uploaded.chunks_sent == 9 - arrived
    assert seconds >= 15


async def test_b13_a_download_cancelled_anywhere_leaves_no_part(
    tmp_path: Path, autojump_clock
) -> None:
    target = tmp_path / "x"
    for seconds in count():
        cluster = _slow_cluster()
        cluster.blobs[BLOB] = DATA
        async with client_of(cluster) as client:
            with trio.move_on_after(seconds + 0.5) as scope:
                await client.download(ME, BLOB, to=target, bucket=ADDRESS)
            if not scope.cancelled_caught:
                break
            assert contents(tmp_path) == {}
    assert contents(tmp_path) == {"x": DATA}
    assert seconds >= 15


async def test_a_login_that_is_cancelled_does_not_hold_up_others(autojump_clock) -> None:
    cluster = _slow_cluster()
    async with client_of(cluster) as client:
        with trio.move_on_after(0.5):
            await client.allocated_bucket(BLOB, 3)
        with trio.fail_after(5):
            await client.allocated_bucket(BLOB, 3)


@pytest.mark.slow
async def test_cancelled_requests_give_their_connections_back(tmp_path: Path) -> None:
    """One connection in the pool: if a cancelled request kept it, the next would wait for it."""
    data = bytes(4 << 20)
    cluster = LoopbackCluster()
    cluster.push_takes_s = 0.01
    options = ClientOptions(parallel=1, connections_max=1, answer_deadline_s=5)
    async with loopback_client(cluster, options) as client:
        for milliseconds in range(1, 60, 6):
            with trio.move_on_after(milliseconds / 1000):
                await client.upload(data)
        uploaded = await client.upload(data)
        for milliseconds in range(1, 20, 3):
            with trio.move_on_after(milliseconds / 1000):
                await client.download(
                    ME, uploaded.reference.blob_id, to=tmp_path / "x", bucket=uploaded.bucket
                )
        blob_id = uploaded.reference.blob_id
        assert await client.read(ME, blob_id, bucket=uploaded.bucket) == data
    assert set(contents(tmp_path)) <= {"x"}
