"""Who may call what: every call of the registry, asked by everybody, at every role."""

from __future__ import annotations

import pytest

from ostnode.errors import (
    NotAuthorizedError,
    NotFoundError,
    OstError,
    UnauthenticatedError,
    UnknownCallError,
)
from ostnode.ids import BlobId, GrantId, Uid
from ostnode.wire import accounts as ac
from ostnode.wire import checking as ck
from ostnode.wire import fleet as fl
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire import upkeep
from ostnode.wire.calls import CALLS, Kind
from ostnode.wire.fields import Request
from ostnode.wire.status import ClusterStatus
from tests.support.cluster import Cluster
from tests.support.httpway import an_http_cluster
from tests.support.people import Nobody, Person

BLOB, GRANT = BlobId(bytes(32)), GrantId(bytes(16))
EVERYBODY = {"user", "stranger", "app", "operator", "bucket", "candidate", "index"}

ALLOWED = {
    "change_users": {"app"},
    "user": EVERYBODY,
    "change_user_principal": {"app"},
    "block_principal": {"app", "operator"},
    "allocated_bucket": EVERYBODY,
    "release_grant": EVERYBODY,
    "can_forward": EVERYBODY,
    "locate": EVERYBODY,
    "delete_accessor": EVERYBODY,
    "sync_bucket": {"bucket"},
    "feed": {"bucket"},
    "cluster_status": {"app", "operator"},
    "push_chunk": EVERYBODY,
    "upload_status": EVERYBODY,
    "cancel_upload": EVERYBODY,
    "add_blob_reference": EVERYBODY,
    "remove_blob_reference": EVERYBODY,
    "blob_info": EVERYBODY,
    "read_blob": EVERYBODY,
    "maintenance_status": {"operator"},
    "compact_bucket": {"operator"},
    "pause_maintenance": {"operator"},
    "start_scrub": {"operator"},
    "invite_bucket": {"operator"},
    "list_members": {"operator"},
    "approve_bucket": {"operator"},
    "revoke_bucket": {"operator"},
    "withdraw_invite": {"operator"},
    "join": EVERYBODY,
    "roster": {"bucket", "candidate"},
    "change_bucket_key": EVERYBODY,
    "forget_findings": {"operator"},
    "compare": {"bucket"},
    "start_check": {"operator"},
    "check_progress": {"operator"},
    "list_findings": {"operator"},
    "forget_bucket": {"operator"},
    "list_rejected": {"operator"},
    "dismiss_rejected": {"operator"},
    "set_bucket_state": {"operator"},
    "fleet_status": {"app", "operator"},
    "block_blob": {"operator"},
    "list_blocked": {"operator"},
}
"""The table of the interface. For a user's call the finer checks decide: what it names must be
the caller's, or a token for it shown."""


def requests(cluster: Cluster) -> dict[str, Request]:
    """A well-formed request of every call, that changes nothing which another one needs."""
    chat = cluster.general.principal
    nowhere = Person("nowhere", cluster).principal
    space = m.Space(1, 1, 0)
    return {
        "change_users": m.ChangeUsers((m.UserChange("delete", nowhere),)),
        "user": m.GetUser(),
        "change_user_principal": m.ChangePrincipal(nowhere, nowhere),
        "block_principal": m.BlockPrincipal(nowhere),
        "allocated_bucket": m.Allocate(BLOB, 1),
        "release_grant": m.ReleaseGrant(GRANT),
        "can_forward": m.CanForward(BLOB, 1),
        "locate": m.Locate(chat, BLOB),
        "delete_accessor": m.DeleteAccessor(nowhere, b"no token"),
        "sync_bucket": m.SyncBucket(1, 1, (), space, "http://bucket.test"),
        "feed": m.Feed(0, 0, 0),
        "cluster_status": ClusterStatus(),
        "push_chunk": m.PushChunk(b"no grant", 0),
        "upload_status": m.UploadStatus(BLOB),
        "cancel_upload": m.CancelUpload(BLOB),
        "add_blob_reference": m.AddReference(b"no grant", chat, b"", ()),
        "remove_blob_reference": m.RemoveReferences((m.ReferenceKey(BLOB, Uid(bytes(8)), chat),)),
        "blob_info": m.BlobInfoRequest(chat, BLOB),
        "read_blob": m.ReadBlob(chat, BLOB, 0, 1),
        "maintenance_status": upkeep.MaintenanceStatus(),
        "compact_bucket": upkeep.CompactBucket(),
        "pause_maintenance": upkeep.PauseMaintenance(paused=False),
        "start_scrub": upkeep.StartScrub(),
        "invite_bucket": mb.InviteBucket(60),
        "list_members": mb.ListMembers(),
        "approve_bucket": mb.ApproveBucket(cluster.buckets[0].key.principal),
        "revoke_bucket": mb.RevokeBucket(nowhere),
        "withdraw_invite": mb.WithdrawInvite(bytes(8)),
        "join": mb.Join(bytes(8), bytes(32)),
        "roster": mb.GetRoster(0, 0),
        "change_bucket_key": mb.ChangeBucketKey(b"no statement", b"neither"),
        "forget_findings": upkeep.ForgetFindings(),
        "compare": ck.Compare(0, ck.Part.ASK, 1, 0, 0),
        "start_check": ck.StartCheck(),
        "check_progress": ck.GetCheck(0),
        "list_findings": ck.ListFindings(),
        "forget_bucket": ck.ForgetBucket(nowhere),
        "list_rejected": ck.ListRejected(),
        "dismiss_rejected": ck.DismissRejected(nowhere),
        "set_bucket_state": fl.SetBucketState(nowhere, "standby"),
        "fleet_status": fl.FleetStatus(),
        "block_blob": ac.BlockBlob(BLOB, blocked=False),
        "list_blocked": ac.ListBlocked(),
    }


