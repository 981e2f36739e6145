"""Where single-node dev mode keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DevLayout:
    """The files under one directory, `./ost-data` unless told otherwise."""

    root: Path

    @property
    def config_file(self) -> Path:
        """The generated config: an index and two buckets."""
        return self.root / "node.toml"

    @property
    def key_file(self) -> Path:
        """The developer's key: the app's, and a registered user's."""
        return self.root / "dev.key"

    @property
    def index_key_file(self) -> Path:
        """The index's key."""
        return self.root / "index.key"

    def bucket_key_file(self, number: int) -> Path:
        """The key of a bucket; they count from 1."""
        return self.root / f"bucket-{number}.key"
