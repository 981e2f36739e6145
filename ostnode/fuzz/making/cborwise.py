"""The CBOR layer: true frames around encodings that are not strict."""

from __future__ import annotations

from random import Random

from ostnode.fuzz.cases import Case, Dial, Layer, Send, Step
from ostnode.fuzz.links import NONCE, frame
from ostnode.fuzz.making.bytewise import full_header
from ostnode.fuzz.making.material import (
    MS,
    Material,
    anybody,
    opened,
    request_map,
    somewhere,
)
from ostnode.fuzz.making.messages import any_call, good_message
from ostnode.fuzz.making.rawcbor import plain, with_quirk
from ostnode.fuzz.spec import AUTH, CANCEL, GOAWAY, HEADER_MAX, HELLO, PING
from ostnode.fuzz.strictcbor import DEPTH_MAX, ITEMS_MAX
from ostnode.wire import session as s


def make(rng: Random, material: Material) -> Case:
    """One header with a quirk, before, within or after the handshake."""
    if rng.random() < 0.2:  # noqa: PLR2004
        return _in_handshake(rng, material)
    if rng.random() < 0.2:  # noqa: PLR2004
        return _edges(rng)
    steps: list[Step] = opened(0, anybody(rng), somewhere(rng))
    name = ""
    for number in range(1, rng.randint(2, 4)):
        quirk, header = with_quirk(rng, _header(rng, number, material))
        name = name or quirk
        trailing = rng.randbytes(rng.randint(1, 3)) if rng.random() < 0.05 else b""  # noqa: PLR2004
        steps.append(Send(0, frame(header + trailing)))
    return Case(f"{name} in a header", Layer.CBOR, tuple(steps))


def _edges(rng: Random) -> Case:
    """A good header whose message is nonsense: exactly as deep or as large as may be, or more."""
    steps: list[Step] = opened(0, anybody(rng), somewhere(rng))
    nothing: list[object] = []
    for number in range(1, 4):
        more = rng.choice((-1, 0, 0, 1, 1))
        if rng.random() < 0.3:  # noqa: PLR2004
            steps.append(Send(0, frame(full_header(HEADER_MAX + more))))
            break
        message = nothing
        if rng.random() < 0.5:  # noqa: PLR2004
            # The header itself is one level, and so is the list within.
            for _ in range(DEPTH_MAX - 2 + more):
                message = [message]
        else:
            entries = len(request_map(number, 1, None))
            filler = rng.choice((0, b"x" * 14, nothing))
            message = [filler] * (ITEMS_MAX - entries + more)
        steps.append(Send(0, frame(plain(request_map(number, 2, message, MS)))))
    return Case("edges of a header", Layer.CBOR, tuple(steps))


def _header(rng: Random, number: int, material: Material) -> dict[str, object]:
    if rng.random() < 0.8:  # noqa: PLR2004
        call = any_call(rng)
        return request_map(number, call.number, good_message(rng, call.request, material), MS)
    others: tuple[dict[str, object], ...] = (
        {"t": PING, "token": number},
        {"t": CANCEL, "id": number},
        {"t": GOAWAY, "code": "busy", "message": "bye"},
    )
    return rng.choice(others)


def _in_handshake(rng: Random, material: Material) -> Case:
    hello: dict[str, object] = {
        "t": HELLO,
        "protocol_min": s.PROTOCOL_MIN,
        "protocol_max": s.PROTOCOL_MAX,
        "principal": bytes(material.cast.principal("alice")),
        "nonce": NONCE,
        "window_requests": 32,
        "window_bytes": 1 << 23,
        "features": list(s.FEATURES),
    }
    if rng.random() < 0.5:  # noqa: PLR2004
        quirk, header = with_quirk(rng, hello)
        steps: list[Step] = [Dial(0, somewhere(rng)), Send(0, frame(header))]
    else:
        quirk, header = with_quirk(rng, {"t": AUTH, "signature": bytes(64)})
        steps = [
            Dial(0, somewhere(rng)),
            Send(0, frame(plain(hello))),
            Send(0, frame(header)),
        ]
    return Case(f"{quirk} in the handshake", Layer.CBOR, tuple(steps))