def people(cluster: Cluster) -> dict[str, Person]:
    """Everybody; nodes too may call as if they were people."""
    bucket, index = Person("bucket", cluster), Person("index", cluster)
    for person, node in ((bucket, cluster.buckets[0]), (index, cluster.index)):
        person.key, person.principal = node.key, node.key.principal
    return {
        "user": cluster.alice,
        "stranger": cluster.stranger,
        "app": cluster.app,
        "operator": cluster.operator,
        "bucket": bucket,
        "candidate": Person("candidate", cluster),
        "index": index,
    }


async def outcome(person: Person, node, request: Request) -> type[OstError] | None:
    """What the call was refused with; None for an answer."""
    try:
        await person.call(node, request)
    except OstError as error:
        return type(error)
    return None


async def check_everybody(cluster: Cluster, only: set[str] | None = None) -> None:
    asked = requests(cluster)
    made = await cluster.operator.ask(mb.InviteBucket(60), mb.Invitation)
    candidate = people(cluster)["candidate"]
    if only is None:
        await candidate.ask(mb.Join(made.invite_id, made.secret), mb.Standing)
    for spec in CALLS:
        if only is not None and spec.name not in only:
            continue
        node = cluster.index if spec.role is Kind.INDEX else cluster.buckets[0]
        allowed = {
            name
            for name, person in people(cluster).items()
            if await outcome(person, node, asked[spec.name]) is not NotAuthorizedError
        }
        assert allowed == ALLOWED[spec.name], spec.name
        denied = await outcome(Nobody(cluster), node, asked[spec.name])
        # A GET never says more than that there is nothing to see.
        get = only is not None and spec.name == "read_blob"
        assert denied is (NotFoundError if get else UnauthenticatedError), spec.name


def test_b49_the_table_names_every_call() -> None:
    assert ALLOWED.keys() == {spec.name for spec in CALLS}


async def test_b49_who_may_call_what_through_links(autojump_clock, cluster: Cluster) -> None:
    await check_everybody(cluster)


async def test_b49_who_may_call_what_over_http(tmp_path) -> None:
    peers_only = {"sync_bucket", "feed", "compare", "join", "roster", "change_bucket_key"}
    async with an_http_cluster(tmp_path) as (cluster, _):
        await check_everybody(cluster, only=ALLOWED.keys() - peers_only)
        for path in ("/v1/sync", "/v1/feed", "/v1/buckets/sync"):
            answer = await cluster.way.clients["index"].post(path)
            assert answer.status_code == 404


@pytest.mark.parametrize("who", ["alice", "app", "operator"])
async def test_b49_no_role_serves_the_others_calls(
    who: str, autojump_clock, cluster: Cluster
) -> None:
    asked = requests(cluster)
    allowed = {"alice": "user"}.get(who, who)
    for spec in CALLS:
        other = cluster.buckets[0] if spec.role is Kind.INDEX else cluster.index
        person: Person = getattr(cluster, who)
        expected = UnknownCallError if allowed in ALLOWED[spec.name] else NotAuthorizedError
        assert await outcome(person, other, asked[spec.name]) is expected


async def test_b49_a_bucket_that_is_not_of_the_cluster_syncs_nothing(
    autojump_clock, cluster: Cluster
) -> None:
    """Its key is not in the index's config, so it is nobody in particular."""
    for name in ("sync_bucket", "feed", "roster"):
        request = requests(cluster)[name]
        assert await outcome(cluster.stranger, cluster.index, request) is NotAuthorizedError
    assert all(bucket.drained for bucket in cluster.buckets)
