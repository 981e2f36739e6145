"""The index's calls by name, the same over HTTP and over a peer link."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from ostnode.errors import error_class
from ostnode.ids import BlobId, GrantId, Principal
from ostnode.wire import accounts as ac
from ostnode.wire import checking as ck
from ostnode.wire import fleet as fl
from ostnode.wire import membership as mb
from ostnode.wire import messages as m
from ostnode.wire.fields import Message, Request
from ostnode.wire.status import ClusterInfo, ClusterStatus

M = TypeVar("M", bound=Message)


class IndexCalls(ABC):
    """Every method raises the OstError that the index refused with, or a ClientError.

    Sizes are bytes. Repeating any of them is harmless, unless it says otherwise.
    """

    @abstractmethod
    async def ask_index(self, request: Request, result: type[M]) -> M:
        """Any call of the index, by its request."""

    async def allowance(self) -> m.Allowance:
        """The caller's own account; UserUnknownError for nobody registered."""
        return (await self.user()).allowance

    async def user(self, principal: Principal | None = None) -> m.UserInfo:
        """A registration: the caller's own, or for the app anybody's."""
        return await self.ask_index(m.GetUser(principal), m.UserInfo)

    async def register_user(
        self, principal: Principal, byte_limit: int, *, on_full: str = "refuse"
    ) -> None:
        """Register a principal, or change its limit when it is registered (app only)."""
        change = m.UserChange("register", principal, byte_limit, on_full)
        raise_first(await self.change_users([change]))

    async def delete_user(self, principal: Principal) -> None:
        """End a registration; succeeds when there is none (app only)."""
        raise_first(await self.change_users([m.UserChange("delete", principal)]))

    async def change_users(self, changes: Sequence[m.UserChange]) -> m.BatchResult:
        """Up to BATCH_ITEMS_MAX changes in order, with a result for each (app only)."""
        return await self.ask_index(m.ChangeUsers(tuple(changes)), m.BatchResult)

    async def change_user_principal(self, old: Principal, new: Principal) -> None:
        """Move a registration with all it holds (app only); UserExistsError on a collision.

        UserUnknownError also when a first attempt did it and its answer was lost.
        """
        await self.ask_index(m.ChangePrincipal(old, new), m.Ok)

    async def block_principal(self, principal: Principal, *, blocked: bool = True) -> None:
        """Deny a principal sessions and reads, or allow them again (app or operator)."""
        await self.ask_index(m.BlockPrincipal(principal, blocked), m.Ok)

    async def block_blob(self, blob_id: BlobId, *, blocked: bool = True) -> None:
        """Have a blob refused everywhere, or no longer (operator only)."""
        await self.ask_index(ac.BlockBlob(blob_id, blocked), m.Ok)

    async def list_blocked(self, after: BlobId | None = None) -> ac.BlockedPage:
        """A page of the blobs that are blocked (operator only)."""
        return await self.ask_index(ac.ListBlocked(after), ac.BlockedPage)

    async def allocated_bucket(self, blob_id: BlobId, size: int) -> m.Allocation:
        """Reserve bytes and learn the blob's bucket; AllowanceExceededError says what is left."""
        return await self.ask_index(m.Allocate(blob_id, size), m.Allocation)

    async def release_grant(self, grant_id: GrantId) -> None:
        """Give an allocation back."""
        await self.ask_index(m.ReleaseGrant(grant_id), m.Ok)

    async def can_forward(self, blob_id: BlobId, size: int) -> m.Allowance:
        """The account as it would be after a forward, or AllowanceExceededError."""
        return await self.ask_index(m.CanForward(blob_id, size), m.Allowance)

    async def locate(
        self, accessor: Principal, blob_id: BlobId, *, token: bytes = b""
    ) -> m.BucketAddress:
        """Where a blob is that the caller may read; NotFoundError for every other."""
        return await self.ask_index(m.Locate(accessor, blob_id, token), m.BucketAddress)

    async def delete_accessor(self, accessor: Principal, *, token: bytes = b"") -> None:
        """Delete a chat for ever, with an acc.del token; the app needs none."""
        await self.ask_index(m.DeleteAccessor(accessor, token), m.Ok)

    async def cluster_status(self) -> ClusterInfo:
        """Totals and buckets (app or operator)."""
        return await self.ask_index(ClusterStatus(), ClusterInfo)

    async def fleet_status(self, after: Principal | None = None) -> fl.FleetInfo:
        """Whether there are enough buckets, and a page of them (app or operator)."""
        return await self.ask_index(fl.FleetStatus(after), fl.FleetInfo)

    async def set_bucket_state(self, bucket: Principal, state: str) -> str:
        """Decide what a bucket is for: standby, active, full or retired (operator only).

        The state that it has now: a silent or full one takes it up as soon as it can.
        """
        answer = await self.ask_index(fl.SetBucketState(bucket, state), fl.BucketStanding)
        return answer.state

    async def invite_bucket(
        self, ttl_s: int, *, auto_approve: bool = False, label: str = ""
    ) -> mb.Invitation:
        """A join token for one bucket (operator only). Repeating it makes another."""
        request = mb.InviteBucket(ttl_s, auto_approve, label)
        return await self.ask_index(request, mb.Invitation)

    async def withdraw_invite(self, invite_id: bytes) -> None:
        """End a join token that nobody has used (operator only)."""
        await self.ask_index(mb.WithdrawInvite(invite_id), m.Ok)

    async def list_members(self, after: Principal | None = None) -> mb.MemberPage:
        """A page of the cluster's buckets (operator only)."""
        return await self.ask_index(mb.ListMembers(after), mb.MemberPage)

    async def approve_bucket(self, bucket: Principal) -> None:
        """Let a pending or revoked bucket work (operator only); NotFoundError for any other."""
        await self.ask_index(mb.ApproveBucket(bucket), m.Ok)

    async def revoke_bucket(self, bucket: Principal) -> None:
        """Shut a bucket out (operator only); NotFoundError for one that is no member."""
        await self.ask_index(mb.RevokeBucket(bucket), m.Ok)

    async def start_check(
        self, bucket: Principal | None = None, *, repair: bool = False
    ) -> ck.CheckProgress:
        """Compare the index with its buckets, or with one (operator only)."""
        return await self.ask_index(ck.StartCheck(bucket, repair), ck.CheckProgress)

    async def check_progress(self, run: int = 0) -> ck.CheckProgress:
        """How a check does, and which buckets a restored index waits for (operator only)."""
        return await self.ask_index(ck.GetCheck(run), ck.CheckProgress)

    async def list_findings(
        self, bucket: Principal | None = None, *, after: bytes = b""
    ) -> ck.FindingPage:
        """A page of what checks have found (operator only)."""
        return await self.ask_index(ck.ListFindings(after, bucket), ck.FindingPage)

    async def forget_bucket(self, bucket: Principal, *, after: bytes = b"") -> ck.Forgotten:
        """Free a slice of what is charged for a lost bucket (operator only)."""
        return await self.ask_index(ck.ForgetBucket(bucket, after), ck.Forgotten)

    async def list_rejected(
        self, bucket: Principal | None = None, *, seq: int = 0
    ) -> ck.RejectedPage:
        """A page of outbox events that could not be applied (operator only)."""
        return await self.ask_index(ck.ListRejected(bucket, seq), ck.RejectedPage)

    async def dismiss_rejected(self, bucket: Principal, *, seq: int = 0) -> None:
        """Forget such an event, or all of a bucket's (operator only)."""
        await self.ask_index(ck.DismissRejected(bucket, seq), m.Ok)


def raise_first(batch: m.BatchResult) -> None:
    """Raise the first item's refusal of a batch, if there is one."""
    for result in batch.results:
        if result.code:
            raise error_class(result.code)(result.message)
