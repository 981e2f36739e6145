"""Who may call what: the registry of calls, and the seam every role serves them through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ostnode.errors import NotAuthorizedError, UnauthenticatedError, UnknownCallError
from ostnode.ids import Principal
from ostnode.wire import accounts as ac
from ostnode.wire import checking as ck
from ostnode.wire import fleet as fl
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire import upkeep
from ostnode.wire.buffers import Buffer
from ostnode.wire.fields import Message, Request
from ostnode.wire.session import LEDGER, ROSTER
from ostnode.wire.status import ClusterInfo, ClusterStatus


class Kind(StrEnum):
    """What a principal is to this node, beyond being somebody."""

    APP = "app"
    OPERATOR = "operator"
    INDEX = "index"
    BUCKET = "bucket"
    CANDIDATE = "candidate"
    """A bucket that has joined and waits for an operator's approval."""


class Who(StrEnum):
    """Who may make a call. SOMEBODY is any proven principal; finer checks are the handler's."""

    SOMEBODY = "somebody"
    APP = "app"
    BUCKET = "bucket"
    CANDIDATE = "candidate"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking: a proven principal (or nobody), and what it is to this node.

    `features` are those agreed on with a peer's link; there are none over HTTP. `roster_epoch` is
    that of the newest roster which the peer's HELLO says it knows.
    """

    principal: Principal | None
    kinds: frozenset[Kind] = frozenset()
    features: frozenset[str] = frozenset()
    roster_epoch: int = 0

    @property
    def proven(self) -> Principal:
        """The principal; raises UnauthenticatedError for nobody."""
        if self.principal is None:
            raise UnauthenticatedError("prove who you are first: open a session")
        return self.principal


NOBODY: Final = Caller(principal=None)


@dataclass(frozen=True, slots=True)
class Reply:
    """A call's result and, for read_blob, its raw body."""

    message: Message
    body: Buffer = b""


