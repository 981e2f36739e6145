"""Uploads end to end: allocated at the index, pushed to a bucket, charged when complete."""

from __future__ import annotations


async def test_b05_an_empty_blob_round_trips(autojump_clock, cluster, alice, bob, general) -> None:
    made = await alice.upload(b"", general)
    assert await bob.read(general, made) == b""
    await cluster.check_accounts()
    assert await alice.account() == (0, 0)
