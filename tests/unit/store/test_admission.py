"""Backpressure by bytes."""

from __future__ import annotations

import trio
import trio.testing

from ostnode.store.admission import Admission, Admitted


async def test_first_come_first_served() -> None:
    admission = Admission(10)
    order: list[int] = []

    async def task(nbytes: int) -> None:
        await admission.enter(nbytes)
        order.append(nbytes)

    async with trio.open_nursery() as nursery:
        await admission.enter(8)
        for nbytes in (5, 1, 4):
            nursery.start_soon(task, nbytes)
            await trio.testing.wait_all_tasks_blocked()
        assert order == []  # 1 would fit, but 5 came first
        admission.give_back(8)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(order) == [1, 4, 5]


async def test_something_too_large_goes_in_alone() -> None:
    admission = Admission(10)
    await admission.enter(50)
    with trio.move_on_after(0) as scope:
        await admission.enter(1)
    assert scope.cancelled_caught
    admission.give_back(50)
    await admission.enter(1)


async def test_a_cancelled_waiter_lets_those_behind_it_in() -> None:
    admission = Admission(10)
    await admission.enter(5)
    scope = trio.CancelScope()
    entered = trio.Event()

    async def large() -> None:
        with scope:
            await admission.enter(9)

    async def small() -> None:
        await admission.enter(3)
        entered.set()

    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 5
        nursery.start_soon(large)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(small)
        await trio.testing.wait_all_tasks_blocked()
        assert not entered.is_set()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert entered.is_set()


async def test_a_cancelled_entry_takes_nothing() -> None:
    admission = Admission(10)
    with trio.CancelScope() as scope:
        scope.cancel()
        async with Admitted(admission, 10):
            raise AssertionError
    await admission.enter(10)


async def test_what_is_staged_counts_until_it_is_given_back() -> None:
    admission = Admission(10)
    async with Admitted(admission, 6):
        admission.take(6)
    with trio.move_on_after(0) as scope:
        await admission.enter(6)
    assert scope.cancelled_caught
    admission.give_back(6)
    await admission.enter(6)


async def test_who_is_let_in_when_cancelled_already_gives_the_room_back() -> None:
    admission = Admission(10)
    await admission.enter(8)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admission.enter, 5)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        admission.give_back(8)
    with trio.fail_after(1):
        await admission.enter(10)


async def test_those_inside_count_when_it_is_asked_whether_it_is_time() -> None:
    asked: list[tuple[int, int]] = []

    def is_ready(inside: int, nbytes: int) -> bool:
        asked.append((inside, nbytes))
        return nbytes <= 8

    admission = Admission(100, is_ready)
    await admission.enter(5)
    admission.take(20)
    with trio.move_on_after(0) as scope:
        await admission.enter(4)
    assert scope.cancelled_caught
    admission.leave(5)
    await admission.enter(4)
    assert asked == [(0, 5), (1, 9), (0, 4)]
