"""Types of command-line values. A value that cannot be used is a usage error with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import click
from typing_extensions import override

from ostnode.config.values import BadValueError, parse_size, parse_whole_seconds
from ostnode.errors import OstError
from ostnode.identity.tokens import decode_text
from ostnode.ids import REF_ID_BYTES_MAX, BlobId, ClusterId, Principal, PrincipalKind, Uid


class Parsed(click.ParamType[object, object]):
    """A value read by a function; values that are not text (defaults) pass as they are."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    @override
    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except OstError as error:
            self.fail(error.message, param, ctx)
        except BadValueError as error:
            self.fail(f"{error.problem}: {error.hint}", param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _parse_ref(text: str) -> bytes:
    ref_id = bytes.fromhex(text)
    if len(ref_id) > REF_ID_BYTES_MAX:
        raise ValueError(f"a reference id has at most {REF_ID_BYTES_MAX} bytes")
    return ref_id


def _parse_accessor(text: str) -> Principal:
    return Principal.parse(text, PrincipalKind.ACCESSOR)


def parse_bucket_principal(text: str) -> Principal:
    """A bucket's `bkt1q…`; raises InvalidArgumentError."""
    return Principal.parse(text, PrincipalKind.BUCKET)


def _parse_user(text: str) -> Principal:
    return Principal.parse(text, PrincipalKind.USER)


PRINCIPAL: Final = Parsed("principal", Principal.parse)
USER_PRINCIPAL: Final = Parsed("user", _parse_user)
ACCESSOR: Final = Parsed("accessor", _parse_accessor)
BUCKET_PRINCIPAL: Final = Parsed("bucket", parse_bucket_principal)
BLOB_ID: Final = Parsed("blob id", BlobId.from_hex)
CLUSTER_ID: Final = Parsed("cluster id", ClusterId.from_hex)
UID: Final = Parsed("uid", Uid.from_hex)
REF_ID: Final = Parsed("hex", _parse_ref)
SIZE: Final = Parsed("size", parse_size)
SECONDS: Final = Parsed("duration", parse_whole_seconds)
TOKEN: Final = Parsed("token", decode_text)
KIND: Final = click.Choice([kind.value for kind in PrincipalKind])
