"""The session layer: frames in the wrong place, stolen proofs, overrun windows, storms."""

from __future__ import annotations

from random import Random
from typing import Final

from ostnode.codec import encode
from ostnode.fuzz.cases import (
    NO_BINDING,
    Case,
    Deaf,
    Dial,
    Finish,
    Greet,
    Layer,
    Listen,
    Pause,
    Prove,
    Reset,
    Send,
    Step,
)
from ostnode.fuzz.links import WINDOW_REQUESTS, frame
from ostnode.fuzz.making.bytewise import ping
from ostnode.fuzz.making.material import (
    INTERESTING,
    Material,
    anybody,
    opened,
    request,
    somewhere,
)
from ostnode.fuzz.making.messages import any_call, good_message
from ostnode.fuzz.spec import CANCEL, GOAWAY, PONG
from ostnode.fuzz.world import EPOCH
from ostnode.wire import messages as m
from ostnode.wire.calls import call_of
from ostnode.wire.checking import Compare
from ostnode.wire.session import FrameKind

_COMPARE: Final = call_of(Compare).number
_FEED: Final = call_of(m.Feed).number
_USER: Final = call_of(m.GetUser).number


def make(rng: Random, material: Material) -> Case:
    """A conversation that goes wrong as a conversation."""
    name, maker = rng.choice(_MAKERS)
    return Case(name, Layer.SESSION, tuple(maker(rng, material)))


def _out_of_order(rng: Random, material: Material) -> list[Step]:
    """Any frame in any state."""
    steps: list[Step] = opened(0, anybody(rng), somewhere(rng))[: rng.randint(1, 3)]
    headers = [encode(_any_header(rng, material)) for _ in range(rng.randint(1, 5))]
    return [*steps, *(Send(0, frame(header)) for header in headers)]


def _any_header(rng: Random, material: Material) -> dict[str, object]:
    kind = rng.choice([*FrameKind, 0, 11, 255])
    fields: dict[str, object] = {
        "signature": rng.randbytes(64),
        "id": rng.choice(INTERESTING[:-2]),
        "token": rng.randrange(200),
        "code": rng.choice(("busy", "internal", "shutting_down", "", "unauthenticated")),
        "message": "x",
    }
    names = {
        FrameKind.AUTH: ("signature",),
        FrameKind.WELCOME: ("signature",),
        FrameKind.REPLY: ("id",),
        FrameKind.REFUSAL: ("id", "code", "message"),
        FrameKind.CANCEL: ("id",),
        FrameKind.PING: ("token",),
        FrameKind.PONG: ("token",),
        FrameKind.GOAWAY: ("code", "message"),
    }.get(FrameKind(kind) if kind in set(FrameKind) else FrameKind.HELLO, ())
    header = {"t": int(kind)} | {name: fields[name] for name in names}
    if kind == FrameKind.REQUEST:
        call = any_call(rng)
        message = good_message(rng, call.request, material)
        header |= {"id": rng.randint(0, 9), "call": call.number, "ms": 5_000, "m": message}
    return header


def _forged(rng: Random, _material: Material) -> list[Step]:
    """A proof by another key, for another side, channel or link."""
    who, other = rng.sample(("alice", "bob", "mallory", "app"), 2)
    to = somewhere(rng)
    forgeries: tuple[Step, ...] = (
        Prove(1, other),
        Prove(1, who, over=0),
        Prove(1, who, side="accepter"),
        Prove(1, who, side="nobody"),
        Prove(1, who, binding="ab" * 32),
        Prove(1, who, binding=NO_BINDING),
    )
    steps = [*opened(0, who, to), Dial(1, to), Greet(1, who), rng.choice(forgeries)]
    return [*steps, Send(1, request(1, _USER, {}))]


def _proof_twice(rng: Random, _material: Material) -> list[Step]:
    """A good handshake, and more of it."""
    who = anybody(rng)
    more: tuple[Step, ...] = (Greet(0, who), Prove(0, who))
    return [*opened(0, who, somewhere(rng)), rng.choice(more), Send(0, request(1, _USER, {}))]


def _other_versions(rng: Random, _material: Material) -> list[Step]:
    """HELLOs of versions, windows and epochs at the edges."""
    names = ("protocol_min", "protocol_max", "window_requests", "window_bytes", "roster_epoch")
    changes = {rng.choice(names): rng.choice(INTERESTING) for _ in range(rng.randint(1, 2))}
    who = anybody(rng)
    return [
        Dial(0, somewhere(rng)),
        Greet(0, who, changes),
        Prove(0, who),
        Send(0, request(1, _USER, {})),
    ]


def _ids(rng: Random, _material: Material) -> list[Step]:
    """Request ids that do not rise, or jump."""
    ids = [rng.choice((0, 1, 1, 2, 3, 2, (1 << 63) - 1)) for _ in range(rng.randint(2, 5))]
    data = b"".join(request(number, _USER, {}) for number in ids)
    return [*opened(0, anybody(rng), "index"), Send(0, data)]


