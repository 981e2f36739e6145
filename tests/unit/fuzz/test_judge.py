"""The judge, told of conversations with nodes that do wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ostnode.codec import encode
from ostnode.fuzz import spec
from ostnode.fuzz.cast import Cast
from ostnode.fuzz.judge import Channel, Judge
from ostnode.fuzz.links import frame
from ostnode.fuzz.making.bytewise import ping
from ostnode.fuzz.making.material import request
from ostnode.fuzz.requests import Asking
from ostnode.wire import session as s
from ostnode.wire.calls import Kind
from ostnode.wire.schema import to_map

CAST = Cast()


def hello(who: str) -> bytes:
    message = s.Hello(1, 2, CAST.principal(who), bytes(32), 2, 1 << 23, s.FEATURES)
    return encode({"t": spec.HELLO, **to_map(message)})


def a_judge(who: str = "alice") -> Judge:
    return Judge(Channel(Kind.INDEX, Asking(CAST), b"", slack_s=1, dialled_at=0))


def say(judge: Judge, fields: dict[str, object], at: float = 0) -> None:
    judge.heard(frame(encode(fields)), at)


def prove(judge: Judge, who: str, signer: str = "", side: str = "dialler") -> None:
    judge.sent(frame(hello(who)), 0)
    judge.heard(frame(hello("index")), 0)
    statement = spec.statement(side, hello(who), hello("index"), b"")
    signature = CAST.key(signer or who).sign(statement)
    judge.sent(frame(encode({"t": spec.AUTH, "signature": signature})), 0)


def welcome(judge: Judge, who: str) -> None:
    statement = spec.statement("accepter", hello(who), hello("index"), b"")
    say(judge, {"t": spec.WELCOME, "signature": CAST.key("index").sign(statement)})


def opened(who: str = "alice") -> Judge:
    judge = a_judge()
    prove(judge, who)
    welcome(judge, who)
    assert judge.state == "open"
    assert judge.problems == []
    return judge


def test_an_honest_conversation_has_no_problems() -> None:
    judge = opened()
    judge.sent(ping(3) + request(1, 99, {}), 1)
    assert set(judge.dues()) == {"a PONG", "an answer to an unknown call"}
    say(judge, {"t": spec.PONG, "token": 3}, 1)
    refusal = {"t": spec.REFUSAL, "id": 1, "code": "unknown_call", "message": "", "details": {}}
    say(judge, refusal, 1)
    assert judge.dues() == {}
    judge.channel.finished_at = 2
    assert judge.dues()
    judge.ended(2.5)
    judge.overdue(99)
    judge.overrun()
    assert judge.problems == []


@pytest.mark.parametrize("forgery", [{"signer": "bob"}, {"side": "accepter"}])
def test_b47_a_welcome_for_a_false_proof_is_a_problem(forgery: dict[str, str]) -> None:
    judge = a_judge()
    prove(judge, "alice", **forgery)
    assert judge.violation == "the proof is wrong"
    welcome(judge, "alice")
    assert "the node welcomed a peer that proved nothing" in judge.problems


def _twice(judge: Judge) -> None:
    judge.sent(request(1, 2, {}), 1)
    for _ in range(2):
        say(judge, {"t": spec.REFUSAL, "id": 1, "code": "busy", "message": ""}, 1)


def _unasked_pong(judge: Judge) -> None:
    say(judge, {"t": spec.PONG, "token": 3})


def _internal(judge: Judge) -> None:
    judge.sent(request(1, 2, {}), 1)
    say(judge, {"t": spec.REFUSAL, "id": 1, "code": "internal", "message": ""}, 1)


def _allowed(judge: Judge) -> None:
    judge.sent(request(1, 4, {"principal": bytes(32), "blocked": True}), 1)
    say(judge, {"t": spec.REPLY, "id": 1, "m": {}}, 1)


def _misshapen(judge: Judge) -> None:
    judge.sent(request(1, 2, {}), 1)
    say(judge, {"t": spec.REPLY, "id": 1, "m": {}}, 1)


def _other_reason(judge: Judge) -> None:
    judge.sent(request(1, 2, {"zz": 1}), 1)
    say(judge, {"t": spec.REFUSAL, "id": 1, "code": "not_found", "message": ""}, 1)


def _false_goaway(judge: Judge) -> None:
    say(judge, {"t": spec.GOAWAY, "code": "invalid_argument", "message": "no"}, 1)


def _cut_off(judge: Judge) -> None:
    judge.ended(1)


def _wordless(judge: Judge) -> None:
    judge.sent(b"\xff" * 8, 1)
    judge.ended(1)


def _sloppy(judge: Judge) -> None:
    judge.heard(frame(b"\xbf\xff"), 1)


def _unlimited(judge: Judge) -> None:
    judge.heard(b"\xff" * 8, 1)


def _overrun(judge: Judge) -> None:
    judge.sent(b"".join(request(number, 2, {}) for number in (1, 2, 3)), 1)
    judge.overrun()


def _held(judge: Judge) -> None:
    judge.sent(b"\x00\x00\x00", 1)
    judge.overdue(1 + spec.STALLED_WITHIN_S + 2)


@pytest.mark.parametrize(
    ("does", "told"),
    [
        (_twice, "or twice"),
        (_unasked_pong, "nobody asked for"),
        (_internal, "failed inside the node"),
        (_allowed, "must refuse"),
        (_misshapen, "not of its shape"),
        (_other_reason, "not because"),
        (_false_goaway, "refused what the protocol allows"),
        (_cut_off, "though nothing was wrong"),
        (_wordless, "without saying why"),
        (_sloppy, "no strict CBOR"),
        (_unlimited, "over the limits"),
        (_overrun, "more requests than its window"),
        (_held, "a stalled link"),
    ],
)
def test_b47_what_a_node_does_wrong_is_told(does: Callable[[Judge], None], told: str) -> None:
    judge = opened()
    does(judge)
    assert any(told in problem for problem in judge.problems), judge.problems


@pytest.mark.parametrize(
    ("at", "problems"),
    [(8, ["the node closed without saying why: the header is no strict CBOR map"]), (10, [])],
)
def test_a_handshake_may_end_before_its_last_bytes_are_read(at: float, problems: list[str]) -> None:
    judge = a_judge()
    judge.sent(frame(hello("alice")) + frame(b"\xff")[:-1], 0)
    judge.sent(b"\xff", at)
    judge.ended(at)
    assert judge.problems == problems


def test_a_link_may_stall_before_its_last_bytes_are_read() -> None:
    judge = opened()
    judge.sent(frame(b"\xff")[:-1], 0)
    judge.sent(b"\xff", spec.STALL_S)
    judge.ended(spec.STALL_S)
    assert judge.problems == []


@pytest.mark.parametrize(
    ("data", "violation"),
    [
        (b"\x00\x01\x00\x01" + bytes(4), "the frame is over its limits"),
        (b"\x00\x00\x00\x01\x00\x10\x10\x01", "the frame is over its limits"),
        (frame(b"\xa0"), "the frame is unknown or out of place"),
        (frame(encode({"t": True})), "the frame is unknown or out of place"),
        (frame(encode({"t": spec.PING, "token": 1}), b"x"), "the frame carries no body"),
        (frame(encode({"t": spec.PING})), "the frame is malformed"),
        (frame(hello("bob")), "the frame is unknown or out of place"),
        (request(0, 2, {}), "request ids must rise"),
        (request(1, 2, {}, ms=600_001), "the request's head is malformed"),
    ],
)
def test_what_ends_a_link_is_known(data: bytes, violation: str) -> None:
    judge = opened()
    judge.sent(data, 1)
    assert judge.violation == violation
    assert list(judge.dues()) == [f"the end of the link ({violation})"]


def test_frames_at_the_limits_are_no_violation() -> None:
    judge = opened()
    judge.sent(b"\x00\x01\x00\x00\x00\x10\x10\x00", 1)
    assert judge.violation == ""
