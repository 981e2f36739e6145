"""The key index is proven beside its use: at half speed, and not while work is paused."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import trio
import trio.testing
from typing_extensions import override

from ostnode.env import InlineWorker
from ostnode.store.auditing import Auditor
from ostnode.store.pace import Pace
from ostnode.store.simdisk import SimIndex

STEPS = 200


class LongIndex(SimIndex):
    """An audit of it takes many steps."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = self.begun = self.held = 0

    @override
    def audit(self) -> Generator[None]:
        self.begun += 1
        self.held += 1
        try:
            for _ in range(STEPS):
                self.steps += 1
                yield
        finally:
            self.held -= 1


class SlowWorker(InlineWorker):
    """Every hop takes a second."""

    @override
    async def run(self, function, *args):
        await trio.sleep(1)
        return await super().run(function, *args)


async def test_it_works_half_of_the_time(autojump_clock: trio.testing.MockClock) -> None:
    index, start = LongIndex(), trio.current_time()
    await Auditor(index, SlowWorker(), pytest.fail).audit(Pace(0))
    assert (index.steps, index.begun, index.held) == (STEPS, 1, 0)
    assert trio.current_time() - start == pytest.approx(2 * STEPS / 8, abs=2)


async def test_b64_paused_it_reads_nothing_and_holds_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    index, pace = LongIndex(), Pace(0)
    auditor = Auditor(index, SlowWorker(), pytest.fail)
    pace.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(auditor.audit, pace)
        await trio.sleep(100)
        assert index.steps == 0
        pace.resume()
        await trio.sleep(10)
        assert 0 < index.steps < STEPS
        pace.pause()
        await trio.sleep(3)
        read = index.steps
        assert index.held == 0
        with trio.fail_after(60):
            await auditor.audit(Pace(0))  # another one has its turn
        assert index.steps == read + STEPS
        await trio.sleep(3600)
        assert index.steps == read + STEPS
        pace.resume()
    assert (index.steps, index.begun, index.held) == (read + 2 * STEPS, 3, 0)
