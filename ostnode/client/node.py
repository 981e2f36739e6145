"""One node over HTTP: sessions, retries, typed results."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from ostnode.client.answers import Answer, code_of, result_of
from ostnode.client.errors import BadAnswerError, ClientError
from ostnode.client.http import Body, Http
from ostnode.client.options import Attempt, ClientOptions, Observer
from ostnode.client.routes import HttpCall, http_call, session_call
from ostnode.env import Clock, Rng
from ostnode.errors import (
    OstError,
    TokenExpiredError,
    TokenInvalidError,
    UnauthenticatedError,
)
from ostnode.identity.keys import KeyPair
from ostnode.identity.statements import CTI_BYTES
from ostnode.identity.tokens import Login, mint_login
from ostnode.wire import messages as m
from ostnode.wire.buffers import Buffer
from ostnode.wire.fields import Message, Request

M = TypeVar("M", bound=Message)
T = TypeVar("T")

RENEW_BEFORE_S: Final = 120
"""A session is replaced this long before its end: twice the clock skew that is allowed for."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every node's client shares: who calls, by what, within which limits."""

    key: KeyPair
    http: Http
    options: ClientOptions
    observer: Observer
    clock: Clock
    rng: Rng


@dataclass(frozen=True, slots=True)
class _Session:
    text: str
    renew_at: float  # trio.current_time()


class Node:
    """Calls to one node in the caller's name.

    Retryable refusals and broken connections are tried again as the policy says; all calls are
    idempotent, so an attempt of unknown outcome is simply repeated. Terminal refusals are raised
    at once, as the class the node raised.
    """

    def __init__(self, address: m.BucketAddress, context: Context) -> None:
        self.principal = address.principal
        self.url = address.http.rstrip("/")
        self._context = context
        self._session: _Session | None = None
        self._login = trio.Lock()

    async def call(
        self, request: Request, result: type[M], body: Buffer = b"", deadline_s: float = 0.0
    ) -> M:
        """One call; `deadline_s` bounds each attempt (default: the options' answer deadline)."""
        call = http_call(request)
        deadline_s = deadline_s or self._context.options.answer_deadline_s

        async def send(session: str) -> Answer:
            return await self._context.http.exchange(
                self.url, call, session=session, body=body, deadline_s=deadline_s
            )

        return result_of(self.url, result, await self._persist(call.name, send))

    async def open(self, call: HttpCall) -> Body:
        """One GET, up to the headers of its answer."""
        deadline_s = self._context.options.answer_deadline_s

        async def send(session: str) -> Body:
            return await self._context.http.open(
                self.url, call, session=session, deadline_s=deadline_s
            )

        return await self._persist(call.name, send)

    async def _persist(self, name: str, send: Callable[[str], Awaitable[T]]) -> T:
        """Attempt until it succeeds, the refusal is terminal, or the policy gives up."""
        number = 1
        while True:
            try:
                result = await self._attempt(name, number, send)
            except (OstError, ClientError) as error:
                delay_s = self._context.options.retry.delay_s(number, error, self._context.rng)
                self._observe(name, number, code_of(error), delay_s)
                if delay_s is None:
                    raise
            else:
                self._observe(name, number)
                return result
            await trio.sleep(delay_s)
            number += 1

    async def _attempt(self, name: str, number: int, send: Callable[[str], Awaitable[T]]) -> T:
        """Send under a session; one that the node no longer takes is replaced once."""
        session, opened_now = await self._current_session()
        try:
            return await send(session.text)
        except (UnauthenticatedError, TokenInvalidError, TokenExpiredError) as error:
            # It may be the session or a token in the request: only a new session tells.
            if opened_now:
                raise
            self._observe(name, number, error.code, retry_in_s=0.0)
            if self._session is session:
                self._session = None
        session, _ = await self._current_session()
        return await send(session.text)

    async def _current_session(self) -> tuple[_Session, bool]:
        """The session to send under, and whether it was opened for this."""
        async with self._login:
            session = self._session
            if session is not None and trio.current_time() < session.renew_at:
                return session, False
            self._session = session = await self._open_session()
            return session, True

    async def _open_session(self) -> _Session:
        context, now = self._context, self._context.clock.now()
        # Every attempt signs anew: a login statement that was seen before is refused.
        login = Login(
            caller=context.key.principal,
            node=self.principal,
            origin="",
            issued_at=int(now),
            cti=context.rng.token(CTI_BYTES),
        )
        try:
            answer = await context.http.exchange(
                self.url,
                session_call(mint_login(context.key, login)),
                deadline_s=context.options.answer_deadline_s,
            )
        except (OstError, ClientError) as error:
            self._observe("session", 1, code_of(error))
            raise
        self._observe("session", 1)
        text, expires_at = _session_of(self.url, answer)
        lifetime_s = max(0.0, expires_at - now)
        early_s = min(RENEW_BEFORE_S, lifetime_s / 2)
        return _Session(text, trio.current_time() + lifetime_s - early_s)

    def _observe(
        self, call: str, number: int, code: str = "", retry_in_s: float | None = None
    ) -> None:
        self._context.observer(Attempt(call, self.url, number, code, retry_in_s))


def _session_of(node: str, answer: Answer) -> tuple[str, int]:
    """The session's text and end in the answer to a login; raises BadAnswerError."""
    try:
        members = json.loads(answer.content)
        text, expires_at = members["session"], members["expires_at"]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise BadAnswerError(node, "no session") from None
    if not isinstance(text, str) or not isinstance(expires_at, int):
        raise BadAnswerError(node, "no session")
    return text, expires_at