class Service(Protocol):
    """A role's calls. HTTP and peer links both arrive here.

    Raises OstError for every refusal; anything else that escapes is our bug.
    """

    async def handle(self, caller: Caller, request: Request, body: Buffer = b"") -> Reply:
        """Serve one request whose `Who` has been checked by `authorise`."""
        ...


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One row of the registry. `carries` says which side has a raw body: "", request, result.

    A call with a `feature` exists only on links that have agreed on it.
    """

    number: int
    name: str
    role: Kind
    who: frozenset[Who]
    request: type[Request]
    result: type[Message]
    carries: str = ""
    feature: str = ""


def _who(*who: Who) -> frozenset[Who]:
    return frozenset(who)


_ADMIN: Final = _who(Who.APP, Who.OPERATOR)
_USER: Final = _who(Who.SOMEBODY)
_PEER: Final = _who(Who.BUCKET)
_JOINED: Final = _who(Who.BUCKET, Who.CANDIDATE)
_OPERATOR: Final = _who(Who.OPERATOR)

CALLS: Final = (
    CallSpec(1, "change_users", Kind.INDEX, _who(Who.APP), m.ChangeUsers, m.BatchResult),
    CallSpec(2, "user", Kind.INDEX, _USER, m.GetUser, m.UserInfo),
    CallSpec(3, "change_user_principal", Kind.INDEX, _who(Who.APP), m.ChangePrincipal, m.Ok),
    CallSpec(4, "block_principal", Kind.INDEX, _ADMIN, m.BlockPrincipal, m.Ok),
    CallSpec(5, "allocated_bucket", Kind.INDEX, _USER, m.Allocate, m.Allocation),
    CallSpec(6, "release_grant", Kind.INDEX, _USER, m.ReleaseGrant, m.Ok),
    CallSpec(7, "can_forward", Kind.INDEX, _USER, m.CanForward, m.Allowance),
    CallSpec(8, "locate", Kind.INDEX, _USER, m.Locate, m.BucketAddress),
    CallSpec(9, "delete_accessor", Kind.INDEX, _USER, m.DeleteAccessor, m.Ok),
    CallSpec(10, "sync_bucket", Kind.INDEX, _PEER, m.SyncBucket, m.SyncResult),
    CallSpec(11, "feed", Kind.INDEX, _PEER, m.Feed, m.FeedBatch),
    CallSpec(12, "cluster_status", Kind.INDEX, _ADMIN, ClusterStatus, ClusterInfo),
    CallSpec(13, "push_chunk", Kind.BUCKET, _USER, m.PushChunk, m.PushResult, "request"),
    CallSpec(14, "upload_status", Kind.BUCKET, _USER, m.UploadStatus, m.UploadInfo),
    CallSpec(15, "cancel_upload", Kind.BUCKET, _USER, m.CancelUpload, m.Ok),
    CallSpec(16, "add_blob_reference", Kind.BUCKET, _USER, m.AddReference, m.PushResult),
    CallSpec(17, "remove_blob_reference", Kind.BUCKET, _USER, m.RemoveReferences, m.BatchResult),
    CallSpec(18, "blob_info", Kind.BUCKET, _USER, m.BlobInfoRequest, m.BlobInfo),
    CallSpec(19, "read_blob", Kind.BUCKET, _USER, m.ReadBlob, m.BlobInfo, "result"),
    CallSpec(
        20,
        "maintenance_status",
        Kind.BUCKET,
        _OPERATOR,
        upkeep.MaintenanceStatus,
        upkeep.MaintenanceInfo,
    ),
    CallSpec(
        21, "compact_bucket", Kind.BUCKET, _OPERATOR, upkeep.CompactBucket, upkeep.CompactionPlan
    ),
    CallSpec(22, "pause_maintenance", Kind.BUCKET, _OPERATOR, upkeep.PauseMaintenance, m.Ok),
    CallSpec(23, "start_scrub", Kind.BUCKET, _OPERATOR, upkeep.StartScrub, m.Ok),
    CallSpec(
        24, "invite_bucket", Kind.INDEX, _OPERATOR, mb.InviteBucket, mb.Invitation, feature=ROSTER
    ),
    CallSpec(
        25, "list_members", Kind.INDEX, _OPERATOR, mb.ListMembers, mb.MemberPage, feature=ROSTER
    ),
    CallSpec(26, "approve_bucket", Kind.INDEX, _OPERATOR, mb.ApproveBucket, m.Ok, feature=ROSTER),
    CallSpec(27, "revoke_bucket", Kind.INDEX, _OPERATOR, mb.RevokeBucket, m.Ok, feature=ROSTER),
    CallSpec(28, "withdraw_invite", Kind.INDEX, _OPERATOR, mb.WithdrawInvite, m.Ok, feature=ROSTER),
    CallSpec(29, "join", Kind.INDEX, _USER, mb.Join, mb.Standing, feature=ROSTER),
    CallSpec(30, "roster", Kind.INDEX, _JOINED, mb.GetRoster, mb.SignedRoster, feature=ROSTER),
    CallSpec(31, "forget_findings", Kind.BUCKET, _OPERATOR, upkeep.ForgetFindings, m.Ok),
    CallSpec(
        32,
        "change_bucket_key",
        Kind.INDEX,
        _USER,
        mb.ChangeBucketKey,
        mb.KeyChanged,
        feature=ROSTER,
    ),
    CallSpec(33, "compare", Kind.INDEX, _PEER, ck.Compare, ck.Compared, feature=LEDGER),
    CallSpec(
        34, "start_check", Kind.INDEX, _OPERATOR, ck.StartCheck, ck.CheckProgress, feature=LEDGER
    ),
    CallSpec(
        35, "check_progress", Kind.INDEX, _OPERATOR, ck.GetCheck, ck.CheckProgress, feature=LEDGER
    ),
    CallSpec(
        36, "list_findings", Kind.INDEX, _OPERATOR, ck.ListFindings, ck.FindingPage, feature=LEDGER
    ),
    CallSpec(
        37, "forget_bucket", Kind.INDEX, _OPERATOR, ck.ForgetBucket, ck.Forgotten, feature=LEDGER
    ),
    CallSpec(
        38, "list_rejected", Kind.INDEX, _OPERATOR, ck.ListRejected, ck.RejectedPage, feature=LEDGER
    ),
    CallSpec(
        39, "dismiss_rejected", Kind.INDEX, _OPERATOR, ck.DismissRejected, m.Ok, feature=LEDGER
    ),
    CallSpec(
        40,
        "set_bucket_state",
        Kind.INDEX,
        _OPERATOR,
        fl.SetBucketState,
        fl.BucketStanding,
        feature=LEDGER,
    ),
    CallSpec(41, "fleet_status", Kind.INDEX, _ADMIN, fl.FleetStatus, fl.FleetInfo, feature=LEDGER),
    CallSpec(42, "block_blob", Kind.INDEX, _OPERATOR, ac.BlockBlob, m.Ok, feature=LEDGER),
    CallSpec(
        43, "list_blocked", Kind.INDEX, _OPERATOR, ac.ListBlocked, ac.BlockedPage, feature=LEDGER
    ),
)


def _index_calls() -> tuple[Mapping[int, CallSpec], Mapping[type[Request], CallSpec]]:
    by_number = {spec.number: spec for spec in CALLS}
    by_request = {spec.request: spec for spec in CALLS}
    if sorted(by_number) != list(range(1, len(CALLS) + 1)) or len(by_request) != len(CALLS):
        raise TypeError("the call registry has a gap or a duplicate")
    return by_number, by_request


_BY_NUMBER, _BY_REQUEST = _index_calls()


def call_by_number(number: int) -> CallSpec:
    """The registry row; raises UnknownCallError."""
    spec = _BY_NUMBER.get(number)
    if spec is None:
        raise UnknownCallError(f"there is no call number {number}")
    return spec


def call_of(request: type[Request]) -> CallSpec:
    """The registry row of a request type."""
    return _BY_REQUEST[request]


_NEEDED_KIND: Final = {
    Who.APP: Kind.APP,
    Who.BUCKET: Kind.BUCKET,
    Who.CANDIDATE: Kind.CANDIDATE,
    Who.OPERATOR: Kind.OPERATOR,
}


def authorise(spec: CallSpec, caller: Caller) -> None:
    """Raise UnauthenticatedError for nobody, NotAuthorizedError for the wrong kind of caller."""
    _ = caller.proven
    if Who.SOMEBODY in spec.who:
        return
    if not any(_NEEDED_KIND[who] in caller.kinds for who in spec.who):
        raise NotAuthorizedError(f"{spec.name} is not for this caller")
