"""A session that an older version held is understood today, and answered in its own bytes.

When a test here fails, what crosses the wire has changed: older nodes would be misread or would
not read us. A change that they must not see belongs behind a feature or a newer version.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from ostnode.codec import decode
from ostnode.wire import events
from ostnode.wire import incoming as i
from ostnode.wire import session as s
from ostnode.wire.connection import Connection
from ostnode.wire.eventcodec import decode_event, encode_event
from ostnode.wire.frames import PREFIX
from ostnode.wire.session import FrameKind
from tests.compat.write_transcript import path_of
from tests.support.transcripts import said_again, shown
from tests.support.wire_peers import accepter, dialler, feed

OLDER = range(s.PROTOCOL_MIN, s.PROTOCOL_MAX)
CALLS_OF = {1: 23}
"""How many calls a version has."""
MAKE = {"dialler": dialler, "accepter": accepter}
OTHER = {"dialler": "accepter", "accepter": "dialler"}
EVENTS_OF = {
    1: {
        "Completed",
        "GrantClosed",
        "Released",
        "FloorRaised",
        "UserChanged",
        "AccessorDeleted",
        "PrincipalBlocked",
        "GrantRevoked",
    }
}


@dataclass
class Line:
    """What one side said, and what it meant to the other."""

    speaker: str
    frame: bytes
    means: dict


def recording(version: int) -> list[Line]:
    rows = json.loads(path_of(version).read_text())
    return [Line(row["from"], bytes.fromhex(row["frame"]), row["means"]) for row in rows]


def as_recorded(said: list[Line]) -> dict[str, Connection]:
    """Both ends as they were: their hellos say what the recorded ones do."""
    ends = {}
    for line in said[:2]:
        fields = dict(line.means["hello"]["Hello"])
        del fields["principal"], fields["nonce"]  # the keys of tests, and their seeds
        fields["features"] = tuple(fields["features"])
        ends[line.speaker] = MAKE[line.speaker](**fields)
    return ends


def as_then(now: Any, then: object) -> object:
    """What is meant now without the fields that came later and are left out here."""
    if not isinstance(now, dict) or not isinstance(then, dict):
        return now
    return {
        name: as_then(value, then.get(name))
        for name, value in now.items()
        if name in then or value is not None
    }


def replay(said: list[Line]) -> list[i.Event]:
    """What each recorded frame means today; each is what today's code says for that."""
    ends, heard = as_recorded(said), []
    for line in said:
        # The speaker's end is moved on first, or it would not know what it is answered.
        (event,) = feed(ends[OTHER[line.speaker]], line.frame)
        assert as_then(shown(event), line.means) == line.means
        assert said_again(ends[line.speaker], event) == line.frame
        heard.append(event)
    return heard


@pytest.mark.parametrize("version", OLDER)
def test_a_recorded_session_means_what_it_meant_and_is_said_alike(version: int) -> None:
    assert len(replay(recording(version))) > 2 * CALLS_OF[version]


@pytest.mark.parametrize("newer", ["dialler", "accepter"])
@pytest.mark.parametrize("version", OLDER)
def test_a_node_of_today_holds_the_session_that_an_older_one_held(version: int, newer: str) -> None:
    """One end is of today, the other as it was; both say what was said, the proofs apart."""
    said = recording(version)
    ends = as_recorded(said)
    ends[newer] = MAKE[newer]()
    for line, meant in zip(said, replay(said), strict=True):
        frame = said_again(ends[line.speaker], meant)
        heard = feed(ends[OTHER[line.speaker]], frame)
        if isinstance(meant, i.Greeted) and line.speaker == newer:
            assert heard[0].hello.protocol_max == s.PROTOCOL_MAX
        else:
            assert [as_then(shown(event), line.means) for event in heard] == [line.means]
            # A proof signs the newer node's hello with the rest.
            assert isinstance(meant, i.Proven) or frame == line.frame
    for end in ends.values():
        assert end.version == version
        assert end.features == frozenset()


def test_the_recording_covers_its_version() -> None:
    for version in OLDER:
        said = recording(version)
        kinds = {decode(line.frame[PREFIX.size :][: PREFIX.unpack_from(line.frame)[0]])["t"]
                 for line in said}  # fmt: skip
        assert kinds == set(FrameKind)
        asked = [line.means["call"] for line in said if line.means["event"] == "request"]
        assert len(set(asked)) == CALLS_OF[version]
        assert {line.means["event"] for line in said} >= {"reply", "refusal", "goaway", "cancel"}


@pytest.mark.parametrize("version", OLDER)
def test_the_events_in_a_recorded_session_are_read_and_written_alike(version: int) -> None:
    found = set()
    for line in recording(version):
        message = line.means.get("request") or line.means.get("result") or {}
        for cls, union in (("SyncBucket", events.OutboxEvent), ("FeedBatch", events.FeedEvent)):
            for data in map(bytes.fromhex, message.get(cls, {}).get("events", [])):
                event = decode_event(data, union)
                assert encode_event(event) == data
                found.add(type(event).__name__)
    assert found == EVENTS_OF[version]
