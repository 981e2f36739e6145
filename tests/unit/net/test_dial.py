"""Keeping a link: waits with full jitter, and what ends the keeping."""

from __future__ import annotations

import itertools

import pytest
import trio
from structlog.testing import capture_logs

from ostnode.errors import InvalidArgumentError, NotAuthorizedError
from ostnode.net.dial import Backoff, dial_forever
from ostnode.net.memory import MemoryNetwork
from ostnode.net.transport import LinkClosedError
from tests.support.wire_peers import ADDRESS, READ, Cluster, SeededRng, served


class TopRng(SeededRng):
    """Always the longest wait."""

    def uniform(self, low, high):
        return high


def test_waits_double_up_to_the_cap_with_full_jitter():
    backoff = Backoff(base_s=0.1, cap_s=10)
    tops = [backoff.wait_s(failures, TopRng()) for failures in (0, 1, 2, 3, 7, 1000)]
    assert tops == pytest.approx([0.1, 0.2, 0.4, 0.8, 10, 10])
    waits = {backoff.wait_s(3, SeededRng(seed)) for seed in range(50)}
    assert min(waits) < 0.1
    assert max(waits) > 0.7


async def test_it_dials_until_somebody_is_there_and_again_when_the_link_ends(autojump_clock):
    network = MemoryNetwork()
    uses = []

    async def use(link):
        uses.append(trio.current_time())
        await link.call(READ)
        if len(uses) == 1:
            network.sever(ADDRESS)
        await link.wait_closed()
        raise NotAuthorizedError("refused for now")

    async with trio.open_nursery() as nursery:
        cluster = Cluster(network, None, nursery, trio.Event())

        async def keep():
            await dial_forever(cluster.link, use, rng=SeededRng())

        nursery.start_soon(keep)
        await trio.sleep(5)
        assert uses == []
        async with served(network=network):
            await trio.sleep(30)
            assert len(uses) == 2
        await trio.sleep(5)
        async with served(network=network):
            await trio.sleep(30)
            assert len(uses) == 3
        nursery.cancel_scope.cancel()


async def test_a_long_life_starts_the_waits_afresh(autojump_clock):
    attempts = []

    async def use(link):
        attempts.append(trio.current_time())
        await trio.sleep(3 if len(attempts) < 3 else 20)
        if len(attempts) == 5:
            raise ValueError("enough")

    async with served() as cluster:
        with pytest.raises(ValueError, match="enough"):
            await dial_forever(cluster.link, use, rng=TopRng(), backoff=Backoff(1, 10))
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert gaps == pytest.approx([3 + 1, 3 + 2, 20 + 1, 20 + 1])


async def test_a_groups_link_errors_count_as_the_link_ending(autojump_clock):
    uses = []

    async def use(link):
        uses.append(link)
        await link.call(READ)
        if len(uses) == 3:
            raise RuntimeError("a bug")
        gone = ExceptionGroup("inner tasks", [LinkClosedError("gone"), LinkClosedError("gone")])
        raise ExceptionGroup("outer tasks", [gone, LinkClosedError("too")])

    async with served() as cluster:
        with capture_logs() as logs, pytest.raises(RuntimeError, match="a bug"):
            await dial_forever(cluster.link, use, rng=SeededRng())
    assert len(uses) == 3
    assert [entry["reason"] for entry in logs if entry["event"] == "link ended"] == ["gone"] * 2


async def test_what_is_refused_for_ever_is_logged_once_per_reason(autojump_clock):
    """Not with every dial; but a link that lived makes it news again."""
    uses = 0

    async def use(_link):
        nonlocal uses
        uses += 1
        if uses == 60:
            await trio.sleep(20)
        if uses == 90:
            raise ValueError("enough")
        raise NotAuthorizedError("forgotten") if uses % 3 else InvalidArgumentError("a gap")

    async with served() as cluster:
        with capture_logs() as logs, pytest.raises(ValueError, match="enough"):
            await dial_forever(cluster.link, use, rng=SeededRng())
    ended = [entry for entry in logs if entry["event"] == "link ended"]
    assert len(ended) == 89
    told = [entry["reason"] for entry in ended if entry["log_level"] != "debug"]
    assert told == ["forgotten", "a gap", "a gap", "forgotten"]


async def test_reasons_that_are_remembered_are_bounded(autojump_clock):
    uses = 0

    async def use(_link):
        nonlocal uses
        uses += 1
        if uses == 100:
            raise ValueError("enough")
        await trio.lowlevel.checkpoint()
        raise NotAuthorizedError(str(uses % 17))

    async with served() as cluster:
        with capture_logs() as logs, pytest.raises(ValueError, match="enough"):
            await dial_forever(cluster.link, use, rng=SeededRng())
    told = [
        entry for entry in logs if entry["log_level"] == "info" and entry["event"] == "link ended"
    ]
    assert len(told) == 99
