"""What index and buckets durably hold at one moment, as plain data to judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from ostnode.ids import BlobId, GrantId, Principal, Uid
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.records import Upload
from ostnode.roles.bucket.views import View
from ostnode.roles.index.core.rows import (
    THE_INDEX,
    Bucket,
    Charge,
    FeedRow,
    OpenGrant,
    Placement,
    Rejected,
    User,
)
from ostnode.roles.index.core.tables import Tables
from ostnode.store.keyspace import Reader
from ostnode.wire import events as e
from ostnode.wire.eventcodec import decode_event

_ALL: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class IndexPicture:
    """What is committed in the index's database. `blocked` has versions and how it stands, of
    principals and of blobs.
    """

    incarnation: int
    feed_seq: int
    epoch: int
    users: Mapping[Uid, User]
    grants: Mapping[GrantId, OpenGrant]
    charges: Mapping[tuple[Uid, BlobId], Charge]
    placements: Mapping[BlobId, Placement]
    buckets: Mapping[Principal, Bucket]
    burned: frozenset[Principal]
    blocked: Mapping[bytes, tuple[int, bool]]
    feed: Sequence[FeedRow]
    unstamped: int
    rejected: Sequence[Rejected]

    def live(self, principal: Principal) -> User | None:
        """The registration under this principal that is not deleted."""
        return next(
            (row for row in self.users.values() if row.principal == principal and not row.deleted),
            None,
        )


@dataclass(frozen=True, slots=True)
class BucketPicture:
    """What is durable in a bucket's log. `outbox` has the events above `acked`, by number.

    `uploads` are the open ones by grant, each with the latest end of its grant that was seen;
    `held` says which blobs a uid has references to.
    """

    principal: Principal
    incarnation: int
    floor: int
    promised: int
    acked: int
    next_event: int
    feed_incarnation: int
    feed_seq: int
    feed_level: int
    outbox: Mapping[int, e.OutboxEvent]
    references: Mapping[t.ReferenceId, t.ReferenceRow]
    counts: Mapping[Uid, int]
    blobs: Mapping[BlobId, t.BlobRow]
    pinned: frozenset[BlobId]
    uploads: Mapping[GrantId, tuple[Upload, int]]
    received: Mapping[GrantId, frozenset[int]]
    unreceived: int
    closed: frozenset[GrantId]
    users: Mapping[Uid, t.UserRow]
    burned: frozenset[Principal]
    blocked: Mapping[bytes, tuple[int, bool]]
    sweeps: int
    quarantined: frozenset[BlobId]
    held: Mapping[tuple[Uid, BlobId], int] = field(default_factory=dict)


def picture_index(tables: Tables) -> IndexPicture:
    """All that is committed; to be run between transactions."""
    meta, roster = tables.meta.get(THE_INDEX), tables.roster.get(THE_INDEX)
    return IndexPicture(
        incarnation=0 if meta is None else meta.incarnation,
        feed_seq=0 if meta is None else meta.feed_seq,
        epoch=0 if roster is None else roster.epoch,
        users={row.uid: row for row in tables.users.where()},
        grants={row.grant_id: row for row in tables.grants.where()},
        charges={(row.uid, row.blob_id): row for row in tables.charges.where()},
        placements={row.blob_id: row for row in tables.placements.where()},
        buckets={row.principal: row for row in tables.buckets.where()},
        burned=frozenset(row.accessor for row in tables.burned.where()),
        blocked=_blocked(tables),
        feed=tables.feed.where(),
        unstamped=len(tables.unstamped.where()),
        rejected=tables.rejected.where(),
    )


def _blocked(tables: Tables) -> dict[bytes, tuple[int, bool]]:
    rows: dict[bytes, tuple[int, bool]] = {}
    for row in tables.blocked.where():
        rows[row.principal] = row.version, row.blocked
    for blob in tables.blocked_blobs.where():
        rows[blob.blob_id] = blob.version, blob.blocked
    return rows


def picture_bucket(principal: Principal, rows: Reader) -> BucketPicture:
    """All that is durable; nothing else may run meanwhile."""
    view = View(rows)
    references = dict(_references(rows))
    uploads = dict(view.uploads(0, _ALL))
    held: dict[tuple[Uid, BlobId], int] = {}
    for name in references:
        held[name.uid, name.blob_id] = held.get((name.uid, name.blob_id), 0) + 1
    feed_incarnation, feed_seq = view.feed_cursor()
    return BucketPicture(
        principal=principal,
        incarnation=view.number(t.INCARNATION),
        floor=view.number(t.FLOOR),
        promised=view.number(t.PROMISED),
        acked=view.number(t.OUTBOX_ACKED),
        next_event=view.number(t.OUTBOX_NEXT),
        feed_incarnation=feed_incarnation,
        feed_seq=feed_seq,
        feed_level=view.feed_level(),
        outbox={number: _outbox_event(data) for number, data in view.outbox(_ALL)},
        references=references,
        counts={Uid(key[1:]): t.number_of(row) for key, row in rows.scan(t.COUNTS)},
        blobs={BlobId(key[1:]): t.BlobRow.unpack(row) for key, row in rows.scan(t.BLOBS)},
        pinned=frozenset(BlobId(key[1:33]) for key, _ in rows.scan(t.PINS)),
        uploads={
            upload.grant_id: (upload, view.progress(number).end)
            for number, upload in uploads.items()
        },
        received={
            upload.grant_id: frozenset(view.chunk_indexes(number, _ALL))
            for number, upload in uploads.items()
        },
        unreceived=sum(
            upload.size - view.progress(number).length for number, upload in uploads.items()
        ),
        closed=frozenset(_closed(rows)),
        users={Uid(key[1:]): t.UserRow.unpack(row) for key, row in rows.scan(t.USERS)},
        burned=frozenset(Principal(key[1:]) for key, _ in rows.scan(t.BURNED)),
        blocked={
            key[1:]: t.unpack_blocked(row)
            for table in (t.BLOCKED, t.BLOCKED_BLOBS)
            for key, row in rows.scan(table)
        },
        sweeps=len(view.sweeps(_ALL)),
        quarantined=frozenset(BlobId(key[1:33]) for key, _ in rows.scan(t.FINDINGS)),
        held=held,
    )


def _references(rows: Reader) -> Iterator[tuple[t.ReferenceId, t.ReferenceRow]]:
    for _, row in rows.scan(t.REFERENCES):
        name, rest = t.ReferenceId.unpack(row)
        yield name, t.ReferenceRow.unpack(rest)


def _closed(rows: Reader) -> Iterator[GrantId]:
    for key, row in rows.scan(t.GRANTS):
        if row[:1] == t.CLOSED:
            yield GrantId(key[1:])


def _outbox_event(data: bytes) -> e.OutboxEvent:
    event = decode_event(data, e.OutboxEvent)
    return cast("e.OutboxEvent", event)
