"""The live target, on a memory network in virtual time, and the look at a process."""

from __future__ import annotations

import os

import trio

from ostnode.env import SystemRng
from ostnode.errors import NotFoundError
from ostnode.fuzz import live
from ostnode.fuzz.cases import Case, Dial, Layer, Send
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.live import LiveTarget, Process
from ostnode.fuzz.making.bytewise import ping
from ostnode.fuzz.making.choosing import Chooser
from ostnode.fuzz.making.material import Material, opened, request
from ostnode.fuzz.playing import Played, Player
from ostnode.identity.keys import KeyPair
from ostnode.net.memory import MemoryNetwork
from ostnode.net.tls import TlsNetwork
from tests.support.wire_peers import ADDRESS, BUCKET, answering, echo, served

MATERIAL = Material(Cast(live=True), {"alice": bytes(8)}, [b"g", b"h"], [b"t"], [bytes(32)])
READ = {"accessor": bytes(32), "blob_id": bytes(32), "offset": 0, "length": 1, "token": b""}


async def play(case: Case, network=None, cast: Cast | None = None, answer=echo) -> Played:
    cast = cast or Cast(live=True)
    async with served(answer, network=network) as node:
        target = LiveTarget(node.network, ADDRESS, cast)
        played = Played()
        with trio.fail_after(1000):
            await Player(target, cast).play(case, played)
    return played


def what(played: Played) -> list[str]:
    return [finding.what for finding in played.findings]


async def test_a_node_that_does_well(autojump_clock) -> None:
    case = Case(
        "fine", Layer.BYTES, (*opened(0, "alice", "bucket"), Send(0, ping(1) + b"\xff" * 8))
    )
    played = await play(case)
    assert what(played) == []
    assert "open PING good" in played.features


async def test_over_tls_proofs_are_bound(autojump_clock) -> None:
    network = TlsNetwork(BUCKET, below=MemoryNetwork())
    case = Case("fine", Layer.BYTES, (*opened(0, "alice", "bucket"), Send(0, ping(1))))
    played = await play(case, network)
    assert what(played) == []
    assert "greeted AUTH good" in played.features


async def test_a_node_that_lets_anybody_read(autojump_clock) -> None:
    steps = (*opened(0, "mallory", "bucket"), Send(0, request(1, 19, READ)))
    told = "the node answered read_blob though the chat has not given its word"
    assert what(await play(Case("read", Layer.SEMANTICS, steps))) == [told]


async def test_what_an_own_key_may_is_not_judged(autojump_clock) -> None:
    cast = Cast(live=True, own=KeyPair.generate(SystemRng()))
    steps = (*opened(0, "alice", "bucket"), Send(0, request(1, 19, READ)))
    assert what(await play(Case("read", Layer.SEMANTICS, steps), cast=cast)) == []


async def test_nobody_listens(autojump_clock) -> None:
    target = LiveTarget(MemoryNetwork(), ADDRESS, Cast(live=True))
    played = Played()
    await Player(target, Cast(live=True)).play(Case("", Layer.BYTES, (Dial(0),)), played)
    assert set(what(played)) == {"the node cannot be reached"}


async def test_somebody_who_says_nothing_is_not_answering(autojump_clock) -> None:
    async def silent(stream: trio.abc.Stream) -> None:
        await trio.sleep(500)

    network = MemoryNetwork()
    async with trio.open_nursery() as nursery:
        await nursery.start(network.serve, ADDRESS, silent)
        played = Played()
        target = LiveTarget(network, ADDRESS, Cast(live=True))
        await Player(target, Cast(live=True)).play(Case("", Layer.BYTES, ()), played)
        nursery.cancel_scope.cancel()
    assert what(played) == ["an honest client is not answered"]


async def test_cases_of_every_layer_can_be_played(autojump_clock) -> None:
    chooser = Chooser(1, MATERIAL)
    pool: list[Case] = []
    for number in range(24):
        case = chooser.case(number, pool)
        pool.append(case)
        assert what(await play(case, answer=answering(NotFoundError()))) == [], case


def test_a_process_is_watched(monkeypatch) -> None:
    process = Process(os.getpid())
    assert process.problems() == []
    monkeypatch.setattr(live, "MEMORY_GROWTH_MAX", -1 << 60)
    monkeypatch.setattr(live, "DESCRIPTORS_GROWTH_MAX", -1)
    assert process.problems() == [
        "the node's memory grows without bound",
        "the node's descriptors grow without bound",
    ]
    process._root = process._root / "gone"
    assert process.problems() == ["the node's process is gone"]
