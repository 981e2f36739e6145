"""Uploads: one chunk per POST, or a whole blob per PUT, each chunk in one buffer of its size."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Protocol

from ostnode.base64url import decode_base64url
from ostnode.config.models import CHUNK_BYTES_MAX
from ostnode.errors import (
    FrameTooLargeError,
    GrantInvalidError,
    InternalError,
    InvalidArgumentError,
    TokenInvalidError,
    UnsupportedMediaTypeError,
)
from ostnode.identity.claims import Claim, ClaimReader
from ostnode.identity.cose import parse_sign1
from ostnode.identity.statements import decode_text
from ostnode.ids import REF_ID_BYTES_MAX, SIZE_MAX, BlobId, Principal, PrincipalKind
from ostnode.web.asgi import WebRequest, answer_json
from ostnode.web.headers import upload_content_type, upload_filename
from ostnode.web.sessions import Sessions
from ostnode.wire import messages as m
from ostnode.wire.calls import Caller, Reply, Service, authorise, call_of
from ostnode.wire.fields import ACCESSORS_MAX
from ostnode.wire.jsonmap import to_json

CHUNKS_TEMPLATE: Final = "/v1/chunks"
BLOBS_TEMPLATE: Final = "/v1/blobs/{blob_id}"
CHUNK_INDEX_MAX: Final = (1 << 32) - 1
_NUMBER: Final = re.compile(rb"[0-9]{1,19}")


class GrantGate(Protocol):
    """Who tells, before a body is read, whether there is any use in reading it: the bucket role."""

    def check_grant(self, caller: Caller, grant: bytes) -> None:
        """Raise GrantInvalidError or GrantExpiredError for a grant the caller cannot use here."""
        ...


class Uploads:
    """The routes that take bytes. Without a good grant nobody gets a buffer: keys are free."""

    def __init__(self, service: Service, gate: GrantGate, sessions: Sessions) -> None:
        self._service = service
        self._gate = gate
        self._sessions = sessions

    async def push_chunk(self, request: WebRequest) -> None:
        """POST /v1/chunks: 202 while chunks are missing, 200 when the upload is complete."""
        caller = request.caller(self._sessions)
        authorise(call_of(m.PushChunk), caller)
        index = _number(request, b"ost-chunk-index", CHUNK_INDEX_MAX)
        if index is None:
            raise InvalidArgumentError("Ost-Chunk-Index is required")
        push = _parameters(request, index)
        length = _announced_length(request)
        if length > CHUNK_BYTES_MAX:
            raise FrameTooLargeError(f"a chunk has at most {CHUNK_BYTES_MAX} bytes")
        self._gate.check_grant(caller, push.grant)
        chunk = bytearray(length)
        await request.read_into(chunk)
        reply = await self._service.handle(caller, push, chunk)
        await _answer_result(request, reply)

    async def put_blob(self, request: WebRequest) -> None:
        """PUT /v1/blobs/{blob_id}: the whole body, cut into chunks and pushed one by one."""
        caller = request.caller(self._sessions)
        authorise(call_of(m.PushChunk), caller)
        push = _parameters(request, 0)
        length = _announced_length(request)
        terms = _peek(push.grant)
        self._gate.check_grant(caller, push.grant)
        if terms.blob_id != BlobId.from_hex(request.path.rpartition("/")[2]):
            raise GrantInvalidError("the grant is for another blob")
        if terms.size != length:
            raise InvalidArgumentError(f"the grant is for {terms.size} bytes, not {length}")
        offset = 0
        while True:
            chunk = bytearray(min(terms.chunk_bytes, length - offset))
            await request.read_into(chunk)
            index = offset // terms.chunk_bytes
            reply = await self._service.handle(caller, replace(push, chunk_index=index), chunk)
            offset += len(chunk)
            if offset == length:
                break
        await _answer_result(request, reply)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a grant says about the blob."""

    blob_id: BlobId
    size: int
    chunk_bytes: int


def _peek(grant: bytes) -> _Terms:
    """The terms of a grant whose signature has not been checked: only to know where to cut.

    The role checks the grant with every chunk. Raises GrantInvalidError.
    """
    try:
        claims = ClaimReader(parse_sign1(grant).payload)
        terms = _Terms(
            claims.identifier(Claim.BLOB, BlobId),
            claims.integer(Claim.SIZE),
            claims.integer(Claim.CHUNK_BYTES),
        )
    except TokenInvalidError as error:
        raise GrantInvalidError(f"the grant: {error.message}") from None
    if not 1 <= terms.chunk_bytes <= CHUNK_BYTES_MAX:
        raise GrantInvalidError("the grant's chunks have an impossible size")
    return terms


def _parameters(request: WebRequest, index: int) -> m.PushChunk:
    """The upload's parameters from the request's headers; raises InvalidArgumentError and kin."""
    headers = request.headers
    content_type = upload_content_type(headers.get(b"content-type"))
    if content_type.lower().startswith("multipart/") or b"content-encoding" in headers:
        raise UnsupportedMediaTypeError("send the bytes themselves: no form, no encoding")
    grant = headers.get(b"ost-grant", b"").decode("latin-1")
    if not grant:
        raise InvalidArgumentError("Ost-Grant is required")
    ref_id = decode_base64url(headers.get(b"ost-ref", b"").decode("latin-1"))
    if len(ref_id) > REF_ID_BYTES_MAX:
        raise InvalidArgumentError(f"Ost-Ref has at most {REF_ID_BYTES_MAX} bytes")
    return m.PushChunk(
        grant=decode_text(grant),
        chunk_index=index,
        accessors=_accessors(headers.get(b"ost-accessors", b"")),
        ref_id=ref_id,
        content_type=content_type,
        filename=upload_filename(headers.get(b"ost-filename")),
        expires_at=_number(request, b"ost-expires-at", SIZE_MAX) or 0,
    )


@lru_cache(maxsize=1024)  # it is the same for every chunk of an upload, and slow to check
def _accessors(value: bytes) -> tuple[Principal, ...]:
    names = [name.strip() for name in value.decode("latin-1").split(",")] if value else []
    if len(names) > ACCESSORS_MAX:
        raise InvalidArgumentError(f"Ost-Accessors names at most {ACCESSORS_MAX}")
    return tuple(Principal.parse(name, PrincipalKind.ACCESSOR) for name in names)


def _number(request: WebRequest, name: bytes, highest: int) -> int | None:
    value = request.headers.get(name)
    if value is None:
        return None
    if not _NUMBER.fullmatch(value) or int(value) > highest:
        raise InvalidArgumentError(f"{name.decode().title()} must be a number up to {highest}")
    return int(value)


def _announced_length(request: WebRequest) -> int:
    length = request.content_length()
    if length is None:
        raise InvalidArgumentError("Content-Length is required")
    return length


async def _answer_result(request: WebRequest, reply: Reply) -> None:
    result = reply.message
    if not isinstance(result, m.PushResult):
        raise InternalError
    await answer_json(request, 202 if result.reference is None else 200, to_json(result))
