"""The seams: the system's clock and randomness, and the two ways to run blocking work."""

from __future__ import annotations

import threading
import time

import pytest
import trio
import trio.testing

from ostnode.env import InlineWorker, SystemClock, SystemRng, ThreadWorker, Worker


def test_the_clock_tells_seconds_since_1970() -> None:
    before = time.time()
    assert before <= SystemClock().now() <= time.time()


def test_tokens_have_their_length_and_differ() -> None:
    rng = SystemRng()
    assert [len(rng.token(length)) for length in (0, 1, 16, 32)] == [0, 1, 16, 32]
    assert len({rng.token(16) for _ in range(100)}) == 100


def test_jitter_stays_between_its_bounds() -> None:
    drawn = {SystemRng().uniform(2.0, 3.0) for _ in range(100)}
    assert all(2.0 <= value <= 3.0 for value in drawn)
    assert len(drawn) > 1


@pytest.mark.parametrize("worker", [ThreadWorker(1), InlineWorker()], ids=["thread", "inline"])
async def test_a_worker_returns_and_raises_what_the_function_does(worker: Worker) -> None:
    assert await worker.run(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await worker.run(divmod, 7, 0)


async def test_the_inline_worker_stays_in_its_thread_and_is_a_checkpoint() -> None:
    assert await InlineWorker().run(threading.get_ident) == threading.get_ident()
    ran: list[int] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await InlineWorker().run(ran.append, 1)
    assert scope.cancelled_caught
    assert not ran


async def test_the_thread_worker_leaves_the_event_loops_thread() -> None:
    assert await ThreadWorker(1).run(threading.get_ident) != threading.get_ident()


async def test_a_thread_worker_runs_no_more_than_its_threads_at_once() -> None:
    worker, lock = ThreadWorker(2), threading.Lock()
    running = peak = 0
    both = threading.Barrier(2, timeout=10)

    def work() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        both.wait()
        with lock:
            running -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(worker.run, work)
    assert peak == 2


async def test_a_free_thread_starts_before_any_other_task_runs() -> None:
    """Or a disk would idle while those who waited for the last batch are answered."""
    worker = ThreadWorker(1)
    for _ in range(12):  # Trio shuffles: by chance the order is right every second time
        woken, running = trio.Event(), threading.Event()

        async def other(woken: trio.Event, running: threading.Event) -> None:
            await woken.wait()
            assert running.wait(10)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other, woken, running)
            await trio.testing.wait_all_tasks_blocked()
            woken.set()
            await worker.run(running.set)


async def test_work_is_never_abandoned_half_way() -> None:
    """A cancelled caller waits for the thread: a write must not go on behind its back."""
    started, token = trio.Event(), trio.lowlevel.current_trio_token()
    release, finished = threading.Event(), threading.Event()

    def work() -> None:
        token.run_sync_soon(started.set)
        release.wait(10)
        finished.set()

    scope = trio.CancelScope()

    async def run_until_cancelled() -> None:
        with scope:
            await ThreadWorker(1).run(work)
        assert finished.is_set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_until_cancelled)
        await started.wait()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not finished.is_set()
        release.set()
