"""The simulated network: what its connections promise, and every way in which they fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
import trio.testing

from ostnode.net.transport import LinkClosedError
from ostnode.sim.network import Latency, Port, SimNetwork
from ostnode.sim.wires import PIPE_BYTES_MAX, SimStream

ADDRESS = "127.0.0.1:7000"
FAR = Latency(low_s=1, high_s=1, jitter_s=0)


class Pair:
    """A dialler at `near`, an accepter at `far`, and a connection between them."""

    def __init__(self, network: SimNetwork, near: Port, far: Port) -> None:
        self.network, self.near, self.far = network, near, far
        self.here: SimStream
        self.there: SimStream


@asynccontextmanager
async def a_pair(latency: Latency = FAR, seed: int = 0) -> AsyncIterator[Pair]:
    lines: list[str] = []
    network = SimNetwork(Random(seed), lines.append)
    network.latency = latency
    network.place(ADDRESS, "far")
    pair = Pair(network, network.port("near"), network.port("far"))
    accepted = trio.Event()

    async def accept(stream: trio.abc.Stream) -> None:
        pair.there = stream
        accepted.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(pair.far.serve, ADDRESS, accept)
        pair.here = await pair.near.connect(ADDRESS)
        await accepted.wait()
        yield pair
        nursery.cancel_scope.cancel()


async def received(stream: SimStream, within_s: float) -> bytes | None:
    """What comes in time; None if nothing does."""
    with trio.move_on_after(within_s):
        return await stream.receive_some()
    return None


async def test_its_streams_are_half_closeable_streams(autojump_clock):
    async with a_pair(Latency(0, 0, 0)) as pair:
        made = iter([pair])

        async def make():
            first = next(made, None)
            if first is not None:
                return first.here, first.there
            here = await pair.near.connect(ADDRESS)
            await trio.testing.wait_all_tasks_blocked()
            return here, pair.there

        async def make_clogged():
            ends = await make()
            for stream in ends:
                await stream.send_all(bytes(PIPE_BYTES_MAX))
            return ends

        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_bytes_take_their_time_and_keep_their_order(autojump_clock):
    async with a_pair(Latency(1, 1, 5)) as pair:
        start = trio.current_time()
        for part in (b"one ", b"two ", b"three"):
            await pair.here.send_all(part)
        await pair.here.send_eof()
        heard = b""
        while part := await pair.there.receive_some(4):
            heard += part
        assert heard == b"one two three"
        assert 1 <= trio.current_time() - start <= 6


async def test_connections_overtake_each_other(autojump_clock):
    latency = Latency(0, 10, 0)
    firsts = set()
    for seed in range(10):
        async with a_pair(latency, seed) as pair:
            first, first_end = pair.here, pair.there
            second = await pair.near.connect(ADDRESS)
            await trio.testing.wait_all_tasks_blocked()
            second_end = pair.there
            heard = []

            async def hear(name, stream, heard=heard):
                await stream.receive_some()
                heard.append(name)

            await first.send_all(b"1")
            await second.send_all(b"2")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear, 1, first_end)
                nursery.start_soon(hear, 2, second_end)
            firsts.add(heard[0])
    assert firsts == {1, 2}


async def test_a_partition_holds_bytes_back_and_healing_lets_them_through(autojump_clock):
    async with a_pair() as pair:
        await pair.here.send_all(b"before")
        pair.network.partition("near", "far")
        await pair.here.send_all(b" and after")
        await pair.there.send_all(b"back")
        assert await received(pair.there, 100) is None
        assert await received(pair.here, 100) is None
        pair.network.heal("near", "far")
        assert await received(pair.there, 2) == b"before and after"
        assert await received(pair.here, 2) == b"back"


async def test_a_one_way_partition_lets_the_other_way_through(autojump_clock):
    async with a_pair() as pair:
        pair.network.partition("far", one_way=True)
        await pair.here.send_all(b"there")
        await pair.there.send_all(b"back")
        assert await received(pair.there, 2) == b"there"
        assert await received(pair.here, 100) is None
        pair.network.heal()
        assert await received(pair.here, 2) == b"back"


async def test_two_partitions_of_one_way_are_healed_one_after_the_other(autojump_clock):
    async with a_pair() as pair:
        pair.network.partition("near", "far")
        pair.network.partition("near")
        await pair.here.send_all(b"x")
        pair.network.heal("near", "far")
        assert await received(pair.there, 100) is None
        pair.network.heal("near")
        assert await received(pair.there, 2) == b"x"


async def test_an_end_does_not_get_through_a_partition(autojump_clock):
    async with a_pair() as pair:
        pair.network.partition("near", "far")
        await pair.here.aclose()
        assert await received(pair.there, 100) is None
        pair.network.heal()
        assert await received(pair.there, 2) == b""


async def test_a_dialler_hears_nothing_from_behind_a_partition(autojump_clock):
    async with a_pair() as pair:
        pair.network.partition("far", "near", one_way=True)
        start = trio.current_time()
        with pytest.raises(LinkClosedError, match="does not answer"):
            await pair.near.connect(ADDRESS)
        assert trio.current_time() - start > 10


async def test_nobody_there_and_a_refusal_are_told_at_once(autojump_clock):
    async with a_pair() as pair:
        start = trio.current_time()
        with pytest.raises(LinkClosedError, match="refused"):
            await pair.near.connect("127.0.0.1:9")
        pair.network.refuse("far")
        with pytest.raises(LinkClosedError, match="refused"):
            await pair.near.connect(ADDRESS)
        assert trio.current_time() - start == 4
        pair.network.refuse("far", refusing=False)
        await pair.near.connect(ADDRESS)


async def test_a_cut_breaks_both_ends(autojump_clock):
    async with a_pair() as pair:
        await pair.here.send_all(b"on its way")
        pair.network.cut("far", "near")
        assert await pair.there.receive_some() == b"on its way"
        for stream in (pair.here, pair.there):
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()


async def test_a_cut_spares_the_connections_of_others(autojump_clock):
    async with a_pair() as pair:
        pair.network.cut("far", "somebody else")
        await pair.here.send_all(b"x")
        assert await received(pair.there, 2) == b"x"


async def test_a_cut_in_a_frame_lets_some_bytes_through(autojump_clock):
    through = set()
    for seed in range(20):
        async with a_pair(seed=seed) as pair:
            pair.network.cut_in_frame("near", "far")
            await pair.there.send_all(b"not this way")
            assert await received(pair.here, 2) == b"not this way"
            await pair.here.send_all(b"frame")
            heard, broken = b"", False
            while not broken:
                try:
                    heard += await pair.there.receive_some()
                except trio.BrokenResourceError:
                    broken = True
            assert b"frame".startswith(heard)
            through.add(len(heard))
    assert {0, 2, 5} <= through


async def test_a_killed_process_is_told_of_by_its_system(autojump_clock):
    ends = set()
    for seed in range(10):
        async with a_pair(seed=seed) as pair:
            pair.network.end(pair.far, silent=False)
            try:
                ends.add(await received(pair.here, 2))
            except trio.BrokenResourceError:
                ends.add("reset")
            with pytest.raises(LinkClosedError, match="refused"):
                await pair.near.connect(ADDRESS)
            with pytest.raises(trio.BrokenResourceError):
                await pair.here.send_all(bytes(2 * PIPE_BYTES_MAX))
    assert ends == {b"", "reset"}


async def test_bytes_to_a_process_that_is_gone_are_answered_by_a_reset(autojump_clock):
    async with a_pair() as pair:
        await pair.there.aclose()
        assert await pair.here.receive_some() == b""
        await pair.here.send_all(b"to nobody")
        with pytest.raises(trio.BrokenResourceError):
            await pair.here.send_all(bytes(2 * PIPE_BYTES_MAX))


async def test_a_machine_without_power_leaves_half_open_connections(autojump_clock):
    async with a_pair() as pair:
        pair.network.end(pair.far, silent=True)
        await pair.here.send_all(b"anybody?")
        assert await received(pair.here, 1000) is None
        with pytest.raises(LinkClosedError, match="does not answer"):
            await pair.near.connect(ADDRESS)
        pair.network.back("far")
        with pytest.raises(trio.BrokenResourceError):
            await pair.here.receive_some()


async def test_a_machine_that_is_back_knows_nothing_of_its_connections(autojump_clock):
    async with a_pair() as pair:
        pair.network.end(pair.far, silent=True)
        pair.network.back("far")
        assert await received(pair.here, 1000) is None  # nobody has asked
        await pair.here.send_all(b"still there?")
        with pytest.raises(trio.BrokenResourceError):
            await pair.here.receive_some()


async def test_the_last_words_of_a_dead_process_stay_unsaid(autojump_clock):
    async with a_pair() as pair:
        pair.network.end(pair.far, silent=True)
        with pytest.raises(trio.ClosedResourceError):
            await pair.there.send_all(b"as I was saying")
        await pair.there.aclose()
        assert await received(pair.here, 1000) is None
        with pytest.raises(LinkClosedError):
            await pair.far.connect(ADDRESS)


async def test_an_address_is_served_once(autojump_clock):
    async with a_pair() as pair:
        with pytest.raises(OSError, match="served already"):
            await pair.far.serve(ADDRESS, trio.abc.Stream.aclose)
