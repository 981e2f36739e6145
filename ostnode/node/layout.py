"""A new cluster's files: keys, one data directory for each role, and configs that name them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ostnode.config import Config, IndexConfig
from ostnode.env import Rng
from ostnode.identity.keys import KeyPair
from ostnode.ids import ClusterId, PrincipalKind
from ostnode.keyfiles import create_key_file, load_seed
from ostnode.node.ports import free_addresses

INDEX_NAME: Final = "index"


@dataclass(frozen=True, slots=True)
class DevLayout:
    """The files of dev mode under one directory, `./ost-data` unless told otherwise."""

    root: Path

    @property
    def config_file(self) -> Path:
        """The generated config: an index and two buckets."""
        return self.root / "node.toml"

    @property
    def key_file(self) -> Path:
        """The developer's key: the app's, an operator's, and a registered user's."""
        return self.root / "dev.key"


@dataclass(frozen=True, slots=True)
class Listeners:
    """The addresses of one role, `host:port` each."""

    http: str
    peer: str
    admin: str


@dataclass(frozen=True, slots=True)
class NewRole:
    """A role of a new cluster: the name of its files, its key and its addresses."""

    name: str
    key: KeyPair
    listeners: Listeners

    @classmethod
    def at(cls, root: Path, name: str, listeners: Listeners, rng: Rng) -> NewRole:
        """The role whose key is `NAME.key` under `root`; raises KeyFileError."""
        return cls(name, key_at(root / f"{name}.key", rng), listeners)


@dataclass(frozen=True, slots=True)
class NewCluster:
    """Writes configs. Relative paths in them start at the directory they are written to."""

    cluster_id: ClusterId
    app: KeyPair
    index: NewRole
    buckets: Sequence[NewRole]

    def top(self, *, log_format: str = "console", shutdown_deadline: str = "5s") -> str:
        """What every config of the cluster begins with."""
        return f"""\
cluster_id = "{self.cluster_id}"

[log]
format = "{log_format}"
level = "info"

[node]
shutdown_deadline = "{shutdown_deadline}"
"""

    def index_table(self) -> str:
        """[index]. The app's key is an operator's too."""
        buckets = ", ".join(f'"{_bucket(role)}"' for role in self.buckets)
        return f"""
[index]
{_common(self.index)}
apps = ["{self.app.principal.text(PrincipalKind.APP)}"]
operators = ["{self.app.principal.text(PrincipalKind.OPERATOR)}"]
buckets = [{buckets}]
push_interval = "100ms"
"""

    def bucket_table(self, role: NewRole) -> str:
        """[[bucket]]. The app's key is an operator's here too."""
        return f"""
[[bucket]]
{_common(role)}
index = "{self.index.key.principal.text(PrincipalKind.INDEX)}"
index_peer = "{self.index.listeners.peer}"
operators = ["{self.app.principal.text(PrincipalKind.OPERATOR)}"]
segment_bytes = "64MiB"
"""


def lay_out_bucket(
    config: Config, index: IndexConfig, directory: Path, number: int, rng: Rng
) -> Path:
    """The config file of a bucket beside an index, made with its key unless they are there.

    What all nodes of a cluster have in common is the index's. Raises OSError, KeyFileError or
    StartError.
    """
    place = directory / f"bucket-{number}"
    file = place / "bucket.toml"
    if file.exists():
        return file
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_at(place / "bucket.key", rng)
    http, peer = free_addresses(2, index.provision_host)
    (admin,) = free_addresses(1)
    common = config.model_dump(mode="json", include={"log", "node", "http", "tokens"})
    roles = index.model_dump(mode="json", include={"apps", "operators"})
    bucket = {
        "key_file": "bucket.key",
        "data_dir": "data",
        "http": http,
        "peer": peer,
        "admin": admin,
        **roles,
    }
    tables = [_table(f"[{name}]", table) for name, table in common.items()]
    head = f'# Made by the index; yours to change.\ncluster_id = "{config.cluster_id}"\n\n'
    draft = file.with_suffix(".new")
    draft.write_text(head + "\n".join([*tables, _table("[[bucket]]", bucket)]), "utf-8")
    draft.replace(file)
    return file


def _table(head: str, values: Mapping[str, object]) -> str:
    """A table of TOML; JSON's texts, numbers and lists of these are TOML's too."""
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join([head, *lines, ""])


def key_at(path: Path, rng: Rng) -> KeyPair:
    """The key in a file, made when there is none; raises KeyFileError."""
    return KeyPair.from_seed(load_seed(path) if path.exists() else create_key_file(path, rng))


def _common(role: NewRole) -> str:
    return "\n".join([
        f'key_file = "{role.name}.key"',
        f'data_dir = "{role.name}"',
        f'http = "{role.listeners.http}"',
        f'peer = "{role.listeners.peer}"',
        f'admin = "{role.listeners.admin}"',
    ])


def _bucket(role: NewRole) -> str:
    return role.key.principal.text(PrincipalKind.BUCKET)
