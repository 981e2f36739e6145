"""What waits to be read: bounded for a link, and over all links together."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ostnode.net.outlet import BODIES_AT_ONCE, Outlet, Unsent
from ostnode.wire.fields import READ_BYTES_MAX


@pytest.fixture
def outlet():
    return Outlet(2 * READ_BYTES_MAX)


@pytest.fixture
def unsent(outlet):
    return Unsent(outlet, 100)


@pytest.fixture
def other(outlet):
    return Unsent(outlet, 100)


async def place_in(unsent, order, name):
    await unsent.take_place()
    order.append(name)


async def test_a_link_is_full_beyond_its_own_bound(unsent, autojump_clock):
    unsent.queue(100)
    assert not unsent.full
    unsent.queue(1)
    assert unsent.full
    async with trio.open_nursery() as nursery:
        nursery.start_soon(unsent.room)
        await trio.testing.wait_all_tasks_blocked()
        unsent.written(1)
    with trio.move_on_after(1) as scope:
        await unsent.flushed()
    assert scope.cancelled_caught


async def test_b50_when_all_hold_too_much_a_link_holds_nothing_before_it_queues_more(
    outlet, unsent, other
):
    await trio.lowlevel.checkpoint()
    unsent.queue(1)
    other.queue(2 * READ_BYTES_MAX)
    assert outlet.full
    assert unsent.full
    unsent.written(1)
    assert not unsent.full


async def test_bodies_of_a_link_are_made_in_turn_and_a_few_at_once(autojump_clock):
    unsent, order = Unsent(Outlet(), 100), []
    async with trio.open_nursery() as nursery:
        for name in range(BODIES_AT_ONCE + 3):
            nursery.start_soon(place_in, unsent, order, name)
            await trio.testing.wait_all_tasks_blocked()
        assert order == list(range(BODIES_AT_ONCE))
        for name in range(BODIES_AT_ONCE, BODIES_AT_ONCE + 3):
            unsent.give_place()
            await trio.testing.wait_all_tasks_blocked()
            assert order[-1] == name


async def test_nobody_takes_the_place_that_was_given_to_another(autojump_clock):
    unsent, order = Unsent(Outlet(), 100), []
    for _ in range(BODIES_AT_ONCE):
        await unsent.take_place()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place_in, unsent, order, "early")
        await trio.testing.wait_all_tasks_blocked()

        @nursery.start_soon
        async def give_another():
            await trio.testing.wait_all_tasks_blocked()
            unsent.give_place()

        unsent.give_place()
        await place_in(unsent, order, "late")
    assert order == ["early", "late"]


async def test_b50_when_all_hold_too_much_a_link_makes_one_body_at_a_time(
    outlet, unsent, other, autojump_clock
):
    order = []
    other.queue(2 * READ_BYTES_MAX)
    async with trio.open_nursery() as nursery:
        for name in ("first", "second", "third"):
            nursery.start_soon(place_in, unsent, order, name)
            await trio.testing.wait_all_tasks_blocked()
        assert order == ["first"], "whoever holds nothing waits for nobody"
        unsent.queue(READ_BYTES_MAX)
        unsent.give_place()
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["first"], "it is not written"
        unsent.written(READ_BYTES_MAX)
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["first", "second"]
        unsent.give_place()
    assert order == ["first", "second", "third"]


async def test_a_closed_link_holds_nothing(outlet, unsent, other):
    await other.take_place()
    await unsent.take_place()
    unsent.queue(7)
    unsent.close()
    assert outlet.held == READ_BYTES_MAX


async def test_whoever_stops_waiting_for_a_place_holds_none(outlet, unsent, other, autojump_clock):
    other.queue(2 * READ_BYTES_MAX)
    await unsent.take_place()
    with trio.move_on_after(1) as scope:
        await unsent.take_place()
    assert scope.cancelled_caught
    assert outlet.held == 3 * READ_BYTES_MAX
    unsent.give_place()
    with trio.fail_after(1):
        await unsent.take_place()
