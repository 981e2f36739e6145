"""Who is asking over HTTP: logins become sessions, sessions become callers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from ostnode.env import Clock
from ostnode.errors import (
    BusyError,
    NotAuthorizedError,
    TokenExpiredError,
    TokenInvalidError,
    UnauthenticatedError,
)
from ostnode.identity.cache import VerifiedCache
from ostnode.identity.keys import KeyPair
from ostnode.identity.sessions import Login, Session, mint_session, open_login, open_session
from ostnode.identity.statements import TokenLimits, decode_text
from ostnode.ids import Principal
from ostnode.wire.calls import NOBODY, Caller, Kind
from ostnode.wire.fields import Message, Token

SCHEME: Final = "ost "
SESSIONS_REMEMBERED: Final = 16_384
LOGINS_REMEMBERED_MAX: Final = 100_000
"""About 13 MB. Keys are free, so a flood can fill it; verifying that flood already takes the
whole processor, and refusing for a moment is better than letting a login be replayed."""


@dataclass(frozen=True, slots=True)
class LoginRequest(Message):
    """The body of POST /v1/session: a login statement signed by the caller."""

    login: Token


@dataclass(frozen=True, slots=True)
class SessionGiven(Message):
    """Its answer: good at this node alone, until `expires_at`, as `Authorization: OST …`."""

    session: Token
    expires_at: int


class Sessions:
    """Gives sessions for logins and knows callers by them.

    `kinds_of` says what a principal is to this node; `is_blocked` whether it gets no session.
    Logins are to one of `names`: the key's principal, unless the node has changed its key. They are
    good once; those issued before this object existed are refused, because nobody
    remembers which of them were used.
    """

    def __init__(
        self,
        key: KeyPair,
        *,
        clock: Clock,
        limits: TokenLimits,
        kinds_of: Callable[[Principal], frozenset[Kind]],
        is_blocked: Callable[[Principal], bool],
        names: Callable[[], Sequence[Principal]] | None = None,
    ) -> None:
        self._key = key
        self._names = names or (lambda: (key.principal,))
        self._clock = clock
        self._limits = limits
        self._kinds_of = kinds_of
        self._is_blocked = is_blocked
        self._started = int(clock.now())
        self._logins: OrderedDict[bytes, float] = OrderedDict()  # digest → when it is too old
        self._known: VerifiedCache[tuple[Session, Caller]] = VerifiedCache(SESSIONS_REMEMBERED)

    def log_in(self, request: LoginRequest, origin: str) -> SessionGiven:
        """A session for a login made for this node, on a page of `origin` ("" for no page).

        Raises TokenInvalidError, TokenExpiredError, NotAuthorizedError (blocked) or BusyError.
        """
        now = self._clock.now()
        login = open_login(request.login, nodes=self._names(), now=now, limits=self._limits)
        if login.origin != origin:
            raise TokenInvalidError("the login is for another origin")
        if login.issued_at < self._started:
            raise TokenExpiredError("the login is older than this node; sign a new one")
        self._refuse_blocked(login.caller)
        self._use_up(login, now)
        expires_at = int(now) + self._limits.session_ttl_s
        session = Session(login.caller, self._key.principal, expires_at, origin)
        return SessionGiven(mint_session(self._key, session), expires_at)

    def caller(self, authorization: str | None, origin: str) -> Caller:
        """Who sent this Authorization header; nobody without one.

        Raises TokenInvalidError, TokenExpiredError, UnauthenticatedError (another scheme), or
        NotAuthorizedError (blocked).
        """
        if authorization is None:
            return NOBODY
        now = self._clock.now()
        found = self._known.get(authorization.encode(), now)
        if found is None:
            found = self._open(authorization, now)
        session, caller = found
        # Browsers leave Origin out of plain same-origin requests.
        if origin and session.origin != origin:
            raise TokenInvalidError("the session is for another origin")
        self._refuse_blocked(session.caller)
        return caller

    def _open(self, authorization: str, now: float) -> tuple[Session, Caller]:
        scheme, text = authorization[: len(SCHEME)], authorization[len(SCHEME) :]
        if scheme.lower() != SCHEME:
            raise UnauthenticatedError("send Authorization: OST <session>")
        data = decode_text(text)
        session = open_session(data, node=self._key.principal, now=now)
        caller = Caller(session.caller, self._kinds_of(session.caller))
        self._known.put(authorization.encode(), (session, caller), session.expires_at)
        return session, caller

    def _refuse_blocked(self, principal: Principal) -> None:
        if self._is_blocked(principal):
            raise NotAuthorizedError("this principal is blocked")

    def _use_up(self, login: Login, now: float) -> None:
        while self._logins and next(iter(self._logins.values())) < now:
            self._logins.popitem(last=False)
        digest = blake3(login.caller + login.cti).digest(length=16)
        if digest in self._logins:
            raise TokenInvalidError("the login was used before; sign a new one")
        if len(self._logins) >= LOGINS_REMEMBERED_MAX:
            raise BusyError("too many logins at once")
        self._logins[digest] = now + self._limits.login_ttl_s + 2 * self._limits.skew_s
