"""The bytes layer: lying lengths, cut frames, dribbled bytes, frames glued together."""

from __future__ import annotations

from random import Random
from typing import Final

from ostnode.codec import encode
from ostnode.fuzz.cases import Case, Finish, Layer, Pause, Reset, Send, Step
from ostnode.fuzz.links import frame
from ostnode.fuzz.making.material import Material, anybody, opened, request, somewhere
from ostnode.fuzz.making.messages import any_call, good_message
from ostnode.fuzz.spec import BODY_MAX, GREETING_HEADER_MAX, HEADER_MAX, PING
from ostnode.wire import messages as m
from ostnode.wire.calls import call_of
from ostnode.wire.frames import PREFIX

_FILLER_MAX: Final = 8


def make(rng: Random, material: Material) -> Case:
    """A stream that is wrong as bytes, whatever it says."""
    maker = rng.choice((_lies, _lies, _flipped, _flipped, _dribbled, _glued, _full, _cut))
    name, steps = maker(rng, material)
    return Case(name, Layer.BYTES, tuple(steps))


def good_frames(rng: Random, material: Material, count: int) -> list[bytes]:
    """Requests and pings that fit."""
    frames = []
    for number in range(1, count + 1):
        call = any_call(rng)
        body = b"x" * 16 if call.carries == "request" else b""
        frames.append(request(number, call.number, good_message(rng, call.request, material), body))
        if rng.random() < 0.3:  # noqa: PLR2004
            frames.append(ping(number))
    return frames


def ping(token: int) -> bytes:
    """A PING."""
    return frame(encode({"t": PING, "token": token}))


def _lies(rng: Random, _material: Material) -> tuple[str, list[Step]]:
    """Prefixes that promise what does not come, at the limits and far above."""
    edges = (0, 1, GREETING_HEADER_MAX, HEADER_MAX, BODY_MAX, 1 << 31, (1 << 32) - 1)
    lengths = [
        max(0, min((1 << 32) - 1, rng.choice(edges) + rng.choice((-1, 0, 0, 1)))) for _ in range(2)
    ]
    lie = PREFIX.pack(lengths[0], rng.choice((0, lengths[1]))) + rng.randbytes(_FILLER_MAX)
    to = somewhere(rng)
    steps: list[Step] = opened(0, anybody(rng), to)
    if rng.random() < 0.4:  # noqa: PLR2004
        steps = steps[:1]
    elif rng.random() < 0.5:  # noqa: PLR2004
        steps = steps[:2]
    return "a lying prefix", [*steps, Send(0, lie), Pause(rng.choice((0.0, 1.0, 12.0, 70.0)))]


def _flipped(rng: Random, material: Material) -> tuple[str, list[Step]]:
    data = bytearray(b"".join(good_frames(rng, material, rng.randint(1, 4))))
    for _ in range(rng.randint(1, 4)):
        scramble(rng, data)
    return "flipped bytes", [*opened(0, anybody(rng), somewhere(rng)), Send(0, bytes(data))]


def _dribbled(rng: Random, material: Material) -> tuple[str, list[Step]]:
    data = b"".join(good_frames(rng, material, 1))
    cuts = tuple(sorted(rng.sample(range(1, len(data)), min(len(data) - 1, rng.randint(1, 12)))))
    gap = rng.choice((0.0, 0.1, 1.0, 4.0))
    return "dribbled bytes", [
        *opened(0, anybody(rng), somewhere(rng)),
        Send(0, data, cuts=cuts, gap=gap),
    ]


def _glued(rng: Random, material: Material) -> tuple[str, list[Step]]:
    data = b"".join(good_frames(rng, material, rng.randint(4, 30)))
    ending: list[Step] = [rng.choice((Finish(0), Reset(0), Pause(0.0)))]
    return "glued frames", [*opened(0, anybody(rng), somewhere(rng)), Send(0, data), *ending]


def _cut(rng: Random, material: Material) -> tuple[str, list[Step]]:
    data = b"".join(good_frames(rng, material, 2))
    data = data[: rng.randrange(len(data))]
    ending = rng.choice((Finish(0), Reset(0), Pause(5.0), Pause(65.0)))
    return "a frame cut short", [
        *opened(0, anybody(rng), somewhere(rng)),
        Send(0, data),
        ending,
    ]


def _full(rng: Random, _material: Material) -> tuple[str, list[Step]]:
    """Headers and bodies of exactly the limits, or one more; the message is nonsense."""
    steps = opened(0, anybody(rng), "bucket")
    if rng.random() < 0.5:  # noqa: PLR2004
        size = HEADER_MAX + rng.choice((-1, 0, 1))
        header = full_header(size)
        return "a full header", [*steps, Send(0, frame(header))]
    push = call_of(m.PushChunk).number
    size = BODY_MAX + rng.choice((-1, 0, 1))
    header = encode({"t": 4, "id": 1, "call": push, "ms": 5000, "m": {}})
    return "a full body", [*steps, Send(0, PREFIX.pack(len(header), size) + header, zeros=size)]


def full_header(size: int) -> bytes:
    """A REQUEST's header of exactly so many bytes, from 1 KiB up; its message is nonsense.

    Put together by hand: the codec refuses to make one over the limit.
    """
    bare = encode({"m": b"", "t": 4, "id": 1, "ms": 5000, "call": 13})
    at = bare.index(b"am") + 2
    length = size - len(bare) - 2  # a byte string's head takes three bytes here instead of one
    head = b"\x59" + length.to_bytes(2, "big")
    return bare[:at] + head + bytes(length) + bare[at + 1 :]


def scramble(rng: Random, data: bytearray) -> None:
    """One small damage: a byte, a run, a length."""
    at = rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0:
            data[at : at + 1] = rng.randbytes(1)
        case 1 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 2:
            data[at:at] = rng.randbytes(rng.randint(1, 4))
        case 3:
            del data[at : at + rng.randint(1, 8)]
        case 4:
            data[at : at + 4] = rng.choice((0, 1, 1 << 16, (1 << 32) - 1)).to_bytes(4, "big")
        case _:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + rng.randint(1, 32)]
