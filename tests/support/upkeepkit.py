"""A bucket with blobs in several segments, half of which get deleted."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from ostnode.roles.bucket.compaction import Compaction
from ostnode.roles.bucket.ledger import Ledger
from ostnode.roles.bucket.options import BucketOptions
from ostnode.store.pace import Pace
from tests.support.bucketkit import ALICE, GENERAL, OPTIONS, Kit

SMALL = replace(OPTIONS, store=replace(OPTIONS.store, segment_bytes=256 << 10))
WHOLE = 1 << 17
"""Each blob is one chunk."""


def blobs(count: int, size: int = 20_000, seed: int = 1) -> list[bytes]:
    """Different blobs, of sizes around `size`."""
    rng = Random(seed)
    return [rng.randbytes(size + rng.randrange(-100, 100)) for _ in range(count)]


async def upload(kit: Kit, *datas: bytes) -> None:
    for data in datas:
        grant = kit.grant(ALICE, data, chunk_bytes=WHOLE)
        accessors = (GENERAL.principal,)
        result = await kit.push(ALICE, grant, 0, data, accessors=accessors)
        assert result.missing == 0


async def delete(kit: Kit, *datas: bytes) -> None:
    for data in datas:
        assert await kit.remove(ALICE, kit.key_of(data, ALICE, GENERAL)) == [""]
    await kit.sweep()
    await kit.bucket.store.synced()


async def readable(kit: Kit, *datas: bytes) -> bool:
    return all([await kit.readable(ALICE, GENERAL, data) for data in datas])


def compaction_of(
    kit: Kit, options: BucketOptions | None = None, pace: Pace | None = None
) -> Compaction:
    """One that is driven step by step."""
    ledger = Ledger(kit.bucket.desk, kit.bucket.store, kit.clock)
    chosen = options or kit.options
    return Compaction(kit.bucket.store, ledger, chosen, pace or Pace(0), kit.clock)


def sealed_bytes(kit: Kit) -> int:
    """What the sealed segments take on the disk."""
    return sum(info.allocated for info in kit.bucket.store.segments() if info.sealed)
