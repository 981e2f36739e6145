"""Every signed statement, gathered: access tokens, grants, sessions, logins, their limits."""

from ostnode.identity.access import AccessToken, Scope, mint_access, open_access
from ostnode.identity.cache import VerifiedCache
from ostnode.identity.grants import Grant, mint_grant, open_grant, read_grant
from ostnode.identity.sessions import (
    Login,
    Session,
    mint_login,
    mint_session,
    open_login,
    open_session,
)
from ostnode.identity.statements import TokenLimits, decode_text, encode_text

__all__ = [
    "AccessToken",
    "Grant",
    "Login",
    "Scope",
    "Session",
    "TokenLimits",
    "VerifiedCache",
    "decode_text",
    "encode_text",
    "mint_access",
    "mint_grant",
    "mint_login",
    "mint_session",
    "open_access",
    "open_grant",
    "open_login",
    "open_session",
    "read_grant",
]
