"""The index over HTTP: users, allocations, deletions of chats."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ostnode.config import HttpLimits
from ostnode.errors import InvalidArgumentError
from ostnode.web.asgi import WebRequest
from ostnode.web.front import Front
from ostnode.web.jsonroutes import Fields, Route, json_app
from ostnode.web.sessions import Sessions
from ostnode.wire import accounts as ac
from ostnode.wire import checking as ck
from ostnode.wire import fleet as fl
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire.calls import Service
from ostnode.wire.status import ClusterStatus

_NUMBER: Final = re.compile(r"[0-9]{1,19}")


def _registrations(fields: Fields) -> Fields:
    """POST /v1/users: a change without `op` registers."""
    changes = fields.get("changes")
    if isinstance(changes, list):
        fields["changes"] = [
            {"op": "register", **change} if isinstance(change, dict) else change
            for change in changes
        ]
    return fields


def _deletions(fields: Fields) -> Fields:
    """DELETE /v1/users: `principals` to delete."""
    principals = fields.pop("principals", None)
    if not isinstance(principals, list):
        raise InvalidArgumentError("principals must be a list")
    fields["changes"] = [{"op": "delete", "principal": principal} for principal in principals]
    return fields


def _as_number(name: str) -> Callable[[Fields], Fields]:
    """A path and a query have only text."""

    def shape(fields: Fields) -> Fields:
        value = fields.get(name)
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            fields[name] = int(value)
        return fields

    return shape


INDEX_ROUTES: Final = (
    Route("GET", "/v1/users/me", m.GetUser),
    Route("GET", "/v1/users/<principal>", m.GetUser),
    Route("POST", "/v1/users", m.ChangeUsers, body=True, shape=_registrations),
    Route("DELETE", "/v1/users", m.ChangeUsers, body=True, shape=_deletions),
    Route("POST", "/v1/users/<old>/principal", m.ChangePrincipal, body=True),
    Route("POST", "/v1/blocked-principals", m.BlockPrincipal, body=True),
    Route("POST", "/v1/allocations", m.Allocate, body=True, status=201),
    Route("DELETE", "/v1/allocations/<grant_id>", m.ReleaseGrant),
    Route("GET", "/v1/forwardable", m.CanForward, shape=_as_number("size")),
    Route("DELETE", "/v1/accessors/<accessor>", m.DeleteAccessor),
    Route("GET", "/v1/locate/<accessor>/<blob_id>", m.Locate),
    Route("GET", "/v1/cluster", ClusterStatus),
    Route("GET", "/v1/buckets", fl.FleetStatus),
    Route("POST", "/v1/buckets/<bucket>/state", fl.SetBucketState, body=True),
    Route("GET", "/v1/members", mb.ListMembers),
    Route("POST", "/v1/members/<bucket>/approval", mb.ApproveBucket),
    Route("DELETE", "/v1/members/<bucket>", mb.RevokeBucket),
    Route("POST", "/v1/members/<bucket>/forgetting", ck.ForgetBucket, body=True),
    Route("POST", "/v1/checks", ck.StartCheck, body=True),
    Route("GET", "/v1/checks/<run>", ck.GetCheck, shape=_as_number("run")),
    Route("GET", "/v1/findings", ck.ListFindings),
    Route("GET", "/v1/rejected-events", ck.ListRejected, shape=_as_number("seq")),
    Route(
        "DELETE",
        "/v1/rejected-events/<bucket>/<seq>",
        ck.DismissRejected,
        shape=_as_number("seq"),
    ),
    Route("POST", "/v1/blocked-blobs", ac.BlockBlob, body=True),
    Route("GET", "/v1/blocked-blobs", ac.ListBlocked),
    Route("POST", "/v1/invites", mb.InviteBucket, body=True, status=201),
    Route("DELETE", "/v1/invites/<invite_id>", mb.WithdrawInvite),
)


def make_index_app(service: Service, sessions: Sessions, limits: HttpLimits) -> Front:
    """The ASGI application of an index's HTTP listener."""
    return Front(_no_bare_route, json_app("index", INDEX_ROUTES, service, sessions, limits), limits)


def _no_bare_route(_request: WebRequest) -> None:
    """An index serves no bytes."""
