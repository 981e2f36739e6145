"""Strict CBOR stands in front of everything that parses, and hostile input costs it little.

Costs are counted, in calls and bytes; `make deep` times them as well.
"""

from __future__ import annotations

import ast
import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import ostnode
from ostnode.codec import (
    CBOR_BYTES_MAX,
    CBOR_ITEMS_MAX,
    COSE_SIGN1_TAG,
    decode,
    decode_cose,
)
from ostnode.errors import OstError
from ostnode.identity.cose import parse_sign1
from ostnode.wire import events
from ostnode.wire import messages as m
from ostnode.wire.eventcodec import decode_event
from ostnode.wire.frames import HEADER_BYTES_MAX, RemoteProtocolError, pack_frame
from ostnode.wire.schema import decode_message
from tests.support.bombs import BOMBS
from tests.support.costs import calls_of, cost_of, growth_of
from tests.support.wire_peers import feed, open_pair

CALLS_AN_ITEM = 16
"""Functions that are called for one item: to look up its head, to read it, to check its key."""
CALLS_MAX = CALLS_AN_ITEM * CBOR_ITEMS_MAX
PEAK_BYTES_MAX = 2 << 20
"""The data once more, and 4,096 items of the dearest sort: a key, its encoding, its entry."""
GROWTH_BYTES_MAX = 16 << 10
LARGE = {name: bomb for name, bomb in BOMBS.items() if len(bomb) > 1024}

ENTRANCES: dict[str, Callable[[bytes], object]] = {
    "decode": decode,
    "decode_cose": decode_cose,
    "decode_cose behind a tag": lambda data: decode_cose(data, tag=COSE_SIGN1_TAG),
    "a token": parse_sign1,
    "an event": lambda data: decode_event(data, events.OutboxEvent),
    "a message": lambda data: decode_message(m.ChangeUsers, data),
    "a message of nothing": lambda data: decode_message(m.Ok, data),
}


def behind(entrance: str, bomb: bytes) -> Callable[[], object]:
    data = b"\xd2" + bomb if entrance.endswith("tag") else bomb
    return partial(ENTRANCES[entrance], data)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("name", BOMBS)
def test_b47_a_bomb_costs_no_more_than_its_limits_allow(name: str, entrance: str) -> None:
    cost = cost_of(behind(entrance, BOMBS[name]))
    assert cost.calls <= CALLS_MAX
    assert cost.peak_bytes <= PEAK_BYTES_MAX


@pytest.mark.parametrize("name", LARGE)
def test_b47_bombs_without_end_leave_nothing_behind(name: str) -> None:
    assert growth_of(partial(decode, LARGE[name]), times=5) <= GROWTH_BYTES_MAX


@pytest.mark.parametrize(
    "name",
    [name for name in BOMBS if name.startswith(("levels", "a value", "values that", "8 MiB"))],
)
def test_b47_depth_and_size_are_refused_before_the_rest_is_looked_at(name: str) -> None:
    assert calls_of(partial(decode, BOMBS[name])) < 200


@pytest.mark.parametrize("size", [CBOR_ITEMS_MAX // 16, CBOR_ITEMS_MAX // 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda size: b"\x99" + size.to_bytes(2, "big") + b"\x80" * size,
        lambda size: b"\xb9" + size.to_bytes(2, "big") + keys(size),
    ],
    ids=["arrays", "keys"],
)
def test_b47_the_cost_rises_with_the_items_and_not_faster(make, size: int) -> None:
    once = calls_of(partial(decode, make(size)))
    twice = calls_of(partial(decode, make(2 * size)))
    assert twice <= 2 * once + 50


def keys(count: int) -> bytes:
    """Longer than those that the codec remembers."""
    return b"".join(b"\x78\x18%024x\x00" % number for number in range(count))


@pytest.mark.parametrize("name", LARGE)
def test_b47_a_bomb_as_a_header_ends_the_connection_and_costs_little(name: str) -> None:
    bomb = BOMBS[name][:HEADER_BYTES_MAX]
    frame = pack_frame(bomb)
    connections = [open_pair()[1] for _ in range(3)]
    refusals: list[OstError] = []

    def receive() -> None:
        try:
            feed(connections.pop(), frame)
        except RemoteProtocolError as error:
            refusals.append(error.refusal)

    cost = cost_of(receive)
    assert [error.code for error in refusals] == ["invalid_argument"] * 3
    assert cost.calls <= CALLS_MAX
    assert cost.peak_bytes <= PEAK_BYTES_MAX


def test_no_other_decoder_is_used() -> None:
    """`codec` is the only one that knows CBOR; pickle and its like are not used either."""
    banned = {"cbor", "cbor2", "pickle", "marshal", "shelve", "msgpack"}
    for path in Path(ostnode.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert banned.isdisjoint(name.partition(".")[0] for name in names), path


@pytest.mark.deep
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_b47_a_bomb_takes_less_than_10_ms(entrance: str) -> None:
    for name, bomb in BOMBS.items():
        best = min(timed(behind(entrance, bomb)) for _ in range(5))
        assert best < 0.010, f"{name}: {best * 1000:.1f} ms"


def timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    with contextlib.suppress(OstError):
        work()
    return time.process_time() - start


def test_the_bombs_are_within_the_limits_where_they_should_be() -> None:
    """Else they would test the limit of the size and nothing else."""
    assert sum(len(bomb) <= CBOR_BYTES_MAX for bomb in BOMBS.values()) > len(BOMBS) - 5
