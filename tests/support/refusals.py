"""The error table, provoked: how each refusal comes about, whichever way calls travel.

A scenario prepares a cluster and returns the attempt that is to be refused; everything before
that must succeed. So one table serves the peer protocol and HTTP.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable
from typing import TypeAlias

from ostnode.errors import OstError, error_class
from ostnode.identity.tokens import Scope
from ostnode.ids import BlobId
from ostnode.store.segment import segment_name
from ostnode.store.simdisk import Faults
from ostnode.wire import messages as m
from tests.support.cluster import GRANT_TTL_S, BucketNode, Cluster, Shape
from tests.support.people import Nobody, blob_of, pieces

Attempt: TypeAlias = Callable[[], Awaitable[object]]
Scenario: TypeAlias = Callable[[Cluster], Attempt | Awaitable[Attempt]]

DATA = bytes(range(251)) * 60
ABSENT = BlobId(bytes(32))
KEPT_BACK = 64 << 20
"""What a bucket leaves alone when it promises room."""

UNREACHABLE = {
    "blob_blocked": "operators cannot block blobs yet",
    "draining": "nodes stop, but are not drained yet: that comes with upgrades",
}
"""Codes of the table that nothing raises so far."""
HTTP_ALONE = {
    "range_not_satisfiable": "read_blob answers with what there is, as files do",
    "unsupported_media_type": "the peer protocol has one encoding",
    "method_not_allowed": "the peer protocol has no methods",
}
"""Codes that only HTTP has a use for."""


@dataclass(frozen=True)
class Refusal:
    """A code, and one way to it. `details` are those that programs go by."""

    code: str
    scenario: Scenario
    details: frozenset[str] = frozenset()
    shape: Shape = field(default_factory=Shape)
    recovers: bool = True
    """Whether the node serves others afterwards."""

    @property
    def error(self) -> type[OstError]:
        return error_class(self.code)

    @property
    def name(self) -> str:
        return f"{self.code}-{self.scenario.__name__}"

    async def prepare(self, cluster: Cluster) -> Attempt:
        attempt = self.scenario(cluster)
        return await attempt if isawaitable(attempt) else attempt


REFUSALS: list[Refusal] = []


def refused(
    code: str, *details: str, shape: Shape | None = None, recovers: bool = True
) -> Callable[[Scenario], Scenario]:
    """Enter the scenario in the table."""

    def enter(scenario: Scenario) -> Scenario:
        REFUSALS.append(
            Refusal(code, scenario, frozenset(details), shape or Shape(), recovers=recovers)
        )
        return scenario

    return enter


async def begun(cluster: Cluster) -> m.Allocation:
    """Alice's upload of DATA with its first chunk pushed."""
    allocation = await cluster.alice.allocate(DATA)
    await cluster.alice.push(allocation, 0, pieces(DATA)[0], cluster.general)
    return allocation


def damage(bucket: BucketNode, number: int) -> None:
    """Flip a bit in the first chunk of an upload or blob of this number."""
    row = bucket.rows.chunk(number, 0)
    assert row is not None
    name, middle = segment_name(row.extent.segment), row.extent.offset + 96 + 1000
    bucket.disk.flip(name, middle)


# --- who is asking ---


@refused("unauthenticated")
def nobody_asks_the_index(cluster: Cluster) -> Attempt:
    return Nobody(cluster).info


@refused("unauthenticated")
async def nobody_asks_a_bucket(cluster: Cluster) -> Attempt:
    allocation = await begun(cluster)
    return partial(Nobody(cluster).push, allocation, 1, pieces(DATA)[1], cluster.general)


@refused("not_authorized")
def a_user_registers_users(cluster: Cluster) -> Attempt:
    return partial(cluster.alice.change, ("register", cluster.bob, 1))


@refused("not_authorized")
def a_user_looks_at_another(cluster: Cluster) -> Attempt:
    return partial(cluster.alice.ask, m.GetUser(cluster.bob.principal), m.UserInfo)


