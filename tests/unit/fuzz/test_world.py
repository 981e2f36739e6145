"""The fuzzer's world and what it takes for right: as the product grows, so must they."""

from __future__ import annotations

import trio

from ostnode.fuzz import spec
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.world import LIMIT_BYTES, blob_id_of, open_world
from ostnode.virtual import run_virtual
from ostnode.wire import messages as m
from ostnode.wire.calls import CALLS

ONLY_TELLS = ("list_", "read_", "_status", "_info", "_progress")
"""How calls are named that change nothing."""

SOON_S = 3
"""What is urgent for buckets is in the feed by then."""


def test_calls_that_only_tell_are_known_to_change_nothing():
    names = {call.name for call in CALLS}
    assert names >= spec.READ_ONLY
    telling = {name for name in names if name.startswith(ONLY_TELLS) or name.endswith(ONLY_TELLS)}
    assert telling - spec.READ_ONLY == set()


def test_b60_accounts_are_right_while_a_blob_is_being_evicted():
    async def play():
        async with open_world(Cast()) as world:
            await world.ask("carol", m.Allocate(blob_id_of(b"new"), LIMIT_BYTES))
            broken, evicting = world.broken_accounts(), world.digest()
            await trio.sleep(SOON_S)
            await world.sync()
            assert world.digest() != evicting
            return [*broken, *world.broken_accounts()]

    assert run_virtual(play) == []
