"""Compaction of a store that goes on working."""

from __future__ import annotations

import pytest

from ostnode.store.memoryindex import MemoryIndex
from ostnode.store.store import Store
from tests.support.compactkit import (
    add,
    compact_all,
    count,
    extent_of,
    opened,
    remove,
    rows_of,
    set_,
    unset,
)
from tests.support.simdisk import SimDisk

pytestmark = pytest.mark.usefixtures("autojump_clock")


def body(number: int, size: int = 3000) -> bytes:
    return bytes([number % 251]) * size


async def fill(store: Store, numbers: range, size: int = 3000) -> None:
    for number in numbers:
        await store.commit([add(number, body(number, size)), set_(f"k{number}", "v"), count("all")])


async def intact(store: Store, numbers: list[int], size: int = 3000) -> None:
    for number in numbers:
        data = bytes(await store.read(extent_of(store.durable, number)))
        assert data == body(number, size)


async def rebuilt_is_the_same(disk: SimDisk, store: Store) -> None:
    """A copy of the disk as a kill leaves it, with and without its key index."""
    shown = rows_of(store.durable)
    for index in (None, MemoryIndex()):
        async with opened(disk.killed(0), index=index) as other:
            assert other.problems == ()
            assert rows_of(other.durable) == shown


async def test_b42_what_is_dead_goes_and_the_rest_stays() -> None:
    disk = SimDisk()
    async with opened(disk) as store:
        await fill(store, range(100))
        for number in range(0, 100, 2):
            await store.commit([remove(number), unset(f"k{number}")])
        before, stored = rows_of(store.durable), store.space().stored
        done = await compact_all(store)
        assert sum(run.dropped for run in done) >= 90
        assert sum(run.freed for run in done) > 100_000
        assert store.space().stored < 0.65 * stored
        assert rows_of(store.durable) == rows_of(store.state) == before
        await intact(store, list(range(1, 100, 2)))
        await rebuilt_is_the_same(disk, store)
        assert disk.open_files <= len(disk.files) + 2
    async with opened(disk) as store:
        assert rows_of(store.durable) == before
        await intact(store, list(range(1, 100, 2)))
