"""A bucket as the index's accounts need it: a small model that keeps the mission's rules.

It holds no bytes. What it must get right is which grants it completes, which events it queues in
which order, and what it forgets when.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.eventcodec import decode_event, encode_event


@dataclass(frozen=True)
class Token:
    """A grant as signed: kept by the client for ever, shown whenever it likes."""

    grant_id: GrantId
    bucket: Principal
    uid: Uid
    blob_id: BlobId
    size: int
    reserved: int
    end: int
    user: Principal


@dataclass
class ModelBucket:
    """`closed` maps a closed grant to its latest end, 0 until the index has named it."""

    principal: Principal
    incarnation: int = 7
    held: dict[tuple[Uid, BlobId], int] = field(default_factory=dict)
    closed: dict[GrantId, int] = field(default_factory=dict)
    completed: set[GrantId] = field(default_factory=set)
    deleted: set[Uid] = field(default_factory=set)
    outbox: list[bytes] = field(default_factory=list)
    acked: int = 0
    poison: set[int] = field(default_factory=set)
    reported: set[int] = field(default_factory=set)
    floor: int = 0
    index_time: int = 0
    cursor: tuple[int, int] = (0, 0)

    def push(self, token: Token, real_size: int) -> bool:
        """The whole upload at once; whether it completed."""
        if token.grant_id in self.closed or token.end <= self.floor:
            return False
        if token.uid in self.deleted:
            return self._close(token, "user_deleted")
        if token.reserved < token.size and (token.uid, token.blob_id) not in self.held:
            return self._close(token, "not_held")
        if token.size != real_size:
            return self._close(token, "hash_mismatch")
        assert token.grant_id not in self.completed, "a grant completed twice"
        self.completed.add(token.grant_id)
        self.held[token.uid, token.blob_id] = real_size
        self.closed[token.grant_id] = 0
        self._queue(e.Completed(token.grant_id, token.uid, token.blob_id, real_size))
        return True

    def cancel(self, token: Token, reason: str) -> None:
        if token.grant_id not in self.closed and token.end > self.floor:
            self._close(token, reason)

    def remove(self, uid: Uid, blob_id: BlobId) -> None:
        size = self.held.pop((uid, blob_id), None)
        if size is not None:
            self._queue(e.Released(uid, blob_id, size))

    def raise_floor(self, floor: int) -> None:
        if self.floor < floor <= self.index_time:
            self.floor = floor
            self._queue(e.FloorRaised(floor))
            self._prune()

    def queue_poison(self, data: bytes) -> None:
        self.outbox.append(data)
        self.poison.add(len(self.outbox))

    def batch(self, count: int) -> m.SyncBucket:
        """The next unacknowledged events; what was sent before is sent again."""
        events = tuple(self.outbox[self.acked : self.acked + count])
        space = m.Space(1 << 40, 1 << 40, 0)
        return m.SyncBucket(self.incarnation, self.acked + 1, events, space, "http://bucket.test")

    def answered(self, request: m.SyncBucket, result: m.SyncResult) -> None:
        last = request.first_seq + len(request.events) - 1
        assert result.acked_seq >= last
        ended = {
            event.grant_id
            for event in map(self._decoded, range(request.first_seq, last + 1))
            if isinstance(event, e.Completed | e.GrantClosed)
        }
        assert {closed.grant_id for closed in result.closed} == ended
        self.reported |= {item.seq for item in result.rejected}
        for closed in result.closed:
            assert closed.end > 0
            self._name_end(closed.grant_id, closed.end)
        self.acked = last
        self._prune()

    def hear(self, batch: m.FeedBatch) -> None:
        for data in batch.events:
            event = decode_event(data, e.FeedEvent)
            if isinstance(event, e.UserChanged) and event.deleted:
                self.deleted.add(event.uid)
                for uid, blob_id in [key for key in self.held if key[0] == event.uid]:
                    self.remove(uid, blob_id)
            elif isinstance(event, e.GrantRevoked):
                if event.grant_id not in self.closed and event.end > self.floor:
                    closed = e.GrantClosed(event.grant_id, event.uid, event.blob_id, "revoked")
                    self._queue(closed)
                    self.closed[event.grant_id] = 0
                self._name_end(event.grant_id, event.end)
            elif isinstance(event, e.GrantRecalled) and event.grant_id not in self.closed:
                closed = e.GrantClosed(event.grant_id, event.uid, event.blob_id, "revoked")
                self._queue(closed)
                self.closed[event.grant_id] = 0
            elif isinstance(event, e.EvictBlob):
                self.remove(event.uid, event.blob_id)
                self._queue(e.Evicted(event.uid, event.blob_id))
        self.cursor = (batch.incarnation, batch.next_seq)
        self.index_time = max(self.index_time, batch.index_time)
        self._prune()

    def _close(self, token: Token, reason: str) -> bool:
        self.closed[token.grant_id] = 0
        self._queue(e.GrantClosed(token.grant_id, token.uid, token.blob_id, reason))
        return False

    def _queue(self, event: e.OutboxEvent) -> None:
        self.outbox.append(encode_event(event))

    def _decoded(self, seq: int) -> object:
        return None if seq in self.poison else decode_event(self.outbox[seq - 1], e.OutboxEvent)

    def _name_end(self, grant_id: GrantId, end: int) -> None:
        if grant_id in self.closed:
            self.closed[grant_id] = end

    def _prune(self) -> None:
        """A closed id whose latest end the floor has passed is refused by the floor alone."""
        self.closed = {key: end for key, end in self.closed.items() if not 0 < end <= self.floor}
