"""The rate of background work."""

from __future__ import annotations

import trio
import trio.testing

from ostnode.store.pace import Pace


async def test_spending_takes_its_time(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(1000)
    start = trio.current_time()
    for _ in range(4):
        await pace.spend(500)
    assert trio.current_time() - start == 2.0


async def test_two_who_spend_share_the_rate(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(1000)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(pace.spend, 500)
    assert trio.current_time() - start == 2.0


async def test_idle_time_is_not_saved_up(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(1000)
    await pace.spend(1000)
    await trio.sleep(100)
    start = trio.current_time()
    await pace.spend(1000)
    assert trio.current_time() - start == 1.0


async def test_no_rate_is_no_wait(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    await Pace(0).spend(1 << 40)
    assert trio.current_time() == start


async def test_a_pause_holds_until_it_is_resumed(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(1000)
    pace.pause()
    pace.pause()
    assert pace.paused
    with trio.move_on_after(60) as waited:
        await pace.spend(1)
    assert waited.cancelled_caught
    pace.resume()
    assert not pace.paused
    with trio.fail_after(1):
        await pace.spend(1)
