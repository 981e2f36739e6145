"""Every code of the error table, through the peer protocol."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trio

from ostnode.errors import DataCorruptError, all_errors
from ostnode.net.transport import LinkClosedError
from ostnode.wire import messages as m
from ostnode.wire.frames import HEADER_BYTES_MAX, PREFIX
from tests.support.cluster import Cluster, a_cluster
from tests.support.people import Person
from tests.support.refusals import DATA, HTTP_ALONE, REFUSALS, UNREACHABLE, Refusal, damage


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
async def test_a_refusal_through_a_link(refusal: Refusal, autojump_clock, tmp_path: Path) -> None:
    async with a_cluster(tmp_path, refusal.shape) as cluster:
        attempt = await refusal.prepare(cluster)
        with pytest.raises(refusal.error) as caught:
            await attempt()
        assert refusal.details <= caught.value.details.keys()
        assert caught.value.message
        if refusal.recovers:
            await serves_others(cluster)


async def serves_others(cluster: Cluster) -> None:
    for bucket in cluster.buckets:
        bucket.gate.broken = False
    made = await cluster.carol.upload(DATA + b"hers", cluster.random)
    assert await cluster.stranger.read(cluster.random, made) == DATA + b"hers"


async def test_data_corrupt_when_a_stored_blob_is_read(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person
) -> None:
    made = await alice.upload(DATA, cluster.general)
    bucket = cluster.node(made.bucket)
    await bucket.crash()  # what was verified once is not hashed again by the same process
    stored = bucket.rows.blob(made.blob_id)
    assert stored is not None
    damage(bucket, stored.number)
    with pytest.raises(DataCorruptError):
        await bob.read(cluster.general, made)
    await serves_others(cluster)


async def test_frame_too_large_ends_the_link_and_no_other(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person
) -> None:
    """Whatever its sender's own limits are: the length alone is refused."""
    await bob.info()
    await alice.info()
    link = cluster.way.link(alice, cluster.index)
    link._session.post((PREFIX.pack(HEADER_BYTES_MAX + 1, 0), b""))
    with trio.fail_after(1):
        await link.wait_closed()
    with pytest.raises(LinkClosedError, match="frame_too_large"):
        await link.call(m.GetUser())
    before = len(cluster.index.gate.asked)
    await bob.info()
    await alice.info()
    assert len(cluster.index.gate.asked) == before + 2


def test_every_code_is_provoked_or_has_a_reason() -> None:
    """A new code belongs into the table, or here with the reason why it cannot come about."""
    provoked = Counter(refusal.code for refusal in REFUSALS)
    provoked["frame_too_large"] += 1
    known = [error.code for error in all_errors()]
    assert sorted([*provoked, *UNREACHABLE, *HTTP_ALONE]) == sorted(known)
