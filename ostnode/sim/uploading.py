"""How a device makes references: whole uploads, cut and resumed ones, forwards."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from ostnode.errors import OstError
from ostnode.identity.grants import Grant
from ostnode.ids import NULL_ACCESSOR, Principal
from ostnode.roles.bucket.tables import ReferenceId
from ostnode.roles.bucket.views import View
from ostnode.sim.calling import Heard, Lane, NoAnswerError
from ostnode.sim.model import Account, Ref, State
from ostnode.sim.stage import Begun, DeadGrant, Stage
from ostnode.sim.workload import Content
from ostnode.wire import messages as m

ROUNDS_MAX: Final = 4
"""Allocations that one upload asks for when its grants end under it."""
LANES: Final = 2
"""Connections that one upload's chunks travel on."""
_GRANT_GONE: Final = frozenset({"grant_closed", "grant_expired", "grant_invalid", "bucket_full"})
_MAY_BE_REFUSED: Final = _GRANT_GONE | {
    "user_unknown",
    "not_authorized",
    "accessor_deleted",
    "upload_conflict",
    "blob_blocked",
    "busy",
    "no_bucket",
    "draining",
    "allowance_exceeded",
}
"""What an upload that is in order may be refused with."""


@dataclass(slots=True)
class _Pushing:
    """Chunks under way, and what was heard of them."""

    waiting: list[int]
    reference: m.BlobReference | None = None
    refusal: OstError | None = None
    unanswered: bool = False


@dataclass(slots=True)
class Making:
    """One operation that makes references, over all its tries."""

    content: Content
    accessors: tuple[Principal, ...]
    ref_id: bytes
    expires_at: int = 0
    refs: list[Ref] = field(default_factory=list)
    unanswered: bool = False

    def begin(self, stage: Stage, grant: Grant) -> None:
        """The references that the grant's use would make are asked for from now on."""
        known = {ref.name for ref in self.refs}
        names = [
            ReferenceId(self.content.blob_id, accessor, grant.uid, self.ref_id)
            for accessor in dict.fromkeys(self.accessors or (NULL_ACCESSOR,))
        ]
        new = [name for name in names if name not in known]
        begun = stage.model.begin(new, self.content.size, self.expires_at)
        for ref in begun:
            ref.blurred = self.content.blob_id in stage.evicting.get(grant.uid, ())
        self.refs += begun


