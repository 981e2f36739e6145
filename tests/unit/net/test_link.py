"""Links: calls there and back, typed errors, the window, deadlines, and how a link ends."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from ostnode.errors import (
    BusyError,
    DataCorruptError,
    FrameTooLargeError,
    InternalError,
    InvalidArgumentError,
    NotAuthorizedError,
    NotFoundError,
    ShuttingDownError,
    UnauthenticatedError,
    UnknownCallError,
)
from ostnode.net.link import Link, open_link
from ostnode.net.memory import MemoryNetwork, memory_stream_pair
from ostnode.net.session import LinkLimits, Session
from ostnode.net.transport import LinkClosedError, TcpNetwork
from ostnode.wire import messages as m
from ostnode.wire.calls import Kind, Reply
from ostnode.wire.frames import BODY_BYTES_MAX
from ostnode.wire.incoming import CancelReceived
from ostnode.wire.states import State
from tests.support.wire_peers import (
    ADDRESS,
    ALICE,
    BLOB,
    BUCKET,
    GROUP,
    INFO,
    LIMITS,
    MALLORY,
    PUSH,
    READ,
    FakeService,
    SeededRng,
    accepter,
    answering,
    feed,
    hello,
    linked,
    open_pair,
    served,
    verify,
    wire,
)

FEED = m.Feed(0, 0, 0)
READ_MIB = m.ReadBlob(GROUP, BLOB, 0, 1 << 20)


@pytest.mark.parametrize("calls", range(1, 33))
async def test_a_drain_that_is_not_heard_of_yet_ends_calls_as_the_link_s_end(autojump_clock, calls):
    """The reader lets others run now and then, also between a GOAWAY and what it does to calls."""
    outcomes: list[Exception] = []
    near, far = memory_stream_pair()
    ours, theirs = open_pair(window_requests=4)
    session = Session(near, ours, LIMITS)
    link = Link(session, hello(BUCKET))

    async def call() -> None:
        try:
            while True:
                await link.call(READ)
        except LinkClosedError as error:
            outcomes.append(error)

    async def serve() -> None:
        answered = 0
        while True:
            for request in feed(theirs, await far.receive_some(65536)):
                words = wire(theirs.send_reply(request.id, Reply(INFO, b"")))
                answered += 1
                if answered == calls:
                    words += wire(theirs.send_goaway(ShuttingDownError()))
                await far.send_all(words)

    async with trio.open_nursery() as nursery:
        for task in (link.run, call, call, serve):
            nursery.start_soon(task)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(outcomes) == 2


async def test_a_body_that_fits_no_window_is_refused_at_once(autojump_clock):
    limits = LinkLimits(window_bytes=BODY_BYTES_MAX)
    async with linked(limits=limits) as (link, _):
        with trio.fail_after(1):
            with pytest.raises(FrameTooLargeError):
                await link.call(PUSH, bytes(BODY_BYTES_MAX + 1))
            await link.call(READ)


async def test_a_call_knows_its_caller_and_carries_bodies():
    async with linked() as (link, cluster):
        assert link.peer == BUCKET.principal
        body = bytes(range(256)) * 4096
        assert (await link.call(PUSH, body)).message == m.PushResult(len(body))
        reply = await link.call(READ_MIB)
        assert reply.message == INFO
        assert len(reply.body) == 1 << 20
        caller, request, received = cluster.service.asked[0]
        assert caller.principal == ALICE.principal
        assert (request, received) == (PUSH, body)


async def test_calls_over_tcp(nursery):
    async with linked(network=TcpNetwork(), address="127.0.0.1:0") as (link, _):
        body = bytes(range(256)) * 4096
        results = []

        async def push(length):
            reply = await link.call(PUSH, body[:length])
            results.append(reply.message.missing == length)

        with trio.fail_after(10):
            async with trio.open_nursery() as calls:
                for length in range(0, len(body), len(body) // 20):
                    calls.start_soon(push, length)
        assert results == [True] * len(results)
        assert len((await link.call(READ_MIB)).body) == 1 << 20


async def test_refusals_arrive_typed_and_harm_nothing():
    async with linked(answering(DataCorruptError("bad sector", blob="b3"))) as (link, _):
        for _ in range(2):
            with pytest.raises(DataCorruptError, match="bad sector") as caught:
                await link.call(READ)
            assert caught.value.details == {"blob": "b3"}


async def test_a_crash_of_the_handler_is_internal_tells_nothing_and_the_link_lives():
    async with linked(answering(KeyError("secret"), Reply(INFO))) as (link, _):
        with pytest.raises(InternalError) as caught:
            await link.call(READ)
        assert "secret" not in str(caught.value)
        await link.call(READ)


async def test_an_answer_of_a_wrong_class_or_size_is_internal():
    answer = answering(Reply(m.Ok()), Reply(INFO, bytes(BODY_BYTES_MAX + 1)), Reply(INFO))
    async with linked(answer) as (link, _):
        for _ in range(2):
            with pytest.raises(InternalError):
                await link.call(READ)
        assert (await link.call(READ)).message == INFO


async def test_b49_who_may_call_is_checked_before_the_role():
    kinds = set()
    async with linked(kinds_of=lambda _: frozenset(kinds), services={}) as (link, _):
        with pytest.raises(NotAuthorizedError):
            await link.call(FEED)
        kinds.add(Kind.BUCKET)
        with pytest.raises(UnknownCallError, match="no index"):
            await link.call(FEED)


async def test_a_roster_change_counts_on_an_open_link():
    kinds = {Kind.BUCKET}
    index = FakeService(answering(Reply(m.FeedBatch(1, 0, 0))))
    services = {Kind.INDEX: index}
    async with linked(kinds_of=lambda _: frozenset(kinds), services=services) as (link, _):
        await link.call(FEED)
        assert index.asked[0][0].kinds == {Kind.BUCKET}
        kinds.clear()
        with pytest.raises(NotAuthorizedError):
            await link.call(FEED)


async def test_a_request_out_of_bounds_does_not_go_out():
    async with linked() as (link, cluster):
        with pytest.raises(InvalidArgumentError):
            await link.call(m.ReadBlob(GROUP, BLOB, -1, 1))
        with pytest.raises(InvalidArgumentError):
            await link.call(READ, b"a body where none goes")
        assert cluster.service.asked == []
        await link.call(READ)


async def test_answers_overtake_each_other(autojump_clock):
    async def slow_first(caller, request, body):
        await trio.sleep(10 if request.offset == 0 else 1)
        return Reply(INFO)

    done = []

    async with linked(slow_first) as (link, _), trio.open_nursery() as nursery:

        async def read(offset):
            await link.call(m.ReadBlob(GROUP, BLOB, offset, 1))
            done.append(offset)

        nursery.start_soon(read, 0)
        await trio.sleep(0.5)
        nursery.start_soon(read, 7)
    assert done == [7, 0]


async def test_the_window_holds_callers_back_and_serves_all_of_them(autojump_clock):
    running, most = 0, 0

    async def slow(caller, request, body):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return Reply(m.PushResult(len(body)))

    limits = LinkLimits(window_requests=4)
    async with linked(slow, limits=limits) as (link, cluster):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(link.call, PUSH, b"x")
        assert most == 4
        assert len(cluster.service.asked) == 10


async def test_the_window_of_bytes_holds_callers_back(autojump_clock):
    async def slow(caller, request, body):
        await trio.sleep(1)
        return Reply(m.PushResult(len(body)))

    limits = LinkLimits(window_bytes=2 * BODY_BYTES_MAX)
    async with linked(slow, limits=limits) as (link, _):
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(link.call, PUSH, bytes(1 << 20))
        assert 3 <= trio.current_time() - start < 4


async def test_who_waits_for_the_window_is_not_overtaken(autojump_clock):
    async def slow(caller, request, body):
        await trio.sleep(1)
        return Reply(m.PushResult(len(body)))

    asked: list[bytes] = []

    async def call(link, *bodies):
        for body in bodies:
            await link.call(PUSH, body)
            asked.append(body)

    async with linked(slow, limits=LinkLimits(window_requests=1)) as (link, _):
        for _ in range(8):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call, link, b"first", b"again")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(call, link, b"waiting")
    assert asked == [b"first", b"waiting", b"again"] * 8


async def test_the_handler_of_a_caller_that_gives_up_is_cancelled(autojump_clock):
    ended = trio.Event()

    async def forever(caller, request, body):
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with linked(forever) as (link, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.call, READ)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        with trio.fail_after(1):
            await ended.wait()


async def test_the_window_counts_the_bytes_of_a_body_of_wider_items(autojump_clock):
    async def slow(caller, request, body):
        await trio.sleep(1)
        return Reply(m.PushResult(len(body)))

    most = memoryview(bytes(3 * BODY_BYTES_MAX // 4)).cast("Q")
    limits = LinkLimits(window_bytes=BODY_BYTES_MAX)
    async with linked(slow, limits=limits) as (link, _):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(link.call, PUSH, most)
        assert trio.current_time() >= 2
        with pytest.raises(FrameTooLargeError):
            await link.call(PUSH, memoryview(bytes(2 * BODY_BYTES_MAX)).cast("Q"))


async def test_a_caller_that_is_cancelled_asks_for_nothing(autojump_clock):
    async with linked() as (link, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await link.call(READ)
        assert scope.cancelled_caught
        assert link._connection.in_flight == 0


async def test_the_callers_deadline_travels_and_is_kept_by_the_server(autojump_clock):
    ended = []

    async def forever(caller, request, body):
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with linked(forever) as (link, _):
        start = trio.current_time()
        with trio.move_on_after(2) as scope:
            await link.call(READ)
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked()
        assert ended == [pytest.approx(start + 2, abs=0.1)]


async def test_without_a_deadline_the_longest_one_is_kept(autojump_clock):
    async def forever(caller, request, body):
        await trio.sleep_forever()

    async with linked(forever) as (link, _):
        start = trio.current_time()
        with pytest.raises(BusyError, match="deadline"):
            await link.call(READ)
        assert trio.current_time() - start == pytest.approx(600, abs=1)


# --- opening ------------------------------------------------------------------------------------


async def test_only_the_expected_peer_is_accepted():
    async with served() as cluster:
        with pytest.raises(UnauthenticatedError):
            async with cluster.link(expect=MALLORY):
                pytest.fail("the link opened")


def dial(network):
    """Alice's link to whoever serves ADDRESS."""
    return open_link(
        network, ADDRESS, signer=ALICE, verify=verify, expect=BUCKET.principal, rng=SeededRng()
    )


