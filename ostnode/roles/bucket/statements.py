"""The signed words a bucket is shown, verified once and remembered until they expire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ostnode.errors import GrantInvalidError, TokenInvalidError, WrongBucketError
from ostnode.identity.tokens import AccessToken, Grant, VerifiedCache, open_access, read_grant
from ostnode.ids import Principal, PrincipalKind
from ostnode.roles.bucket.options import BucketOptions

_GRANTS_REMEMBERED: Final = 4096
_TOKENS_REMEMBERED: Final = 16_384
"""Some 12 MB at most; verifying costs 44 µs, a look-up less than one."""


class Statements:
    """Opens grants and access tokens. What the request decides is left to the decisions."""

    def __init__(self, options: BucketOptions, incarnation: Callable[[], int]) -> None:
        """`incarnation` is the bucket's as it is now."""
        self._options = options
        self._incarnation = incarnation
        self._grants: VerifiedCache[Grant] = VerifiedCache(_GRANTS_REMEMBERED)
        self._tokens: VerifiedCache[AccessToken] = VerifiedCache(_TOKENS_REMEMBERED)

    def grant(self, data: bytes, caller: Principal, now: float) -> Grant:
        """A grant of our index for this bucket, as it is now.

        Raises GrantInvalidError, GrantExpiredError, or, for one of the caller's that is for another
        bucket, WrongBucketError.
        """
        grant, signers = self._grants.get(data, now), self._options.signers()
        incarnation = self._incarnation()
        if grant is None or grant.index not in signers or grant.bucket_incarnation != incarnation:
            skew = self._options.tokens.skew_s
            grant = read_grant(data, index=signers, now=now, skew=skew)
            if grant.bucket != self._options.principal:
                raise self._wrong_bucket(grant, caller)
            if grant.bucket_incarnation != incarnation:
                raise GrantInvalidError("the grant is for this bucket before it was restored")
            self._grants.put(data, grant, grant.expires_at)
        return grant

    def _wrong_bucket(
        self, grant: Grant, caller: Principal
    ) -> GrantInvalidError | WrongBucketError:
        """Where the caller's grant is for, as far as that is known here."""
        if grant.user != caller:
            return GrantInvalidError("the grant is another user's")
        return WrongBucketError(
            "the grant is for another bucket",
            bucket=grant.bucket.text(PrincipalKind.BUCKET),
            http=self._options.address_of(grant.bucket),
        )

    def access(self, data: bytes, accessor: Principal, now: float) -> AccessToken | None:
        """A token signed by the accessor, or None for no token at all.

        Raises TokenInvalidError or TokenExpiredError.
        """
        if not data:
            return None
        token = self._tokens.get(data, now)
        if token is None:
            token = open_access(
                data,
                accessor=accessor,
                cluster=self._options.cluster_id,
                now=now,
                limits=self._options.tokens,
            )
            self._tokens.put(data, token, token.expires_at)
        elif token.accessor != accessor:
            raise TokenInvalidError("the token is signed by another accessor")
        return token
