"""The reducer takes any sequence of records: whole, doubled, or with some lost to damage."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ostnode.ids import BlobId, GrantId, Uid
from ostnode.roles.bucket import payloads, schema
from ostnode.roles.bucket import records as r
from ostnode.roles.bucket import tables as t
from ostnode.roles.bucket.reducer import reduce_record
from ostnode.roles.bucket.views import View
from ostnode.store.record import Extent, Record
from ostnode.wire import events as e
from ostnode.wire import messages as m
from tests.support.bucketkit import (
    ALICE,
    BOB,
    CHUNK_BYTES,
    GENERAL,
    NOW,
    RANDOM,
    Kit,
    blob_of,
    pieces,
    uid_of,
)
from tests.support.bucketlog import Rows

DATA = bytes(range(40))
SMALL = b"one chunk"
BLOB = BlobId(bytes(32))
ELSEWHERE = {r.Kind.GRANT_RENEWED, r.Kind.QUARANTINED, r.Kind.HEALED, r.Kind.SCRUB_POSITION}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[Record]:
    """Every record of a life in which a little of everything happens."""
    log: list[Record] = []

    def noting(record: Record, rows) -> None:
        log.append(record)
        reduce_record(record, rows)

    monkeypatch.setattr(schema, "reduce_record", noting)
    trio.run(live)
    assert {record.kind for record in log} == set(map(int, r.Kind)) - ELSEWHERE
    return log


async def live() -> None:
    async with Kit().running() as kit:
        await kit.upload(ALICE, DATA, GENERAL, RANDOM, expires_at=NOW + 100)
        await kit.upload(BOB, SMALL, GENERAL, filename="a.png")
        await kit.upload(BOB, DATA, GENERAL)
        await kit.talk()
        await kit.forward(ALICE, SMALL, GENERAL, RANDOM)
        half = kit.grant(ALICE, DATA + DATA)
        await kit.push(ALICE, half, 0, DATA[:CHUNK_BYTES])
        given_up = kit.grant(BOB, DATA)
        await kit.push(BOB, given_up, 1, pieces(DATA)[1])
        await kit.ask(BOB, m.CancelUpload(blob_of(DATA)))
        token = kit.deletion(GENERAL, ALICE, SMALL, BOB)
        await kit.remove(ALICE, kit.key_of(SMALL, BOB, GENERAL, token=token))
        kit.index.tell(
            e.UserChanged(uid_of(BOB), BOB.principal, 1, 0),
            e.AccessorDeleted(RANDOM.principal),
            e.PrincipalBlocked(ALICE.principal, blocked=True, version=1),
            e.BlobBlocked(blob_of(SMALL), blocked=True, version=1),
            e.EvictBlob(uid_of(ALICE), blob_of(DATA)),
            e.UserChanged(uid_of(BOB), BOB.principal, 2, 0, deleted=True),
        )
        await kit.talk()
        kit.clock.time += 4000
        await kit.talk()
        await kit.raise_floor(NOW + 4000)
        await kit.bucket.sweeper.expire_uploads()
        await kit.talk()


def rows_after(log: Iterable[Record]) -> dict[bytes, bytes]:
    rows = Rows()
    for record in log:
        reduce_record(record, rows)
    return rows.values


def test_a_record_that_comes_twice_counts_once(log: list[Record]) -> None:
    assert rows_after(record for record in log for _ in range(2)) == rows_after(log)


def test_b57_records_lost_to_damage_stop_nobody(log: list[Record]) -> None:
    @given(st.sets(st.integers(0, len(log) - 1)))
    def damage(lost: set[int]) -> None:
        rows_after(record for place, record in enumerate(log) if place not in lost)

    damage()


def record(payload: payloads.Payload, seq: int, **header: object) -> Record:
    fields = {"number": 0, "chunk_index": 0, "blob": BLOB} | header
    return Record(
        kind=payloads.KINDS[type(payload)],
        seq=seq,
        batch=0,
        payload=payloads.encode_payload(payload),
        digest=bytes(16),
        extent=Extent(1, 0, 0),
        **fields,
    )


def test_b58_a_tombstone_kills_the_commit_it_names_and_no_later_one() -> None:
    first, second = r.Commit(9, 16, NOW), r.Commit(9, 16, NOW + 1)
    log = [record(first, 1, number=1), record(second, 2, number=2), record(r.Tombstone(1), 3)]
    rows = Rows()
    for entry in log:
        reduce_record(entry, rows)
    assert View(rows).blob(BLOB) == t.BlobRow(2, 2, 9, 16)
    reduce_record(record(r.Tombstone(2), 4), rows)
    assert View(rows).blob(BLOB) is None


def test_b68_a_deleted_uid_never_comes_back() -> None:
    uid = Uid(bytes(8))
    told = [
        r.User(uid, ALICE.principal, 1, 0, deleted=False),
        r.User(uid, ALICE.principal, 2, 0, deleted=True),
        r.User(uid, ALICE.principal, 3, 0, deleted=False),
    ]
    rows = Rows()
    for seq, payload in enumerate(told):
        reduce_record(record(payload, seq), rows)
    assert View(rows).deleted(uid)
    assert View(rows).uids(ALICE.principal) == []


def test_a_closed_grant_is_not_opened_again() -> None:
    grant_id = GrantId(bytes(16))
    rows = Rows()
    reduce_record(record(r.GrantClosed(grant_id, Uid(bytes(8)), "revoked"), 1), rows)
    upload = r.Upload(
        grant_id, Uid(bytes(8)), BLOB, 9, 16, 9, NOW, (ALICE.principal,), b"", "", None, 0
    )
    reduce_record(record(upload, 2, number=2), rows)
    assert isinstance(View(rows).grant(grant_id), t.ClosedGrant)
    assert View(rows).upload(2) is None


def test_a_kind_of_a_newer_version_is_not_passed_over() -> None:
    with pytest.raises(KeyError):
        reduce_record(Record(99, 1, 0, 0, 0, BLOB, b"", bytes(16), Extent(1, 0, 0)), Rows())


def test_every_kind_has_a_number_that_stays() -> None:
    """The log's format: a number is never given to another kind."""
    assert [(kind.name, kind.value) for kind in r.Kind] == [
        ("INIT", 1),
        ("UPLOAD_OPENED", 2),
        ("CHUNK", 3),
        ("CHUNK_MATCHED", 4),
        ("COMMIT", 5),
        ("REFERENCE_ADDED", 6),
        ("REFERENCE_REMOVED", 7),
        ("TOMBSTONE", 8),
        ("GRANT_RENEWED", 9),
        ("GRANT_CLOSED", 10),
        ("GRANTS_ENDED", 11),
        ("GRANTS_FORGOTTEN", 12),
        ("FLOOR", 13),
        ("ACCESSOR_BURNED", 14),
        ("USER", 15),
        ("PRINCIPAL_BLOCKED", 16),
        ("SINGLE_USE", 17),
        ("SINGLE_USE_FORGOTTEN", 18),
        ("OUTBOX", 19),
        ("OUTBOX_ACKED", 20),
        ("FEED_CURSOR", 21),
        ("CHUNKS_DROPPED", 22),
        ("SWEPT", 23),
        ("QUARANTINED", 24),
        ("HEALED", 25),
        ("SCRUB_POSITION", 26),
        ("EVICTION", 27),
        ("BLOB_BLOCKED", 28),
    ]
    assert r.RESERVED_KINDS == {29: "moving", 30: "moved"}
