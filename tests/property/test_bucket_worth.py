"""What compaction may drop of a bucket's log, dropped at random from a life of random requests:
what remains must always give the same rows.

Compaction is a model of the store's: runs of sealed segments are judged, and rewritten later, when
more has happened; a tombstone goes only when every segment before it has been judged since, and
holds nothing dead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import pytest

from ostnode.ids import BlobId, Uid
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.core.chunks import count_chunks
from ostnode.roles.bucket.core.healing import lose_chunks, must_come_again
from ostnode.roles.bucket.findings import (
    clear_finding,
    list_findings,
    record_problem,
    set_scrub_position,
)
from ostnode.roles.bucket.liveness import worth_of
from ostnode.roles.bucket.records import Kind, ScrubPosition, Upload
from ostnode.roles.bucket.reducer import reduce_record
from ostnode.store.keyspace import Reader
from ostnode.store.record import Damage, Problem, Record
from ostnode.store.schema import Worth
from ostnode.wire import events as e
from tests.property.test_bucket_machine import CHATS, DATA, REF_IDS, USERS, BucketMachine
from tests.support.bucketkit import CAROL
from tests.support.bucketlog import Rows

STEPS = 150
UPLOADED = (DATA[1], DATA[2], DATA[3])
SHOWN_TO = ((), CHATS[:1], CHATS[1:2], CHATS[:2], CHATS[1:])


@dataclass
class Judged:
    """A run of segments, and what its rewriting leaves out."""

    run: list[int]
    at: list[int]
    """How many records were durable when each segment was judged."""
    dropped: set[int] = field(default_factory=set)
    dead: list[int] = field(default_factory=list)


class CompactedLife(BucketMachine):
    """A bucket that many use, and whose log is compacted all the while."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = Random(seed)
        self.ends: list[int] = []
        """Sealed segments: the last sequence number of each."""
        self.dropped: set[int] = set()
        self.clean: dict[int, int] = {}
        """Segment → how many records were durable when it was found to hold nothing dead."""
        self.judged: Judged | None = None
        self.worth_of = worth_of
        self.begin()

    def one_of(self, choices):
        return self.rng.choice(choices)

    def live(self) -> None:
        """Steps of all sorts; each leaves rows that what remains of the log gives again."""
        acts = [act for act, weight in self.acts().items() for _ in range(weight)]
        for step in range(STEPS):
            self.one_of(acts)()
            if step % 5 == 0:
                assert self.rebuilt().values == self.log.rows.values

    def acts(self) -> dict[Callable[[], None], int]:
        draw = self.rng.randrange
        return {
            self.upload: 8,
            self.forwarding: 2,
            lambda: self.remove(draw(30), self.one_of((True, False)), draw(4)): 5,
            lambda: self.cancel(self.one_of(USERS), self.one_of(UPLOADED)): 1,
            lambda: self.delete_chat(self.one_of(CHATS[:2]), draw(8)): 1,
            lambda: self.delete_and_register_again(self.one_of(USERS), draw(9)): 1,
            self.revocation: 1,
            lambda: self.hear_the_feed(1 + draw(4), self.one_of((True, False))): 4,
            self.raise_floor: 2,
            lambda: self.send_the_outbox(self.one_of((True, False)), self.one_of((1, 3, 500))): 3,
            lambda: self.tick(self.one_of((1, 30, 120))): 2,
            self.sweep: 9,
            lambda: self.expire_uploads(self.one_of((True, False, False))): 1,
            self.block: 1,
            self.order: 1,
            self.damage: 3,
            self.clear: 2,
            self.scrub: 1,
            self.seal: 5,
            self.judge: 4,
            self.rewrite: 5,
        }

    def remove(self, which: int, by_token: bool, cti: int) -> None:
        if self.model.references:
            super().remove(which, by_token, cti)

    def revocation(self) -> None:
        if self.index.grants:
            self.revoke(self.rng.randrange(9), self.rng.randrange(3))

    def upload(self) -> None:
        user, data, old = self.one_of(USERS), self.one_of(UPLOADED), self.one_of((0,) * 9 + (1, 2))
        order = self.rng.sample((0, 1, 2), 3)
        self.push(
            user,
            data,
            old,
            self.one_of(SHOWN_TO),
            self.one_of(REF_IDS),
            self.one_of((0, 0, 60, 150)),
            self.rng.randrange(10),
            order,
            self.one_of((1, 2, 3, 3)),
            self.rng.randrange(20),
        )

    def forwarding(self) -> None:
        chats = self.one_of((CHATS[:1], CHATS[2:3], CHATS[3:], ()))
        own = self.one_of((True, False))
        self.forward(
            self.one_of(USERS), self.one_of(UPLOADED), 0, self.one_of(CHATS), chats, own=own
        )

    def block(self) -> None:
        self.version += 1
        event = e.PrincipalBlocked(CAROL.principal, self.one_of((True, False)), self.version)
        self.index.tell(event)

    def order(self) -> None:
        """Evictions and blocks of blobs that nobody has: what they write is what counts here."""
        self.version += 1
        blob_id = BlobId(bytes([self.rng.randrange(2)]) * 32)
        uid = Uid(bytes([self.rng.randrange(2)]) * 8)
        blocked = self.one_of((True, False))
        self.index.tell(
            self.one_of((e.EvictBlob(uid, blob_id), e.BlobBlocked(blob_id, blocked, self.version)))
        )

    def damage(self) -> None:
        """Of a chunk, stored or not; what it hits is not readable, and comes again."""
        rows = [
            (*t.chunk_place(key), t.ChunkRow.unpack(row).extent)
            for key, row in self.log.rows.scan(t.CHUNKS)
            if row != t.MATCHED
        ]
        if not rows:
            return
        number, index, extent = self.one_of(rows)
        blob_id = self.log.records[extent.offset].blob
        problem = Problem(Damage.PAYLOAD, *extent, Kind.CHUNK, blob_id, number, index)
        self.decide(lambda draft: record_problem(draft, problem, self.now))
        self.note()

    def clear(self) -> None:
        for finding in list_findings(self.log.state, 1):
            self.decide(lambda draft, found=finding: clear_finding(draft, found))
            self.note()

    def scrub(self) -> None:
        position = ScrubPosition(1, self.now, self.rng.randrange(9), 0, 0)
        self.decide(lambda draft: set_scrub_position(draft, position))
        self.note()

    def complete(self, number: int, upload: Upload) -> None:
        """What it rests on may be damaged: then that is to come again."""
        if must_come_again(self.log.state, number, upload):
            count = range(count_chunks(upload))
            lost = [i for i in count if self.log.state.own_chunk(number, i) is None]
            assert lost
            self.decide(lambda draft: lose_chunks(draft, number, lost))
            self.note()
        else:
            super().complete(number, upload)

    def records(self, segment: int) -> list[Record]:
        start = self.ends[segment - 1] if segment else 0
        records = self.log.records[start : self.ends[segment]]
        return [record for record in records if record.seq not in self.dropped]

    def durable(self) -> int:
        self.log.sync()
        return len(self.log.records)

    def seal(self) -> None:
        """A segment may end between any two records."""
        end = self.durable() - self.rng.randrange(4)
        if end > (self.ends or [0])[-1]:
            self.ends.append(end)

    def judge(self) -> None:
        """A run of segments; the writer may commit between two of them."""
        if not self.ends or self.judged is not None:
            return
        first = self.rng.randrange(len(self.ends))
        run = list(range(len(self.ends)))[first:][: self.one_of((1, 1, 2, 9))]
        judged = Judged(run, [])
        worths = []
        for segment in run:
            judged.at.append(self.durable())
            worths += [
                (entry, self.worth_of(entry, self.log.rows)) for entry in self.records(segment)
            ]
            if not self.rng.randrange(3):
                self.sweep()
        before = min([self.clean.get(segment, 0) for segment in range(first)], default=1 << 60)
        free = min([before, *judged.at])
        for entry, worth in worths:
            if worth is Worth.DEAD or (worth is Worth.TOMBSTONE and entry.seq <= free):
                judged.dropped.add(entry.seq)
            judged.dead += [entry.seq] if worth is Worth.DEAD else []
        self.judged = judged

    def rewrite(self) -> None:
        """Or leave it at having looked."""
        judged, self.judged = self.judged, None
        if judged is None:
            return
        look_only = not self.rng.randrange(3)
        for segment, at in zip(judged.run, judged.at, strict=True):
            seqs = {entry.seq for entry in self.records(segment)}
            if not look_only or seqs.isdisjoint(judged.dead):
                self.clean[segment] = at
        if not look_only:
            self.dropped |= judged.dropped

    def rebuilt(self) -> Rows:
        rows = Rows()
        for entry in self.log.records:
            if entry.seq not in self.dropped:
                reduce_record(entry, rows)
        return rows


