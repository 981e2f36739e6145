"""Workers: as few tasks as do not wait for each other, and every deadline and cancel its own."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing

from ostnode.errors import BusyError, InvalidArgumentError
from ostnode.net.intake import Intake
from ostnode.net.memory import memory_stream_pair
from ostnode.net.outlet import BODIES_AT_ONCE
from ostnode.net.serve import _Server
from ostnode.net.session import LinkLimits, Session
from ostnode.net.workers import Workers
from ostnode.wire import messages as m
from ostnode.wire.buffers import BodyBuffers
from ostnode.wire.calls import Kind, Reply, Service, call_of
from ostnode.wire.incoming import RequestMalformed, RequestReceived
from tests.support.wire_peers import ALICE, INFO, PUSH, READ, nobody_special, open_pair

DONE = Reply(m.PushResult(0))
HOUR_MS = 3_600_000


def push(number: int, ms: int = HOUR_MS, body=b"") -> RequestReceived:
    return RequestReceived(number, call_of(m.PushChunk), PUSH, body, ms)


def read(number: int, ms: int = HOUR_MS) -> RequestReceived:
    return RequestReceived(number, call_of(m.ReadBlob), READ, b"", ms)


class Site:
    """Workers with a handler of the test's, and what became of each request."""

    def __init__(self, handle, nursery, limits=None) -> None:
        self.began: list[int] = []
        self.tasks: set[trio.lowlevel.Task] = set()
        self.answers: list[tuple[int, object]] = []
        self.answered_at: dict[int, float] = {}
        self.session = Session(
            memory_stream_pair()[0], open_pair()[1], limits or LinkLimits(queue_bytes_max=100)
        )
        self.workers = Workers(self.session, self._handle, self._answer)
        self._do = handle
        self._nursery = nursery

    async def _handle(self, event):
        self.began.append(event.id)
        self.tasks.add(trio.lowlevel.current_task())
        return await self._do(event) or DONE

    def _answer(self, request_id, outcome):
        self.answers.append((request_id, outcome))
        self.answered_at[request_id] = trio.current_time()

    def take(self, *events) -> None:
        for event in events:
            self.workers.serve(event, trio.current_time(), self._nursery)

    @property
    def running(self) -> int:
        return len(self._nursery.child_tasks)


@pytest.fixture
def site(nursery):
    """Makes sites whose workers end with the test."""
    return lambda handle, limits=None: Site(handle, nursery, limits)


async def at_once(event):
    """A handler that never blocks."""


async def test_handlers_that_never_block_share_a_task(autojump_clock, site):
    here = site(at_once)
    here.take(*map(push, range(1, 17)))
    await trio.testing.wait_all_tasks_blocked()
    assert here.answers == [(number, DONE) for number in range(1, 17)]
    assert len(here.tasks) == 1
    assert here.running == 1


async def test_a_handler_that_blocks_holds_up_nobody(autojump_clock, site):
    async def blocks(event):
        await trio.sleep(event.id)

    here = site(blocks)
    here.take(*map(push, range(32, 0, -1)))
    await trio.testing.wait_all_tasks_blocked()
    assert here.began == list(range(32, 0, -1))
    await trio.sleep(40)
    assert here.answered_at == {number: float(number) for number in range(1, 33)}
    assert here.running == 1, "one worker stays"


async def test_a_request_in_the_same_turn_as_a_blocked_one_begins_in_the_next(site):
    async def first_blocks(event):
        if event.id == 1:
            await trio.sleep_forever()

    here = site(first_blocks)
    here.take(push(1), push(2))
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    assert here.answers == [(2, DONE)]


async def test_the_idle_worker_takes_the_next_request(autojump_clock, site):
    here = site(at_once)
    for number in range(1, 4):
        here.take(push(number))
        await trio.testing.wait_all_tasks_blocked()
    assert len(here.answers) == 3
    assert len(here.tasks) == 1


async def sleeps(event):
    await trio.sleep(60)


async def test_every_request_keeps_its_own_deadline(autojump_clock, site):
    here = site(sleeps)
    here.take(push(1, 3000), push(2, 1000), push(3, 90_000))
    await trio.sleep(70)
    assert here.answered_at == {2: 1.0, 1: 3.0, 3: 60.0}
    assert {number: type(outcome) for number, outcome in here.answers} == {
        1: BusyError,
        2: BusyError,
        3: Reply,
    }


async def test_a_deadline_is_over_with_its_request(autojump_clock, site):
    """The worker goes on with another request, or waits: what ended cannot cancel it."""

    async def sometimes(event):
        if event.id == 3:
            await trio.sleep(50)

    here = site(sometimes)
    here.take(push(1, 1000), push(2, 2000), push(3))
    await trio.sleep(60)
    assert here.answers == [(1, DONE), (2, DONE), (3, DONE)]
    here.take(push(4, 1000))
    await trio.sleep(60)
    here.take(push(5))
    await trio.testing.wait_all_tasks_blocked()
    assert here.answers[-2:] == [(4, DONE), (5, DONE)]