@refused("not_authorized")
async def a_blocked_principal_allocates(cluster: Cluster) -> Attempt:
    await cluster.app.ask(m.BlockPrincipal(cluster.alice.principal), m.Ok)
    return partial(cluster.alice.allocate, DATA)


@refused("not_authorized")
async def a_blocked_principal_pushes(cluster: Cluster) -> Attempt:
    allocation = await begun(cluster)
    bucket = cluster.node(allocation.bucket.principal)
    await cluster.app.ask(m.BlockPrincipal(cluster.alice.principal), m.Ok)
    await cluster.until(lambda: bucket.rows.blocked(cluster.alice.principal))
    return partial(cluster.alice.push, allocation, 1, pieces(DATA)[1], cluster.general)


@refused("user_unknown")
def a_stranger_allocates(cluster: Cluster) -> Attempt:
    return partial(cluster.stranger.allocate, DATA)


@refused("user_unknown")
def a_stranger_asks_for_an_account(cluster: Cluster) -> Attempt:
    return cluster.stranger.info


@refused("user_exists")
def a_principal_is_taken(cluster: Cluster) -> Attempt:
    change = m.ChangePrincipal(cluster.alice.principal, cluster.bob.principal)
    return partial(cluster.app.ask, change, m.Ok)


# --- what is shown ---


@refused("token_invalid")
def garbage_deletes_a_chat(cluster: Cluster) -> Attempt:
    return partial(cluster.alice.delete_chat, cluster.general, b"no token")


@refused("token_invalid")
def another_callers_token_deletes_a_chat(cluster: Cluster) -> Attempt:
    token = cluster.general.token(cluster.bob, Scope.ACC_DEL)
    return partial(cluster.alice.delete_chat, cluster.general, token)


@refused("token_expired")
def an_old_token_deletes_a_chat(cluster: Cluster) -> Attempt:
    token = cluster.general.token(cluster.alice, Scope.ACC_DEL)
    cluster.clock.ahead_s += 121
    return partial(cluster.alice.delete_chat, cluster.general, token)


@refused("grant_invalid")
async def a_grant_of_another_user(cluster: Cluster) -> Attempt:
    allocation = await begun(cluster)
    return partial(cluster.bob.push, allocation, 1, pieces(DATA)[1], cluster.general)


@refused("wrong_bucket", "bucket", "http")
async def a_grant_at_another_bucket(cluster: Cluster) -> Attempt:
    allocation = await cluster.alice.allocate(DATA)
    home = cluster.node(allocation.bucket.principal)
    (other,) = (bucket for bucket in cluster.buckets if bucket is not home)
    push = m.PushChunk(allocation.grant, 0)
    return partial(cluster.alice.call, other, push, pieces(DATA)[0])


@refused("grant_expired")
async def a_grant_after_its_end(cluster: Cluster) -> Attempt:
    allocation = await cluster.alice.allocate(DATA)
    cluster.clock.ahead_s += GRANT_TTL_S + 61
    return partial(cluster.alice.push, allocation, 0, pieces(DATA)[0], cluster.general)


@refused("grant_closed", "reason")
async def a_grant_that_was_used(cluster: Cluster) -> Attempt:
    allocation = await cluster.alice.allocate(DATA)
    made = await cluster.alice.push_all(allocation, DATA, cluster.general)
    await cluster.alice.remove(made, cluster.general)
    return partial(cluster.alice.push, allocation, 0, pieces(DATA)[0], cluster.general)


@refused("grant_closed", "reason")
async def a_grant_that_was_cancelled(cluster: Cluster) -> Attempt:
    allocation = await begun(cluster)
    await cluster.alice.cancel(allocation, DATA)
    return partial(cluster.alice.push, allocation, 1, pieces(DATA)[1], cluster.general)


# --- allocations ---


@refused("allowance_exceeded", "limit", "used", "reserved", "needed")
async def more_than_the_allowance(cluster: Cluster) -> Attempt:
    await cluster.app.change(("update", cluster.alice, len(DATA) - 1))
    return partial(cluster.alice.allocate, DATA)


