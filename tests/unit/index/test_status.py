"""Answers to operators fit a frame, whatever buckets call themselves."""

from __future__ import annotations

from dataclasses import replace

from ostnode.ids import SIZE_MAX, ClusterId, Principal
from ostnode.roles.index import IndexOptions, Rules
from ostnode.roles.index.core.buckets import BucketState
from ostnode.roles.index.core.rows import Bucket
from ostnode.roles.index.core.status import cluster_info, fleet_info
from ostnode.roles.index.core.tables import Tables
from ostnode.roles.index.database.repository import run_alone
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.roles.index.opening import found
from ostnode.wire.fleet import BUCKETS_TOLD_MAX
from ostnode.wire.frames import HEADER_BYTES_MAX
from ostnode.wire.schema import encode_message

ROOM = HEADER_BYTES_MAX - 64
"""Beside the fields of the frame around it."""
LONGEST = Bucket(
    Principal(bytes(32)),
    BucketState.RETIRED,
    incarnation=SIZE_MAX,
    acked_seq=SIZE_MAX,
    http="\U0001f5c4" * 255,
    total=SIZE_MAX,
    free=SIZE_MAX,
    stored=SIZE_MAX,
    last_seen=SIZE_MAX,
    intent=BucketState.RETIRED,
    zone="\U0001f5c4" * 32,
    weight=SIZE_MAX,
)


def filled(tables: Tables) -> None:
    options = IndexOptions(cluster_id=ClusterId(bytes(16)), buckets=())
    found(tables, options, Principal(bytes(32)), 5)
    for number in range(256):
        state = BucketState.ACTIVE if number < 2 else LONGEST.state
        principal = Principal(bytes([number]) * 32)
        tables.buckets.put(replace(LONGEST, principal=principal, state=state))


def test_the_longest_answers_fit_a_header() -> None:
    database = SqliteDatabase(None)
    run_alone(database, filled)
    page = run_alone(
        database,
        lambda tables: fleet_info(
            tables, Rules(target_active=256, headroom_bytes=SIZE_MAX), {}, "\U0001f5c4" * 500, None
        ),
    )
    assert len(page.buckets) == BUCKETS_TOLD_MAX
    assert page.free == SIZE_MAX
    assert len(encode_message(page)) <= ROOM
    info = run_alone(database, lambda tables: cluster_info(tables, {}))
    assert 20 < len(info.buckets) < 256
    assert len(encode_message(info)) <= ROOM
    database.close()
