"""Figures of an index equal the truth, computed again from its rows."""

from __future__ import annotations

import random

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from ostnode.errors import OstError
from ostnode.node.indexmetrics import index_figures
from ostnode.node.metrics import render
from ostnode.roles.index import Rules
from ostnode.roles.index import figures as f
from ostnode.wire import events as e
from ostnode.wire.calls import Caller
from tests.support.index_cluster import IndexCluster, an_index, blob

STEPS = 300


def told(index: IndexCluster) -> dict[tuple[str, ...], float]:
    """By name and values of labels."""
    assert index.service is not None
    _, text = render(index_figures(index.service.insight))
    return {
        (sample.name.removeprefix("ostnode_index_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


async def gather(index: IndexCluster) -> None:
    """Wait for the next round."""
    index.clock.time += f.INTERVAL_S
    await trio.sleep(2 * f.INTERVAL_S)


async def truth(index: IndexCluster) -> dict[str, float]:
    assert index.service is not None
    users = await index.service._transact(lambda tables: tables.users.where())
    charges = await index.service._transact(lambda tables: tables.charges.where())
    grants = await index.service._transact(lambda tables: tables.grants.where())
    live = {user.uid for user in users if not user.deleted}
    return {
        "users": len(live),
        "charges": sum(row.uid in live for row in charges),
        "open_grants": sum(row.uid in live for row in grants),
        "used_bytes": sum(row.size for row in charges if row.uid in live),
        "reserved_bytes": sum(row.reserved for row in grants if row.uid in live),
    }


@pytest.mark.parametrize("seed", range(3))
async def test_b39_figures_equal_the_truth_after_random_operations(
    seed: int, autojump_clock, monkeypatch
) -> None:
    monkeypatch.setattr(f, "SLICE_USERS", 3)
    rng = random.Random(seed)
    async with an_index(Rules(user_grants_max=20), buckets=2) as index:
        people = [Caller(type(index.alice.proven)(bytes([n]) * 32)) for n in range(10, 20)]
        ends = {bucket.key.principal: bucket for bucket in index.buckets}
        await index.change(*(("register", person, 1000) for person in people))
        granted = []
        for _ in range(STEPS):
            person, number = rng.choice(people), rng.randrange(40)
            act = rng.choice(["allocate", "allocate", "complete", "close", "release", "users"])
            try:
                if act == "allocate":
                    granted.append(await index.allocate(person, blob(number), 10 + number))
                elif act == "users":
                    op = rng.choice(["delete", "register", "register"])
                    await index.change((op, person, rng.randrange(2000)))
                elif granted:
                    given = granted.pop(rng.randrange(len(granted)))
                    end = ends[given.bucket.principal]
                    event = {
                        "complete": end.completed,
                        "close": lambda each, end=end: end.closed(each, "cancelled"),
                        "release": end.released,
                    }[act](given)
                    await end.sync(event)
            except OstError:
                continue
        await index.bucket.sync_bytes(b"\xff")
        await gather(index)
        figures, expected = told(index), await truth(index)
        assert {name: figures[name,] for name in expected} == expected
        assert expected["charges"] > 0 < expected["open_grants"]
        assert figures["rejected_events",] == 1
        status = await index.status()
        assert (status.users, status.bytes_used) == (expected["users"], expected["used_bytes"])
        assert 0 <= figures["totals_age_seconds",] <= f.INTERVAL_S


async def test_b39_buckets_feed_and_jobs(autojump_clock) -> None:
    async with an_index(Rules(target_active=1), buckets=3) as index:
        await gather(index)
        figures = told(index)
        assert figures["buckets", "active"] == figures["top_up_activated_total",] == 1
        assert figures["buckets", "standby"] == 2
        assert figures["buckets", "lost"] == figures["top_up_alert",] == 0
        assert figures["leading",] == 1
        assert figures["job_failures_total", "top_up"] == 0
        lags = {key[1]: value for key, value in figures.items() if key[0] == "feed_lag"}
        assert len(lags) == 3
        assert set(lags.values()) == {figures["feed_seq",]} == {1.0}
        await index.bucket.feed()
        await index.bucket.feed()
        await gather(index)
        lags = {key[1]: value for key, value in told(index).items() if key[0] == "feed_lag"}
        assert sorted(lags.values()) == [0, 1, 1]


async def test_a_scrape_asks_the_database_nothing(autojump_clock) -> None:
    async with an_index() as index:
        await gather(index)
        before = trio.current_time()
        told(index)
        assert trio.current_time() == before
        await index.bucket.sync(e.FloorRaised(5))
        assert told(index)["users",] == 1