@refused("blob_too_large", "limit", "needed")
def more_than_any_blob(cluster: Cluster) -> Attempt:
    return partial(cluster.alice.allocate, DATA, size=1 << 40)


@refused("no_bucket")
async def more_than_any_bucket_has_room_for(cluster: Cluster) -> Attempt:
    await cluster.app.change(("update", cluster.alice, 1 << 33))
    return partial(cluster.alice.allocate, DATA, size=1 << 31)


@refused("busy", shape=Shape(index={"user_grants_max": 1}))
async def more_grants_than_one_may_have(cluster: Cluster) -> Attempt:
    await cluster.alice.allocate(b"one")
    return partial(cluster.alice.allocate, b"two")


@refused("busy", shape=Shape(buckets=1, bucket={"user_uploads_max": 1}))
async def more_uploads_than_one_may_have(cluster: Cluster) -> Attempt:
    await begun(cluster)
    other = DATA[::-1]
    allocation = await cluster.alice.allocate(other)
    return partial(cluster.alice.push, allocation, 0, pieces(other)[0])


@refused("upload_conflict")
async def another_size_for_an_open_grant(cluster: Cluster) -> Attempt:
    await cluster.alice.allocate(DATA)
    return partial(cluster.alice.allocate, DATA, size=1)


@refused("invalid_argument")
async def another_size_for_a_blob_that_is_held(cluster: Cluster) -> Attempt:
    made = await cluster.alice.upload(DATA, cluster.general)
    bucket = cluster.node(made.bucket)
    await cluster.until(lambda: not bucket.rows.outbox(1))
    return partial(cluster.alice.allocate, DATA, size=1)


@refused("invalid_argument")
async def a_reference_that_would_have_expired(cluster: Cluster) -> Attempt:
    allocation = await cluster.alice.allocate(DATA)
    return partial(
        cluster.alice.push, allocation, 0, pieces(DATA)[0], cluster.general, expires_at=1
    )


# --- chunks ---


@refused("chunk_out_of_range")
async def a_chunk_behind_the_last(cluster: Cluster) -> Attempt:
    allocation = await begun(cluster)
    return partial(cluster.alice.push, allocation, 4, pieces(DATA)[3], cluster.general)


@refused("chunk_size_mismatch", "expected", "got")
async def a_chunk_that_is_too_short(cluster: Cluster) -> Attempt:
    allocation = await begun(cluster)
    return partial(cluster.alice.push, allocation, 1, pieces(DATA)[1][:-1], cluster.general)


@refused("upload_conflict")
async def a_chunk_for_another_chat(cluster: Cluster) -> Attempt:
    allocation = await begun(cluster)
    return partial(cluster.alice.push, allocation, 1, pieces(DATA)[1], cluster.random)


@refused("accessor_deleted")
async def a_chunk_for_a_deleted_chat(cluster: Cluster) -> Attempt:
    allocation = await begun(cluster)
    bucket = cluster.node(allocation.bucket.principal)
    await cluster.app.delete_chat(cluster.general)
    await cluster.until(lambda: bucket.rows.burned(cluster.general.principal))
    return partial(cluster.alice.push, allocation, 1, pieces(DATA)[1], cluster.general)


@refused("hash_mismatch")
async def other_bytes_than_announced(cluster: Cluster) -> Attempt:
    allocation = await cluster.alice.allocate(b"announced")
    return partial(cluster.alice.push, allocation, 0, b"different", cluster.general)


@refused("hash_mismatch")
async def other_bytes_in_the_last_chunk(cluster: Cluster) -> Attempt:
    allocation = await cluster.alice.allocate(DATA)
    for index in (0, 1, 2):
        await cluster.alice.push(allocation, index, pieces(DATA)[index], cluster.general)
    wrong = bytes(len(pieces(DATA)[3]))
    return partial(cluster.alice.push, allocation, 3, wrong, cluster.general)


