"""Batches that follow each other in one call of the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio
from typing_extensions import override

from ostnode.env import ThreadWorker
from ostnode.store.errors import NoSpaceError, StoreFailedError
from ostnode.store.segment import SegmentWriter
from ostnode.store.simdisk import SimDisk
from tests.support.storekit import chunk, extents, names, opened, set_

WAIT_S = 5.0


class NotedWorker(ThreadWorker):
    """A thread, and the names of what it ran."""

    def __init__(self) -> None:
        super().__init__(1)
        self.ran: list[str] = []

    @override
    async def run(self, function, *args):
        self.ran.append(function.__name__)
        return await super().run(function, *args)


class Held:
    """The batches of these numbers wait in their thread until they may `go`, before the write."""

    def __init__(self, patch: pytest.MonkeyPatch, *numbers: int) -> None:
        self.begun = 0
        self._gates = {number: threading.Event() for number in numbers}
        append = SegmentWriter.append

        def instead(writer: SegmentWriter, *args: object) -> None:
            self.begun += 1
            if self.begun in self._gates:
                assert self._gates[self.begun].wait(WAIT_S)
            append(writer, *args)

        patch.setattr(SegmentWriter, "append", instead)

    def go(self, number: int) -> None:
        """Let one be written."""
        self._gates[number].set()


def refused(patch: pytest.MonkeyPatch, number: int, error: Callable[[], Exception]) -> None:
    """The n-th batch is not written, once."""
    append, begun = SegmentWriter.append, 0

    def instead(writer: SegmentWriter, *args: object) -> None:
        nonlocal begun
        begun += 1
        if begun == number:
            raise error()
        append(writer, *args)

    patch.setattr(SegmentWriter, "append", instead)


async def test_one_call_writes_what_is_closed_each_after_the_last_ones_sync() -> None:
    disk, worker = SimDisk(), NotedWorker()
    async with opened(disk, worker=worker, batch_bytes_max=4096) as store:
        for number in range(4):
            store.stage([chunk(bytes(3000), number)])
        await store.synced()
        assert worker.ran.count("_write_in_turn") == 2  # the last one could still be joined
        assert store.batches == 4
        assert [step.split()[0] for step in disk.log[-8:]] == ["write", "sync"] * 4


async def test_what_is_durable_is_answered_while_the_next_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held(monkeypatch, 2)
    async with opened(SimDisk(), worker=NotedWorker(), batch_bytes_max=4096) as store:
        staged = [store.stage([chunk(bytes(3000), number)]) for number in range(3)]
        with trio.fail_after(WAIT_S / 2):
            await staged[0].wait()
        assert store.batches == 1
        assert store.queued_bytes == 2 * 3096
        assert len(extents(store.durable)) == 1
        held.go(2)
        await staged[2].wait()
        assert store.queued_bytes == 0


async def test_b44_what_was_durable_before_a_failure_in_the_same_call_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused(monkeypatch, 2, lambda: OSError(5, "gone"))
    with pytest.RaisesGroup(StoreFailedError):
        async with opened(SimDisk(), worker=NotedWorker(), batch_bytes_max=4096) as store:
            staged = [store.stage([chunk(bytes(3000), number)]) for number in range(3)]
            await staged[0].wait()
            for later in staged[1:]:
                with pytest.raises(StoreFailedError):
                    await later.wait()
            assert bytes(await store.read(extents(store.state)[1])) == bytes(3000)


async def test_b45_a_batch_without_space_goes_again_where_it_stood(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SimDisk()
    async with opened(disk, batch_bytes_max=4096) as store:
        refused(monkeypatch, 2, lambda: NoSpaceError("full"))
        monkeypatch.setattr(store._commit._space, "give_up", lambda: False)
        staged = [store.stage([chunk(bytes(3000), number)]) for number in range(3)]
        await staged[0].wait()
        assert not store._commit.takes_bulk
        await staged[2].wait()
        assert store._commit.takes_bulk
    async with opened(disk) as store:
        assert len(extents(store.state)) == 3


async def test_a_file_that_is_wanted_comes_before_what_is_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, worker = Held(monkeypatch, 2, 3, 4), NotedWorker()
    async with opened(SimDisk(), worker=worker, batch_bytes_max=4096) as store:
        worker.ran.clear()
        staged = [store.stage([chunk(bytes(3000), number)]) for number in range(3)]
        await staged[0].wait()
        staged += [store.stage([chunk(bytes(3000), number)]) for number in range(3, 15)]
        assert store._staging.wanted() is not None
        held.go(2)
        await staged[1].wait()
        held.go(3)
        await staged[2].wait()
        assert worker.ran == ["_write_in_turn", "provide"]
        held.go(4)


async def test_leaving_a_stuck_disk_writes_no_further_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ostnode.store.store._CLOSE_DEADLINE_S", 0.01)
    held, disk = Held(monkeypatch, 2), SimDisk()

    async def let_go() -> None:
        await left.wait()
        await trio.sleep(0.1)
        held.go(2)

    left = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        async with opened(disk, worker=NotedWorker(), batch_bytes_max=4096) as store:
            store.stage([set_("a")])
            await store.synced()
            staged = [store.stage([chunk(bytes(3000), number)]) for number in range(4)]
            left.set()
    assert held.begun == 2
    with pytest.raises(StoreFailedError, match="before the sync"):
        await staged[1].wait()
    async with opened(disk.killed(1)) as store:
        assert names(store.state) == ["a"]
        assert len(extents(store.state)) == 1
