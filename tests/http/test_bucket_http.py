"""A bucket's HTTP interface in front of fakes: bytes up, bytes down, references."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace

import httpx2
import pytest
import structlog
import trio

from ostnode.base64url import encode_base64url
from ostnode.errors import (
    BusyError,
    ChunkSizeMismatchError,
    DataCorruptError,
    GrantClosedError,
    GrantInvalidError,
    NotAuthorizedError,
    NotFoundError,
    TokenExpiredError,
    TokenInvalidError,
)
from ostnode.identity.grants import Grant, mint_grant
from ostnode.ids import BlobId, GrantId, PrincipalKind, Uid
from ostnode.web.bucket_app import make_bucket_app
from ostnode.web.downloads import SLICE_BYTES
from ostnode.web.sessions import Sessions
from ostnode.wire import messages as m
from ostnode.wire import upkeep
from ostnode.wire.calls import Kind
from ostnode.wire.jsonmap import to_json
from tests.support.webkit import (
    ALICE,
    BLOB,
    BOB,
    GENERAL,
    NODE,
    QUICK,
    FakeBlob,
    FakeBlobs,
    FakeService,
    FixedClock,
    exchange,
    log_in,
    make_sessions,
    raw,
    serving,
    web_client,
)

ACC = GENERAL.principal.text(PrincipalKind.ACCESSOR)
URL = f"/{ACC}/{BLOB}"
GOOD = encode_base64url(b"good")
DATA = bytes(range(256)) * 4096  # 1 MiB
UID = Uid(b"\x05" * 8)
REFERENCE = m.BlobReference(BLOB, 3, NODE.principal, UID, (GENERAL.principal,), b"r")
COMPLETE = m.PushResult(0, REFERENCE)


@asynccontextmanager
async def bucket(
    blob: FakeBlob | None = None,
    answer: object = COMPLETE,
    sessions: Sessions | None = None,
    **changes,
):
    """A client of a served bucket, its fakes, and bob's headers."""
    service = FakeService(answer)
    blobs = FakeBlobs(blob or FakeBlob(DATA), **changes)
    app = make_bucket_app(service, blobs, sessions or make_sessions(), QUICK)
    async with web_client(app) as client:
        yield client, service, blobs, await log_in(client, BOB)


def grant_for(blob_id: BlobId = BLOB, size: int = 10, chunk_bytes: int = 4) -> bytes:
    return mint_grant(
        NODE,
        Grant(
            grant_id=GrantId(bytes(16)), index=NODE.principal, bucket=NODE.principal,
            bucket_incarnation=1, user=BOB.principal, uid=UID, blob_id=blob_id, size=size,
            chunk_bytes=chunk_bytes, reserved=size, issued_at=1, expires_at=2,
        ),
    )  # fmt: skip


# --- reading ------------------------------------------------------------------------------------


async def test_a_reader_gets_the_bytes_with_safe_headers() -> None:
    async with bucket() as (client, _, blobs, bob):
        answer = await client.get(URL, params={"token": GOOD}, headers=bob)
        assert answer.status_code == 200
        assert answer.content == DATA
        assert answer.headers["etag"] == f'"{BLOB}"'
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert blobs.blob.reads == len(DATA) // SLICE_BYTES
        assert blobs.asked[0][0].principal == BOB.principal


async def test_the_token_may_come_in_a_header() -> None:
    async with bucket() as (client, _, _, bob):
        answer = await client.get(URL, headers={**bob, "Ost-Token": GOOD})
        assert answer.status_code == 200


