"""B50: clients can take every connection, and the store still opens its next segment."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from ostnode.node import running
from ostnode.node.descriptors import KEPT_BACK, raise_limit, within_descriptors
from ostnode.node.errors import StartError
from ostnode.node.role import NEWCOMERS
from ostnode.node.seams import Seams
from tests.support.nodes import one_process

ROLES = 3


@pytest.mark.parametrize("limit", [2048, 4096, 8192, resource.RLIM_INFINITY])
def test_b50_all_connections_together_leave_descriptors_for_the_stores(
    tmp_path: Path, limit: int
) -> None:
    asked = one_process(tmp_path, index_peer="127.0.0.1:1", buckets=ROLES - 1).config
    config = within_descriptors(asked, limit)
    taken = ROLES * (2 * config.http.connections_max + asked.node.peer_links_max + NEWCOMERS)
    if limit in {8192, resource.RLIM_INFINITY}:
        assert config == asked
    else:
        assert 0 <= limit - taken - ROLES * KEPT_BACK < 2 * ROLES


def test_too_few_descriptors_are_told_before_anything_opens(tmp_path: Path) -> None:
    asked = one_process(tmp_path, index_peer="127.0.0.1:1", buckets=ROLES - 1).config
    with pytest.raises(StartError, match="1487 file descriptors are too few") as error:
        within_descriptors(asked, 1487)
    assert "at least 1488" in error.value.hint
    assert within_descriptors(asked, 1488).http.connections_max == 16


def test_the_process_takes_what_it_may_have() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        assert raise_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert raise_limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_node_asks_before_it_opens_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "raise_limit", lambda: 128)
    config = one_process(tmp_path, index_peer="127.0.0.1:1").config
    with pytest.raises(StartError, match="128 file descriptors"):
        await running.run_node(config, Seams(), stop=running.trio.Event())
    assert not (tmp_path / "index").exists()
