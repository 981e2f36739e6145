"""Blobs that operators have blocked, at the index."""

from __future__ import annotations

import pytest

from ostnode.errors import BlobBlockedError, BlobTooLargeError, NotAuthorizedError, UserUnknownError
from ostnode.roles.index import Rules
from ostnode.roles.index.core import denylist
from ostnode.wire import accounts as ac
from ostnode.wire import events as e
from ostnode.wire import messages as m
from tests.support.index_cluster import IndexCluster, an_index, blob


async def block(index: IndexCluster, number: int, *, blocked: bool = True) -> None:
    await index.ask(index.operator, ac.BlockBlob(blob(number), blocked))


async def test_a_blocked_blob_is_neither_allocated_nor_forwarded_held_or_not() -> None:
    async with an_index() as index:
        held = await index.allocate(index.alice, blob(1), 10)
        await index.bucket.sync(index.bucket.completed(held))
        for number in (1, 2):
            await block(index, number)
            for ask in (m.Allocate(blob(number), 10), m.CanForward(blob(number), 10)):
                with pytest.raises(BlobBlockedError) as caught:
                    await index.ask(index.alice, ask)
                assert caught.value.details == {}
        assert await index.account(index.alice) == (10, 0)


async def test_it_is_refused_after_the_caller_and_the_size() -> None:
    async with an_index(Rules(blob_bytes_max=50)) as index:
        await block(index, 1)
        with pytest.raises(BlobTooLargeError):
            await index.allocate(index.alice, blob(1), 51)
        with pytest.raises(UserUnknownError):
            await index.allocate(index.bob, blob(1), 51)


async def test_buckets_hear_of_it_in_versions_and_unblocking_brings_it_back() -> None:
    async with an_index() as index:
        for blocked in (True, True, False):
            await block(index, 1, blocked=blocked)
            heard = [each for each in await index.bucket.feed() if isinstance(each, e.BlobBlocked)]
            assert len(heard) <= 1
        assert heard == [e.BlobBlocked(blob(1), blocked=False, version=2)]
        assert (await index.allocate(index.alice, blob(1), 10)).grant
        await block(index, 2, blocked=False)
        assert not [each for each in await index.bucket.feed() if isinstance(each, e.BlobBlocked)]


async def test_a_restart_knows_what_is_blocked(tmp_path) -> None:
    index = IndexCluster(Rules(), tmp_path, 1)
    async with index.open():
        await index.bucket.sync()
        await index.change(("register", index.alice, 100))
        await block(index, 1)
    async with index.open():
        with pytest.raises(BlobBlockedError):
            await index.allocate(index.alice, blob(1), 10)


async def test_the_list_is_told_in_pages(monkeypatch) -> None:
    monkeypatch.setattr(denylist.a, "BLOCKED_TOLD_MAX", 2)
    async with an_index() as index:
        for number in (3, 1, 5, 4):
            await block(index, number)
        await block(index, 4, blocked=False)
        first = await index.ask(index.operator, ac.ListBlocked())
        assert first == ac.BlockedPage((blob(1), blob(3)))
        second = await index.ask(index.operator, ac.ListBlocked(blob(3)))
        assert second == ac.BlockedPage((blob(5),))


async def test_only_operators_block_blobs_and_apps_and_operators_principals() -> None:
    async with an_index() as index:
        for caller in (index.app, index.alice, index.bucket.caller):
            for ask in (ac.BlockBlob(blob(1)), ac.ListBlocked()):
                with pytest.raises(NotAuthorizedError):
                    await index.ask(caller, ask)
        for caller in (index.app, index.operator):
            await index.ask(caller, m.BlockPrincipal(index.bob.proven))
        with pytest.raises(NotAuthorizedError):
            await index.ask(index.alice, m.BlockPrincipal(index.bob.proven))
