"""Room for bodies over all links: never more than the bound, in turn, nothing lost."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ostnode.net.intake import KEPT_MAX, Intake


@pytest.fixture
def intake():
    return Intake(100)


async def test_what_fits_is_taken_at_once_unless_somebody_waits(intake, autojump_clock, nursery):
    assert intake.take_now(60)
    assert intake.take_now(40)
    assert intake.held == 100
    assert not intake.take_now(1)
    intake.give(50)
    nursery.start_soon(intake.take, 60)
    await trio.testing.wait_all_tasks_blocked()
    assert not intake.take_now(1)
    intake.give(50)
    await trio.testing.wait_all_tasks_blocked()
    assert intake.take_now(40)
    intake.give(100)
    assert intake.held == 0


async def test_b50_more_waits_in_turn_and_small_ones_do_not_pass(intake, autojump_clock):
    order = []

    async def come(size):
        await intake.take(size)
        order.append(size)

    await intake.take(90)
    async with trio.open_nursery() as nursery:
        for size in (50, 5, 60):
            nursery.start_soon(come, size)
            await trio.testing.wait_all_tasks_blocked()
        assert order == []
        intake.give(90)
        await trio.testing.wait_all_tasks_blocked()
        assert order == [50, 5]
        intake.give(50)
        await trio.testing.wait_all_tasks_blocked()
        assert order == [50, 5, 60]
    assert intake.held == 65


async def test_a_body_over_the_bound_passes_alone(intake, autojump_clock):
    await intake.take(1)
    with trio.move_on_after(1) as scope:
        await intake.take(1000)
    assert scope.cancelled_caught
    assert intake.held == 1
    intake.give(1)
    with trio.fail_after(1):
        await intake.take(1000)
    assert intake.held == 1000


async def test_b50_buffers_are_kept_for_all_links_together_while_any_has_bodies(intake):
    held = [intake.buffers.take(1 << 20) for _ in range(2 * KEPT_MAX)]
    names = {id(buffer) for buffer in held}
    await intake.take(10)
    del held
    intake.buffers.forget()
    again = [intake.buffers.take(1 << 20) for _ in range(KEPT_MAX)]
    assert {id(buffer) for buffer in again} <= names
    assert len(intake.buffers._kept) == KEPT_MAX
    intake.give(10)
    intake.buffers.forget()
    assert intake.buffers._kept == []


async def test_whoever_stops_waiting_makes_place_for_the_next(intake, autojump_clock):
    await intake.take(100)
    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def come(scope, size):
            with scope:
                await intake.take(size)

        nursery.start_soon(come, first, 100)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(come, trio.CancelScope(), 10)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        intake.give(20)
    assert intake.held == 90
