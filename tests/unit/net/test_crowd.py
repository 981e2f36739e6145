"""A thousand links that say nothing: each costs little, all are kept, and others are answered."""

from __future__ import annotations

import gc
import os
import resource
from collections import Counter
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from ostnode.net.dial import DEFAULT_BACKOFF, dial_forever
from ostnode.net.memory import MemoryNetwork
from ostnode.net.session import LinkLimits
from ostnode.net.tls import TlsNetwork, TlsStream
from ostnode.net.transport import TcpNetwork, split_address
from tests.support.tlskit import ANY_PORT, dial
from tests.support.wire_peers import ADDRESS, BUCKET, READ, SeededRng, served

FEW = 200
"""Descriptors, and more than the tests have open."""
DESCRIPTORS = Path("/proc/self/fd")
DIALLERS = 8
KIB_EACH = 160
"""Both ends are in this process: 107 measured."""
TASKS_EACH = 10
UNHURRIED = LinkLimits(handshake_s=60, ping_interval_s=60)
"""Of five thousand dialled in a row, for which this one process is both ends."""


def usage() -> tuple[int, int, int]:
    """Descriptors, tasks, and KiB of memory."""
    gc.collect()
    status = Path("/proc/self/status").read_text("ascii")
    tasks = trio.lowlevel.current_statistics().tasks_living
    kib = int(status.partition("VmRSS:")[2].split()[0])
    return len(list(DESCRIPTORS.iterdir())), tasks, kib


@pytest.fixture
def descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def keep(cluster, limits, turns, *, task_status):
    async with cluster.link(limits=limits) as link:
        turns.release()
        task_status.started(link)
        await link.wait_closed()
        pytest.fail("an idle link ended")


@pytest.mark.parametrize(
    ("number", "limits"),
    [
        pytest.param(1000, LinkLimits(), marks=pytest.mark.slow),
        pytest.param(5000, UNHURRIED, marks=pytest.mark.deep),
    ],
)
async def test_b50_idle_links_are_kept_cost_little_and_others_are_answered(
    number, limits, descriptors
):
    number = min(number, descriptors // 2 - 200)
    network = TlsNetwork(BUCKET, TcpNetwork(connections_max=number + 1))
    async with served(network=network, address=ANY_PORT, limits=limits) as cluster:
        before = usage()
        async with trio.open_nursery() as nursery:
            turns = trio.Semaphore(DIALLERS)
            for _ in range(number):
                await turns.acquire()
                nursery.start_soon(nursery.start, keep, cluster, limits, turns)
            for _ in range(DIALLERS):
                await turns.acquire()
            files, tasks, kib = (now - then for now, then in zip(usage(), before, strict=True))
            assert files == 2 * number
            assert tasks <= TASKS_EACH * number
            assert kib <= KIB_EACH * number
            with trio.fail_after(2):
                async with cluster.link() as link:
                    await link.call(READ)
            nursery.cancel_scope.cancel()
        with trio.fail_after(30):
            while (after := usage())[1] > before[1]:
                await trio.testing.wait_all_tasks_blocked(0.05)
        assert after[0] == before[0]


async def test_b50_without_descriptors_links_go_on_and_who_waits_comes_in_later(
    monkeypatch, caplog
):
    # Trio tries again after this long; it tells its logger each time.
    monkeypatch.setattr("trio._highlevel_serve_listeners.SLEEP_TIME", 0.02)
    network = TlsNetwork(BUCKET)
    async with served(network=network, address=ANY_PORT) as cluster, cluster.link() as link:
        waiting = trio.socket.socket()
        with every_descriptor_taken():
            await waiting.connect(split_address(cluster.address))
            for _ in range(5):
                await link.call(READ)
                await trio.sleep(0.02)
        assert "EMFILE" in caplog.text
        stream = TlsStream(trio.SocketStream(waiting))
        with trio.fail_after(5):
            assert await stream.secure(BUCKET.principal)
        await trio.aclose_forcefully(stream)


@contextmanager
def every_descriptor_taken():
    """Nothing can be opened or accepted meanwhile."""
    taken, (soft, hard) = [], resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
async def test_b50_who_lost_a_node_comes_back_spread_over_time(autojump_clock):
    """All links end at once, the node is away for a minute; nobody knocks in step."""
    network, rng = MemoryNetwork(), SeededRng(5)
    number, back_at, linked = 200, 60.0, []

    async def use(link):
        if trio.current_time() >= back_at:
            linked.append(trio.current_time())
        await link.wait_closed()

    async with trio.open_nursery() as nursery:
        async with served(network=network):
            for _ in range(number):
                again = partial(dial, ADDRESS, network=network)
                nursery.start_soon(partial(dial_forever, again, use, rng=rng))
            await trio.sleep(1)
        await trio.sleep(back_at - trio.current_time())
        async with served(network=network):
            await trio.sleep(DEFAULT_BACKOFF.cap_s + 1)
        nursery.cancel_scope.cancel()
    assert len(linked) == number
    by_second = Counter(int(at) for at in linked)
    assert max(by_second.values()) < 2 * number / DEFAULT_BACKOFF.cap_s