def _overrun(rng: Random, material: Material) -> list[Step]:
    """About as many questions that wait as the window takes."""
    count = WINDOW_REQUESTS + rng.choice((0, 1, 1, 2, 40))
    call, message = _waiting(rng, material)
    asks = b"".join(request(number, call, message) for number in range(1, count + 1))
    later = [Pause(5.0)]
    cancels = b"".join(_cancel(number) for number in range(1, rng.choice((1, 3, count + 1))))
    return [*opened(0, "bucket", "index"), Send(0, asks), *later, Send(0, cancels)]


def _waiting(rng: Random, material: Material) -> tuple[int, dict[str, object]]:
    """A bucket's call that waits, for there is no news. Of those to the feed only one does."""
    if rng.random() < 0.1:  # noqa: PLR2004
        return _FEED, {"incarnation": EPOCH * 1_000_000, "seq": material.cursor, "wait_ms": 60_000}
    zero = dict.fromkeys(("run", "incarnation", "index_incarnation", "position"), 0)
    return _COMPARE, {**zero, "part": "ask", "wait_ms": 60_000}


def _cancel(number: int) -> bytes:
    return frame(encode({"t": CANCEL, "id": number}))


def _storm(rng: Random, _material: Material) -> list[Step]:
    """Very many small frames, often while nobody reads the answers."""
    storms = (
        ping(7),
        _cancel(rng.choice((0, 1, 1 << 40))),
        frame(encode({"t": PONG, "token": 1})),
        ping(7) + _cancel(1),
    )
    steps: list[Step] = opened(0, anybody(rng), somewhere(rng))
    if rng.random() < 0.7:  # noqa: PLR2004
        steps.append(Deaf(0))
    steps.append(Send(0, rng.choice(storms), times=rng.choice((100, 4_000, 7_000))))
    return [*steps, Pause(rng.choice((0.0, 1.0, 45.0)))]


def _unread(rng: Random, _material: Material) -> list[Step]:
    """More PINGs than a node may keep PONGs for, and nobody reads."""
    steps: list[Step] = [*opened(0, anybody(rng), somewhere(rng)), Deaf(0)]
    return [*steps, Send(0, ping(7), times=rng.randint(4_000, 4_500)), Pause(1.0)]


def _deaf(rng: Random, material: Material) -> list[Step]:
    """Requests whose answers nobody reads, for a while."""
    to = somewhere(rng)
    steps: list[Step] = [*opened(0, anybody(rng), to), Deaf(0)]
    for number in range(1, rng.randint(4, 60)):
        call = any_call(rng)
        message = good_message(rng, call.request, material)
        steps.append(Send(0, request(number, call.number, message)))
    return [*steps, Pause(rng.choice((0.0, 2.0, 40.0, 100.0))), Listen(0)]


def _deadlines(rng: Random, material: Material) -> list[Step]:
    """Requests with hardly any time, or more than there is."""
    steps = opened(0, "bucket", "index")
    for number in range(1, 6):
        ms = rng.choice((0, 1, 2, 1_000, 600_000, 600_001))
        steps.append(Send(0, request(number, *_waiting(rng, material), ms=ms)))
        if rng.random() < 0.5:  # noqa: PLR2004
            steps.append(Send(0, _cancel(rng.randint(1, number))))
    return steps


def _goodbye(rng: Random, _material: Material) -> list[Step]:
    """GOAWAY in any state, with something after it."""
    code = rng.choice(("busy", "internal", "shutting_down", "no such code", "x" * 64))
    words = frame(encode({"t": GOAWAY, "code": code, "message": "x" * rng.choice((0, 500))}))
    steps: list[Step] = opened(0, anybody(rng), "index")[: rng.randint(1, 3)]
    return [*steps, Send(0, words), Send(0, request(1, _USER, {})), Pause(1.0)]


def _crowd(rng: Random, _material: Material) -> list[Step]:
    """Many links in every state, some cut, some ended, some left."""
    steps: list[Step] = []
    for link in range(rng.randint(3, 12)):
        steps += opened(link, anybody(rng), somewhere(rng))[: rng.randint(1, 3)]
        ending = rng.choice((None, Reset(link), Finish(link), Deaf(link)))
        if ending is not None:
            steps.append(ending)
    return [*steps, Pause(rng.choice((0.0, 9.0, 12.0, 50.0)))]


def _broken_off(rng: Random, material: Material) -> list[Step]:
    """Cut in the middle of requests in flight."""
    frames = []
    for number in range(1, rng.randint(2, 20)):
        call = any_call(rng)
        frames.append(request(number, call.number, good_message(rng, call.request, material)))
    ending: tuple[Step, ...] = (Reset(0), Finish(0), Deaf(0))
    return [
        *opened(0, anybody(rng), somewhere(rng)),
        Send(0, b"".join(frames)),
        rng.choice(ending),
        Pause(rng.choice((0.0, 1.0, 70.0))),
    ]


_MAKERS: Final = (
    ("frames out of order", _out_of_order),
    ("a forged proof", _forged),
    ("a forged proof", _forged),
    ("a second handshake", _proof_twice),
    ("other versions", _other_versions),
    ("request ids", _ids),
    ("window overrun", _overrun),
    ("a storm", _storm),
    ("unread pongs", _unread),
    ("a deaf peer", _deaf),
    ("deadlines", _deadlines),
    ("goodbyes", _goodbye),
    ("a crowd", _crowd),
    ("broken off", _broken_off),
)
