"""Events of the feed and the outbox as bytes: a message's map plus its `kind`.

The kind is the class's name in snake_case. Each event is encoded on its own, so that a malformed
one can be set aside without losing the batch around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from types import UnionType
from typing import Final, get_args

from ostnode.codec import CBOR_BYTES_MAX, decode, encoded_text
from ostnode.errors import InvalidArgumentError
from ostnode.wire.fields import BATCH_ITEMS_MAX, Message
from ostnode.wire.schema import encode_message, from_map

EVENTS_BYTES_MAX: Final = CBOR_BYTES_MAX * 3 // 4
"""Of one batch: the rest of a frame's header is left for the fields around the events."""
_EVENT_HEAD_BYTES_MAX: Final = 3


def encode_event(event: Message) -> bytes:
    """The event as strict CBOR with its kind; raises InvalidArgumentError for one out of bounds."""
    return encode_message(event, {"kind": encoded_text(_kind(type(event)))})


def decode_event(data: bytes, union: type[Message] | UnionType) -> Message:
    """An event of one of the union's classes; raises InvalidArgumentError for anything else."""
    value = decode(data)
    if not isinstance(value, dict):
        raise InvalidArgumentError("an event is a map")
    kind = value.pop("kind", None)
    cls = _kinds(union).get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise InvalidArgumentError(f"unknown kind of event: {str(kind)[:64]}")
    return from_map(cls, value)


def fitting(events: Iterable[bytes]) -> tuple[bytes, ...]:
    """The longest run from the front that fits one batch, in number and in bytes."""
    batch: list[bytes] = []
    room = EVENTS_BYTES_MAX
    for event in events:
        room -= len(event) + _EVENT_HEAD_BYTES_MAX
        if room < 0 or len(batch) == BATCH_ITEMS_MAX:
            break
        batch.append(event)
    return tuple(batch)


_KINDS: Final[dict[object, Mapping[str, type[Message]]]] = {}


def _kinds(union: type[Message] | UnionType) -> Mapping[str, type[Message]]:
    kinds = _KINDS.get(union)
    if kinds is None:
        kinds = _KINDS[union] = {_kind(cls): cls for cls in get_args(union) or (union,)}
    return kinds


def _kind(cls: type[Message]) -> str:
    return _snake_case(cls.__name__)


@cache
def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
