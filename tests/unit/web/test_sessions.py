"""Logins, once each, become sessions at one node; sessions become callers."""

from __future__ import annotations

import pytest

from ostnode.errors import (
    BusyError,
    NotAuthorizedError,
    TokenExpiredError,
    TokenInvalidError,
    UnauthenticatedError,
)
from ostnode.identity.statements import encode_text
from ostnode.web import sessions as sessions_module
from ostnode.web.sessions import LoginRequest, Sessions
from ostnode.wire.calls import NOBODY, Kind
from tests.support.webkit import ALICE, BOB, FixedClock, login_of, make_sessions

NOW = 1_700_000_000.0


def log_in(sessions: Sessions, key=ALICE, *, page: str = "", **changes) -> str:
    login = LoginRequest(login_of(key, **({"now": NOW} | changes)))
    return "OST " + encode_text(sessions.log_in(login, page).session)


def test_a_login_gives_a_session_that_names_the_caller_and_its_kinds() -> None:
    sessions = make_sessions(FixedClock(NOW), apps=frozenset({ALICE.principal}))
    caller = sessions.caller(log_in(sessions), "")
    assert (caller.principal, caller.kinds) == (ALICE.principal, {Kind.APP})
    assert sessions.caller(log_in(sessions, BOB), "").kinds == frozenset()


def test_no_header_is_nobody_and_another_scheme_is_refused() -> None:
    sessions = make_sessions()
    assert sessions.caller(None, "") is NOBODY
    for header in ("Basic YTpi", "OST", ""):
        with pytest.raises(UnauthenticatedError):
            sessions.caller(header, "")


def test_a_session_ends_by_the_nodes_own_clock() -> None:
    clock = FixedClock(NOW)
    sessions = make_sessions(clock)
    header = log_in(sessions)
    clock.time = NOW + 899
    assert sessions.caller(header, "").principal == ALICE.principal
    clock.time = NOW + 900
    with pytest.raises(TokenExpiredError):
        sessions.caller(header, "")


def test_a_forged_or_broken_session_is_refused() -> None:
    sessions = make_sessions(FixedClock(NOW))
    header = log_in(sessions)
    for bad in (header[:-8] + "AAAAAAAA", "OST !", "OST ", header + "A"):
        with pytest.raises(TokenInvalidError):
            sessions.caller(bad, "")


def test_a_login_is_good_once() -> None:
    clock = FixedClock(NOW)
    sessions = make_sessions(clock)
    log_in(sessions)
    with pytest.raises(TokenInvalidError, match="used before"):
        log_in(sessions)
    log_in(sessions, cti=b"another1")
    clock.time = NOW + 119
    with pytest.raises(TokenInvalidError, match="used before"):
        log_in(sessions)


def test_logins_are_forgotten_once_they_are_too_old_to_be_shown_again() -> None:
    clock = FixedClock(NOW)
    sessions = make_sessions(clock)
    log_in(sessions)
    clock.time = NOW + 181
    log_in(sessions, now=clock.time)
    assert len(sessions._logins) == 1


def test_logins_older_than_the_process_are_refused() -> None:
    sessions = make_sessions(FixedClock(NOW + 0.9))
    log_in(sessions, now=NOW)
    with pytest.raises(TokenExpiredError, match="older than this node"):
        log_in(sessions, now=NOW - 1)


def test_a_flood_of_logins_is_answered_busy_rather_than_remembered(monkeypatch) -> None:
    monkeypatch.setattr(sessions_module, "LOGINS_REMEMBERED_MAX", 2)
    sessions = make_sessions(FixedClock(NOW))
    log_in(sessions, cti=b"first---")
    log_in(sessions, cti=b"second--")
    with pytest.raises(BusyError):
        log_in(sessions, cti=b"third---")


def test_a_login_for_another_node_or_origin_is_refused() -> None:
    sessions = make_sessions(FixedClock(NOW))
    with pytest.raises(TokenInvalidError):
        log_in(sessions, node=BOB.principal)
    with pytest.raises(TokenInvalidError, match="origin"):
        log_in(sessions, page="https://chat.example")


def test_a_session_of_one_page_is_no_session_of_another() -> None:
    sessions = make_sessions(FixedClock(NOW))
    page = "https://chat.example"
    header = log_in(sessions, page=page, origin=page)
    assert sessions.caller(header, "").principal == ALICE.principal
    with pytest.raises(TokenInvalidError, match="origin"):
        sessions.caller(header, "https://evil.example")


def test_blocking_ends_sessions_and_gives_none() -> None:
    blocked = set()
    sessions = make_sessions(FixedClock(NOW), blocked=blocked)
    header = log_in(sessions)
    blocked.add(ALICE.principal)
    with pytest.raises(NotAuthorizedError):
        sessions.caller(header, "")
    with pytest.raises(NotAuthorizedError):
        log_in(sessions, cti=b"again---")
