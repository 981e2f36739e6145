"""A cluster and the people around it, for tests that also ask for the `autojump_clock`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, Shape, a_cluster
from tests.support.people import Chat, Person


@pytest.fixture
def shape() -> Shape:
    """Parametrise `shape` for another cluster."""
    return Shape()


@pytest.fixture
async def cluster(shape: Shape, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with a_cluster(tmp_path, shape) as cluster:
        yield cluster


@pytest.fixture
async def alice(cluster: Cluster) -> Person:
    return cluster.alice


@pytest.fixture
async def bob(cluster: Cluster) -> Person:
    return cluster.bob


@pytest.fixture
async def carol(cluster: Cluster) -> Person:
    return cluster.carol


@pytest.fixture
async def app(cluster: Cluster) -> Person:
    return cluster.app


@pytest.fixture
async def operator(cluster: Cluster) -> Person:
    return cluster.operator


@pytest.fixture
async def general(cluster: Cluster) -> Chat:
    return cluster.general
