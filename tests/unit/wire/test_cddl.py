"""`ostwire.cddl` and the code say the same, and every message is what both of them take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostnode.codec import decode, encode
from ostnode.errors import InvalidArgumentError, OstError, all_errors
from ostnode.wire import events
from ostnode.wire import messages as m
from ostnode.wire import session as s
from ostnode.wire.calls import CALLS, CallSpec, Reply
from ostnode.wire.connection import Outgoing
from ostnode.wire.eventcodec import decode_event, encode_event
from ostnode.wire.fields import Message
from ostnode.wire.frames import PREFIX
from ostnode.wire.schema import decode_message, from_map, to_map
from ostnode.wire.session import FrameKind, Side
from tests.support.cddl import Choice, Entry, Group, Literal, MismatchError, Name, Validator, parse
from tests.support.cddlrules import (
    HEADS,
    IDS,
    NOTHING,
    Fields,
    call_groups,
    expected_maps,
    fields_in,
    load,
    rendered,
    rule_name,
    scalar_names,
    shape_in,
)
from tests.support.wire_peers import ALICE, BUCKET, accepter, dialler, feed, hello, open_pair, wire
from tests.support.wire_samples import (
    EVENTS,
    at_bounds,
    full,
    least,
    message_classes,
    messages,
    outside_bounds,
)

RULES = load()
VALIDATOR = Validator(RULES)
EXPECTED = expected_maps()
CLASSES = message_classes()
GROUPS_OF = {"request": ["any-request"], "reply": ["any-result"]}
NOT_CLASSES = {"error-details"}
"""Maps that no class stands for."""


# --- the file and the code ----------------------------------------------------------------------


def difference(name: str) -> str:
    """What to change so that a rule and its class agree; empty when they do."""
    source, fields = EXPECTED[name]
    groups = GROUPS_OF.get(name, [])
    wanted = rendered(name, fields, groups, scalar_names(RULES))
    if name not in RULES:
        return f"{source} has no rule. Add to ostwire.cddl:\n\n{wanted}\n"
    there, groups_there = fields_in(RULES, name)
    if name == "refusal":
        assert there.pop("details") == (True, NOTHING, ("rule", "error-details"))
    told = list(_differing(there, fields))
    if groups_there != groups:
        told.append(f"the groups are {groups_there}, not {groups}")
    if not told:
        return ""
    return (
        f"ostwire.cddl and {source} differ:\n  "
        + "\n  ".join(told)
        + f"\nThe code says:\n\n{wanted}\n\nChange the one that is wrong. A node of the version "
        "before must still be understood: see tests/compat/test_peer_transcript.py."
    )


def _differing(there: Fields, wanted: Fields) -> Iterator[str]:
    for field in wanted.keys() - there.keys():
        yield f"{field}: missing in the file"
    for field in there.keys() - wanted.keys():
        yield f"{field}: in the file alone"
    for field in there.keys() & wanted.keys():
        if there[field] != wanted[field]:
            yield f"{field}: {_told(there[field])} in the file, {_told(wanted[field])} in the code"
    if there.keys() == wanted.keys() and list(there) != list(wanted):
        yield f"the fields' order is {list(there)} in the file, {list(wanted)} in the code"


def _told(field: tuple[bool, object, tuple[object, ...]]) -> str:
    optional, default, shape = field
    tail = "" if default is NOTHING else f", {default!r} when absent"
    return f"{'optional' if optional else 'required'} {shape}{tail}"


@pytest.mark.parametrize("name", EXPECTED)
def test_every_message_and_frame_has_its_rule(name: str) -> None:
    told = difference(name)
    assert not told, told


def test_every_map_of_the_file_is_a_message_or_a_frame() -> None:
    maps = {name for name, rule in RULES.items() if type(rule).__name__ == "Map"}
    strange = maps - EXPECTED.keys() - NOT_CLASSES
    assert not strange, f"no class makes {sorted(strange)}: take the rules out, or add the classes"


@pytest.mark.parametrize("spec", CALLS, ids=lambda spec: spec.name)
def test_every_call_has_its_rules(spec: CallSpec) -> None:
    wanted = {
        f"{spec.name}.request": {"call": Literal(spec.number), "m": Name(rule_name(spec.request))},
        f"{spec.name}.result": {"m": Name(rule_name(spec.result))},
    }
    for name, fields in wanted.items():
        entries = tuple(Entry(1, 1, Literal(key), value) for key, value in fields.items())
        text = "\n".join(f"{key} = {value}" for key, value in call_groups(spec).items())
        assert RULES.get(name) == Group((entries,)), (
            f"call {spec.number} {spec.name} of ostnode/wire/calls.py needs in ostwire.cddl:\n\n"
            f"{text}\n"
        )


@pytest.mark.parametrize("side", ["request", "result"])
def test_the_lists_of_calls_are_those_of_the_registry(side: str) -> None:
    listed = RULES[f"any-{side}"]
    assert isinstance(listed, Group)
    names = [entry.value.name for (entry,) in listed.alternatives]  # type: ignore[union-attr]
    wanted = [f"{spec.name}.{side}" for spec in CALLS]
    assert names == wanted, f"any-{side} of ostwire.cddl must be, in order: {' // '.join(wanted)}"
    rules = {name for name in RULES if name.endswith(f".{side}")}
    assert rules == set(wanted), f"no call: {sorted(rules - set(wanted))}"


@pytest.mark.parametrize(
    ("rule", "union"), [("outbox-event", events.OutboxEvent), ("feed-event", events.FeedEvent)]
)
def test_the_lists_of_events_are_those_of_the_code(rule: str, union: object) -> None:
    wanted = Choice(tuple(Name(rule_name(cls)) for cls in get_args(union)))
    assert RULES[rule] == wanted, f"{rule} must be {' / '.join(o.name for o in wanted.options)}"


def test_the_rest_of_the_file_is_the_codes() -> None:
    codes = tuple(Literal(error.code) for error in all_errors())
    assert RULES["known-error"] == Choice(codes), "known-error is the table of ostnode/errors.py"
    for cls in IDS:
        assert RULES[rule_name(cls)] == load_type(f"bstr .size {cls.length}")
    assert RULES["frame"] == Choice(tuple(Name(kind.name.lower()) for kind in FrameKind))
    details = load_type(f"{{ 0*{s.DETAILS_MAX} tstr => detail }}")
    assert RULES["error-details"] == details
    assert shape_in(RULES, Name("message-text")) == ("text", 0, s.MESSAGE_CHARS_MAX)


def load_type(text: str):
    return parse(f"x = {text}\ndetail = any")["x"]


# --- values -------------------------------------------------------------------------------------


class CborTooLargeError(Exception):
    """A message within its own bounds is more than the codec takes."""


def as_rule_takes_it(message: Message) -> None:
    """Encoded, the message matches its rule, and comes back."""
    cls = type(message)
    if cls in EVENTS:
        union = events.OutboxEvent if cls in get_args(events.OutboxEvent) else events.FeedEvent
        data = encode_event(message)
        VALIDATOR.check_bytes(rule_name(cls), data)
        assert decode_event(data, union) == message
        return
    fields = to_map(message)
    try:
        data = encode(fields)
    except InvalidArgumentError as error:
        raise CborTooLargeError(error.message) from error
    VALIDATOR.check_bytes(rule_name(cls), data)
    assert decode_message(cls, data) == message


@given(st.sampled_from(CLASSES).flatmap(messages))
def test_any_message_matches_its_rule_and_comes_back(message: Message) -> None:
    as_rule_takes_it(message)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_messages_at_their_bounds_match_their_rules(cls: type[Message]) -> None:
    for message in (full(cls), least(cls), *at_bounds(cls)):
        # A list at its longest may be more than a header takes.
        with contextlib.suppress(CborTooLargeError):
            as_rule_takes_it(message)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_values_just_outside_are_refused_by_both(cls: type[Message]) -> None:
    rule = rule_name(cls)
    kind = {"kind": rule.replace("-", "_")} if cls in EVENTS else {}
    assert taken_by_the_rule(rule, decode(encode(to_map(least(cls)))) | kind)
    for what, value in outside_bounds(cls):
        assert not taken_by_the_rule(rule, value | kind), what
        assert not taken_by_the_code(cls, value), what


@given(st.sampled_from(CLASSES), st.data())
def test_what_one_takes_the_other_takes(cls: type[Message], data: st.DataObject) -> None:
    """A message with one field taken away, swapped or added: both judge alike."""
    value = decode(encode(to_map(data.draw(messages(cls)))))
    assert isinstance(value, dict)
    strange = st.sampled_from([None, True, 0, -1, 1 << 63, b"", b"x" * 32, "", "x" * 65, [], {}])
    name = data.draw(st.sampled_from([*value, "more"]))
    if name in value and data.draw(st.booleans()):
        del value[name]
    else:
        value[name] = data.draw(strange)
    rule = rule_name(cls)
    kind = {"kind": rule.replace("-", "_")} if cls in EVENTS else {}
    assert taken_by_the_rule(rule, value | kind) == taken_by_the_code(cls, value)


def taken_by_the_rule(rule: str, value: object) -> bool:
    try:
        VALIDATOR.check(rule, value)
    except MismatchError:
        return False
    return True


def taken_by_the_code(cls: type[Message], value: object) -> bool:
    try:
        from_map(cls, value)
    except InvalidArgumentError:
        return False
    return True


# --- frames -------------------------------------------------------------------------------------


def header_of(outgoing: Outgoing) -> bytes:
    return outgoing[0][PREFIX.size :]


def check_frame(kind: FrameKind, outgoing: Outgoing) -> None:
    """The frame matches the rule of its kind, and no other's."""
    VALIDATOR.check_bytes("frame", header_of(outgoing))
    for other in FrameKind:
        fits = taken_by_the_rule(other.name.lower(), decode(header_of(outgoing)))
        assert fits == (other is kind)


