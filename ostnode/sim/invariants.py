"""What must hold of an index and its buckets at every moment, whatever crashes: over pictures.

The index may be behind a bucket by exactly the events that wait in the bucket's outbox, a bucket
behind the index by exactly the feed behind its cursor, and by nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ostnode.ids import BlobId, Uid
from ostnode.roles.index.core.rows import Bucket, BucketState, FeedRow
from ostnode.sim.pictures import BucketPicture, IndexPicture
from ostnode.wire import events as e
from ostnode.wire.eventcodec import decode_event


def problems_of(
    index: IndexPicture,
    buckets: Sequence[BucketPicture],
    *,
    agreeing: bool = True,
    single: bool = True,
) -> Iterator[str]:
    """Everything that is wrong at this moment, in words.

    `agreeing` is False once a node was put back from a backup, until that is repaired. A bucket
    that was put back may bring blobs along that have found another place: `single` is False then.
    """
    yield from _accounts(index)
    yield from _placements(index)
    yield from _copies(buckets) if single else ()
    for bucket in buckets:
        yield from _storage(bucket)
        row = index.buckets.get(bucket.principal)
        if agreeing and row is not None and row.incarnation == bucket.incarnation:
            yield from _cursors(index, row, bucket)
            yield from _charges(index, row, bucket)
            yield from _reservations(index, row, bucket)
            yield from _fed(index, bucket)


def rest_problems(index: IndexPicture, buckets: Sequence[BucketPicture]) -> Iterator[str]:
    """What is still under way when nothing should be, in words: all of it must come to an end."""
    if index.unstamped:
        yield f"{index.unstamped} changes are not in the feed"
    yield from (f"{short(grant)} is still open at the index" for grant in index.grants)
    for charge in index.charges.values():
        if charge.evicting:
            yield f"blob {short(charge.blob_id)} of {short(charge.uid)} is still being evicted"
    for bucket in buckets:
        name = short(bucket.principal)
        row = index.buckets.get(bucket.principal)
        if row is None or row.state in {BucketState.PENDING, BucketState.REVOKED}:
            yield f"bucket {name} is {'unknown' if row is None else row.state}"
            continue
        if bucket.outbox or row.acked_seq != bucket.next_event - 1:
            yield f"bucket {name} has events that the index does not"
        if (bucket.feed_incarnation, bucket.feed_seq) != (index.incarnation, index.feed_seq):
            yield f"bucket {name} has read {bucket.feed_seq} of {index.feed_seq} in the feed"
        if bucket.sweeps:
            yield f"bucket {name} has {bucket.sweeps} sweeps to do"
        yield from (f"bucket {name} has an open upload {short(grant)}" for grant in bucket.uploads)
    for rejected in index.rejected:
        yield f"event {rejected.seq} was set aside: {rejected.reason}"


def short(name: bytes) -> str:
    """The beginning of a name, for people."""
    return name[-8:].hex() if len(name) == _GRANT_BYTES else name[:4].hex()


_GRANT_BYTES = 16


def _accounts(index: IndexPicture) -> Iterator[str]:
    """Every account is the sum of its charges and grants."""
    used: Counter[Uid] = Counter()
    blobs: Counter[Uid] = Counter()
    reserved: Counter[Uid] = Counter()
    grants: Counter[Uid] = Counter()
    for charge in index.charges.values():
        if not charge.evicting:
            used[charge.uid] += charge.size
            blobs[charge.uid] += 1
    for grant in index.grants.values():
        reserved[grant.uid] += grant.reserved
        grants[grant.uid] += 1
    for uid, user in index.users.items():
        if user.deleted:
            continue
        said = (user.used, user.reserved, user.blobs, user.grants)
        true = (used[uid], reserved[uid], blobs[uid], grants[uid])
        if said != true:
            yield f"account {short(uid)} says (used, reserved, blobs, grants) {said}, not {true}"
    principals = Counter(user.principal for user in index.users.values() if not user.deleted)
    yield from (f"{short(key)} is registered twice" for key, n in principals.items() if n > 1)


def _placements(index: IndexPicture) -> Iterator[str]:
    """Every placement counts its grants and charges, which are all in its bucket."""
    grants = Counter((grant.blob_id, grant.bucket) for grant in index.grants.values())
    charges = Counter((charge.blob_id, charge.bucket) for charge in index.charges.values())
    for blob_id, place in index.placements.items():
        here = (blob_id, place.bucket)
        if (place.grants, place.charges) != (grants.pop(here, 0), charges.pop(here, 0)):
            yield f"the placement of blob {short(blob_id)} does not count its grants and charges"
    for blob_id, bucket in grants | charges:
        yield f"blob {short(blob_id)} has grants or charges in {short(bucket)}, which it is not in"


def _copies(buckets: Sequence[BucketPicture]) -> Iterator[str]:
    """One copy of a hash that anybody has. What only an upload keeps whose grant is over ends with
    the upload; meanwhile the blob may be placed elsewhere, when other buckets are in use.
    """
    copies = Counter(
        blob_id for bucket in buckets for blob_id in {name.blob_id for name in bucket.references}
    )
    yield from (
        f"blob {short(blob)} is stored in {n} buckets" for blob, n in copies.items() if n > 1
    )


def _storage(bucket: BucketPicture) -> Iterator[str]:
    """References are exact: what has one is stored, what has none is collected."""
    referenced = {name.blob_id for name in bucket.references}
    where = f"in bucket {short(bucket.principal)}"
    for blob_id in referenced - bucket.blobs.keys() - bucket.quarantined:
        yield f"blob {short(blob_id)} has references and is not stored {where}"
    for blob_id in bucket.blobs.keys() - referenced - bucket.pinned:
        yield f"blob {short(blob_id)} has no references and is stored {where}"
    counts = Counter(name.uid for name in bucket.references)
    for uid in counts.keys() | bucket.counts.keys():
        if counts[uid] != bucket.counts.get(uid, 0):
            said = f"{bucket.counts.get(uid, 0)}, not {counts[uid]}"
            yield f"the number of references of {short(uid)} is said to be {said} {where}"
    if bucket.promised != bucket.unreceived:
        yield f"{bucket.promised} bytes are promised, {bucket.unreceived} are to come {where}"


def _cursors(index: IndexPicture, row: Bucket, bucket: BucketPicture) -> Iterator[str]:
    """Nobody has heard of anything that the other does not durably have."""
    name = short(bucket.principal)
    if row.acked_seq < bucket.acked:
        yield f"bucket {name} was told {bucket.acked} is applied; the index has {row.acked_seq}"
    if row.acked_seq >= bucket.next_event:
        yield f"the index has event {row.acked_seq} of bucket {name}, which has lost it"
    if row.floor > bucket.floor:
        yield f"the index has floor {row.floor} of bucket {name}, whose floor is {bucket.floor}"
    if bucket.feed_incarnation == index.incarnation and bucket.feed_seq > index.feed_seq:
        yield f"bucket {name} has read {bucket.feed_seq} in a feed that ends at {index.feed_seq}"


def waiting_events(row: Bucket, bucket: BucketPicture) -> Iterator[e.OutboxEvent]:
    """A bucket's events that the index has not applied yet, in order."""
    yield from (bucket.outbox[seq] for seq in sorted(bucket.outbox) if seq > row.acked_seq)


