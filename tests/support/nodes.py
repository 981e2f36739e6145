"""Configs of small clusters on loopback, made under a test's directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ostnode.config import Config, load_config
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId
from ostnode.node.layout import Listeners, NewCluster, NewRole
from tests.support.index_cluster import SeededRng

ANYWHERE = Listeners("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0")


@dataclass(frozen=True)
class Made:
    """A config file and whose keys it names."""

    file: Path
    cluster: NewCluster

    @property
    def config(self) -> Config:
        return load_config(self.file, {})

    def text_with_index_peer(self, address: str) -> str:
        return self.file.read_text().replace(self.cluster.index.listeners.peer, address)

    @property
    def app(self) -> KeyPair:
        return self.cluster.app


def one_process(root: Path, *, index_peer: str, buckets: int = 1) -> Made:
    """An index and buckets in one config; only the index's peer address is fixed."""
    rng = SeededRng(3)
    index = Listeners("127.0.0.1:0", index_peer, "127.0.0.1:0")
    cluster = NewCluster(
        ClusterId(rng.token(16)),
        KeyPair.generate(rng),
        NewRole.at(root, "index", index, rng),
        [NewRole.at(root, f"bucket-{number}", ANYWHERE, rng) for number in range(buckets)],
    )
    tables = "".join(map(cluster.bucket_table, cluster.buckets))
    file = root / "node.toml"
    file.write_text(cluster.top(shutdown_deadline="2s") + cluster.index_table() + tables)
    return Made(file, cluster)