@pytest.mark.parametrize("ms", [HOUR_MS, 1])
async def test_a_request_that_is_over_before_its_turn_does_not_begin(autojump_clock, nursery, ms):
    """A handler that never blocks would do all its work."""
    asked, answers = [], []

    class Records(Service):
        async def handle(self, caller, request, body=b""):
            asked.append(request)
            return DONE

    intake = Intake()
    await intake.take(8)
    session = Session(memory_stream_pair()[0], open_pair()[1], LinkLimits())
    server = _Server(
        session, ALICE.principal, {Kind.BUCKET: Records()}, nobody_special, LinkLimits(), intake
    )
    server._taken_bytes = 8
    workers = Workers(session, server._outcome, lambda *answer: answers.append(answer))
    workers.serve(push(1, ms, bytes(5)), trio.current_time(), nursery)
    autojump_clock.jump(0.002)
    if ms == HOUR_MS:
        workers.cancel(1)
    workers.serve(push(2, HOUR_MS, bytes(3)), trio.current_time(), nursery)
    await trio.testing.wait_all_tasks_blocked()
    outcomes = {number: type(outcome) for number, outcome in answers}
    assert outcomes == {1: BusyError, 2: Reply}
    assert len(asked) == 1
    assert intake.held == server._taken_bytes == 0, "what was taken for both is given back"


async def test_a_cancellation_reaches_its_request_alone(autojump_clock, site):
    here = site(sleeps)
    here.take(*map(push, range(1, 4)))
    here.workers.cancel(2)  # waits still
    await trio.testing.wait_all_tasks_blocked()
    here.workers.cancel(1)  # runs
    here.workers.cancel(99)
    await trio.sleep(1)
    here.workers.cancel(1)  # is answered
    assert sorted(here.answered_at) == [1, 2]
    await trio.sleep(70)
    assert [type(outcome) for _, outcome in here.answers] == [BusyError, BusyError, Reply]


async def test_a_late_cancellation_does_not_hit_the_next_request_of_the_worker(
    autojump_clock, site
):
    async def second_sleeps(event):
        if event.id == 2:
            await trio.sleep(10)

    here = site(second_sleeps)
    here.take(push(1), push(2))
    await trio.testing.wait_all_tasks_blocked()
    here.workers.cancel(1)
    await trio.sleep(20)
    assert here.answers == [(1, DONE), (2, DONE)]
    assert len(here.tasks) == 1


async def test_an_outcome_in_the_turn_of_the_cancellation_counts(autojump_clock, site):
    """And the worker's next request is not cancelled in its place."""

    async def cancels_itself(event):
        if event.id == 1:
            here.workers.cancel(1)
        else:
            await trio.sleep(1)

    here = site(cancels_itself)
    here.take(push(1), push(2))
    await trio.sleep(2)
    assert here.answers == [(1, DONE), (2, DONE)]


async def test_a_request_waits_for_its_place_among_the_bodies_no_longer_than_its_deadline(
    autojump_clock, site
):
    here = site(sleeps)
    here.take(*[read(number) for number in range(1, BODIES_AT_ONCE + 1)])
    here.take(read(10, 5000), read(11), push(12, 2000))
    await trio.sleep(30)
    assert here.answered_at == {12: 2.0, 10: 5.0}
    assert len(here.began) == BODIES_AT_ONCE + 1
    await trio.sleep(100)
    assert here.answered_at[11] == 120.0


async def test_others_get_a_turn_among_many_that_never_block(site):
    here = site(at_once)
    here.take(*map(push, range(1, 101)))
    seen = []
    while len(here.answers) < 100:
        await trio.lowlevel.checkpoint()
        seen.append(len(here.answers))
    # A turn of each of the two may fall between two of ours.
    assert max(later - earlier for earlier, later in itertools.pairwise(seen)) <= 32
    assert here.answers == [(number, DONE) for number in range(1, 101)]
    assert len(here.tasks) == 2, "they take turns"


async def test_a_deadline_that_passed_does_not_end_the_worker_between_two_requests(
    autojump_clock, site
):
    """The scope of the last request is still around it when it lets others have their turn."""

    async def busy(event):
        autojump_clock.jump(1)
        await trio.lowlevel.checkpoint_if_cancelled()

    here = site(busy)
    here.take(*[push(number, 900 + 1000 * number) for number in range(1, 40)])
    await trio.testing.wait_all_tasks_blocked()
    assert [number for number, _ in here.answers] == list(range(1, 40))


async def test_malformed_requests_are_refused_in_their_turn(autojump_clock, site):
    here = site(at_once)
    error = InvalidArgumentError("no")
    here.take(push(1), RequestMalformed(2, error), push(3))
    here.workers.cancel(2)
    await trio.testing.wait_all_tasks_blocked()
    assert here.answers == [(1, DONE), (2, error), (3, DONE)]


async def test_b50_answers_wait_for_room_without_their_requests(autojump_clock, site, nursery):
    buffers = BodyBuffers()
    here = site(at_once)
    here.session.post((bytes(200), b""))
    here.take(push(1, 1000, buffers.take(1 << 20)))
    await trio.sleep(5)
    assert here.answers == []
    assert buffers._free_index(1 << 20) == 0
    nursery.start_soon(here.session.write)
    await trio.testing.wait_all_tasks_blocked()
    assert here.answers == [(1, DONE)], "a deadline that passes after the outcome changes nothing"


async def test_an_idle_worker_keeps_no_body(autojump_clock, site):
    buffers = BodyBuffers()

    async def with_a_body(event):
        await trio.lowlevel.checkpoint()
        return Reply(INFO, buffers.take(1 << 20))

    here = site(with_a_body)
    here.take(read(1))
    await trio.testing.wait_all_tasks_blocked()
    here.answers.clear()
    assert here.running == 1
    assert buffers._free_index(1 << 20) == 0