def _charges(index: IndexPicture, row: Bucket, bucket: BucketPicture) -> Iterator[str]:
    """Charges, once the waiting events are applied, are what the uids hold here."""
    charged, evicting = dict[tuple[Uid, BlobId], int](), set[tuple[Uid, BlobId]]()
    for key, charge in index.charges.items():
        if charge.bucket == bucket.principal:
            charged[key] = charge.size
            if charge.evicting:
                evicting.add(key)
    for event in waiting_events(row, bucket):
        _expect(charged, evicting, event)
    name = short(bucket.principal)
    for uid, blob_id in bucket.held.keys() - charged.keys():
        yield f"{short(uid)} holds blob {short(blob_id)} in bucket {name} and is not charged"
    for (uid, blob_id), size in charged.items():
        if (uid, blob_id) not in bucket.held and (uid, blob_id) not in evicting:
            yield f"{short(uid)} is charged for blob {short(blob_id)}, not held in bucket {name}"
        stored = bucket.blobs.get(blob_id)
        if stored is not None and stored.size != size:
            yield f"{short(uid)} is charged {size} for blob {short(blob_id)} of {stored.size} bytes"


def _expect(
    charged: dict[tuple[Uid, BlobId], int],
    evicting: set[tuple[Uid, BlobId]],
    event: e.OutboxEvent,
) -> None:
    """What an event does to the charges: one that is being evicted ends by `Evicted` alone."""
    match event:
        case e.Completed():
            charged.setdefault((event.uid, event.blob_id), event.size)
        case e.Released() | e.GrantClosed(reason="not_held"):
            if (event.uid, event.blob_id) not in evicting:
                charged.pop((event.uid, event.blob_id), None)
        case e.Evicted():
            if (event.uid, event.blob_id) in evicting:
                charged.pop((event.uid, event.blob_id), None)
                evicting.discard((event.uid, event.blob_id))
        case _:
            pass


