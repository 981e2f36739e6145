"""Every code of the error table, through the peer protocol."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trio

from ostnode.errors import all_errors
from ostnode.net.transport import LinkClosedError
from ostnode.wire import messages as m
from ostnode.wire.frames import HEADER_BYTES_MAX, PREFIX
from tests.support.cluster import Cluster, a_cluster
from tests.support.people import Person
from tests.support.refusals import (
    DATA,
    HTTP_ALONE,
    REFUSALS,
    UNREACHABLE,
    Refusal,
    begun,
    damage,
    pieces,
)


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


async def test_b10_a_damaged_chunk_of_an_open_upload_is_asked_for_again(
    autojump_clock, cluster: Cluster, alice: Person, bob: Person
) -> None:
    allocation = await begun(cluster)
    bucket = cluster.node(allocation.bucket.principal)
    (number,) = bucket.rows.uploads_of(await alice.uid())
    damage(bucket, number)
    answers = [
        await alice.push(allocation, index, pieces(DATA)[index], cluster.general)
        for index in (1, 2, 3)
    ]
    assert answers[-1].missing == 1
    assert (await alice.push(allocation, 0, pieces(DATA)[0], cluster.general)).missing == 0
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