def test_the_frames_of_the_handshake_match_their_rules() -> None:
    ours, theirs = dialler(), accepter()
    said = [(ours, theirs, ours.send_hello), (theirs, ours, theirs.send_hello)]
    said += [(ours, theirs, ours.send_proof), (theirs, ours, theirs.send_proof)]
    kinds = [FrameKind.HELLO, FrameKind.HELLO, FrameKind.AUTH, FrameKind.WELCOME]
    for kind, (_, listener, say) in zip(kinds, said, strict=True):
        outgoing = say()
        check_frame(kind, outgoing)
        feed(listener, wire(outgoing))


@pytest.mark.parametrize("spec", CALLS, ids=lambda spec: spec.name)
def test_requests_and_replies_match_their_rules(spec: CallSpec) -> None:
    ours, theirs = open_pair()
    request_id, outgoing = ours.send_request(full(spec.request), 1)
    check_frame(FrameKind.REQUEST, outgoing)
    feed(theirs, wire(outgoing))
    check_frame(FrameKind.REPLY, theirs.send_reply(request_id, Reply(full(spec.result))))


def test_a_call_number_goes_with_its_own_message_alone() -> None:
    head = {"t": 4, "id": 1, "ms": 1}
    for spec in CALLS:
        for other in CALLS:
            header = {**head, "call": spec.number, "m": to_map(full(other.request))}
            fits = taken_by_the_rule("request", decode(encode(header)))
            assert fits == taken_by_the_code(spec.request, decode(encode(header))["m"])


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.code)
def test_refusals_match_their_rule(error: type[OstError]) -> None:
    ours, theirs = open_pair()
    request_id, outgoing = ours.send_request(m.GetUser(), 1)
    feed(theirs, wire(outgoing))
    many = {f"d{n}": "é" * 5000 for n in range(100)}
    told = error("x" * 5000, number=1 << 64, low=-(1 << 63), yes=True, **many)
    outgoing = theirs.send_refusal(request_id, told)
    check_frame(FrameKind.REFUSAL, outgoing)
    VALIDATOR.check("known-error", error.code)