@pytest.mark.slow
def test_b58_b55_b62_whatever_compaction_drops_the_rows_stay() -> None:
    dropped = 0
    for seed in range(30):
        life = CompactedLife(seed)
        life.live()
        dropped += len(life.dropped)
    assert dropped > 400


@pytest.mark.deep
def test_b58_b55_b62_whatever_compaction_drops_in_many_lives() -> None:
    for seed in range(1000, 11_000):
        CompactedLife(seed).live()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mistake"),
    [
        (Kind.UPLOAD_OPENED, Worth.DEAD),
        (Kind.CHUNK, Worth.DEAD),
        (Kind.COMMIT, Worth.DEAD),
        (Kind.REFERENCE_ADDED, Worth.DEAD),
        (Kind.REFERENCE_REMOVED, Worth.DEAD),
        (Kind.TOMBSTONE, Worth.DEAD),
        (Kind.GRANT_CLOSED, Worth.TOMBSTONE),
        (Kind.GRANTS_ENDED, Worth.TOMBSTONE),
        (Kind.ACCESSOR_BURNED, Worth.DEAD),
        (Kind.CHUNKS_DROPPED, Worth.DEAD),
        (Kind.OUTBOX_ACKED, Worth.DEAD),
        (Kind.SWEPT, Worth.DEAD),
        (Kind.HEALED, Worth.DEAD),
    ],
)
def test_a_wrong_rule_is_found(kind: Kind, mistake: Worth) -> None:
    def wrong(record: Record, rows: Reader) -> Worth:
        return mistake if record.kind == kind else worth_of(record, rows)

    def live_wrongly() -> None:
        for seed in range(60):
            life = CompactedLife(seed)
            life.worth_of = wrong
            life.live()

    with pytest.raises(AssertionError):
        live_wrongly()
