"""Nodes and people of the version before: whoever is the older one, all goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ostnode.errors import UnknownCallError
from ostnode.ids import Principal
from ostnode.net.session import LinkLimits
from ostnode.wire import membership as mb
from ostnode.wire import session as s
from tests.support.cluster import Cluster, a_cluster

INDEX, BUCKETS, PEOPLE = "the index", "the buckets", "the people"


@pytest.fixture
def older(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Some of those in a cluster speak version 1 alone, as it was."""
    who: set[str] = request.param
    principals: set[Principal] = set()
    start_today, hello_today = Cluster.start, LinkLimits.hello

    async def start(self: Cluster) -> None:
        everybody = {
            INDEX: [self.index],
            BUCKETS: self.buckets,
            PEOPLE: [self.app, self.operator, self.alice, self.bob, self.carol],
        }
        principals.update(one.key.principal for name in who for one in everybody[name])
        await start_today(self)

    def hello(self: LinkLimits, principal: Principal, *told: object, **more: object) -> s.Hello:
        said = hello_today(self, principal, *told, **more)  # type: ignore[arg-type]
        if principal not in principals:
            return said
        return replace(said, protocol_max=1, features=(), roster_epoch=0)

    monkeypatch.setattr(Cluster, "start", start)
    monkeypatch.setattr(LinkLimits, "hello", hello)
    return who


@pytest.mark.parametrize(
    "older",
    [{INDEX}, {BUCKETS}, {PEOPLE}, {INDEX, BUCKETS, PEOPLE}],
    ids=["the index", "the buckets", "the people", "all"],
    indirect=True,
)
async def test_whoever_speaks_the_version_before_takes_part(
    older: set[str], autojump_clock, tmp_path
) -> None:
    async with a_cluster(tmp_path) as cluster:
        await a_day(cluster)
        link = cluster.way.link(cluster.operator, cluster.index)
        if older.isdisjoint({INDEX, PEOPLE}):
            assert link.version == s.PROTOCOL_MAX
            await cluster.operator.call(cluster.index, mb.ListMembers())
            return
        assert link.version == 1
        with pytest.raises(UnknownCallError):
            await cluster.operator.call(cluster.index, mb.ListMembers())


async def a_day(cluster: Cluster) -> None:
    """An upload, a read, a forward, a deleted chat; and the accounts agree in the evening."""
    alice, bob, chat = cluster.alice, cluster.bob, cluster.general
    made = await alice.upload(b"a picture" * 1000, chat)
    assert await bob.can_read(chat, made)
    forwarded = await bob.forward(b"a picture" * 1000, chat, cluster.random)
    await cluster.settle()
    await cluster.app.delete_chat(chat)
    await cluster.settle()
    assert not await bob.can_read(chat, made)
    assert await bob.can_read(cluster.random, forwarded)
    await cluster.check_accounts()
