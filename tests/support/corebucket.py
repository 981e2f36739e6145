"""A bucket's real decisions over a log in a list, as the index's accounts meet them.

It does what `ModelBucket` does. Bytes are zeros: that they are the blob is told by their number.
"""

from __future__ import annotations

from typing import Final

from blake3 import blake3

from ostnode.errors import OstError
from ostnode.identity.tokens import AccessToken, Grant, Scope
from ostnode.ids import BlobId, ClusterId, GrantId, Principal, Uid
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core import references, sync, uploads
from ostnode.roles.bucket.core.admission import Ask, ask_for
from ostnode.roles.bucket.core.chunks import count_chunks
from ostnode.roles.bucket.core.draft import Pushed
from ostnode.roles.bucket.core.reading import Access
from ostnode.roles.bucket.core.rules import Rules
from ostnode.roles.bucket.core.sweeps import expire_upload, sweep_slice
from ostnode.roles.bucket.records import FeedCursor, Init
from ostnode.wire import events as e
from ostnode.wire import messages as m
from ostnode.wire.eventcodec import decode_event
from tests.support.bucketlog import LogInAList
from tests.support.index_model import Token

INCARNATION: Final = 7
_MANY: Final = 10_000


class CoreBucket:
    """`room` is the disk's; `now` this bucket's clock."""

    def __init__(self, principal: Principal, index: Principal) -> None:
        self.principal = principal
        self.rules = Rules(principal, free_bytes_min=0)
        self.log = LogInAList()
        self.room = _MANY
        self.now = 0
        self.index_time = 0
        self.completed: dict[GrantId, int] = {}
        """Grants that were used → the number of the event that said so."""
        self.poison: set[int] = set()
        self.reported: set[int] = set()
        self.log.decide(lambda draft: draft.add(Init(INCARNATION, index)))
        self.log.sync()

    # --- what it holds ---

    @property
    def held(self) -> dict[tuple[Uid, BlobId], int]:
        """(uid, blob) → size, of everything referred to."""
        names = [t.ReferenceId.unpack(row)[0] for _, row in self.log.rows.scan(t.REFERENCES)]
        return {(name.uid, name.blob_id): self._size(name.blob_id) for name in names}

    def _size(self, blob_id: BlobId) -> int:
        row = self.log.state.blob(blob_id)
        assert row is not None, "a reference to a blob that is not stored"
        return row.size

    @property
    def references(self) -> list[t.ReferenceId]:
        return [t.ReferenceId.unpack(row)[0] for _, row in self.log.rows.scan(t.REFERENCES)]

    @property
    def closed(self) -> dict[GrantId, int]:
        """Closed grants that are remembered → their latest end."""
        grants = [GrantId(key[1:]) for key, _ in self.log.rows.scan(t.GRANTS)]
        rows = {grant_id: self.log.state.grant(grant_id) for grant_id in grants}
        return {key: row.end for key, row in rows.items() if isinstance(row, t.ClosedGrant)}

    @property
    def uploads(self) -> int:
        return len(self.log.state.uploads(0, _MANY))

    @property
    def floor(self) -> int:
        return self.log.state.number(t.FLOOR)

    @property
    def cursor(self) -> tuple[int, int]:
        return self.log.state.feed_cursor()

    @property
    def outbox(self) -> list[tuple[int, bytes]]:
        return self.log.state.outbox(_MANY)

    # --- what clients ask ---

    def push(self, token: Token, real_size: int, lives_s: int = 0) -> None:
        """Every chunk, last first."""
        ask = self._ask(token, (self.principal,), b"", lives_s)
        for index in reversed(range(count_chunks(ask.upload))):
            self.push_chunk(ask, index, real_size)

    def push_one(self, token: Token, index: int, real_size: int) -> None:
        ask = self._ask(token, (self.principal,), b"", 0)
        self.push_chunk(ask, index % count_chunks(ask.upload), real_size)

    def push_chunk(self, ask: Ask, index: int, real_size: int) -> None:
        upload = ask.upload
        body = bytes(min(upload.chunk_bytes, upload.size - index * upload.chunk_bytes))
        right = upload.size == real_size
        digest = blake3(body).digest()[:16]
        if count_chunks(upload) == 1:
            pushed = Pushed(index, body, digest, verified=right)
            self.log.decide(
                lambda draft: uploads.accept_whole(draft, self.rules, ask, pushed, self.room)
            )
            return
        pushed = Pushed(index, body, digest)
        answer = self.log.decide(
            lambda draft: uploads.accept(draft, self.rules, ask, pushed, self.room)
        )
        if isinstance(answer, uploads.Received) and answer.missing == 0:
            self.log.decide(
                lambda draft: uploads.finish(
                    draft, self.rules, upload, answer.number, self.now, verified=right
                )
            )

    def forward(self, token: Token, chat: Principal, ref_id: bytes) -> None:
        """With a read token of the chat that all uploads are shown to."""
        access = AccessToken(
            accessor=self.principal,
            cluster=ClusterId(bytes(16)),
            caller=token.user,
            scope=Scope.READ,
            issued_at=self.now,
            expires_at=self.now + 60,
            cti=bytes(16),
        )
        way = Access(token.user, self.principal, token.blob_id, access)
        ask = self._ask(token, (chat,), ref_id, 0)
        self.log.decide(lambda draft: references.forward(draft, self.rules, ask, way))

    def _ask(
        self, token: Token, accessors: tuple[Principal, ...], ref_id: bytes, lives_s: int
    ) -> Ask:
        grant = Grant(
            grant_id=token.grant_id,
            index=Principal(bytes(32)),
            bucket=token.bucket,
            bucket_incarnation=INCARNATION,
            user=token.user,
            uid=token.uid,
            blob_id=token.blob_id,
            size=token.size,
            chunk_bytes=4,
            reserved=token.reserved,
            issued_at=0,
            expires_at=token.end,
        )
        expires_at = lives_s and self.now + lives_s
        request = m.PushChunk(b"-", 0, accessors, ref_id, expires_at=expires_at)
        return ask_for(token.user, grant, request, self.now)

    def cancel(self, token: Token, reason: str) -> None:
        """As the user would, or the disk, or time."""
        if reason == "cancelled":
            self.log.decide(lambda draft: uploads.cancel(draft, token.user, token.blob_id))
        elif reason == "bucket_full":
            self.room = 0
            self.push_one(token, 0, token.size)
            self.room = _MANY
        else:
            self.expire_uploads(stalled=True)

    def remove_all(self, uid: Uid, blob_id: BlobId) -> None:
        """Every reference of the uid to the blob, as far as its owner may still ask."""
        for _ in range(len(self.references)):
            if (uid, blob_id) in self.held:
                self.remove(uid, blob_id)

    def remove(self, uid: Uid, blob_id: BlobId) -> None:
        """One reference."""
        name = next(each for each in self.references if (each.uid, each.blob_id) == (uid, blob_id))
        key = m.ReferenceKey(name.blob_id, name.uid, name.accessor, name.ref_id)
        owner = next(
            (row.principal for raw, row in self.log.state.users(b"") if Uid(raw) == uid), None
        )
        if owner is not None:
            self.log.decide(
                lambda draft: references.remove(draft, self.rules, key, owner, None, self.now)
            )

    # --- time, and the index ---

    def sweep(self) -> None:
        while self.log.decide(lambda draft: sweep_slice(draft, self.now)):
            pass
        self.expire_uploads(stalled=False)

    def expire_uploads(self, *, stalled: bool) -> None:
        for number, _ in self.log.state.uploads(0, _MANY):
            self.log.decide(lambda draft, n=number: expire_upload(draft, n, stalled=stalled))

    def raise_floor(self, floor: int) -> None:
        """And forget the grants that it has passed."""
        if floor <= self.index_time:
            self.log.decide(lambda draft: sync.raise_floor(draft, floor))
            self.sweep()

    def batch(self, count: int) -> m.SyncBucket:
        self.log.sync()
        view = self.log.state
        events = tuple(data for _, data in view.outbox(count)) if count else ()
        space = m.Space(1 << 40, 1 << 40, 0)
        first = view.number(t.OUTBOX_ACKED) + 1
        for seq, data in enumerate(events, first):
            event = decode_event(data, e.OutboxEvent)
            if isinstance(event, e.Completed):
                assert self.completed.setdefault(event.grant_id, seq) == seq, "used twice"
        return m.SyncBucket(INCARNATION, first, events, space, "http://bucket.test")

    def answered(self, request: m.SyncBucket, result: m.SyncResult) -> None:
        last = request.first_seq + len(request.events) - 1
        assert result.acked_seq >= last
        self.reported |= {item.seq for item in result.rejected}
        if request.first_seq == self.log.state.number(t.OUTBOX_ACKED) + 1 and request.events:
            self.log.decide(lambda draft: sync.acknowledge(draft, last, result))

    def hear(self, batch: m.FeedBatch) -> None:
        events = [decode_event(data, e.FeedEvent) for data in batch.events]
        _, seq = self.cursor
        cursor = FeedCursor(batch.incarnation, max(seq, batch.next_seq), 1)
        answer = self.log.decide(lambda draft: sync.apply_feed(draft, events, cursor))
        assert not isinstance(answer, OstError), answer
        self.index_time = max(self.index_time, batch.index_time)