async def test_nobody_there():
    with pytest.raises(LinkClosedError):
        async with dial(MemoryNetwork()):
            pytest.fail("the link opened")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", LinkClosedError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", FrameTooLargeError),
        (None, LinkClosedError),
    ],
    ids=["hangs up", "speaks HTTP", "says nothing"],
)
async def test_a_peer_that_is_none_of_ours(autojump_clock, nursery, answer, error):
    async def stranger(stream):
        await stream.receive_some()
        if answer is None:
            await trio.sleep_forever()
        await stream.send_all(answer)

    network = MemoryNetwork()
    await nursery.start(network.serve, ADDRESS, stranger)
    with pytest.raises(error):
        async with dial(network):
            pytest.fail("the link opened")


async def test_the_blocks_own_exception_comes_out_bare():
    cause = ValueError("cause")

    async def fail(cluster):
        async with cluster.link() as link:
            await link.call(READ)
            raise NotFoundError("mine") from cause

    async with served() as cluster:
        with pytest.raises(NotFoundError) as caught:
            await fail(cluster)
    assert caught.value.__cause__ is cause


# --- ending -------------------------------------------------------------------------------------


async def test_a_cut_link_fails_calls_in_flight_and_later_ones(autojump_clock):
    async def forever(caller, request, body):
        await trio.sleep_forever()

    async with linked(forever) as (link, cluster), trio.open_nursery() as nursery:
        failed = []

        async def call():
            with pytest.raises(LinkClosedError) as caught:
                await link.call(READ)
            failed.append(str(caught.value))

        for _ in range(40):  # more than the window: some wait for their turn
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        cluster.network.sever(ADDRESS)
        await link.wait_closed()
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        assert len(failed) == 41