async def test_b05_an_empty_blob_is_served() -> None:
    async with bucket(FakeBlob(b"")) as (client, _, _, bob):
        answer = await client.get(URL, params={"token": GOOD}, headers=bob)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == "0"


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("0-0", 0, 1), ("0-1", 0, 2), ("-5", len(DATA) - 5, len(DATA)),
     ("-9999999", 0, len(DATA)), (f"{len(DATA) - 1}-", len(DATA) - 1, len(DATA)),
     ("100000-700000", 100000, 700001)],
)  # fmt: skip
async def test_b20_one_range_is_served(asked: str, start: int, stop: int) -> None:
    async with bucket() as (client, _, _, bob):
        headers = {**bob, "Range": f"bytes={asked}"}
        answer = await client.get(URL, params={"token": GOOD}, headers=headers)
        assert answer.status_code == 206
        assert answer.content == DATA[start:stop]
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"
        head = await client.head(URL, params={"token": GOOD}, headers=headers)
        assert (head.status_code, head.content) == (206, b"")
        assert head.headers["content-length"] == str(stop - start)


async def test_b20_beyond_the_end_is_416_with_the_size() -> None:
    async with bucket() as (client, _, _, bob):
        headers = {**bob, "Range": f"bytes={len(DATA)}-"}
        answer = await client.get(URL, params={"token": GOOD}, headers=headers)
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
        assert answer.json()["code"] == "range_not_satisfiable"
        assert answer.json()["size"] == len(DATA)


async def test_b20_several_ranges_and_a_failed_if_range_are_the_whole_blob() -> None:
    async with bucket() as (client, _, _, bob):
        for extra in (
            {"Range": "bytes=0-1,4-5"},
            {"Range": "bytes=0-1", "If-Range": '"other"'},
        ):
            answer = await client.get(URL, params={"token": GOOD}, headers={**bob, **extra})
            assert (answer.status_code, answer.content) == (200, DATA)
        extra = {"Range": "bytes=0-1", "If-Range": f'"{BLOB}"'}
        answer = await client.get(URL, params={"token": GOOD}, headers={**bob, **extra})
        assert (answer.status_code, answer.content) == (206, DATA[:2])


async def test_b20_head_is_get_without_the_bytes() -> None:
    async with bucket() as (client, _, blobs, bob):
        get = await client.get(URL, params={"token": GOOD}, headers=bob)
        reads = blobs.blob.reads
        head = await client.head(URL, params={"token": GOOD}, headers=bob)
        assert (head.status_code, head.content) == (200, b"")
        assert blobs.blob.reads == reads
        without_date = [{**r.headers, "date": ""} for r in (get, head)]
        assert without_date[0] == without_date[1]


async def test_revalidation_is_a_304_but_only_for_those_who_may_read() -> None:
    async with bucket() as (client, _, blobs, bob):
        headers = {**bob, "If-None-Match": f'"{BLOB}"'}
        answer = await client.get(URL, params={"token": GOOD}, headers=headers)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == f'"{BLOB}"'
        assert blobs.blob.reads == 0
        denied = await client.get(URL, params={"token": "AAAA"}, headers=headers)
        assert denied.status_code == 404


@pytest.mark.parametrize(
    "denial",
    [NotFoundError("gone"), TokenInvalidError("bad"), TokenExpiredError("old"),
     NotAuthorizedError("no")],
)  # fmt: skip
async def test_b17_b18_every_denial_is_one_and_the_same_404(denial: Exception) -> None:
    async with bucket(denial=denial) as (client, _, blobs, bob):
        alice = await log_in(client, ALICE)
        other = BlobId(bytes(32))
        asked = [
            (URL, {"token": "AAAA"}, bob),  # another token
            (URL, {"token": "!"}, bob),  # no token at all
            (URL, {}, bob),
            (f"{URL}?token={GOOD}&token={GOOD}", None, bob),
            (URL, {"token": GOOD, **{str(i): "" for i in range(20)}}, bob),
            (URL, {"token": GOOD}, alice),  # another caller
            (URL, {"token": GOOD}, {}),  # nobody
            (f"/{ACC}/{other}", {"token": GOOD}, bob),  # absent
            (f"/{ACC}/nothex", {"token": GOOD}, bob),
            (f"/acc1qnonsense/{BLOB}", {"token": GOOD}, bob),
            (f"/{ALICE.principal.text(PrincipalKind.ACCESSOR)}/{BLOB}", {"token": GOOD}, bob),
        ]
        answers = [
            await client.get(path, params=params, headers=headers)
            for path, params, headers in asked
        ]
        seen = {
            (r.status_code, r.content, tuple(sorted({**r.headers, "date": ""}.items())))
            for r in answers
        }
        assert len(seen) == 1
        assert answers[0].json()["code"] == "not_found"
        assert all(len(call) == 4 for call in blobs.asked)