def _reservations(index: IndexPicture, row: Bucket, bucket: BucketPicture) -> Iterator[str]:
    """What can still complete or has just completed is reserved; what is dead is told."""
    name = short(bucket.principal)
    ending = set()
    for event in waiting_events(row, bucket):
        if isinstance(event, e.Completed) and event.grant_id not in index.grants:
            yield f"grant {short(event.grant_id)} completed in bucket {name} without a reservation"
        if isinstance(event, e.Completed | e.GrantClosed):
            ending.add(event.grant_id)
    for grant_id, (_, end) in bucket.uploads.items():
        same = grant_id.incarnation == index.incarnation
        if same and end > bucket.floor and grant_id not in index.grants:
            yield f"grant {short(grant_id)} is open in bucket {name} without a reservation"
    for grant_id, grant in index.grants.items():
        if grant.bucket != bucket.principal:
            continue
        if grant_id in bucket.closed and grant_id not in ending:
            yield f"grant {short(grant_id)} is closed in bucket {name}, and the index never hears"
        if grant.latest_end <= row.floor:
            yield f"grant {short(grant_id)} is over in bucket {name} and still reserved"


def _fed(index: IndexPicture, bucket: BucketPicture) -> Iterator[str]:
    """Everything in the feed up to the bucket's cursor has had its effect."""
    if bucket.feed_incarnation != index.incarnation:
        return
    name = short(bucket.principal)
    for row in index.feed:
        mine = row.bucket in {b"", bucket.principal}
        if mine and row.seq <= bucket.feed_seq and not _applied(row, bucket):
            yield f"bucket {name} has read {row.seq} in the feed without effect: {row.entity.hex()}"


def _applied(row: FeedRow, bucket: BucketPicture) -> bool:
    event = decode_event(row.event, e.FeedEvent)
    match event:
        case e.AccessorDeleted():
            return event.accessor in bucket.burned
        case e.UserChanged():
            user = bucket.users.get(event.uid)
            return user is not None and (user.deleted or user.version >= event.version)
        case e.PrincipalBlocked():
            return bucket.blocked.get(event.principal, (0, False))[0] >= event.version
        case e.GrantRevoked():
            return event.grant_id in bucket.closed or event.end <= bucket.floor
        case e.GrantRecalled():
            known = event.grant_id in bucket.closed or event.grant_id in bucket.uploads
            return known or not bucket.feed_level
        case e.BlobBlocked():
            version = bucket.blocked.get(event.blob_id, (0, False))[0]
            return version >= event.version or not bucket.feed_level
        case _:
            return True