class Maker:
    """One device's uploads and forwards."""

    def __init__(self, stage: Stage, account: Account, name: str) -> None:
        self.stage, self.account, self.name = stage, account, name
        self.model = stage.model

    def lane(self, number: int = 0) -> Lane:
        """One of the device's connections, as whoever its user is now."""
        return Lane(self.account.key, f"{self.name}{number}" if number else self.name)

    async def allocate(self, content: Content) -> tuple[m.Allocation, Grant] | None:
        """A grant for the content, or None when the index refuses; raises NoAnswerError."""
        account, uid = self.account, self.account.uid
        request = m.Allocate(content.blob_id, content.size)
        heard = await self.stage.lines.ask(self.lane(), "index", request)
        if heard.reply is None:
            self._judge_refused_allocation(heard, content)
            return None
        allocation = heard.reply.message
        assert isinstance(allocation, m.Allocation)
        grant = self.stage.open_grant(allocation)
        if (grant.blob_id, grant.size) != (content.blob_id, content.size):
            raise self.stage.violated(f"{self.name}: the grant is for something else")
        if uid is not None and uid == account.uid and grant.uid != uid:
            raise self.stage.violated(f"{self.name}: the grant is another registration's")
        return allocation, grant

    def _judge_refused_allocation(self, heard: Heard, content: Content) -> None:
        self.stage.note(f"allocation refused: {heard.code}")
        details = {} if heard.refusal is None else heard.refusal.details
        if heard.code == "allowance_exceeded" and "limit" in details:
            numbers = [details[name] for name in ("limit", "used", "reserved", "needed")]
            limit, used, reserved, needed = (int(number) for number in numbers)
            if used + reserved + needed <= limit:
                raise self.stage.violated(f"{self.name}: {content.size} bytes would have fit")
        if heard.code not in _MAY_BE_REFUSED:
            raise self.stage.violated(f"{self.name}: allocation refused: {heard.refusal}")

    async def upload(
        self,
        making: Making,
        rng: random.Random,
        cut: int | None = None,
        wait_s: float = 0.0,
    ) -> None:
        """Upload, allocating again when a grant ends.

        `cut` pushes only so many chunks, `wait_s` is how long the first grant lies about.
        """
        try:
            for number in range(ROUNDS_MAX):
                granted = await self.allocate(making.content)
                if granted is None:
                    break
                making.begin(self.stage, granted[1])
                await trio.sleep(0 if number else wait_s)
                if await self._push(making, *granted, rng, cut):
                    return
            else:
                making.unanswered = True  # whatever is there of it may still be completed
        except NoAnswerError:
            making.unanswered = True
        self.end(making, there=())

    async def resume(self, begun: Begun, rng: random.Random) -> None:
        """Go on with an upload that was left, with the chunks that the bucket has not got."""
        making = Making(
            begun.content, begun.accessors, begun.ref_id, begun.expires_at, list(begun.refs)
        )
        making.unanswered = True  # whoever left it may not have heard everything
        await self.upload(making, rng)

    async def _push(
        self,
        making: Making,
        allocation: m.Allocation,
        grant: Grant,
        rng: random.Random,
        cut: int | None,
    ) -> bool:
        """Push what is missing; whether the upload has ended, one way or another."""
        count = max(1, -(-making.content.size // grant.chunk_bytes))
        indexes = await self._missing(making, allocation, grant, count)
        rng.shuffle(indexes)
        pushing = _Pushing(indexes if cut is None else indexes[: min(cut, count - 1)])
        node = self.stage.world.name_of(allocation.bucket.principal)
        async with trio.open_nursery() as nursery:
            for number in range(LANES):
                nursery.start_soon(
                    self._push_some, making, allocation, grant, node, pushing, number
                )
        making.unanswered = making.unanswered or pushing.unanswered
        if pushing.reference is not None:
            self.made(making, pushing.reference, grant)
            self.stage.note_dead(DeadGrant(self.account, allocation.grant, grant, making.content))
            return True
        if cut is not None and pushing.refusal is None:
            left = Begun(
                making.content,
                making.accessors,
                making.ref_id,
                making.expires_at,
                tuple(making.refs),
            )
            self.stage.begun[self.account.number].append(left)
            self.stage.note("upload left")
            return True
        if pushing.refusal is None or pushing.refusal.code in _GRANT_GONE:
            return False
        self.end(making, there=())
        return True

    async def _missing(
        self, making: Making, allocation: m.Allocation, grant: Grant, count: int
    ) -> list[int]:
        """Indexes of the chunks to push; asks the bucket when some may be there."""
        if grant.grant_id not in self.model.chunks:
            return list(range(count))
        node = self.stage.world.name_of(allocation.bucket.principal)
        request = m.UploadStatus(making.content.blob_id)
        acked = set(self.model.chunks[grant.grant_id])
        heard = await self.stage.lines.ask(self.lane(), node, request)
        if heard.reply is None:
            return list(range(count))
        info = heard.reply.message
        assert isinstance(info, m.UploadInfo)
        received = {i for i in range(count) if info.received[i // 8] >> i % 8 & 1}
        if info.grant_id == grant.grant_id and not acked <= received:
            lost = sorted(acked - received)
            raise self.stage.violated(f"{self.name}: acknowledged chunks {lost} are not there")
        return [i for i in range(count) if i not in received] or [0]

    async def _push_some(
        self,
        making: Making,
        allocation: m.Allocation,
        grant: Grant,
        node: str,
        pushing: _Pushing,
        lane: int,
    ) -> None:
        while pushing.waiting and pushing.reference is None and pushing.refusal is None:
            index = pushing.waiting.pop()
            at = index * grant.chunk_bytes
            request = m.PushChunk(
                allocation.grant,
                index,
                making.accessors,
                making.ref_id,
                content_type="text/plain",
                expires_at=making.expires_at,
            )
            body = making.content.data[at : at + grant.chunk_bytes]
            try:
                heard = await self.stage.lines.ask(self.lane(lane), node, request, body)
            except NoAnswerError:
                pushing.unanswered = True
                continue
            pushing.unanswered = pushing.unanswered or heard.blurred
            if heard.reply is None:
                pushing.refusal = heard.refusal
                self._judge_refused_use(making, heard)
            else:
                self._accepted(heard, grant, index, pushing)

    def _accepted(self, heard: Heard, grant: Grant, index: int, pushing: _Pushing) -> None:
        assert heard.reply is not None
        result = heard.reply.message
        assert isinstance(result, m.PushResult)
        if result.reference is not None:
            pushing.reference = result.reference
        else:
            self.model.chunks.setdefault(grant.grant_id, set()).add(index)

    def _judge_refused_use(self, making: Making, heard: Heard) -> None:
        code = heard.code
        self.stage.note(f"use of a grant refused: {code}")
        late = 0 < making.expires_at <= self.stage.now + self.stage.skew_s
        if code == "invalid_argument" and late:
            return
        if code not in _MAY_BE_REFUSED:
            raise self.stage.violated(f"{self.name}: refused: {heard.refusal}")
        self._check_excuse(code, making)

    def _check_excuse(self, code: str, making: Making) -> None:
        """Refusals that only others' doings can bring about."""
        # The grant may be that of an upload for other chats, which was left.
        if code == "accessor_deleted" and not self.model.burning:
            raise self.stage.violated(f"{self.name}: nobody has deleted these chats")
        uids = {ref.name.uid for ref in making.refs}
        if code == "user_unknown" and not uids & self.model.dying:
            raise self.stage.violated(f"{self.name}: nobody has deleted this user")
        if code == "blob_blocked" and making.content.blob_id not in self.stage.blocked_blobs:
            raise self.stage.violated(f"{self.name}: nobody has blocked this blob")
        if code == "not_authorized" and self.account.blocked is False:
            raise self.stage.violated(f"{self.name}: nobody has blocked this user")

    async def forward(self, making: Making, source: Ref) -> None:
        """Make what the source shows visible to others, without moving its bytes."""
        try:
            granted = await self.allocate(making.content)
            if granted is None:
                return
            allocation, grant = granted
            making.begin(self.stage, grant)
            accessor, token = self.stage.way_to(source, self.account)
            before = self.stage.readable(self.account, accessor, making.content)
            request = m.AddReference(
                allocation.grant,
                accessor,
                token,
                making.accessors,
                making.ref_id,
                expires_at=making.expires_at,
            )
            node = self.stage.world.name_of(allocation.bucket.principal)
            heard = await self.stage.lines.ask(self.lane(), node, request)
        except NoAnswerError:
            making.unanswered = True
            self.end(making, there=())
            return
        making.unanswered = making.unanswered or heard.blurred
        if heard.reply is not None:
            result = heard.reply.message
            assert isinstance(result, m.PushResult)
            assert result.reference is not None
            if before is State.GONE and not making.unanswered:
                raise self.stage.violated(f"{self.name}: forwarded what it could not read")
            self.made(making, result.reference, grant)
            return
        if heard.code != "not_found":
            self._judge_refused_use(making, heard)
        elif before is State.THERE and self.stage.trusts_clock(node):
            after = self.stage.readable(self.account, accessor, making.content)
            if after is State.THERE:
                raise self.stage.violated(f"{self.name}: forward of {source.name}: not found")
        self.end(making, there=())

    def made(self, making: Making, reference: m.BlobReference, grant: Grant) -> None:
        """The making is acknowledged; the answer must say what was asked for."""
        said = (reference.blob_id, reference.size, reference.owner, reference.ref_id)
        asked = (making.content.blob_id, making.content.size, grant.uid, making.ref_id)
        if (*said, reference.bucket) != (*asked, grant.bucket):
            raise self.stage.violated(f"{self.name}: the answer names another reference: {said}")
        left_out = set(making.accessors) - set(reference.accessors)
        if not left_out <= self.model.burning:
            raise self.stage.violated(f"{self.name}: chats were left out that nobody has deleted")
        self.end(making, reference.accessors, grant)
        self._check_durable(making, grant)

    def _check_durable(self, making: Making, grant: Grant) -> None:
        """Nobody is told anything that is not on the disk yet."""
        rows = self.stage.world.bucket_rows(self.stage.world.name_of(grant.bucket))
        if rows is None:
            return
        for ref in making.refs:
            there = self.stage.state(ref) is State.THERE and ref.bucket == grant.bucket
            if there and View(rows).reference(ref.name) is None:
                raise self.stage.violated(f"{self.name}: told of {ref.name}, which is not durable")

    def end(self, making: Making, there: Sequence[Principal], grant: Grant | None = None) -> None:
        """What the operation has come to. Without any certain answer its references stay open."""
        for ref in making.refs:
            if grant is not None and ref.name.uid == grant.uid:
                ref.bucket = grant.bucket
                ref.end_making(there=ref.name.accessor in there)
            elif not making.unanswered:
                ref.end_making(there=False)
        outcome = "made" if there else "open" if making.unanswered else "refused"
        self.stage.note(f"reference {outcome}")
