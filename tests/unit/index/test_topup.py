"""Buckets that are ordered when none stands by: one at a time, whatever crashes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from typing_extensions import override

from ostnode.errors import TokenInvalidError
from ostnode.identity.keys import KeyPair
from ostnode.roles.index import Order, Provider, Rules
from ostnode.roles.index.fleet import INTERVAL_S
from ostnode.wire import fleet as f
from ostnode.wire import membership as mb
from ostnode.wire.calls import Caller
from tests.support.index_cluster import IndexCluster, OutboxEnd

RETRY_S = 600
TARGET = Rules(target_active=1)


class Noted(Provider):
    """Notes orders; buckets are made by the test."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.kept: list[int] = []

    @override
    def provide(self, order: Order) -> None:
        self.orders.append(order)

    @override
    def keep(self, numbers: Collection[int]) -> None:
        self.kept = sorted(numbers)


class World:
    """An index without buckets that may order some, in virtual time."""

    def __init__(self, directory: Path | None, rules: Rules = TARGET) -> None:
        self.provider = Noted()
        self.index = IndexCluster(rules, directory, buckets=1)
        self.index.options = replace(
            self.index.options,
            buckets=(),
            provider=self.provider,
            provision_retry_s=RETRY_S,
            lost_after_s=1e6,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.index.open():
            yield

    @property
    def numbers(self) -> list[int]:
        return [order.number for order in self.provider.orders]

    async def wait(self, seconds: float = 2 * INTERVAL_S) -> None:
        for _ in range(int(seconds // INTERVAL_S)):
            self.index.clock.time += INTERVAL_S
            await trio.sleep(INTERVAL_S)

    async def join(self, order: Order, *, report: bool = True) -> OutboxEnd:
        """The bucket of this order arrives."""
        end = OutboxEnd(self.index, KeyPair.generate(self.index.rng))
        request = mb.Join(order.invite_id, order.secret)
        await self.index.ask(Caller(end.key.principal), request)
        if report:
            await end.sync()
        return end

    async def told(self) -> f.FleetInfo:
        answer = await self.index.ask(self.index.operator, f.FleetStatus())
        assert isinstance(answer, f.FleetInfo)
        return answer

    async def states(self) -> list[str]:
        return sorted(bucket.state for bucket in (await self.told()).buckets)


@pytest.fixture
def world() -> World:
    return World(None)


@pytest.fixture
def lasting(tmp_path: Path) -> World:
    """On a disk, so that it can be started again."""
    return World(tmp_path)


async def test_b35_one_is_ordered_joins_and_is_activated(autojump_clock, world: World) -> None:
    async with world.running():
        await world.wait(50)
        assert world.numbers == [1]
        assert (await world.told()).making == 1
        await world.join(world.provider.orders[0])
        await world.wait()
        assert await world.states() == ["active"]
        await world.wait(2 * RETRY_S)
        assert world.numbers == [1]
        assert world.provider.kept == [1]
        told = await world.told()
        assert (told.making, told.alert) == (0, "")


async def test_b35_never_two_at_once_though_more_are_missing(
    autojump_clock, tmp_path: Path
) -> None:
    world = World(None, Rules(target_active=3))
    async with world.running():
        for number in (1, 2, 3):
            await world.wait(100)
            assert world.numbers == list(range(1, number + 1))
            end = await world.join(world.provider.orders[-1], report=False)
            await world.wait(100)
            assert world.numbers[-1] == number, "it has joined and not reported yet"
            await end.sync()
        await world.wait(100)
        assert await world.states() == ["active"] * 3
        assert world.numbers == [1, 2, 3]


async def test_b35_an_order_that_was_not_carried_out_is_made_again_for_the_same_bucket(
    autojump_clock, world: World
) -> None:
    async with world.running():
        await world.wait(RETRY_S + 20)
        first, second = world.provider.orders
        assert (first.number, second.number) == (1, 1)
        assert "ordered 2 times" in (await world.told()).alert
        with pytest.raises(TokenInvalidError):
            await world.join(first)
        await world.join(second)
        await world.wait()
        assert await world.states() == ["active"]
        assert (await world.told()).alert == ""


async def test_b35_a_crash_after_the_decision_orders_no_second_bucket(
    autojump_clock, lasting: World
) -> None:
    """The order was written down; whether anybody heard of it died with the process."""
    async with lasting.running():
        await lasting.wait()
        (first,) = lasting.provider.orders
    lasting.provider.orders.clear()
    async with lasting.running():
        await lasting.wait()
        (again,) = lasting.provider.orders
        assert again.number == first.number
        with pytest.raises(TokenInvalidError):
            await lasting.join(first)
        await lasting.join(again)
        await lasting.wait(2 * RETRY_S)
        assert await lasting.states() == ["active"]
        assert lasting.numbers == [1]


async def test_b35_a_crash_after_it_joined_orders_no_second_bucket(
    autojump_clock, lasting: World
) -> None:
    async with lasting.running():
        await lasting.wait()
        end = await lasting.join(lasting.provider.orders[0], report=False)
    lasting.provider.orders.clear()
    async with lasting.running():
        await lasting.wait(20)
        assert set(lasting.numbers) <= {1}
        assert lasting.provider.kept == [1]
        await end.sync()
        await lasting.wait(2 * RETRY_S)
        assert await lasting.states() == ["active"]
        assert set(lasting.numbers) <= {1}


async def test_b35_a_standby_is_preferred_to_a_new_one(autojump_clock, world: World) -> None:
    async with world.running():
        await world.wait()
        end = await world.join(world.provider.orders[0])
        made = await world.index.ask(world.index.operator, mb.InviteBucket(60, auto_approve=True))
        assert isinstance(made, mb.Invitation)
        spare = await world.join(Order(0, made.invite_id, made.secret))
        await world.wait()
        assert await world.states() == ["active", "standby"]
        await world.index.ask(world.index.operator, mb.RevokeBucket(end.key.principal))
        await world.wait()
        assert await world.states() == ["active", "revoked"]
        assert world.numbers == [1]
        assert world.provider.kept == [], "the revoked one is not kept"
        await world.index.ask(
            world.index.operator, f.SetBucketState(spare.key.principal, "retired")
        )
        await world.wait()
        assert world.numbers == [1, 2]


async def test_too_many_open_join_tokens_put_the_order_off(autojump_clock, world: World) -> None:
    async with world.running():
        await world.wait(20)
        (first,) = world.provider.orders
        for _ in range(mb.INVITES_MAX - 1):
            await world.index.ask(world.index.operator, mb.InviteBucket(2 * RETRY_S))
        await world.join(first)
        await world.wait()
        await world.index.ask(world.index.operator, mb.InviteBucket(2 * RETRY_S))
        (bucket,) = (await world.told()).buckets
        state = f.SetBucketState(bucket.principal, "retired")
        await world.index.ask(world.index.operator, state)
        await world.wait(50)
        assert world.numbers == [1]
        assert (await world.told()).alert != ""
        await world.wait(2 * RETRY_S)
        assert 2 in world.numbers