class Growing:
    """What may only grow, from picture to picture, also over crashes (9, 10)."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, bytes], int] = {}
        self._sets: dict[tuple[str, bytes], frozenset[bytes]] = {}
        self._places: dict[bytes, tuple[int, int, int, int]] = {}

    def look(self, index: IndexPicture, buckets: Sequence[BucketPicture]) -> list[str]:
        """What has shrunk since the last look, in words."""
        problems = list(self._look_at_index(index))
        for bucket in buckets:
            problems += self._look_at_bucket(bucket)
        return problems

    def forget_index(self) -> None:
        """The index was set back to a backup: what it had since then is gone, and may be."""
        self._forget("the index's ")

    def forget_bucket(self) -> None:
        """A bucket was set back, or is lost for ever."""
        self._forget("a bucket's ")
        self._forget("the index's word of a bucket's ")

    def _forget(self, prefix: str) -> None:
        for known in (self._numbers, self._sets):
            for key in [key for key in known if key[0].startswith(prefix)]:
                del known[key]

    def _look_at_index(self, index: IndexPicture) -> Iterator[str]:
        yield from self._grown("the index's incarnation", b"", index.incarnation)
        yield from self._grown("the index's feed", b"", index.feed_seq)
        yield from self._grown("the index's roster", b"", index.epoch)
        yield from self._kept("the index's burned accessors", b"", index.burned)
        yield from self._kept("the index's registrations", b"", frozenset(index.users))
        ended = frozenset(uid for uid, user in index.users.items() if user.deleted)
        yield from self._kept("the index's deleted users", b"", ended)
        for uid, user in index.users.items():
            yield from self._grown("the index's version of a user", uid, user.version)
        yield from self._blocks("the index's version of a block", b"", index.blocked)
        for principal, row in index.buckets.items():
            yield from self._grown(
                "the index's word of a bucket's incarnation", principal, row.incarnation
            )
            # A bucket that begins anew counts anew.
            who = principal + row.incarnation.to_bytes(8, "big")
            yield from self._grown("the index's word of a bucket's events", who, row.acked_seq)
            yield from self._grown("the index's word of a bucket's floor", who, row.floor)

    def _look_at_bucket(self, bucket: BucketPicture) -> Iterator[str]:
        who = bucket.principal
        yield from self._grown("a bucket's incarnation", who, bucket.incarnation)
        yield from self._grown("a bucket's floor", who, bucket.floor)
        yield from self._grown("a bucket's events", who, bucket.next_event)
        yield from self._grown("a bucket's acknowledged events", who, bucket.acked)
        yield from self._read_on(bucket)
        yield from self._kept("a bucket's burned accessors", who, bucket.burned)
        ended = frozenset(uid for uid, user in bucket.users.items() if user.deleted)
        yield from self._kept("a bucket's deleted users", who, ended)
        for uid, user in bucket.users.items():
            yield from self._grown("a bucket's version of a user", who + uid, user.version)
        yield from self._blocks("a bucket's version of a block", who, bucket.blocked)

    def _read_on(self, bucket: BucketPicture) -> Iterator[str]:
        """Who reads the feed at another level, or was set back, begins anew; else it reads on."""
        now = bucket.incarnation, bucket.feed_incarnation, bucket.feed_level, bucket.feed_seq
        before = self._places.get(bucket.principal, now)
        self._places[bucket.principal] = now
        if now[:3] == before[:3] and now[3] < before[3]:
            yield f"bucket {short(bucket.principal)} has unread the feed to {now[2]}"

    def _blocks(
        self, what: str, who: bytes, blocked: Mapping[bytes, tuple[int, bool]]
    ) -> Iterator[str]:
        for principal, (version, _) in blocked.items():
            yield from self._grown(what, who + principal, version)

    def _grown(self, what: str, who: bytes, now: int) -> Iterator[str]:
        before = self._numbers.get((what, who), now)
        self._numbers[what, who] = now
        if now < before:
            yield f"{what} went back from {before} to {now} ({short(who)})"

    def _kept(self, what: str, who: bytes, now: frozenset[bytes]) -> Iterator[str]:
        lost = self._sets.get((what, who), now) - now
        self._sets[what, who] = now
        if lost:
            yield f"{what} have lost {', '.join(sorted(map(short, lost)))} ({short(who)})"