async def test_b17_nobody_is_denied_before_anything_is_looked_up() -> None:
    async with bucket() as (client, _, blobs, _):
        await client.get(URL, params={"token": GOOD})
        assert blobs.asked == []


async def test_a_session_that_is_over_is_told_as_such() -> None:
    clock = FixedClock()
    app = make_bucket_app(FakeService(), FakeBlobs(FakeBlob(b"x")), make_sessions(clock), QUICK)
    async with web_client(app) as client:
        bob = await log_in(client, BOB)
        clock.time += 3600
        answer = await client.get(URL, params={"token": GOOD}, headers=bob)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")
        assert answer.headers["www-authenticate"] == "OST"


async def test_trouble_of_the_node_is_not_hidden_as_a_denial() -> None:
    for trouble, status in ((DataCorruptError(), 500), (BusyError(), 503)):
        async with bucket(denial=trouble) as (client, _, _, bob):
            answer = await client.get(URL, params={"token": "AAAA"}, headers=bob)
            assert (answer.status_code, answer.json()["code"]) == (status, trouble.code)


async def test_b21_a_blob_deleted_while_it_streams_ends_short() -> None:
    received = bytearray()

    async def collect(pieces) -> None:
        async for piece in pieces:
            received.extend(piece)

    with structlog.testing.capture_logs() as lines:
        async with bucket(FakeBlob(DATA, cut_at=SLICE_BYTES)) as (client, _, _, bob):
            headers = {**bob, "Ost-Token": GOOD}
            async with client.stream("GET", URL, headers=headers) as answer:
                assert answer.headers["content-length"] == str(len(DATA))
                with pytest.raises(httpx2.RemoteProtocolError):
                    await collect(answer.aiter_raw())
    assert received == DATA[:SLICE_BYTES]
    assert {line["event"] for line in lines} == {"request"}


async def test_a_client_that_leaves_a_download_is_no_bug() -> None:
    app = make_bucket_app(FakeService(), FakeBlobs(FakeBlob(DATA * 16)), make_sessions(), QUICK)
    done = trio.Event()

    async def watched(scope, receive, send) -> None:
        try:
            await app(scope, receive, send)
        finally:
            if scope["method"] == "GET":
                done.set()

    with structlog.testing.capture_logs() as lines:
        async with web_client(watched) as client:
            headers = {**await log_in(client, BOB), "Ost-Token": GOOD}
            async with client.stream("GET", URL, headers=headers) as answer:
                assert answer.status_code == 200
            with trio.fail_after(5):
                await done.wait()
    assert {line["event"] for line in lines} == {"request"}


async def test_b22_what_a_page_could_run_is_a_download() -> None:
    blob = FakeBlob(b"<svg onload=alert(1)>", "image/svg+xml", 'a"\r\nX: y.svg')
    async with bucket(blob) as (client, _, _, bob):
        answer = await client.get(URL, params={"token": GOOD}, headers=bob)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == (
            "attachment; filename*=UTF-8''a%22X%3A%20y.svg"
        )
        assert "x" not in answer.headers


async def test_other_methods_on_a_blob_are_405() -> None:
    async with bucket() as (client, _, _, bob):
        answer = await client.post(URL, headers=bob)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, DELETE")


# --- pushing chunks -----------------------------------------------------------------------------

PUSH = {
    "Ost-Grant": encode_base64url(b"grant"),
    "Ost-Chunk-Index": "7",
    "Ost-Accessors": f"{ACC}, {ACC}",
    "Ost-Ref": encode_base64url(b"msg"),
    "Ost-Filename": "a%20%C3%A4.png",
    "Ost-Expires-At": "1234567890",
    "Content-Type": "image/png",
}


