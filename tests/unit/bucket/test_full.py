"""A bucket whose disk is full: what it says, what it still does, and that it recovers."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ostnode.errors import BucketFullError, BusyError, GrantClosedError
from ostnode.roles.bucket.tasks import Sweeper
from ostnode.store.simdisk import Faults, SimDisk
from tests.support.bucketkit import ALICE, GENERAL, Kit, pieces

DATA = bytes(range(40))
CAPACITY = 8 << 20


def fill(disk: SimDisk) -> None:
    """Another program takes every byte that is left."""
    disk.faults.foreign += disk.room()


async def spend_the_reserve(kit: Kit, blobs: list[bytes]) -> None:
    """Deletions until the key index has needed some of it."""
    whole = kit.disk.kept
    while kit.disk.kept == whole:
        assert await kit.remove(ALICE, kit.key_of(blobs.pop(), ALICE, GENERAL)) == [""]
        fill(kit.disk)


async def test_b43_a_full_bucket_refuses_uploads_and_takes_deletions(
    autojump_clock: trio.testing.MockClock,
) -> None:
    kit = Kit(disk=SimDisk(faults=Faults(capacity=CAPACITY)))
    blobs = [bytes([number]) for number in range(40)]
    async with kit.running():
        for data in blobs:
            await kit.upload(ALICE, data, GENERAL)
        begun = kit.grant(ALICE, DATA)
        await kit.push(ALICE, begun, 0, pieces(DATA)[0])
        fill(kit.disk)
        await spend_the_reserve(kit, blobs)

        with pytest.raises(BusyError, match="disk is full") as busy:
            await kit.push(ALICE, begun, 1, pieces(DATA)[1])
        assert busy.value.retryable
        refused = kit.grant(ALICE, b"new")
        with pytest.raises(BucketFullError):
            await kit.push(ALICE, refused, 0, b"new")
        with pytest.raises(GrantClosedError):
            await kit.push(ALICE, refused, 0, b"new")
        assert await kit.remove(ALICE, kit.key_of(blobs.pop(), ALICE, GENERAL)) == [""]
        assert await kit.readable(ALICE, GENERAL, blobs[0])
        await kit.talk()
        assert kit.index.batches[-1].space.free == 0
        assert kit.index.closings()[-1][1] == "bucket_full"

        kit.disk.faults.foreign = 0
        await trio.sleep(2)
        await kit.push(ALICE, begun, 1, pieces(DATA)[1])
        result = await kit.push(ALICE, begun, 2, pieces(DATA)[2])
        assert result.missing == 0
        await kit.upload(ALICE, b"new", GENERAL)
        await kit.talk()
        assert kit.index.batches[-1].space.free > 0


async def test_b43_the_sweeper_waits_for_room(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0

    async def sweep_once(_self: Sweeper) -> bool:
        nonlocal rounds
        rounds += 1
        await trio.lowlevel.checkpoint()
        if rounds < 3:
            raise BusyError("full")
        return False

    monkeypatch.setattr(Sweeper, "sweep_once", sweep_once)
    async with Kit().running(sweeping=True):
        await trio.sleep(10)
    assert rounds > 3
