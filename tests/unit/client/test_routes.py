from __future__ import annotations

import pytest

from ostnode.client.routes import blob_call, http_call, session_call
from ostnode.errors import UnknownCallError
from ostnode.ids import BlobId, GrantId, Principal, PrincipalKind, Uid
from ostnode.wire import fleet as fl
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire import upkeep
from ostnode.wire.calls import CALLS
from ostnode.wire.status import ClusterStatus
from tests.support.client_fakes import ALICE, GENERAL

BLOB = BlobId(b"\x0b" * 32)
USER = ALICE.principal
CHAT = GENERAL.principal
USER_TEXT = USER.text(PrincipalKind.USER)
BUCKET_TEXT = USER.text(PrincipalKind.BUCKET)
CHAT_TEXT = CHAT.text(PrincipalKind.ACCESSOR)


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        (m.GetUser(), "GET /v1/users/me"),
        (m.GetUser(USER), f"GET /v1/users/{USER_TEXT}"),
        (m.ChangeUsers((m.UserChange("register", USER, 5),)), "POST /v1/users"),
        (m.ChangePrincipal(USER, CHAT), f"POST /v1/users/{USER_TEXT}/principal"),
        (m.BlockPrincipal(USER), "POST /v1/blocked-principals"),
        (m.Allocate(BLOB, 5), "POST /v1/allocations"),
        (m.ReleaseGrant(GrantId(bytes(16))), f"DELETE /v1/allocations/{'00' * 16}"),
        (m.CanForward(BLOB, 5), "GET /v1/forwardable"),
        (m.Locate(CHAT, BLOB, b"t"), f"GET /v1/locate/{CHAT_TEXT}/{BLOB}"),
        (m.DeleteAccessor(CHAT, b"t"), f"DELETE /v1/accessors/{CHAT_TEXT}"),
        (ClusterStatus(), "GET /v1/cluster"),
        (m.PushChunk(b"g", 0), "POST /v1/chunks"),
        (m.UploadStatus(BLOB), f"GET /v1/uploads/{BLOB}"),
        (m.CancelUpload(BLOB), f"DELETE /v1/uploads/{BLOB}"),
        (m.AddReference(b"g", CHAT, b"t", (CHAT,)), "POST /v1/references"),
        (
            m.RemoveReferences((m.ReferenceKey(BLOB, Uid(bytes(8)), CHAT),)),
            "POST /v1/references/remove",
        ),
        (m.BlobInfoRequest(CHAT, BLOB, b"t"), f"GET /v1/info/{CHAT_TEXT}/{BLOB}"),
        (upkeep.MaintenanceStatus(), "GET /v1/maintenance"),
        (upkeep.CompactBucket(dry_run=True), "POST /v1/maintenance/compaction"),
        (upkeep.PauseMaintenance(paused=True), "POST /v1/maintenance/pause"),
        (upkeep.StartScrub(), "POST /v1/maintenance/scrub"),
        (upkeep.ForgetFindings(), "DELETE /v1/maintenance/findings"),
        (mb.InviteBucket(60), "POST /v1/invites"),
        (mb.WithdrawInvite(b"\xff" * 8), "DELETE /v1/invites/__________8"),
        (mb.ListMembers(), "GET /v1/members"),
        (fl.FleetStatus(), "GET /v1/buckets"),
        (fl.SetBucketState(USER, "standby"), f"POST /v1/buckets/{BUCKET_TEXT}/state"),
        (mb.ApproveBucket(USER), f"POST /v1/members/{BUCKET_TEXT}/approval"),
        (mb.RevokeBucket(USER), f"DELETE /v1/members/{BUCKET_TEXT}"),
    ],
)
def test_each_call_has_its_route(request_: m.Request, line: str) -> None:
    call = http_call(request_)
    assert f"{call.method} {call.path}" == line
    assert call.name in {spec.name for spec in CALLS}
    assert "token" not in call.query


def test_calls_for_peers_have_no_route() -> None:
    with pytest.raises(UnknownCallError):
        http_call(m.Feed(0, 0, 0))


def test_tokens_travel_in_a_header() -> None:
    assert http_call(m.Locate(CHAT, BLOB, b"\xff")).headers == {"Ost-Token": "_w"}
    assert http_call(m.Locate(CHAT, BLOB)).headers == {}
    assert blob_call(CHAT, BLOB, b"\xff", None).headers["Ost-Token"] == "_w"


def test_a_chunk_carries_its_parameters_in_headers() -> None:
    request = m.PushChunk(
        b"\xff", 7, (CHAT, USER), b"\x01", "image/png", "käse %.png", 1_900_000_000
    )
    assert http_call(request).headers == {
        "Ost-Grant": "_w",
        "Ost-Chunk-Index": "7",
        "Ost-Accessors": f"{CHAT_TEXT},{USER.text(PrincipalKind.ACCESSOR)}",
        "Ost-Ref": "AQ",
        "Ost-Filename": "k%C3%A4se%20%25.png",
        "Ost-Expires-At": "1900000000",
        "Content-Type": "image/png",
    }


def test_parameters_that_say_nothing_are_left_out() -> None:
    assert http_call(m.PushChunk(b"\xff", 0)).headers == {"Ost-Grant": "_w", "Ost-Chunk-Index": "0"}


def test_bodies_are_the_messages_as_json() -> None:
    assert http_call(m.Allocate(BLOB, 5)).json == {"blob_id": str(BLOB), "size": 5}
    assert http_call(m.ChangePrincipal(USER, CHAT)).json == {"new": CHAT.text(PrincipalKind.USER)}
    assert http_call(m.CanForward(BLOB, 5)).query == {"blob_id": str(BLOB), "size": "5"}
    assert session_call(b"\xff").json == {"login": "_w"}


def test_a_range_is_a_header() -> None:
    call = blob_call(CHAT, BLOB, b"", "bytes=0-1")
    assert call.path == f"/{CHAT_TEXT}/{BLOB}"
    assert call.headers == {"Range": "bytes=0-1"}
    assert Principal.parse(CHAT_TEXT) == CHAT
