"""What the store knows of its segments without asking the key index."""

from __future__ import annotations

from random import Random

import pytest
from typing_extensions import override

from ostnode.store.keyspace import RESERVED, DurableReader, Row, dead_key, parse_dead
from ostnode.store.simdisk import SimDisk, SimIndex
from ostnode.store.store import Store
from tests.support.compactkit import FREE, add, compact_all, opened, remove, set_


class AskedIndex(SimIndex):
    """Counts look-ups of the store's own rows."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    @override
    def get(self, key: bytes) -> bytes | None:
        self.asked += key.startswith(RESERVED)
        return super().get(key)

    @override
    def page(self, low: bytes, high: bytes | None, limit: int) -> list[Row]:
        self.asked += low.startswith(RESERVED)
        return super().page(low, high, limit)


def check(store: Store) -> None:
    """The estimates are those in the rows."""
    for info in store.segments():
        assert info.dead_bytes == parse_dead(store.durable.get(dead_key(info.number))), info


@pytest.mark.parametrize("seed", range(3))
async def test_estimates_follow_the_durable_rows(autojump_clock, seed: int) -> None:
    disk, random, live = SimDisk(), Random(seed), list[int]()
    for life in range(3):
        async with opened(disk, seed=life) as store:
            check(store)
            for step in range(120):
                number = life * 1000 + step
                live.append(number)
                await store.commit([add(number, bytes(random.choice((30, 3000, 5000))))])
                if random.random() < 0.5:
                    await store.commit([remove(live.pop(random.randrange(len(live))))])
                check(store)
                if random.random() < 0.03:
                    await compact_all(store)
                    check(store)
            assert len(store.segments()) > 2
            assert any(info.dead_bytes for info in store.segments())


async def test_a_look_at_the_segments_asks_the_index_for_nothing(autojump_clock) -> None:
    index = AskedIndex()
    async with opened(SimDisk(), index=index) as store:
        for number in range(60):
            await store.commit([add(number, bytes(3000)), set_(f"k{number}")])
        before, asked = store.segments(), index.asked
        assert asked <= 1
        for _ in range(9):
            assert store.segments() == before
        assert index.asked == asked
        for number in range(5):
            await store.commit([remove(number)])
            assert store.segments()[0].dead_bytes > 3000 * (number + 1)
        assert index.asked <= asked + 5
        await store.punch(await store.judge(before[0].number), FREE)
        assert index.asked <= asked + 5


async def test_a_place_in_the_log_is_found(autojump_clock) -> None:
    async with opened(SimDisk()) as store:
        for number in range(60):
            await store.commit([add(number, bytes(3000))])
        catalog, infos = store._parts.catalog, store.segments()
        assert [info.sealed for info in infos].count(True) >= 3
        for info in infos:
            for seq in (info.first_seq - 1, info.last_seq - 1):
                assert catalog.behind(seq) == (info if info.sealed else None)
        assert catalog.behind(infos[-2].last_seq) is None


async def test_all_estimates_are_read_in_few_pages(autojump_clock) -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        for number in range(900):
            await store.commit([add(number, bytes(3000))])
        await store.commit([remove(number) for number in range(0, 900, 20)])
        before = {info.number: info.dead_bytes for info in store.segments()}
        assert sum(map(bool, before.values())) > 40
    index = AskedIndex()
    covered = disk.index.open()
    assert covered is not None
    index.commit(dict(disk.index.page(b"", None, 1 << 20)), covered)
    async with opened(disk, index=index) as store:
        assert index.asked <= 3
        assert {info.number: info.dead_bytes for info in store.segments()} == before
    assert dict(DurableReader(index).scan(RESERVED))
