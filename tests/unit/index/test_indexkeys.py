"""The index's own key: announced, taken over, at its end."""

from __future__ import annotations

import pytest

from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, Principal
from ostnode.roles.index import DatabaseUnusableError, Rules
from ostnode.roles.index.core import membership
from ostnode.roles.index.core.indexkeys import names, roster_keys, take_up_keys
from ostnode.roles.index.core.memberrows import IndexKey, IndexKeyState
from ostnode.roles.index.core.rows import THE_INDEX, Meta
from ostnode.roles.index.database.repository import run_alone
from ostnode.roles.index.database.sqlite import SqliteDatabase
from ostnode.wire.roster import RosterKey
from tests.support.index_cluster import IndexCluster

NOW = 1_700_000_000
FIRST, SECOND, THIRD = (Principal(bytes([number]) * 32) for number in (1, 2, 3))


class Index:
    """The rows of one index over its restarts."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self.run(lambda tables: membership.take_up(tables, (), NOW))
        self.meta = Meta(THE_INDEX, 2, ClusterId(bytes(16)), FIRST, 1, 0)

    def run(self, operation):
        return run_alone(self._database, operation)

    def start(self, present: Principal, successor: Principal | None = None, now: int = NOW) -> bool:
        taken = self.run(
            lambda tables: take_up_keys(
                tables, self.meta, present, successor, overlap_s=100, now=now
            )
        )
        self.meta = taken or self.meta
        return taken is not None

    def told(self, at: int = NOW) -> list[RosterKey]:
        return list(self.run(lambda tables: roster_keys(tables, self.meta.principal, at)))

    @property
    def epoch(self) -> int:
        return self.run(lambda tables: tables.roster.get(THE_INDEX)).epoch


@pytest.fixture
def index():
    database = SqliteDatabase(None)
    yield Index(database)
    database.close()


def test_nothing_changes_without_a_successor(index: Index) -> None:
    before = index.epoch
    assert index.start(FIRST)
    assert index.start(FIRST, FIRST)
    assert index.told() == [RosterKey(FIRST)]
    assert index.epoch == before


def test_a_successor_is_announced_and_may_be_withdrawn(index: Index) -> None:
    before = index.epoch
    assert index.start(FIRST, SECOND)
    assert index.told() == [RosterKey(FIRST), RosterKey(SECOND)]
    announced = index.epoch
    assert announced > before
    assert index.start(FIRST, SECOND)
    assert index.epoch == announced
    assert index.start(FIRST, THIRD)
    assert index.told() == [RosterKey(FIRST), RosterKey(THIRD)]
    assert index.start(FIRST)
    assert index.told() == [RosterKey(FIRST)]
    assert not index.start(THIRD)


def test_an_announced_key_takes_over_and_the_old_one_ends(index: Index) -> None:
    index.start(FIRST, SECOND)
    before = index.epoch
    assert index.start(SECOND)
    assert index.epoch > before
    assert index.told(NOW + 100) == [RosterKey(SECOND), RosterKey(FIRST, NOW + 100)]
    assert index.told(NOW + 101) == [RosterKey(SECOND)]
    assert not index.start(FIRST)
    rows = index.run(lambda tables: tables.index_keys.where())
    assert rows == [IndexKey(FIRST, IndexKeyState.OLD, NOW + 100)]
    assert names(rows, SECOND, NOW + 100) == (SECOND, FIRST)
    assert names(rows, SECOND, NOW + 100.5) == (SECOND,)


def test_there_is_a_way_back(index: Index) -> None:
    index.start(FIRST, SECOND)
    index.start(SECOND, FIRST)
    assert index.told() == [RosterKey(SECOND), RosterKey(FIRST)]
    assert index.start(FIRST)
    assert index.told() == [RosterKey(FIRST), RosterKey(SECOND, NOW + 100)]


def test_at_most_three_keys_are_told(index: Index) -> None:
    index.start(FIRST, SECOND)
    index.start(SECOND, THIRD)
    assert len(index.told()) == 3
    index.start(THIRD, FIRST)
    assert [each.key for each in index.told()] == [THIRD, FIRST, SECOND]


def test_an_announced_key_is_no_name_for_logins_yet(index: Index) -> None:
    index.start(FIRST, SECOND)
    rows = index.run(lambda tables: tables.index_keys.where())
    assert names(rows, FIRST, NOW) == (FIRST,)


async def test_a_key_that_was_not_announced_does_not_open_the_database(tmp_path) -> None:
    cluster = IndexCluster(Rules(), tmp_path, 1)
    async with cluster.open():
        pass
    cluster.index_key = KeyPair.from_seed(bytes(32))
    with pytest.raises(DatabaseUnusableError, match="another cluster or index key"):
        async with cluster.open():
            pass