async def test_a_call_between_the_end_and_the_link_saying_so():
    async with linked() as (link, _):
        link._connection.state = State.CLOSED  # as its reader leaves it
        with pytest.raises(LinkClosedError):
            await link.call(READ)
        link._connection.state = State.OPEN


async def test_b51_stopping_lets_calls_in_flight_finish_and_refuses_new_ones(autojump_clock):
    async def slow(caller, request, body):
        await trio.sleep(5)
        return Reply(INFO)

    async with linked(slow) as (link, cluster):
        async with trio.open_nursery() as nursery:
            answered = []

            async def call():
                answered.append(await link.call(READ))

            nursery.start_soon(call)
            await trio.sleep(1)
            cluster.stopping.set()
            await link.wait_closed()
            with pytest.raises(LinkClosedError, match="shutting_down"):
                await link.call(READ)
        assert len(answered) == 1


async def test_b51_a_request_that_crosses_the_stop_is_refused_as_retryable(autojump_clock):
    async with linked() as (link, cluster):
        cluster.stopping.set()
        with pytest.raises(ShuttingDownError) as caught:
            await link.call(READ)
        assert caught.value.retryable


async def test_a_stopped_link_ends_when_its_caller_does_not_hang_up(autojump_clock):
    async with served() as cluster, cluster.link() as link:
        cluster.stopping.set()
        await trio.sleep(3)
        with pytest.raises(LinkClosedError):
            await link.call(READ)