@refused("bucket_full")
async def more_than_the_bucket_will_keep(cluster: Cluster) -> Attempt:
    allocation = await cluster.alice.allocate(DATA)
    faults = cluster.node(allocation.bucket.principal).disk.faults

    async def push() -> None:
        faults.capacity = KEPT_BACK // 2
        try:
            await cluster.alice.push(allocation, 0, pieces(DATA)[0], cluster.general)
        finally:
            faults.capacity = None

    return push


# --- references and reads ---


@refused("not_found")
def the_status_of_no_upload(cluster: Cluster) -> Attempt:
    bucket = cluster.buckets[0].key.principal
    return partial(cluster.alice.ask_bucket, bucket, m.UploadStatus(ABSENT), m.UploadInfo)


@refused("not_found")
async def a_read_of_nothing(cluster: Cluster) -> Attempt:
    made = await cluster.alice.upload(DATA, cluster.general)
    absent = m.BlobReference(ABSENT, 1, made.bucket, made.owner, made.accessors, b"")
    return partial(cluster.bob.read, cluster.general, absent)


@refused("not_found")
async def a_read_with_another_chats_token(cluster: Cluster) -> Attempt:
    made = await cluster.alice.upload(DATA, cluster.general)
    token = cluster.random.token(cluster.bob)
    return partial(cluster.bob.read, cluster.general, made, token)


@refused("not_found")
async def a_description_without_a_token(cluster: Cluster) -> Attempt:
    made = await cluster.alice.upload(DATA, cluster.general)
    request = m.BlobInfoRequest(cluster.general.principal, made.blob_id)
    return partial(cluster.bob.ask_bucket, made.bucket, request, m.BlobInfo)


@refused("not_found")
async def a_forward_without_access(cluster: Cluster) -> Attempt:
    await cluster.alice.upload(DATA, cluster.general)
    return partial(cluster.bob.forward, DATA, cluster.random, cluster.random)


@refused("not_found")
async def where_a_deleted_chats_blob_is(cluster: Cluster) -> Attempt:
    token = cluster.general.token(cluster.bob)
    await cluster.app.delete_chat(cluster.general)
    locate = m.Locate(cluster.general.principal, blob_of(DATA), token)
    return partial(cluster.bob.ask, locate, m.BucketAddress)


# --- the node ---


@refused("unknown_call")
def a_buckets_call_at_the_index(cluster: Cluster) -> Attempt:
    return partial(cluster.alice.call, cluster.index, m.UploadStatus(ABSENT))


@refused("unknown_call")
def the_indexs_call_at_a_bucket(cluster: Cluster) -> Attempt:
    return partial(cluster.alice.call, cluster.buckets[0], m.GetUser())


@refused("data_corrupt", "segment", "offset")
async def a_stored_blob_that_was_damaged(cluster: Cluster) -> Attempt:
    """Of one chunk: those of several are read, and remembered as verified, when they complete."""
    made = await cluster.alice.upload(DATA[:2000], cluster.general)
    bucket = cluster.node(made.bucket)
    stored = bucket.rows.blob(made.blob_id)
    assert stored is not None
    damage(bucket, stored.number)
    return partial(cluster.bob.read, cluster.general, made)


@refused("internal", recovers=False)
def a_bug_in_the_index(cluster: Cluster) -> Attempt:
    cluster.index.gate.broken = True
    return cluster.alice.info


@refused("internal")
async def a_bug_in_a_bucket(cluster: Cluster) -> Attempt:
    allocation = await begun(cluster)
    cluster.node(allocation.bucket.principal).gate.broken = True
    return partial(cluster.alice.push, allocation, 1, pieces(DATA)[1], cluster.general)


@refused("shutting_down", shape=Shape(buckets=1), recovers=False)
async def a_disk_that_cannot_sync(cluster: Cluster) -> Attempt:
    allocation = await begun(cluster)
    (bucket,) = cluster.buckets
    done = bucket.disk.operations
    bucket.disk.faults = Faults(sync_errors=frozenset(range(done, done + 1000)))
    return partial(cluster.alice.push, allocation, 1, pieces(DATA)[1], cluster.general)
