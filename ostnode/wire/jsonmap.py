"""Messages as JSON objects: what HTTP bodies and answers carry.

Driven by the dataclasses of `wire.messages`: field names are theirs, None is left out, unknown
fields are refused, limits are enforced. BlobId, Uid, GrantId and ClusterId are lower-case hex,
principals Bech32m text, other bytes base64url without padding (RFC 4648 §5), times integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import (
    Annotated,
    Final,
    TypeVar,
    TypeVarTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from ostnode.base64url import decode_base64url, encode_base64url
from ostnode.errors import InvalidArgumentError
from ostnode.ids import BlobId, ClusterId, GrantId, Principal, PrincipalKind, Uid
from ostnode.wire.fields import Bounds, Message

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
HexId = BlobId | Uid | GrantId | ClusterId
M = TypeVar("M", bound=Message)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_NO_BOUNDS: Final = Bounds(0, (1 << 63) - 1)

_PRINCIPAL_KINDS: Final[Mapping[str, PrincipalKind]] = {
    "principal": PrincipalKind.USER,
    "old": PrincipalKind.USER,
    "new": PrincipalKind.USER,
    "index": PrincipalKind.INDEX,
    "bucket": PrincipalKind.BUCKET,
    "key": PrincipalKind.BUCKET,
    "after": PrincipalKind.BUCKET,
    "missing": PrincipalKind.BUCKET,
    "accessor": PrincipalKind.ACCESSOR,
    "accessors": PrincipalKind.ACCESSOR,
    "source": PrincipalKind.ACCESSOR,
}
"""How the principal in a field of this name is printed."""
_OF_BUCKETS: Final = frozenset({"BucketAddress", "BucketStatus", "FleetBucket", "MemberInfo"})
"""Messages whose `principal` is a bucket."""
_ANY_KIND: Final = frozenset({"accessor", "source"})
"""Fields where an owner may name its own principal: every kind is read."""


def to_json(message: Message) -> dict[str, Json]:
    """The message as a JSON object; fields that are None are left out."""
    out: dict[str, Json] = {}
    for field in _fields_of(type(message)):
        value = getattr(message, field.name)
        if value is not None:
            out[field.name] = field.codec.encode(value)
    return out


def from_json(cls: type[M], obj: object, path: str = "") -> M:
    """A message of `cls` from a parsed JSON object.

    Raises InvalidArgumentError that names the field (`changes[3].principal`) for anything
    missing, unknown, of a wrong type or out of its limits.
    """
    if not isinstance(obj, dict):
        raise InvalidArgumentError(f"{path or 'the body'} must be a JSON object")
    known = _fields_of(cls)
    unknown = obj.keys() - {field.name for field in known}
    if unknown:
        raise InvalidArgumentError(f"unknown field {_join(path, min(map(str, unknown)))}")
    values: dict[str, object] = {}
    for field in known:
        value = obj.get(field.name)
        if value is not None:
            values[field.name] = field.codec.decode(value, _join(path, field.name))
        elif field.optional:
            values[field.name] = None
        elif field.required or field.name in obj:  # null is a value only where None is one
            raise InvalidArgumentError(f"{_join(path, field.name)} is missing")
    return cls(**values)


@dataclass(frozen=True, slots=True)
class _Codec:
    """How one type is written and read; `decode` gets the value and where it stands."""

    encode: Callable[..., Json]
    decode: Callable[[object, str], object]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    codec: _Codec
    optional: bool
    required: bool


_COMPILED: Final[dict[type[Message], tuple[_Field, ...]]] = {}
"""One entry per message class: a closed set."""


def _fields_of(cls: type[Message]) -> tuple[_Field, ...]:
    compiled = _COMPILED.get(cls)
    if compiled is None:
        hints = get_type_hints(cls, include_extras=True)
        compiled = _COMPILED[cls] = tuple(
            _field(cls.__name__, field.name, hints[field.name], required=field.default is MISSING)
            for field in fields(cls)  # type: ignore[arg-type]  # every message is a dataclass
        )
    return compiled


def _field(owner: str, name: str, hint: object, *, required: bool) -> _Field:
    optional = get_origin(hint) in {Union, UnionType}
    if optional:
        (hint,) = (arm for arm in get_args(hint) if arm is not NoneType)
    return _Field(name, _codec(owner, name, hint), optional, required)


def _codec(owner: str, name: str, hint: object) -> _Codec:
    bounds = _NO_BOUNDS
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)
    if get_origin(hint) is tuple:
        return _tuple_codec(_codec(owner, name, get_args(hint)[0]), bounds)
    if not isinstance(hint, type):
        raise TypeError(f"{owner}.{name}: no JSON form for {hint}")
    if issubclass(hint, Message):
        return _message_codec(hint)
    if hint is Principal:
        return _principal_codec(owner, name)
    if issubclass(hint, HexId):
        return _hex_codec(hint)
    return _SCALARS[hint](bounds)


def _message_codec(cls: type[Message]) -> _Codec:
    return _Codec(to_json, lambda value, path: from_json(cls, value, path))


def _tuple_codec(item: _Codec, bounds: Bounds) -> _Codec:
    def encode(value: tuple[object, ...]) -> Json:
        return [item.encode(member) for member in value]

    def decode(value: object, path: str) -> object:
        if not isinstance(value, list):
            raise InvalidArgumentError(f"{path} must be a list")
        _check(len(value), bounds, path, "items")
        return tuple(item.decode(member, f"{path}[{i}]") for i, member in enumerate(value))

    return _Codec(encode, decode)


def _principal_codec(owner: str, name: str) -> _Codec:
    kind = PrincipalKind.BUCKET if owner in _OF_BUCKETS else _PRINCIPAL_KINDS[name]
    read_kind = None if name in _ANY_KIND else kind

    def decode(value: object, path: str) -> object:
        return _within(path, Principal.parse, _text(value, path), read_kind)

    return _Codec(lambda value: value.text(kind), decode)


def _hex_codec(cls: type[HexId]) -> _Codec:
    return _Codec(
        lambda value: value.hex(),
        lambda value, path: _within(path, cls.from_hex, _text(value, path)),
    )


def _int_codec(bounds: Bounds) -> _Codec:
    def decode(value: object, path: str) -> object:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidArgumentError(f"{path} must be an integer")
        _check(value, bounds, path)
        return value

    return _Codec(int, decode)


def _bool_codec(_bounds: Bounds) -> _Codec:
    def decode(value: object, path: str) -> object:
        if not isinstance(value, bool):
            raise InvalidArgumentError(f"{path} must be true or false")
        return value

    return _Codec(bool, decode)


def _text_codec(bounds: Bounds) -> _Codec:
    def decode(value: object, path: str) -> object:
        text = _text(value, path)
        _check(len(text), bounds, path, "characters")
        return text

    return _Codec(str, decode)


def _bytes_codec(bounds: Bounds) -> _Codec:
    def decode(value: object, path: str) -> object:
        data = _within(path, decode_base64url, _text(value, path))
        _check(len(data), bounds, path, "bytes")
        return data

    return _Codec(encode_base64url, decode)


_SCALARS: Final[Mapping[type, Callable[[Bounds], _Codec]]] = {
    int: _int_codec,
    bool: _bool_codec,
    str: _text_codec,
    bytes: _bytes_codec,
}


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{path} must be text")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        # JSON can spell a lone surrogate; UTF-8, CBOR and headers cannot carry it.
        raise InvalidArgumentError(f"{path} is not valid Unicode")
    return value


def _check(number: int, bounds: Bounds, path: str, unit: str = "") -> None:
    if not bounds.low <= number <= bounds.high:
        limits = f"{bounds.low} to {bounds.high} {unit}".rstrip()
        raise InvalidArgumentError(f"{path} must be {limits}, not {number}")


def _within(path: str, function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call a parser; its refusal says where the value stands."""
    try:
        return function(*args)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{path}: {error.message}") from None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