async def test_a_closed_link_cancels_its_handlers_and_fails_its_calls(autojump_clock, nursery):
    cancelled = trio.Event()

    async def forever(caller, request, body):
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def call(link):
        with pytest.raises(LinkClosedError, match="this side"):
            await link.call(READ)

    async with served(forever) as cluster:
        async with cluster.link() as link:
            nursery.start_soon(call, link)
            await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await cancelled.wait()


async def test_a_final_goodbye_fails_calls_in_flight(autojump_clock, nursery):
    async def dismissive(stream):
        connection = accepter()
        for answer in (connection.send_hello, connection.send_proof):
            while not feed(connection, await stream.receive_some()):
                pass
            await stream.send_all(wire(answer()))
        await stream.receive_some()
        await stream.send_all(wire(connection.send_goaway(NotAuthorizedError("not you"))))
        await trio.sleep_forever()

    network = MemoryNetwork()
    await nursery.start(network.serve, ADDRESS, dismissive)
    async with dial(network) as link:
        with pytest.raises(LinkClosedError, match="not you"):
            await link.call(READ)


async def test_events_that_the_state_table_forbids_are_bugs():
    async with linked() as (link, _):
        with pytest.raises(AssertionError):
            link._handle(CancelReceived(1))


# --- signs of life ------------------------------------------------------------------------------


async def test_an_idle_link_stays(autojump_clock):
    async with linked() as (link, _):
        await trio.sleep(3600)
        await link.call(READ)


async def stubborn(stream, *, read: bool):
    """Shakes hands, then goes on reading or does not, and never says a word."""
    connection = accepter()
    for answer in (connection.send_hello, connection.send_proof):
        while not feed(connection, await stream.receive_some()):
            pass
        await stream.send_all(wire(answer()))
    while read:
        await stream.receive_some()
    await trio.sleep_forever()


async def test_a_silent_peer_is_noticed(autojump_clock, nursery):
    network = MemoryNetwork()
    await nursery.start(network.serve, ADDRESS, partial(stubborn, read=True))
    async with dial(network) as link:
        start = trio.current_time()
        with pytest.raises(LinkClosedError, match="silent"):
            await link.call(READ)
        assert trio.current_time() - start <= 3 * LIMITS.ping_interval_s


async def test_b50_a_peer_that_does_not_read_is_noticed(autojump_clock, nursery):
    network = MemoryNetwork()
    await nursery.start(network.serve, ADDRESS, partial(stubborn, read=False))
    async with dial(network) as link:
        start = trio.current_time()
        with pytest.raises(LinkClosedError, match="stalled"):
            await link.call(PUSH, bytes(1 << 20))
        assert trio.current_time() - start <= LIMITS.stall_s + 2 * LIMITS.ping_interval_s


async def test_b50_a_slow_peer_that_makes_progress_is_kept(autojump_clock, nursery):
    async def slow(stream):
        connection = accepter()
        for answer in (connection.send_hello, connection.send_proof):
            while not feed(connection, await stream.receive_some()):
                pass
            await stream.send_all(wire(answer()))
        events = []
        while not events:
            events = feed(connection, await stream.receive_some(10_000))
            await trio.sleep(0.2)
        await stream.send_all(wire(connection.send_reply(events[0].id, Reply(m.PushResult(1)))))
        await trio.sleep_forever()

    network = MemoryNetwork()
    await nursery.start(network.serve, ADDRESS, slow)
    async with dial(network) as link:
        start = trio.current_time()
        await link.call(PUSH, bytes(1 << 20))
        assert trio.current_time() - start > LIMITS.ping_interval_s
