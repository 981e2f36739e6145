"""What a simulated machine gives its processes, and what is left of one that was killed."""

from __future__ import annotations

import random

import pytest
import trio

from ostnode.ids import ClusterId, Principal
from ostnode.node.memory import Remembered
from ostnode.roles.index import DatabaseFailedError
from ostnode.roles.index.core.rows import Burned
from ostnode.roles.index.database.repository import run_alone
from ostnode.sim.database import Moment, SimDatabase
from ostnode.sim.machine import EPOCH, Life, SimClock, SimMemory, SimWorker
from ostnode.sim.tracing import Trace
from ostnode.store.simdisk import SimCrash
from ostnode.virtual import SeededRng, run_virtual

CHAT = Principal(b"c" * 32)


def never() -> None:
    raise AssertionError("nothing crashed here")


def a_worker(life: Life, delay_s: float = 0.0, crashed=never) -> SimWorker:
    return SimWorker(1, life, lambda: delay_s, crashed)


async def test_a_clock_follows_time_drifts_and_jumps(autojump_clock):
    clock = SimClock(ahead_s=2)
    assert clock.now() == EPOCH + 2
    clock.set(-1, drift=0.25)
    await trio.sleep(8)
    assert clock.now() == EPOCH + 8 + 1
    clock.set(0)
    await trio.sleep(1)
    assert clock.now() == EPOCH + 9


def test_randomness_is_of_the_seed_alone():
    one, same, other = SeededRng("1"), SeededRng("1"), SeededRng("2")
    assert one.token(8) == same.token(8) != other.token(8)
    assert one.uniform(0, 1) == same.uniform(0, 1)


async def test_functions_take_their_time_one_after_the_other(autojump_clock):
    worker = a_worker(Life(), delay_s=1)
    ran: list[float] = []
    async with trio.open_nursery() as nursery:
        start = trio.current_time()
        for _ in range(2):
            nursery.start_soon(worker.run, lambda: ran.append(trio.current_time() - start))
    assert ran == [1, 3]


async def test_a_cancelled_caller_waits_as_for_a_thread(autojump_clock):
    ran = []
    with trio.move_on_after(0.5) as scope:
        await a_worker(Life(), delay_s=1).run(ran.append, 1)
        await trio.lowlevel.checkpoint()
    assert ran == [1]
    assert scope.cancelled_caught


@pytest.mark.parametrize(("killed_at", "ran"), [(0.5, []), (1.5, [1])])
async def test_a_killed_process_may_have_run_a_function_and_hears_of_nothing(
    killed_at, ran, autojump_clock
):
    life, done, heard = Life(), [], []

    async def call() -> None:
        await a_worker(life, delay_s=1).run(done.append, 1)
        heard.append(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.sleep(killed_at)
        life.over = True
        nursery.cancel_scope.cancel()
    assert (done, heard) == (ran, [])


async def test_a_crash_in_a_function_is_told_before_anybody_goes_on(autojump_clock):
    told = []

    def crash() -> None:
        raise SimCrash

    with pytest.raises(SimCrash):
        await a_worker(Life(), crashed=lambda: told.append(1)).run(crash)
    assert told == [1]


def test_a_bucket_remembers():
    memory = SimMemory()
    assert memory.load() is None
    memory.save(Remembered(ClusterId(bytes(16)), CHAT, CHAT, "127.0.0.1:1"))
    assert memory.load().bucket == CHAT


# --- the database ---


def burn(database) -> None:
    run_alone(database, lambda tables: tables.burned.put(Burned(CHAT, 1)))


def burned(memory: SimDatabase) -> bool:
    return bool(memory.tables().burned.where())


def test_what_is_committed_outlives_the_process():
    memory = SimDatabase()
    commits = []
    memory.on_commit = lambda: commits.append(burned(memory))
    burn(memory.open())
    memory.shut_out()
    assert burned(memory)
    assert run_alone(memory.open(), lambda tables: tables.burned.where())
    assert commits == [True, True]


def test_a_process_that_is_gone_writes_nothing_more():
    memory = SimDatabase()
    old = memory.open()
    memory.open()
    with pytest.raises(DatabaseFailedError):
        burn(old)
    old.close()
    assert not burned(memory)


@pytest.mark.parametrize("moment", Moment)
def test_a_crash_about_a_commit(moment):
    memory = SimDatabase()
    database = memory.open()
    memory.crash_at = moment
    with pytest.raises(SimCrash):
        burn(database)
    memory.shut_out()
    assert burned(memory) is (moment is Moment.AFTER_COMMIT)


def test_a_backup_is_what_was_committed_then():
    memory = SimDatabase()
    memory.open()
    backup = memory.backup()
    burn(memory.open())
    memory.shut_out()
    memory.restore(backup)
    assert not burned(memory)
    burn(memory.open())
    assert burned(memory)


# --- runs ---


def test_a_trace_is_a_hash_of_every_line_and_keeps_the_last():
    seen: list[str] = []

    async def two() -> tuple[str, str, str]:
        traces = [Trace(seen.append), Trace(), Trace()]
        for trace in traces:
            trace("first")
        await trio.sleep(1)
        traces[0]("second")
        traces[1]("second")
        traces[2]("another")
        return tuple(trace.digest() for trace in traces)

    one, same, other = run_virtual(two, 0)
    assert one == same != other
    assert seen == ["0.000000 first", "1.000000 second"]


def test_the_order_of_tasks_is_of_the_seed_and_time_costs_nothing():
    def order(seed: int) -> list[int]:
        ran: list[int] = []

        async def one(number: int) -> None:
            await trio.sleep(3600)
            ran.append(number)

        async def main() -> list[int]:
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(one, number)
            return ran

        return run_virtual(main, seed)

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) > 1


def test_trio_is_left_as_it_was():
    internals = trio._core._run
    state = internals._r.getstate()

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        random.random()
        raise KeyError

    with pytest.raises(KeyError):
        run_virtual(fail, 1)
    assert internals._r.getstate() == state
