"""The semantics layer: well-formed frames that ask for what must not be had."""

from __future__ import annotations

from random import Random
from typing import Final

from ostnode.errors import OstError
from ostnode.fuzz.cases import Case, Layer, Send, Step
from ostnode.fuzz.making.material import (
    INTERESTING,
    Material,
    anybody,
    opened,
    request,
    somewhere,
)
from ostnode.fuzz.making.messages import any_call, bad_message, good_message, overstepping
from ostnode.fuzz.world import BEGUN, STORED, pieces_of
from ostnode.wire import messages as m
from ostnode.wire.calls import CALLS, CallSpec, Kind, call_of

_ASKS_MAX: Final = 6
_BODIES: Final = (b"", b"x", b"x" * 15, b"x" * 16, b"x" * 17, b"x" * 4096)


def make(rng: Random, material: Material) -> Case:
    """Calls of the wrong people, about the wrong things, with numbers at the edges."""
    maker = rng.choice(_MAKERS)
    name, steps = maker(rng, material)
    return Case(name, Layer.SEMANTICS, tuple(steps))


def _calls(rng: Random, material: Material) -> tuple[str, list[Step]]:
    who, to = anybody(rng), somewhere(rng)
    steps = opened(0, who, to)
    for number in range(1, rng.randint(2, _ASKS_MAX + 1)):
        steps.append(Send(0, _ask(rng, number, any_call(rng), material)))
    return f"{who} asks the {to}", steps


def _bounds(rng: Random, material: Material) -> tuple[str, list[Step]]:
    """Messages with one bound overstepped by one."""
    to = somewhere(rng)
    steps = opened(0, anybody(rng), to)
    for number in range(1, 9):
        call = rng.choice([call for call in CALLS if call.role.value == to])
        message = overstepping(rng, call, material)
        try:
            steps.append(Send(0, request(number, call.number, message)))
        except OstError:  # it is over the limits of an encoding besides
            continue
    return "bounds overstepped by one", steps


def _one_call_by_everybody(rng: Random, material: Material) -> tuple[str, list[Step]]:
    """The same message on links of different people."""
    call = rng.choice(CALLS)
    to = "index" if call.role is Kind.INDEX else "bucket"
    message = good_message(rng, call.request, material)
    steps: list[Step] = []
    for link, who in enumerate(("mallory", "alice", "rival")):
        steps += [*opened(link, who, to), Send(link, request(1, call.number, message))]
    return f"{call.name} by everybody", steps


def _ask(rng: Random, number: int, call: CallSpec, material: Material) -> bytes:
    make_one = bad_message if rng.random() < 0.4 else good_message  # noqa: PLR2004
    message = make_one(rng, call.request, material)
    body = rng.choice(_BODIES) if call.carries == "request" or rng.random() < 0.05 else b""  # noqa: PLR2004
    try:
        return request(number, call.number, message, body)
    except OstError:  # over the limits of an encoding: the CBOR layer makes such
        return request(number, call.number, {}, body)


def _upload(rng: Random, material: Material) -> tuple[str, list[Step]]:
    """Chunks of the upload that was begun: overlapping, too many, too long, of another grant."""
    steps = opened(0, rng.choice(("alice", "alice", "bob")), "bucket")
    chunks = pieces_of(BEGUN)
    push = call_of(m.PushChunk).number
    for number in range(1, len(chunks) + 3):
        index = rng.choice([*range(len(chunks) + 1), *INTERESTING[:-3]])
        index = min(index, (1 << 32) - 1)
        body = chunks[index] if index < len(chunks) else b"x" * 16
        body = rng.choice((body, body, body, body[:-1], body + b"x"))
        general = bytes(material.cast.principal("general"))
        # The grants are in the order of the history: the second is the open one.
        grant = rng.choice((material.grants[1], material.grants[1], *material.grants))
        message = {
            "grant": bytes(grant),
            "chunk_index": index,
            "accessors": [general],
            "ref_id": b"\x01",
            "content_type": "",
            "expires_at": 0,
        }
        steps.append(Send(0, request(number, push, message, body)))
    return "chunks that do not fit", steps


def _reads(rng: Random, material: Material) -> tuple[str, list[Step]]:
    """Reads at offsets that overflow, with tokens of others."""
    who = anybody(rng)
    steps = opened(0, who, "bucket")
    read = call_of(m.ReadBlob).number
    for number in range(1, 5):
        message = {
            "accessor": bytes(material.cast.principal(rng.choice(("general", "alice", "random")))),
            "blob_id": bytes(material.blobs[0]),
            "offset": rng.choice([0, 1, len(STORED) - 1, len(STORED), *INTERESTING[:20]]),
            "length": rng.choice((0, 1, 16, len(STORED), 1 << 20)),
            "token": bytes(rng.choice(material.tokens)) if rng.random() < 0.6 else b"",  # noqa: PLR2004
        }
        steps.append(Send(0, request(number, read, message)))
    return f"{who} reads", steps


def _quota(rng: Random, _material: Material) -> tuple[str, list[Step]]:
    """Allocations around the limit, many at once."""
    steps = opened(0, rng.choice(("alice", "bob", "carol")), "index")
    allocate = call_of(m.Allocate).number
    sizes = (0, 1, 2048, 3900, 3998, 3999, 4000, 4050, 4051, 4052, 4096, 4097, (1 << 63) - 1)
    data = b"".join(
        request(number, allocate, {"blob_id": rng.randbytes(32), "size": rng.choice(sizes)})
        for number in range(1, rng.randint(3, 12))
    )
    steps.append(Send(0, data))
    return "allocations around the limit", steps


_MAKERS: Final = (
    _calls,
    _calls,
    _bounds,
    _bounds,
    _one_call_by_everybody,
    _upload,
    _reads,
    _quota,
)
