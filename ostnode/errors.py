"""The error table: every refusal a caller can meet, with its HTTP status and whether to retry.

One class per code. A class is found from its code by `error_class`, so an error that crossed the
wire or HTTP is raised at the client as the same type the server raised.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

from typing_extensions import override

DetailValue = int | str | bool
RETRY_AFTER_S = 1
"""What a retryable refusal suggests in Retry-After when the raiser knows nothing better."""

E = TypeVar("E", bound=BaseException)

_BY_CODE: dict[str, type[OstError]] = {}


class OstError(Exception):
    """A typed refusal.

    `code` is the stable name on the wire, `http_status` the answer over HTTP, `retryable` says
    that the same request may succeed later. `details` are scalars that a program can act on
    (for allowance_exceeded: limit, used, reserved, needed, in bytes); the message is for people.
    """

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str = "", **details: DetailValue) -> None:
        super().__init__(message or self.code.replace("_", " "))
        self.message = message or self.code.replace("_", " ")
        self.details = details

    @override
    def __init_subclass__(cls, *, code: str, status: int, retryable: bool = False) -> None:
        super().__init_subclass__()
        if code in _BY_CODE:
            raise TypeError(f"error code {code} is defined twice")
        cls.code, cls.http_status, cls.retryable = code, status, retryable
        _BY_CODE[code] = cls


class InternalError(OstError, code="internal", status=500):
    """A bug of ours; the message never carries a cause."""


class InvalidArgumentError(OstError, code="invalid_argument", status=400):
    """A field is missing, malformed or out of its limits."""


class UnauthenticatedError(OstError, code="unauthenticated", status=401):
    """The caller has not proven who it is."""


class TokenInvalidError(OstError, code="token_invalid", status=401):
    """A token is malformed, forged, for another purpose, or shown by the wrong caller."""


class TokenExpiredError(OstError, code="token_expired", status=401):
    """A token's time is over; ask its issuer for a new one."""


class NotAuthorizedError(OstError, code="not_authorized", status=403):
    """The caller is known and may not do this."""


class NotFoundError(OstError, code="not_found", status=404):
    """Absent, unreferenced or denied: on reads the three are indistinguishable."""


class UserUnknownError(OstError, code="user_unknown", status=403):
    """The principal is not a registered user (or no longer is)."""


class GrantInvalidError(OstError, code="grant_invalid", status=403):
    """A grant is forged, for another user, blob, bucket or incarnation."""


class GrantExpiredError(OstError, code="grant_expired", status=403):
    """A grant's time is over; allocate again."""


class UserExistsError(OstError, code="user_exists", status=409):
    """The principal already belongs to a registered user."""


class AllowanceExceededError(OstError, code="allowance_exceeded", status=413):
    """Details: limit, used, reserved, needed (bytes)."""


class BlobTooLargeError(OstError, code="blob_too_large", status=413):
    """Details: limit, needed (bytes)."""


class BlobBlockedError(OstError, code="blob_blocked", status=451):
    """The operator blocked this blob."""


class ChunkOutOfRangeError(OstError, code="chunk_out_of_range", status=400):
    """The chunk index is not one of this blob's."""


class ChunkSizeMismatchError(OstError, code="chunk_size_mismatch", status=400):
    """The chunk's length is not what size and chunk_bytes say. Details: expected, got."""


class UploadConflictError(OstError, code="upload_conflict", status=409):
    """The upload's parameters differ from those of its first chunk."""


class GrantClosedError(OstError, code="grant_closed", status=409):
    """The grant was used, cancelled, revoked or released; allocate again. Details: reason."""


class AccessorDeletedError(OstError, code="accessor_deleted", status=410):
    """Every accessor named has been deleted for ever."""


class HashMismatchError(OstError, code="hash_mismatch", status=422):
    """The bytes do not hash to the BlobId; all chunks are gone and the grant is dead."""


class WrongBucketError(OstError, code="wrong_bucket", status=421):
    """Another bucket holds this. Details: bucket, address."""


class RangeNotSatisfiableError(OstError, code="range_not_satisfiable", status=416):
    """Details: size (bytes)."""


class UnsupportedMediaTypeError(OstError, code="unsupported_media_type", status=415):
    """The request's Content-Type cannot be used here."""


class MethodNotAllowedError(OstError, code="method_not_allowed", status=405):
    """Details: allow."""


class NoBucketError(OstError, code="no_bucket", status=503, retryable=True):
    """No active bucket can take the blob now."""


class DataCorruptError(OstError, code="data_corrupt", status=500):
    """Stored bytes failed their digest; the blob is quarantined."""


class FrameTooLargeError(OstError, code="frame_too_large", status=413):
    """A frame or body is over its limit; the connection closes."""


class UnknownCallError(OstError, code="unknown_call", status=404):
    """No such call or route."""


class BucketFullError(OstError, code="bucket_full", status=507):
    """The bucket has no room for the upload; its grant is closed, allocate again."""


class BusyError(OstError, code="busy", status=503, retryable=True):
    """A limit on work in flight is reached. Details: retry_after_s."""


class DrainingError(OstError, code="draining", status=503, retryable=True):
    """The node is being drained."""


class ShuttingDownError(OstError, code="shutting_down", status=503, retryable=True):
    """The node is stopping."""


def error_class(code: str) -> type[OstError]:
    """The class for a code; InternalError for one this version does not know."""
    return _BY_CODE.get(code, InternalError)


def all_errors() -> tuple[type[OstError], ...]:
    """Every error class, in the table's order."""
    return tuple(_BY_CODE.values())


def first_failure(error: BaseException) -> BaseException:
    """The first exception in a group: every nursery on the way up wraps it once more."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def bare(error: E) -> E:
    """The error alone, to be kept and told: the frames it came through, and the errors it came
    from, would keep alive whatever they had in hand, such as the body of what is refused.
    """
    error.__cause__ = error.__context__ = error.__traceback__ = None
    return error