async def test_a_chunk_reaches_the_role_with_its_parameters() -> None:
    async with bucket() as (client, service, _, bob):
        answer = await client.post("/v1/chunks", content=DATA, headers={**bob, **PUSH})
        assert answer.status_code == 200
        assert answer.json() == to_json(COMPLETE)
        ((caller, pushed, body),) = service.asked
        assert caller.principal == BOB.principal
        assert body == DATA
        who = GENERAL.principal
        assert pushed == m.PushChunk(
            b"grant", 7, (who, who), b"msg", "image/png", "a ä.png", 1234567890
        )


async def test_a_chunk_needs_little_and_is_202_while_others_are_missing() -> None:
    async with bucket(answer=m.PushResult(3)) as (client, service, _, bob):
        few = {name: PUSH[name] for name in ("Ost-Grant", "Ost-Chunk-Index")}
        answer = await client.post("/v1/chunks", content=b"", headers={**bob, **few})
        assert (answer.status_code, answer.json()) == (202, {"missing": 3})
        assert service.asked[0][1:] == (m.PushChunk(b"grant", 7), b"")


@pytest.mark.parametrize(
    ("changed", "status", "code"),
    [
        ({"Ost-Grant": None}, 400, "invalid_argument"),
        ({"Ost-Grant": "!"}, 401, "token_invalid"),
        ({"Ost-Grant": "A" * 1400}, 401, "token_invalid"),
        ({"Ost-Chunk-Index": None}, 400, "invalid_argument"),
        ({"Ost-Chunk-Index": "-1"}, 400, "invalid_argument"),
        ({"Ost-Chunk-Index": "4294967296"}, 400, "invalid_argument"),
        ({"Ost-Chunk-Index": "9" * 5000}, 400, "invalid_argument"),
        ({"Ost-Accessors": "acc1q"}, 400, "invalid_argument"),
        ({"Ost-Accessors": BOB.principal.text(PrincipalKind.USER)}, 400, "invalid_argument"),
        ({"Ost-Accessors": ",".join([ACC] * 65)}, 400, "invalid_argument"),
        ({"Ost-Ref": encode_base64url(b"x" * 17)}, 400, "invalid_argument"),
        ({"Ost-Ref": "="}, 400, "invalid_argument"),
        ({"Ost-Filename": "%0D%0A"}, 400, "invalid_argument"),
        ({"Ost-Expires-At": "soon"}, 400, "invalid_argument"),
        ({"Ost-Expires-At": "9223372036854775808"}, 400, "invalid_argument"),
        ({"Content-Type": "nonsense"}, 400, "invalid_argument"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
        ({"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"Authorization": None}, 401, "unauthenticated"),
        ({"Authorization": "Bearer x"}, 401, "unauthenticated"),
    ],
)
async def test_a_malformed_push_is_refused_before_its_body_is_read(
    changed: dict[str, str | None], status: int, code: str
) -> None:
    async with bucket() as (client, service, _, bob):
        headers = {k: v for k, v in {**bob, **PUSH, **changed}.items() if v is not None}
        answer = await client.post("/v1/chunks", content=b"body", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert service.asked == []


async def test_a_chunk_needs_a_length_of_at_most_a_mebibyte() -> None:
    async def chunked():
        await trio.lowlevel.checkpoint()
        yield b"abc"

    async with bucket() as (client, service, _, bob):
        headers = {**bob, **PUSH}
        answer = await client.post("/v1/chunks", content=chunked(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
        answer = await client.post("/v1/chunks", content=DATA + b"x", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "frame_too_large")
        assert service.asked == []


async def test_a_chunk_cut_short_reaches_nobody() -> None:
    service = FakeService(COMPLETE)
    app = make_bucket_app(service, FakeBlobs(FakeBlob(DATA)), make_sessions(), QUICK)
    async with serving(app) as port:
        base = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=base, trust_env=False) as client:
            lines = {**await log_in(client, BOB), **PUSH, "Host": "x", "Content-Length": "10"}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(f"POST /v1/chunks HTTP/1.1\r\n{head}\r\nabc".encode())
            await stream.send_eof()
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 400 ")
    assert service.asked == []


@pytest.mark.parametrize("route", ["POST /v1/chunks", f"PUT /v1/blobs/{BLOB}"])
async def test_a_push_without_a_good_grant_is_refused_before_its_body_is_read(route: str) -> None:
    service = FakeService(COMPLETE)
    blobs = FakeBlobs(FakeBlob(DATA), grant_refusal=GrantInvalidError())
    app = make_bucket_app(service, blobs, make_sessions(), QUICK)
    async with serving(app) as port:
        base = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=base, trust_env=False) as client:
            lines = {**await log_in(client, BOB), **PUSH, "Host": "x", "Content-Length": "10"}
        lines["Ost-Grant"] = encode_base64url(grant_for())
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        async with raw(port) as stream:
            await stream.send_all(f"{route} HTTP/1.1\r\n{head}\r\n".encode())
            with trio.fail_after(5):
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 403 ")
    assert service.asked == []


async def test_a_chunk_that_stalls_is_ended_at_its_deadline() -> None:
    limits = QUICK.model_copy(update={"body_grace": 0.1})
    service = FakeService(COMPLETE)
    app = make_bucket_app(service, FakeBlobs(FakeBlob(DATA)), make_sessions(), limits)
    async with serving(app, limits) as port:
        base = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=base, trust_env=False) as client:
            lines = {**await log_in(client, BOB), **PUSH, "Host": "x", "Content-Length": "10"}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        answer = await exchange(port, f"POST /v1/chunks HTTP/1.1\r\n{head}\r\nabc".encode())
        assert answer.startswith(b"HTTP/1.1 408 ")
    assert service.asked == []


async def test_a_result_of_the_wrong_type_is_our_bug() -> None:
    async with bucket(answer=m.Ok()) as (client, _, _, bob):
        pushed = await client.post("/v1/chunks", content=b"body", headers={**bob, **PUSH})
        removed = await client.delete(URL, params={"owner": str(UID)}, headers=bob)
        for answer in (pushed, removed):
            assert (answer.status_code, answer.json()["code"]) == (500, "internal")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_chunks_are_posted(method: str) -> None:
    async with bucket() as (client, _, _, bob):
        answer = await client.request(method, "/v1/chunks", headers=bob)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_findings_are_struck_out_by_an_operator_before_a_scrub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with bucket(answer=m.Ok()) as (client, service, _, bob):
        refused = await client.delete("/v1/maintenance/findings", headers=bob)
        assert (refused.status_code, service.asked) == (403, [])
    operator = frozenset({Kind.OPERATOR})
    operators = make_sessions()
    monkeypatch.setattr(operators, "_kinds_of", lambda _: operator)
    async with bucket(answer=m.Ok(), sessions=operators) as (client, service, _, bob):
        answer = await client.delete("/v1/maintenance/findings", headers=bob)
        assert answer.status_code == 204
        assert service.asked.pop()[1] == upkeep.ForgetFindings()


async def test_a_roles_refusal_is_a_problem_with_its_details() -> None:
    refusal = ChunkSizeMismatchError("too short", expected=9, got=4)
    async with bucket(answer=refusal) as (client, _, _, bob):
        answer = await client.post("/v1/chunks", content=b"body", headers={**bob, **PUSH})
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
        body = answer.json()
        assert (body["code"], body["expected"], body["got"]) == ("chunk_size_mismatch", 9, 4)


async def test_a_roles_bug_is_an_internal_error_that_tells_nothing() -> None:
    async with bucket(answer=RuntimeError("secret")) as (client, _, _, bob):
        with structlog.testing.capture_logs() as lines:
            pushed = await client.post("/v1/chunks", content=b"body", headers={**bob, **PUSH})
            asked = await client.get(f"/v1/uploads/{BLOB}", headers=bob)
        assert [line["event"] for line in lines].count("request_failed") == 2
        for answer in (pushed, asked):
            assert (answer.status_code, answer.json()["code"]) == (500, "internal")
            assert "secret" not in answer.text


# --- whole blobs --------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "chunks"), [(10, [4, 4, 2]), (8, [4, 4]), (0, [0]), (3, [3])])
async def test_a_whole_blob_is_cut_into_its_grants_chunks(size: int, chunks: list[int]) -> None:
    async with bucket() as (client, service, _, bob):
        headers = {**bob, "Ost-Grant": encode_base64url(grant_for(size=size))}
        answer = await client.put(f"/v1/blobs/{BLOB}", content=DATA[:size], headers=headers)
        assert (answer.status_code, answer.json()) == (200, to_json(COMPLETE))
        assert [len(body) for *_, body in service.asked] == chunks
        assert b"".join(body for *_, body in service.asked) == DATA[:size]
        assert [request.chunk_index for _, request, _ in service.asked] == list(range(len(chunks)))


async def test_a_whole_blob_must_be_the_grants() -> None:
    async with bucket() as (client, service, _, bob):
        for grant, status, code in (
            (grant_for(BlobId(bytes(32))), 403, "grant_invalid"),
            (grant_for(size=11), 400, "invalid_argument"),
            (grant_for(chunk_bytes=(1 << 20) + 1), 403, "grant_invalid"),
            (b"nonsense", 403, "grant_invalid"),
        ):
            headers = {**bob, "Ost-Grant": encode_base64url(grant)}
            answer = await client.put(f"/v1/blobs/{BLOB}", content=DATA[:10], headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert service.asked == []


async def test_a_refusal_in_the_middle_of_a_whole_blob_ends_it() -> None:
    def second_fails(request: m.PushChunk) -> object:
        return GrantClosedError(reason="revoked") if request.chunk_index else m.PushResult(2)

    async with bucket(answer=second_fails) as (client, service, _, bob):
        headers = {**bob, "Ost-Grant": encode_base64url(grant_for())}
        answer = await client.put(f"/v1/blobs/{BLOB}", content=DATA[:10], headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (409, "revoked")
        assert len(service.asked) == 2


# --- JSON routes --------------------------------------------------------------------------------


async def test_uploads_can_be_asked_about_and_cancelled() -> None:
    info = m.UploadInfo(GrantId(bytes(16)), 9, 4, b"\x05", 77)
    async with bucket(answer=info) as (client, service, _, bob):
        answer = await client.get(f"/v1/uploads/{BLOB}", headers=bob)
        assert answer.json() == to_json(info)
        service.answer = m.Ok()
        answer = await client.delete(f"/v1/uploads/{BLOB}", headers=bob)
        assert (answer.status_code, answer.content) == (204, b"")
        assert [request for _, request, _ in service.asked] == [
            m.UploadStatus(BLOB),
            m.CancelUpload(BLOB),
        ]


async def test_a_forward_is_a_json_object() -> None:
    asked = m.AddReference(b"grant", GENERAL.principal, b"token", (ALICE.principal,), b"r")
    async with bucket() as (client, service, _, bob):
        answer = await client.post("/v1/references", json=to_json(asked), headers=bob)
        assert answer.json() == to_json(COMPLETE)
        assert service.asked[0][1] == asked


async def test_one_reference_is_removed_by_url_and_many_by_a_batch() -> None:
    key = m.ReferenceKey(BLOB, UID, GENERAL.principal, b"r", b"tok")
    async with bucket(answer=m.BatchResult((m.ItemResult(),))) as (client, service, _, bob):
        params = {"owner": str(UID), "ref": encode_base64url(b"r")}
        tokens = ({"Ost-Token": encode_base64url(b"tok")}, {})
        for header, query in zip(tokens, ({}, {"token": encode_base64url(b"tok")}), strict=True):
            answer = await client.delete(URL, params={**params, **query}, headers={**bob, **header})
            assert (answer.status_code, answer.content) == (204, b"")
        body = to_json(m.RemoveReferences((key,)))
        answer = await client.post("/v1/references/remove", json=body, headers=bob)
        assert answer.json() == {"results": [{"code": "", "message": ""}]}
        assert [request for _, request, _ in service.asked] == [m.RemoveReferences((key,))] * 3


async def test_a_removal_that_is_refused_is_that_error() -> None:
    gone = m.BatchResult((m.ItemResult("not_found", "no such reference"),))
    async with bucket(answer=gone) as (client, _, _, bob):
        answer = await client.delete(URL, params={"owner": str(UID)}, headers=bob)
        assert (answer.status_code, answer.json()["detail"]) == (404, "no such reference")


async def test_blob_info() -> None:
    info = m.BlobInfo(3, "image/png", None, 5, 1)
    async with bucket(answer=info) as (client, service, _, bob):
        answer = await client.get(f"/v1/info{URL}", params={"token": GOOD}, headers=bob)
        assert answer.json() == to_json(info)
        assert service.asked[0][1] == m.BlobInfoRequest(GENERAL.principal, BLOB, b"good")


async def test_unknown_routes_and_methods_are_typed() -> None:
    async with bucket() as (client, _, _, bob):
        answer = await client.get("/v1/nothing/here", headers=bob)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_call")
        answer = await client.delete("/v1/references", headers=bob)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"


# --- browsers -----------------------------------------------------------------------------------


async def test_pages_of_the_configured_origins_may_call_and_read_and_no_others() -> None:
    limits = QUICK.model_copy(update={"cors_origins": ("https://chat.example",)})
    service = FakeService(COMPLETE)
    app = make_bucket_app(service, FakeBlobs(FakeBlob(DATA)), make_sessions(), limits)
    async with web_client(app, limits) as client:
        asked = {"Access-Control-Request-Method": "POST", "Origin": "https://chat.example"}
        answer = await client.options("/v1/chunks", headers=asked)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert answer.headers["access-control-max-age"] == "7200"
        assert "ost-grant" in answer.headers["access-control-allow-headers"].lower()
        for path in (URL, "/v1/uploads/x", "/nothing"):
            answer = await client.get(path, headers={"Origin": "https://chat.example"})
            assert answer.headers["access-control-allow-origin"] == "https://chat.example"
            assert answer.headers["access-control-allow-credentials"] == "true"
            assert "Origin" in answer.headers["vary"]
        for origin in ("https://evil.example", "https://chat.example.evil.example", "null"):
            answer = await client.options("/v1/chunks", headers={**asked, "Origin": origin})
            assert "access-control-allow-origin" not in answer.headers


async def test_without_configured_origins_there_is_no_sharing() -> None:
    async with bucket() as (client, _, _, _):
        answer = await client.options("/v1/chunks", headers={"Origin": "https://chat.example"})
        assert answer.status_code == 405
        assert not any(name.startswith("access-control") for name in answer.headers)


async def test_b13_a_large_put_holds_one_chunk_at_a_time() -> None:
    size, chunk = 64 << 20, 1 << 20
    alive: list[int] = []

    async def body():
        for _ in range(size // chunk):
            await trio.lowlevel.checkpoint()
            yield bytes(chunk)

    async with bucket() as (client, service, _, bob):

        async def handle(caller, request, data):
            await trio.lowlevel.checkpoint()
            alive.append(len(data))
            return type("Reply", (), {"message": replace(COMPLETE)})

        service.handle = handle
        headers = {
            **bob,
            "Ost-Grant": encode_base64url(grant_for(size=size, chunk_bytes=chunk)),
            "Content-Length": str(size),
        }
        answer = await client.put(f"/v1/blobs/{BLOB}", content=body(), headers=headers)
        assert answer.status_code == 200
        assert alive == [chunk] * (size // chunk)


async def test_traversal_in_ids_goes_nowhere() -> None:
    app = make_bucket_app(FakeService(), FakeBlobs(FakeBlob(DATA)), make_sessions(), QUICK)
    async with serving(app) as port:
        for target in (b"/../../etc/passwd", b"/%2e%2e/%2e%2e", b"/" + ACC.encode() + b"/..%2f"):
            request = b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target
            assert (await exchange(port, request)).startswith(b"HTTP/1.1 404 ")
