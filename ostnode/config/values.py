"""The kinds of value a config key can have: sizes, durations, addresses, principals.

Each parser takes what TOML or an environment variable gives and raises `BadValueError` with the
problem and a hint; pydantic collects those by key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo

from ostnode.addresses import is_loopback
from ostnode.errors import InvalidArgumentError
from ostnode.ids import SIZE_MAX, ClusterId, Principal, PrincipalKind

_SIZE_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_AMOUNT: Final = re.compile(r"([0-9]{1,18}) ?([A-Za-z]+)", re.ASCII)
_HOST: Final = re.compile(r"[0-9A-Za-z._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_PORT_MAX: Final = 65535
DURATION_S_MAX: Final = 3650 * 86_400
"""Ten years: longer is a typing mistake, and much longer overflows timers."""


class BadValueError(ValueError):
    """A value that cannot be used, and what to write instead."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


def _split_amount(text: str) -> tuple[int, str]:
    match = _AMOUNT.fullmatch(text.strip())
    return (int(match[1]), match[2]) if match else (0, "")


def parse_size(value: object) -> int:
    """Bytes of `"10GiB"`, or of a plain integer."""
    hint = 'write a whole number of B, KiB, MiB, GiB or TiB, like "10GiB"'
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise BadValueError("a size is a text or an integer", hint)
    if value.isdecimal() and value.isascii():
        return int(value)
    number, unit = _split_amount(value)
    if unit not in _SIZE_UNITS:
        raise BadValueError(f"{value!r} is not a size", hint)
    size = number * _SIZE_UNITS[unit]
    if size > SIZE_MAX:
        raise BadValueError(f"{value!r} does not fit 63 bits", hint)
    return size


def parse_duration(value: object) -> float:
    """Seconds of `"15m"`, or of a plain number."""
    hint = 'write a whole number of ms, s, m, h or d, like "15m"'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        raise BadValueError("a duration is a text or a number of seconds", hint)
    number, unit = _split_amount(value)
    if unit not in _DURATION_UNITS:
        raise BadValueError(f"{value!r} is not a duration", hint)
    return number * _DURATION_UNITS[unit]


def parse_whole_seconds(value: object) -> int:
    """Like `parse_duration`, for times that are signed or written down as whole seconds."""
    seconds = parse_duration(value)
    if not seconds.is_integer():
        raise BadValueError(f"{value!r} is not a whole number of seconds", "round it up")
    return int(seconds)


def parse_address(value: object) -> str:
    """`host:port`, with an IPv6 host in brackets; port 0 lets the system choose."""
    hint = 'write host:port, like "127.0.0.1:7100" or "[::1]:7100"'
    if not isinstance(value, str):
        raise BadValueError("an address is a text", hint)
    host, colon, port = value.rpartition(":")
    if not colon or not _HOST.fullmatch(host) or not _PORT.fullmatch(port):
        raise BadValueError(f"{value!r} is not an address", hint)
    if int(port) > _PORT_MAX:
        raise BadValueError(f"port {port} is over {_PORT_MAX}", hint)
    return f"{host}:{int(port)}"


def parse_optional_address(value: object) -> str:
    """Like `parse_address`; an empty text stays empty."""
    return "" if value == "" else parse_address(value)


def parse_plain_address(value: object) -> str:
    """An address for peer links in plain text, which must stay on loopback."""
    address = parse_address(value)
    host = address.rpartition(":")[0].strip("[]")
    if not is_loopback(host):
        raise BadValueError(
            f"{host} is not on loopback",
            "peer links in plain text stay on 127.0.0.1 or [::1]: set node.peer_tls to true",
        )
    return address


def parse_base_url(value: object) -> str:
    """`http://host[:port]` or `https://…`, without path or trailing slash."""
    hint = 'write scheme and host only, like "https://bucket-1.example.org"'
    if not isinstance(value, str):
        raise BadValueError("a URL is a text", hint)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise BadValueError(f"{value!r} is not a URL", hint) from None
    host = parts.netloc if port is None else parts.netloc.rpartition(":")[0]
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(host):
        raise BadValueError(f"{value!r} is not an http or https URL", hint)
    if value.removesuffix("/") != f"{parts.scheme}://{parts.netloc}":
        raise BadValueError(f"{value!r} has more than scheme, host and port", hint)
    return value.removesuffix("/")


