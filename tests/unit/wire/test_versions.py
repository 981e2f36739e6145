"""Which version two nodes speak, what they may use in it, and what the older one is spared."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from ostnode.errors import InvalidArgumentError, UnknownCallError
from ostnode.wire import incoming as i
from ostnode.wire.calls import CALLS, CallSpec
from ostnode.wire.frames import RemoteProtocolError
from ostnode.wire.session import (
    DEADLINE_MS_MAX,
    FEATURES,
    FEATURES_SINCE,
    LEDGER,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    ROSTER,
)
from ostnode.wire.states import State
from tests.support.wire_peers import (
    LIMITS,
    READ,
    accepter,
    dialler,
    feed,
    served,
    wire,
)
from tests.support.wire_samples import full

RANGES = [(low, high) for low in range(1, 5) for high in range(low, 5)]
OLD = {"protocol_max": 1, "features": ()}
NEGOTIATED = [spec for spec in CALLS if spec.feature]


def meet(ours, theirs) -> None:
    """The whole handshake; raises RemoteProtocolError."""
    feed(theirs, wire(ours.send_hello()))
    feed(ours, wire(theirs.send_hello()))
    feed(theirs, wire(ours.send_proof()))
    feed(ours, wire(theirs.send_proof()))


def test_this_node_speaks_its_version_and_the_one_before():
    assert PROTOCOL_MAX - PROTOCOL_MIN == 1


@pytest.mark.parametrize(("there", "here"), list(itertools.product(RANGES, RANGES)))
def test_the_highest_version_that_both_speak_or_none(there, here):
    ours = dialler(protocol_min=there[0], protocol_max=there[1])
    theirs = accepter(protocol_min=here[0], protocol_max=here[1])
    common = set(range(there[0], there[1] + 1)) & set(range(here[0], here[1] + 1))
    if common:
        meet(ours, theirs)
        assert ours.version == theirs.version == max(common)
        return
    with pytest.raises(RemoteProtocolError, match="no common protocol version") as caught:
        meet(ours, theirs)
    assert isinstance(caught.value.refusal, InvalidArgumentError)
    assert theirs.state is State.CLOSED


@pytest.mark.parametrize(
    ("there", "here", "agreed"),
    [
        (("roster",), ("roster",), {"roster"}),
        (("roster", "x"), ("y", "roster"), {"roster"}),
        (("x",), ("y",), set()),
        ((), ("roster",), set()),
        (("roster",) * 3, ("roster",), {"roster"}),
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_features_are_those_that_both_name_from_version_2_on(version, there, here, agreed):
    ours = dialler(protocol_max=version, features=there)
    theirs = accepter(protocol_max=3, features=here)
    meet(ours, theirs)
    assert ours.version == version
    assert ours.features == theirs.features == (agreed if version >= FEATURES_SINCE else set())


def test_before_the_hello_nothing_is_agreed():
    connection = dialler()
    assert connection.version == 0
    assert connection.features == frozenset()


def test_the_calls_about_membership_need_the_roster():
    assert {spec.feature for spec in CALLS} <= {"", *FEATURES}
    named = {spec.name for spec in NEGOTIATED if spec.feature == ROSTER}
    assert named >= {"join", "roster", "invite_bucket"}


def test_what_is_new_in_this_version_needs_the_ledger():
    assert all(spec.feature == LEDGER for spec in CALLS if spec.number > 32)


@pytest.mark.parametrize("older", ["dialler", "accepter"])
@pytest.mark.parametrize("spec", NEGOTIATED, ids=lambda spec: spec.name)
def test_a_call_that_is_not_agreed_on_is_unknown_on_both_sides(spec, older):
    ours = dialler(**OLD if older == "dialler" else {})
    theirs = accepter(**OLD if older == "accepter" else {})
    meet(ours, theirs)
    with pytest.raises(UnknownCallError):
        ours.send_request(full(spec.request), 1000)
    assert ours.in_flight == 0
    newer, heard = dialler(), theirs
    newer._handshake.features = frozenset(FEATURES)  # one that keeps no such rule
    newer.state, newer._last_id = State.OPEN, 0
    (event,) = feed(heard, wire(newer.send_request(full(spec.request), DEADLINE_MS_MAX)[1]))
    assert isinstance(event, i.RequestMalformed)
    assert isinstance(event.error, UnknownCallError)
    assert heard.state is State.OPEN


@pytest.mark.parametrize("spec", NEGOTIATED, ids=lambda spec: spec.name)
def test_a_call_that_is_agreed_on_goes_through(spec: CallSpec):
    ours, theirs = dialler(), accepter()
    meet(ours, theirs)
    (event,) = feed(theirs, wire(ours.send_request(full(spec.request), 1000)[1]))
    assert isinstance(event, i.RequestReceived)
    assert event.spec is spec


@pytest.mark.parametrize("ours", [FEATURES, ()], ids=["agreed", "not agreed"])
async def test_a_service_knows_what_its_callers_link_agreed_on(ours):
    async with served() as cluster:
        async with cluster.link(limits=replace(LIMITS, features=ours)) as link:
            await link.call(READ)
        assert link.version == PROTOCOL_MAX
        assert link.features == frozenset(ours)
        ((caller, _, _),) = cluster.service.asked
        assert caller.features == link.features
