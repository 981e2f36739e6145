"""Requests as HTTP calls: method, path, query, headers and JSON body. Pure.

Tokens travel in the Ost-Token header, never in the query: an address ends up in more logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar
from urllib.parse import quote

from ostnode.base64url import encode_base64url
from ostnode.errors import UnknownCallError
from ostnode.ids import BlobId, Principal, PrincipalKind
from ostnode.wire import accounts as ac
from ostnode.wire import checking as ck
from ostnode.wire import fleet as fl
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire import upkeep
from ostnode.wire.calls import call_of
from ostnode.wire.fields import Request
from ostnode.wire.jsonmap import Json, to_json
from ostnode.wire.status import ClusterStatus

R = TypeVar("R", bound=Request)

JSON_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True)
class HttpCall:
    """One HTTP exchange, but for the session and the raw body. `name` is what observers see."""

    name: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Json = None


def http_call(request: Request) -> HttpCall:
    """The HTTP form of a request; raises UnknownCallError for calls that are for peers only."""
    build = _ROUTES.get(type(request))
    spec = call_of(type(request))
    if build is None:
        raise UnknownCallError(f"{spec.name} has no HTTP form")
    return build(spec.name, request)


def session_call(login: bytes) -> HttpCall:
    """POST /v1/session with a signed login statement."""
    return HttpCall("session", "POST", "/v1/session", json={"login": encode_base64url(login)})


def blob_call(
    accessor: Principal, blob_id: BlobId, token: bytes, byte_range: str | None
) -> HttpCall:
    """GET of a blob's bytes; `byte_range` is a Range header's value."""
    headers = _token(token)
    if byte_range is not None:
        headers["Range"] = byte_range
    return HttpCall("get_blob", "GET", f"/{_accessor(accessor)}/{blob_id}", headers=headers)


def _user(principal: Principal) -> str:
    return principal.text(PrincipalKind.USER)


def _accessor(principal: Principal) -> str:
    return principal.text(PrincipalKind.ACCESSOR)


def _bucket(principal: Principal) -> str:
    return principal.text(PrincipalKind.BUCKET)


def _token(token: bytes) -> dict[str, str]:
    return {"Ost-Token": encode_base64url(token)} if token else {}


def _get_user(name: str, request: m.GetUser) -> HttpCall:
    who = "me" if request.principal is None else _user(request.principal)
    return HttpCall(name, "GET", f"/v1/users/{who}")


def _change_users(name: str, request: m.ChangeUsers) -> HttpCall:
    return HttpCall(name, "POST", "/v1/users", json=to_json(request))


def _change_principal(name: str, request: m.ChangePrincipal) -> HttpCall:
    path = f"/v1/users/{_user(request.old)}/principal"
    return HttpCall(name, "POST", path, json={"new": _user(request.new)})


def _block_principal(name: str, request: m.BlockPrincipal) -> HttpCall:
    return HttpCall(name, "POST", "/v1/blocked-principals", json=to_json(request))


def _allocate(name: str, request: m.Allocate) -> HttpCall:
    return HttpCall(name, "POST", "/v1/allocations", json=to_json(request))


def _release_grant(name: str, request: m.ReleaseGrant) -> HttpCall:
    return HttpCall(name, "DELETE", f"/v1/allocations/{request.grant_id}")


def _can_forward(name: str, request: m.CanForward) -> HttpCall:
    query = {"blob_id": str(request.blob_id), "size": str(request.size)}
    return HttpCall(name, "GET", "/v1/forwardable", query)


def _locate(name: str, request: m.Locate) -> HttpCall:
    path = f"/v1/locate/{_accessor(request.accessor)}/{request.blob_id}"
    return HttpCall(name, "GET", path, headers=_token(request.token))


def _delete_accessor(name: str, request: m.DeleteAccessor) -> HttpCall:
    path = f"/v1/accessors/{_accessor(request.accessor)}"
    return HttpCall(name, "DELETE", path, headers=_token(request.token))


def _cluster_status(name: str, _request: ClusterStatus) -> HttpCall:
    return HttpCall(name, "GET", "/v1/cluster")


def _fleet_status(name: str, request: fl.FleetStatus) -> HttpCall:
    query = {} if request.after is None else {"after": _bucket(request.after)}
    return HttpCall(name, "GET", "/v1/buckets", query)


def _set_bucket_state(name: str, request: fl.SetBucketState) -> HttpCall:
    path = f"/v1/buckets/{_bucket(request.bucket)}/state"
    return HttpCall(name, "POST", path, json={"state": request.state})


def _push_chunk(name: str, request: m.PushChunk) -> HttpCall:
    headers = {
        "Ost-Grant": encode_base64url(request.grant),
        "Ost-Chunk-Index": str(request.chunk_index),
    }
    if request.accessors:
        headers["Ost-Accessors"] = ",".join(map(_accessor, request.accessors))
    if request.ref_id:
        headers["Ost-Ref"] = encode_base64url(request.ref_id)
    if request.filename is not None:
        headers["Ost-Filename"] = quote(request.filename, safe="")
    if request.expires_at:
        headers["Ost-Expires-At"] = str(request.expires_at)
    if request.content_type:
        headers["Content-Type"] = request.content_type
    return HttpCall(name, "POST", "/v1/chunks", headers=headers)


def _upload_status(name: str, request: m.UploadStatus) -> HttpCall:
    return HttpCall(name, "GET", f"/v1/uploads/{request.blob_id}")


def _cancel_upload(name: str, request: m.CancelUpload) -> HttpCall:
    return HttpCall(name, "DELETE", f"/v1/uploads/{request.blob_id}")


def _add_reference(name: str, request: m.AddReference) -> HttpCall:
    return HttpCall(name, "POST", "/v1/references", json=to_json(request))


def _remove_references(name: str, request: m.RemoveReferences) -> HttpCall:
    return HttpCall(name, "POST", "/v1/references/remove", json=to_json(request))


def _blob_info(name: str, request: m.BlobInfoRequest) -> HttpCall:
    path = f"/v1/info/{_accessor(request.accessor)}/{request.blob_id}"
    return HttpCall(name, "GET", path, headers=_token(request.token))


def _maintenance_status(name: str, _request: upkeep.MaintenanceStatus) -> HttpCall:
    return HttpCall(name, "GET", "/v1/maintenance")


def _compact_bucket(name: str, request: upkeep.CompactBucket) -> HttpCall:
    return HttpCall(name, "POST", "/v1/maintenance/compaction", json=to_json(request))


def _pause_maintenance(name: str, request: upkeep.PauseMaintenance) -> HttpCall:
    return HttpCall(name, "POST", "/v1/maintenance/pause", json=to_json(request))


def _start_scrub(name: str, _request: upkeep.StartScrub) -> HttpCall:
    return HttpCall(name, "POST", "/v1/maintenance/scrub")


def _forget_findings(name: str, _request: upkeep.ForgetFindings) -> HttpCall:
    return HttpCall(name, "DELETE", "/v1/maintenance/findings")


def _list_members(name: str, request: mb.ListMembers) -> HttpCall:
    query = {} if request.after is None else {"after": _bucket(request.after)}
    return HttpCall(name, "GET", "/v1/members", query)


def _approve_bucket(name: str, request: mb.ApproveBucket) -> HttpCall:
    return HttpCall(name, "POST", f"/v1/members/{_bucket(request.bucket)}/approval")


def _revoke_bucket(name: str, request: mb.RevokeBucket) -> HttpCall:
    return HttpCall(name, "DELETE", f"/v1/members/{_bucket(request.bucket)}")


def _forget_bucket(name: str, request: ck.ForgetBucket) -> HttpCall:
    path = f"/v1/members/{_bucket(request.bucket)}/forgetting"
    return HttpCall(name, "POST", path, json={"after": encode_base64url(request.after)})


def _start_check(name: str, request: ck.StartCheck) -> HttpCall:
    return HttpCall(name, "POST", "/v1/checks", json=to_json(request))


def _check_progress(name: str, request: ck.GetCheck) -> HttpCall:
    return HttpCall(name, "GET", f"/v1/checks/{request.run}")


def _list_findings(name: str, request: ck.ListFindings) -> HttpCall:
    query = {} if request.bucket is None else {"bucket": _bucket(request.bucket)}
    if request.after:
        query["after"] = encode_base64url(request.after)
    return HttpCall(name, "GET", "/v1/findings", query)


def _list_rejected(name: str, request: ck.ListRejected) -> HttpCall:
    query = {"seq": str(request.seq)}
    if request.bucket is not None:
        query["bucket"] = _bucket(request.bucket)
    return HttpCall(name, "GET", "/v1/rejected-events", query)


def _dismiss_rejected(name: str, request: ck.DismissRejected) -> HttpCall:
    path = f"/v1/rejected-events/{_bucket(request.bucket)}/{request.seq}"
    return HttpCall(name, "DELETE", path)


def _block_blob(name: str, request: ac.BlockBlob) -> HttpCall:
    return HttpCall(name, "POST", "/v1/blocked-blobs", json=to_json(request))


def _list_blocked(name: str, request: ac.ListBlocked) -> HttpCall:
    query = {} if request.after is None else {"after": str(request.after)}
    return HttpCall(name, "GET", "/v1/blocked-blobs", query)


def _invite_bucket(name: str, request: mb.InviteBucket) -> HttpCall:
    return HttpCall(name, "POST", "/v1/invites", json=to_json(request))


def _withdraw_invite(name: str, request: mb.WithdrawInvite) -> HttpCall:
    return HttpCall(name, "DELETE", f"/v1/invites/{encode_base64url(request.invite_id)}")


_ROUTES: Final[dict[type[Request], Callable[..., HttpCall]]] = {
    m.ChangeUsers: _change_users,
    m.GetUser: _get_user,
    m.ChangePrincipal: _change_principal,
    m.BlockPrincipal: _block_principal,
    m.Allocate: _allocate,
    m.ReleaseGrant: _release_grant,
    m.CanForward: _can_forward,
    m.Locate: _locate,
    m.DeleteAccessor: _delete_accessor,
    ClusterStatus: _cluster_status,
    fl.FleetStatus: _fleet_status,
    fl.SetBucketState: _set_bucket_state,
    m.PushChunk: _push_chunk,
    m.UploadStatus: _upload_status,
    m.CancelUpload: _cancel_upload,
    m.AddReference: _add_reference,
    m.RemoveReferences: _remove_references,
    m.BlobInfoRequest: _blob_info,
    upkeep.MaintenanceStatus: _maintenance_status,
    upkeep.CompactBucket: _compact_bucket,
    upkeep.PauseMaintenance: _pause_maintenance,
    upkeep.StartScrub: _start_scrub,
    upkeep.ForgetFindings: _forget_findings,
    mb.ListMembers: _list_members,
    mb.ApproveBucket: _approve_bucket,
    mb.RevokeBucket: _revoke_bucket,
    ck.ForgetBucket: _forget_bucket,
    ck.StartCheck: _start_check,
    ck.GetCheck: _check_progress,
    ck.ListFindings: _list_findings,
    ck.ListRejected: _list_rejected,
    ck.DismissRejected: _dismiss_rejected,
    ac.BlockBlob: _block_blob,
    ac.ListBlocked: _list_blocked,
    mb.InviteBucket: _invite_bucket,
    mb.WithdrawInvite: _withdraw_invite,
}
