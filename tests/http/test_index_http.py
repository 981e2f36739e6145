"""An index's HTTP interface and the admin listener, in front of fakes."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import structlog
import trio

from ostnode.errors import AllowanceExceededError, DrainingError
from ostnode.identity.statements import encode_text
from ostnode.ids import ClusterId, GrantId, PrincipalKind, Uid
from ostnode.web.admin_app import make_admin_app
from ostnode.web.index_app import make_index_app
from ostnode.wire import messages as m
from ostnode.wire.jsonmap import to_json
from ostnode.wire.status import ClusterInfo, ClusterStatus
from tests.support.webkit import (
    ALICE,
    BLOB,
    BOB,
    GENERAL,
    NODE,
    QUICK,
    FakeService,
    exchange,
    log_in,
    login_of,
    make_sessions,
    serving,
    web_client,
)

USR = BOB.principal.text(PrincipalKind.USER)
ACC = GENERAL.principal.text(PrincipalKind.ACCESSOR)
GRANT = GrantId(b"\x07" * 16)
INFO = m.UserInfo(BOB.principal, Uid(bytes(8)), m.Allowance(3, 2, 1), "refuse", blocked=False)
CLUSTER = ClusterInfo(ClusterId(bytes(16)), NODE.principal, 1, 2, 3, 4, 5, 6, 7, 8, ())
ADDRESS = m.BucketAddress(NODE.principal, "http://b")
ALLOCATION = m.Allocation(
    b"grant", GRANT, 9, ADDRESS, 1 << 20, already_yours=False, allowance=m.Allowance(3, 2, 1)
)
DONE = m.BatchResult((m.ItemResult(),))

# httpx2 leaves a body that was answered early to the garbage collector
EARLY_ANSWER = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@asynccontextmanager
async def index(answer: object = None):
    """A client of a served index, its fake, and the headers of an app (alice) and of bob."""
    service = FakeService(answer)
    sessions = make_sessions(apps=frozenset({ALICE.principal}))
    async with web_client(make_index_app(service, sessions, QUICK)) as client:
        yield client, service, await log_in(client, ALICE), await log_in(client, BOB)


REGISTER = m.UserChange("register", BOB.principal, 10)

ROUTES = [
    ("GET", "/v1/users/me", None, m.GetUser(), INFO, 200),
    ("GET", f"/v1/users/{USR}", None, m.GetUser(BOB.principal), INFO, 200),
    ("POST", "/v1/users", {"changes": [{"principal": USR, "byte_limit": 10}]},
     m.ChangeUsers((REGISTER,)), DONE, 200),
    ("POST", "/v1/users", {"changes": [to_json(m.UserChange("update", BOB.principal, 10))]},
     m.ChangeUsers((m.UserChange("update", BOB.principal, 10),)), DONE, 200),
    ("DELETE", "/v1/users", {"principals": [USR]},
     m.ChangeUsers((m.UserChange("delete", BOB.principal),)), DONE, 200),
    ("POST", f"/v1/users/{USR}/principal", {"new": ALICE.principal.text(PrincipalKind.USER)},
     m.ChangePrincipal(BOB.principal, ALICE.principal), m.Ok(), 204),
    ("POST", "/v1/blocked-principals", {"principal": USR},
     m.BlockPrincipal(BOB.principal), m.Ok(), 204),
    ("POST", "/v1/allocations", {"blob_id": str(BLOB), "size": 5},
     m.Allocate(BLOB, 5), ALLOCATION, 201),
    ("DELETE", f"/v1/allocations/{GRANT}", None, m.ReleaseGrant(GRANT), m.Ok(), 204),
    ("GET", f"/v1/forwardable?blob_id={BLOB}&size=5", None,
     m.CanForward(BLOB, 5), m.Allowance(3, 2, 1), 200),
    ("DELETE", f"/v1/accessors/{ACC}", None, m.DeleteAccessor(GENERAL.principal), m.Ok(), 204),
    ("DELETE", f"/v1/accessors/{ACC}?token={encode_text(b'tok')}", None,
     m.DeleteAccessor(GENERAL.principal, b"tok"), m.Ok(), 204),
    ("GET", f"/v1/locate/{ACC}/{BLOB}?token={encode_text(b'tok')}", None,
     m.Locate(GENERAL.principal, BLOB, b"tok"), ADDRESS, 200),
    ("GET", "/v1/cluster", None, ClusterStatus(), CLUSTER, 200),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "asked", "answer", "status"), ROUTES)
async def test_every_route_asks_its_call_and_tells_its_result(
    method: str, path: str, body: object, asked: m.Request, answer: m.Message, status: int
) -> None:
    async with index(answer) as (client, service, app, _):
        told = await client.request(method, path, json=body, headers=app)
        assert told.status_code == status
        assert told.headers["cache-control"] == "no-store"
        if status == 204:
            assert told.content == b""
        else:
            assert told.json() == to_json(answer)
        ((caller, request, _),) = service.asked
        assert request == asked
        assert caller.principal == ALICE.principal


@pytest.mark.parametrize(("method", "path", "body", "asked", "answer", "status"), ROUTES)
async def test_b49_nobody_may_ask_anything_and_users_only_what_is_theirs(
    method: str, path: str, body: object, asked: m.Request, answer: m.Message, status: int
) -> None:
    async with index(answer) as (client, service, _, bob):
        told = await client.request(method, path, json=body)
        assert (told.status_code, told.json()["code"]) == (401, "unauthenticated")
        told = await client.request(method, path, json=body, headers=bob)
        apps_only = isinstance(
            asked, m.ChangeUsers | m.ChangePrincipal | m.BlockPrincipal | ClusterStatus
        )
        assert told.status_code == (403 if apps_only else status)
        assert len(service.asked) == (0 if apps_only else 1)


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "code"),
    [
        ("GET", "/v1/users/usr1qnonsense", {}, 400, "invalid_argument"),
        ("GET", "/v1/users/me?x=1", {}, 400, "invalid_argument"),
        ("GET", f"/v1/forwardable?blob_id={BLOB}&size=many", {}, 400, "invalid_argument"),
        ("GET", f"/v1/forwardable?blob_id={BLOB}&size=" + "9" * 5000, {}, 400, "invalid_argument"),
        ("DELETE", "/v1/allocations/00", {}, 400, "invalid_argument"),
        ("DELETE", "/v1/users", {"json": {}}, 400, "invalid_argument"),
        ("POST", "/v1/users", {"json": {"changes": [7]}}, 400, "invalid_argument"),
        ("POST", "/v1/users", {"json": {"changes": 7}}, 400, "invalid_argument"),
        ("POST", "/v1/users", {"json": [7]}, 400, "invalid_argument"),
        ("POST", "/v1/allocations", {"json": {"blob_id": str(BLOB)}}, 400, "invalid_argument"),
        ("POST", "/v1/allocations", {"content": b"{"}, 400, "invalid_argument"),
        ("POST", "/v1/allocations", {"content": b"\xff"}, 400, "invalid_argument"),
        ("POST", "/v1/allocations", {"content": b"[" * 100_000}, 400, "invalid_argument"),
        ("POST", "/v1/allocations", {"content": b"9" * 100_000}, 400, "invalid_argument"),
        ("POST", "/v1/allocations", {"data": {"blob_id": "x"}}, 415, "unsupported_media_type"),
        ("POST", "/v1/allocations", {"content": b" " * (2 << 20)}, 413, "frame_too_large"),
        ("GET", "/v1/nothing", {}, 404, "unknown_call"),
        ("GET", "/v1//cluster", {}, 404, "unknown_call"),
        ("GET", "/", {}, 404, "unknown_call"),
        ("PUT", "/v1/allocations", {}, 405, "method_not_allowed"),
        ("OPTIONS", "/v1/allocations", {}, 405, "method_not_allowed"),
    ],
)
@EARLY_ANSWER
async def test_bad_input_is_a_typed_refusal(
    method: str, path: str, sent: dict, status: int, code: str
) -> None:
    async with index(m.Ok()) as (client, service, app, _):
        headers = app if "data" in sent else {"Content-Type": "application/json", **app}
        told = await client.request(method, path, headers=headers, **sent)
        assert (told.status_code, told.json()["code"]) == (status, code)
        assert service.asked == []


@EARLY_ANSWER
async def test_a_json_body_without_a_length_is_bounded_too() -> None:
    async def endless():
        for _ in range(100):
            await trio.lowlevel.checkpoint()
            yield b" " * 65536

    async with index(m.Ok()) as (client, service, app, _):
        headers = {"Content-Type": "application/json", **app}
        told = await client.post("/v1/allocations", content=endless(), headers=headers)
        assert (told.status_code, told.json()["code"]) == (413, "frame_too_large")
        assert service.asked == []


async def test_odd_hosts_paths_and_queries_are_no_bugs() -> None:
    app = make_index_app(FakeService(m.Ok()), make_sessions(), QUICK)
    async with serving(app) as port:
        for host in (b"..", b"[", b"\xff", b"a b", b"", b"x:99999999"):
            head = b"GET /v1/cluster HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host
            assert (await exchange(port, head)).startswith(b"HTTP/1.1 401 ")
        for target in (b"/v1/users/%ff", b"/v1/users/me?%ff=%zz", b"/v1/cluster?;&=&", b"/%2f"):
            head = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target
            assert (await exchange(port, head)).startswith((b"HTTP/1.1 401 ", b"HTTP/1.1 404 "))


async def test_no_files_are_served() -> None:
    async with index(m.Ok()) as (client, _, app, _):
        told = await client.get("/static/pyproject.toml", headers=app)
        assert (told.status_code, told.json()["code"]) == (404, "unknown_call")


async def test_the_allowance_error_says_by_how_much() -> None:
    refusal = AllowanceExceededError("full", limit=10, used=5, reserved=4, needed=2)
    async with index(refusal) as (client, _, _, bob):
        body = {"blob_id": str(BLOB), "size": 2}
        told = await client.post("/v1/allocations", json=body, headers=bob)
        assert told.status_code == 413
        assert told.json() == {
            "type": "about:blank",
            "title": told.json()["title"],
            "status": 413,
            "code": "allowance_exceeded",
            "retryable": False,
            "detail": "full",
            "limit": 10,
            "used": 5,
            "reserved": 4,
            "needed": 2,
        }


async def test_retryable_refusals_say_when_to_come_back() -> None:
    async with index(DrainingError()) as (client, _, _, bob):
        told = await client.get("/v1/users/me", headers=bob)
        assert (told.status_code, told.headers["retry-after"]) == (503, "1")
        assert told.json()["retryable"] is True


async def test_a_session_is_opened_with_a_login_once() -> None:
    async with index(INFO) as (client, _, _, _):
        login = {"login": encode_text(login_of(BOB, cti=b"another-one"))}
        told = await client.post("/v1/session", json=login)
        assert told.status_code == 200
        assert set(told.json()) == {"session", "expires_at"}
        again = await client.post("/v1/session", json=login)
        assert (again.status_code, again.json()["code"]) == (401, "token_invalid")
        for bad in ({}, {"login": "AAAA"}, {"login": 7}):
            told = await client.post("/v1/session", json=bad)
            assert told.status_code in {400, 401}


@pytest.mark.parametrize("framing", [b"Content-Length: 4097", b"Transfer-Encoding: chunked"])
async def test_b50_no_more_is_taken_from_strangers_than_a_login_has(framing: bytes) -> None:
    head = b"POST /v1/session HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    async with serving(make_index_app(FakeService(), make_sessions(), QUICK)) as port:
        # Answered at once, with the body still to come.
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(head + framing + b"\r\n\r\n")
            with trio.fail_after(2):
                answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_page_logs_in_for_its_own_origin_only() -> None:
    async with index(INFO) as (client, _, _, _):
        page = "https://chat.example"
        login = {"login": encode_text(login_of(BOB, cti=b"of-the-page", origin=page))}
        other = await client.post("/v1/session", json=login, headers={"Origin": "https://evil"})
        assert other.status_code == 401
        told = await client.post("/v1/session", json=login, headers={"Origin": page})
        assert told.status_code == 200


async def test_the_log_has_templates_and_never_a_query_a_token_or_an_id() -> None:
    with structlog.testing.capture_logs() as lines:
        async with index(ADDRESS) as (client, _, app, _):
            token = encode_text(b"secret-token")
            await client.get(f"/v1/locate/{ACC}/{BLOB}?token={token}", headers=app)
            await client.get(f"/v1/nothing/{ACC}?token={token}", headers=app)
    seen = [line for line in lines if line["event"] == "request"]
    assert [(line["path"], line["status"]) for line in seen] == [
        ("/v1/session", 200),
        ("/v1/session", 200),
        ("/v1/locate/<accessor>/<blob_id>", 200),
        ("-", 404),
    ]
    assert seen[2]["method"] == "GET"
    assert seen[2]["bytes"] > 0
    for secret in (token, ACC, str(BLOB), app["Authorization"].split()[1]):
        assert secret not in str(lines)


# --- the admin listener -------------------------------------------------------------------------


class Checks:
    """Says what it is told to."""

    def __init__(self, **checks: str) -> None:
        self.told = checks

    def checks(self) -> dict[str, str]:
        return self.told


async def test_health_and_readiness() -> None:
    checks = Checks(store="", index="")
    async with web_client(make_admin_app(checks, QUICK)) as client:
        told = await client.get("/healthz")
        assert (told.status_code, told.json()) == (200, {"ok": True})
        told = await client.get("/readyz")
        assert told.json() == {"ok": True, "checks": {"store": "ok", "index": "ok"}}
        checks.told["index"] = "not reached for 12 s"
        told = await client.get("/readyz")
        assert told.status_code == 503
        assert told.json()["checks"] == {"store": "ok", "index": "not reached for 12 s"}
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.post("/healthz")).status_code == 405
        assert (await client.head("/readyz")).status_code == 503