def test_the_other_frames_match_their_rules() -> None:
    ours, theirs = open_pair()
    for number in (0, (1 << 63) - 1):
        check_frame(FrameKind.CANCEL, ours.send_cancel(number))
        check_frame(FrameKind.PING, ours.send_ping(number))
        check_frame(FrameKind.PONG, theirs.send_pong(number))
    check_frame(FrameKind.GOAWAY, theirs.send_goaway(InvalidArgumentError("x" * 5000)))


@pytest.mark.parametrize("name", [kind.name.lower() for kind in FrameKind])
def test_heads_just_outside_are_refused_by_both(name: str) -> None:
    kind = FrameKind[name.upper()]
    head = HEADS[kind]
    more: dict[str, object] = {"t": kind.value}
    if kind in {FrameKind.REQUEST, FrameKind.REPLY}:
        more["m"] = {}

    def whole(value: dict[str, object]) -> dict[str, object]:
        # No call has the number 0.
        return value | more | ({"call": 2} if value.get("call") == 0 else {})

    assert taken_by_the_rule(name, whole(to_map(least(head))))
    for what, value in outside_bounds(head):
        assert not taken_by_the_code(head, value), what
        assert not taken_by_the_rule(name, whole(value)), what


@pytest.mark.parametrize("side", Side, ids=lambda side: side.name)
@pytest.mark.parametrize("binding", [b"", b"c" * 32], ids=["plain", "bound"])
def test_the_statement_of_a_proof_matches_its_rule(side: Side, binding: bytes) -> None:
    hellos = [encode({"t": 1, **to_map(hello(key))}) for key in (ALICE, BUCKET)]
    VALIDATOR.check_bytes("auth-statement", s.auth_statement(side, *hellos, binding))