def parse_optional_url(value: object) -> str:
    """Like `parse_base_url`; an empty text stays empty."""
    return "" if value == "" else parse_base_url(value)


def parse_cluster_id(value: object) -> ClusterId:
    """32 hex digits."""
    hint = "copy it from the index's config; `ostnode key gen` prints one with a new index key"
    if isinstance(value, ClusterId):
        return value
    if not isinstance(value, str):
        raise BadValueError("a cluster id is a text", hint)
    try:
        return ClusterId.from_hex(value)
    except InvalidArgumentError as error:
        raise BadValueError(error.message, hint) from None


def parse_path(value: object, info: ValidationInfo) -> Path:
    """A path; a relative one starts at the directory of the config file (context key `base`)."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise BadValueError("a path is a text", "write the path of a file or directory")
    base: Path = (info.context or {}).get("base", Path())
    return base / value


def none_if_empty(value: object) -> object:
    """An empty text is no value."""
    return None if value == "" else value


def _principal_parser(kind: PrincipalKind) -> BeforeValidator:
    def parse(value: object) -> Principal:
        hint = f"it starts with {kind}1q; `ostnode key show FILE --kind {kind}` prints it"
        if isinstance(value, Principal):
            return value
        if not isinstance(value, str):
            raise BadValueError("a principal is a text", hint)
        try:
            return Principal.parse(value, kind)
        except InvalidArgumentError as error:
            raise BadValueError(error.message, hint) from None

    return BeforeValidator(parse)


def _principal_writer(kind: PrincipalKind) -> PlainSerializer:
    def write(principal: Principal) -> str:
        return principal.text(kind)

    return PlainSerializer(write)


def split_list(value: object) -> object:
    """A text from the environment is a list separated by commas."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0, le=SIZE_MAX)]
Duration = Annotated[float, BeforeValidator(parse_duration), Field(gt=0, le=DURATION_S_MAX)]
WholeSeconds = Annotated[int, BeforeValidator(parse_whole_seconds), Field(gt=0, le=DURATION_S_MAX)]
Skew = Annotated[int, BeforeValidator(parse_whole_seconds), Field(ge=0, le=3600)]
Count = Annotated[int, Field(ge=1, le=SIZE_MAX)]
Share = Annotated[float, Field(gt=0, le=1)]
FilePath = Annotated[Path, BeforeValidator(parse_path)]
Address = Annotated[str, BeforeValidator(parse_address)]
OptionalAddress = Annotated[str, BeforeValidator(parse_optional_address)]
BaseUrl = Annotated[str, BeforeValidator(parse_base_url)]
OptionalUrl = Annotated[str, BeforeValidator(parse_optional_url)]
Cluster = Annotated[ClusterId, BeforeValidator(parse_cluster_id), PlainSerializer(str)]

_Index = PrincipalKind.INDEX
_App = PrincipalKind.APP
_Bucket = PrincipalKind.BUCKET
_Operator = PrincipalKind.OPERATOR
IndexPrincipal = Annotated[Principal, _principal_parser(_Index), _principal_writer(_Index)]
_AppPrincipal = Annotated[Principal, _principal_parser(_App), _principal_writer(_App)]
_BucketPrincipal = Annotated[Principal, _principal_parser(_Bucket), _principal_writer(_Bucket)]
_OperatorPrincipal = Annotated[
    Principal, _principal_parser(_Operator), _principal_writer(_Operator)
]
Apps = Annotated[tuple[_AppPrincipal, ...], BeforeValidator(split_list)]
Buckets = Annotated[tuple[_BucketPrincipal, ...], BeforeValidator(split_list)]
Operators = Annotated[tuple[_OperatorPrincipal, ...], BeforeValidator(split_list)]
Origins = Annotated[tuple[BaseUrl, ...], BeforeValidator(split_list)]
