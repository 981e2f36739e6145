from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from ostnode.base64url import encode_base64url
from ostnode.config import JoinToken, LogConfig
from ostnode.identity.keys import KeyPair
from ostnode.identity.tokens import Login, encode_text, mint_login
from ostnode.node.logs import MASK, set_up_logging
from ostnode.wire import membership as mb


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:], logging.root.level = handlers, level


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def json_logs(level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    set_up_logging(LogConfig(format="json", level=level), stream)
    return stream


def a_token() -> str:
    key = KeyPair.from_seed(bytes(32))
    login = Login(key.principal, key.principal, "", 1_700_000_000, b"12345678")
    return encode_text(mint_login(key, login))


def test_json_lines_name_event_level_logger_and_time() -> None:
    stream = json_logs()
    structlog.get_logger("ostnode.some.module").info("started", port=7)
    (line,) = lines_of(stream)
    assert line["event"] == "started"
    assert line["logger"] == "ostnode.some.module"
    assert line["level"] == "info"
    assert line["port"] == 7
    assert str(line["timestamp"]).endswith("Z")


def test_levels_below_the_config_are_dropped() -> None:
    stream = json_logs("warning")
    structlog.get_logger("x").info("not said")
    structlog.get_logger("x").warning("said")
    assert [line["event"] for line in lines_of(stream)] == ["said"]


def test_what_peers_chose_makes_no_line_or_colour() -> None:
    for form in ("json", "console"):
        stream = io.StringIO()
        set_up_logging(LogConfig(format=form), stream)
        structlog.get_logger("x").info("link ended", reason="no\n2026 [info] all is well \x1b[2J")
        try:
            int("no number")
        except ValueError:
            structlog.get_logger("x").exception("failed")
        structlog.get_logger("x").info("link ended", reason="\x1b[2J\x9bm\u202e")
        first, *traceback, last = stream.getvalue().splitlines()
        assert "all is well" in first
        assert last.replace("\x1b[0m", "").isprintable()
        assert len(traceback) == 1 if form == "json" else len(traceback) > 2


def test_no_join_secret_ever_stands_in_a_line() -> None:
    stream = json_logs()
    token = JoinToken(KeyPair.from_seed(bytes(32)).principal, "there:1", bytes(8), b"s" * 32)
    request = mb.Join(token.invite_id, token.secret)
    made = mb.Invitation(token.invite_id, token.secret, token.index, token.peer, 1)
    logger = structlog.get_logger("x")
    logger.info("said", config=token.text(), text=f"<{token.text()}>", secret="s" * 32, join="x")
    logger.info("said", request=repr(request), made=str(made), token=token)
    assert encode_base64url(token.secret) not in stream.getvalue()
    assert "s" * 9 not in stream.getvalue()
    assert lines_of(stream)[0]["config"] == f"{str(token)[:-1]}{MASK}"


def test_no_token_ever_stands_in_a_line() -> None:
    stream, token = json_logs(), a_token()
    log = structlog.get_logger("x")
    log.info("request", token=token, path="/")
    log.info("request", note=f"came with ?token={token}&x=1")
    log.error("failed", exc_info=ValueError(token))
    assert token not in stream.getvalue()
    first, second, third = lines_of(stream)
    assert first["token"] == MASK
    assert second["note"] == f"came with ?token={MASK}&x=1"
    assert f"ValueError: {MASK}" in str(third["exception"])


def test_other_libraries_warnings_come_out_the_same_way() -> None:
    stream = json_logs()
    logging.getLogger("quart.app").error("broken: %s", "reason")
    logging.getLogger("quart.app").info("chatter")
    (line,) = lines_of(stream)
    assert (line["event"], line["logger"], line["level"]) == (
        "broken: reason",
        "quart.app",
        "error",
    )


def test_console_lines_are_for_people() -> None:
    stream = io.StringIO()
    set_up_logging(LogConfig(format="console"), stream)
    structlog.get_logger("ostnode.node").info("started", port=7)
    (line,) = stream.getvalue().splitlines()
    assert "started" in line
    assert "port=7" in line
    assert "\x1b" not in line
