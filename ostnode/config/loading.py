"""From a TOML file and the environment to a `Config`, or to the list of every mistake."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from pydantic import BaseModel, TypeAdapter, ValidationError

from ostnode.config.joining import parse_join
from ostnode.config.mistakes import ConfigError, Location, Mistake, key_text, mistakes_of
from ostnode.config.models import (
    BucketConfig,
    Config,
    HttpLimits,
    IndexConfig,
    LogConfig,
    NodeConfig,
    TokensConfig,
)
from ostnode.config.values import BadValueError, parse_address, parse_plain_address

Table: TypeAlias = dict[str, object]

_TABLES: Final[dict[str, type[BaseModel]]] = {
    "": Config,
    "log": LogConfig,
    "node": NodeConfig,
    "http": HttpLimits,
    "tokens": TokensConfig,
    "index": IndexConfig,
    "bucket": BucketConfig,
}
_OPTIONAL_TABLES: Final = ("log", "node", "http", "tokens")
_VARIABLE: Final = re.compile(
    r"OST_(?:(?P<table>LOG|NODE|HTTP|TOKENS|INDEX|BUCKET_(?P<number>[0-9]{1,3}))_)?(?P<key>[A-Z_]+)",
    re.ASCII,
)
_LISTENERS: Final = ("http", "peer", "admin")
_PATHS: Final = ("data_dir", "key_file")
_PEERS: Final = ("peer", "index_peer", "join")


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Read and check a config file; raises ConfigError with every mistake in it.

    Variables `OST_<TABLE>_<KEY>` (`OST_LOG_FORMAT`, `OST_INDEX_DATA_DIR`, `OST_BUCKET_0_HTTP`)
    and `OST_CLUSTER_ID` replace keys of the file. Nothing is created on disk.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}"
        raise ConfigError([Mistake("", problem, "check the path and its permissions")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([
            Mistake("", f"{path} is not TOML: {error}", "mend the syntax")
        ]) from None
    return parse_config(document, environ, base=path.parent)


def parse_config(document: Table, environ: Mapping[str, str], *, base: Path) -> Config:
    """Like `load_config` for a parsed document; relative paths start at `base`."""
    document, mistakes = _with_environment(document, environ)
    config: Config | None = None
    try:
        config = Config.model_validate(document, context={"base": base})
    except ValidationError as error:
        mistakes += mistakes_of(error, _TABLES)
    mistakes += _mistakes_between_tables(document, base)
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config


def _with_environment(document: Table, environ: Mapping[str, str]) -> tuple[Table, list[Mistake]]:
    """A copy of the document with the environment's values in place.

    Other variables that start with OST_ belong to other commands and are left alone.
    """
    changed = _copy(document)
    mistakes = []
    for name in sorted(environ):
        match = _VARIABLE.fullmatch(name)
        if match is None or (match["table"] is None and match["key"] != "CLUSTER_ID"):
            continue
        table = _table_for(changed, match)
        if table is None:
            problem = "sets a key of a table that the config file does not have"
            mistakes.append(Mistake(name, problem, "add the table to the file or unset this"))
        else:
            table[match["key"].lower()] = environ[name]
    return changed, mistakes


def _copy(document: Table) -> Table:
    """A copy whose tables can be changed without changing the caller's."""
    copied: Table = {}
    for key, value in document.items():
        if isinstance(value, dict):
            copied[key] = dict(value)
        elif isinstance(value, list):
            copied[key] = [dict(item) if isinstance(item, dict) else item for item in value]
        else:
            copied[key] = value
    return copied


def _table_for(document: Table, match: re.Match[str]) -> Table | None:
    if match["table"] is None:
        return document
    name = match["table"].lower()
    if name in _OPTIONAL_TABLES:
        document.setdefault(name, {})
    found = document.get(name)
    if match["number"] is not None:
        buckets, number = document.get("bucket"), int(match["number"])
        found = buckets[number] if isinstance(buckets, list) and number < len(buckets) else None
    return found if isinstance(found, dict) else None


def _mistakes_between_tables(document: Table, base: Path) -> list[Mistake]:
    """Rules that need more than one table, on whatever of the tables can be understood."""
    if "index" not in document and "bucket" not in document:
        hint = "add an [index] table, a [[bucket]] table, or both"
        return [Mistake("", "the config names no role", hint)]
    roles = list(_role_tables(document))
    mistakes = [*_shared_addresses(roles), *_shared_paths(roles, base)]
    return mistakes if _peer_tls(document) else [*mistakes, *_exposed_addresses(roles)]


def _role_tables(document: Table) -> Iterator[tuple[Location, Table]]:
    index, buckets = document.get("index"), document.get("bucket")
    if isinstance(index, dict):
        yield ("index",), index
    for number, bucket in enumerate(buckets if isinstance(buckets, list) else []):
        if isinstance(bucket, dict):
            yield ("bucket", number), bucket


def _peer_tls(document: Table) -> bool:
    """[node] peer_tls; what cannot be understood is told by the model."""
    node = document.get("node")
    value = node.get("peer_tls", True) if isinstance(node, dict) else True
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return True


def _exposed_addresses(roles: list[tuple[Location, Table]]) -> Iterator[Mistake]:
    for location, table in roles:
        for name in _PEERS:
            try:
                address = _peer_address(name, table.get(name))
            except BadValueError:
                continue  # its own mistake is told by the model
            try:
                parse_plain_address(address)
            except BadValueError as error:
                yield Mistake(key_text([*location, name]), error.problem, error.hint)


def _peer_address(name: str, value: object) -> str:
    """What is dialled or listened on; raises BadValueError."""
    if name != "join":
        return parse_address(value)
    token = parse_join(value)
    if token is None:
        raise BadValueError("there is none", "")
    return token.peer


def _shared_addresses(roles: list[tuple[Location, Table]]) -> Iterator[Mistake]:
    seen: dict[str, str] = {}
    for location, table in roles:
        for name in _LISTENERS:
            try:
                address = parse_address(table.get(name))
            except BadValueError:
                continue  # its own mistake is told by the model
            key = key_text([*location, name])
            other = seen.setdefault(address, key)
            if other != key and not address.endswith(":0"):
                hint = "give every listener a port of its own"
                yield Mistake(key, f"{address} is also {other}", hint)


def _shared_paths(roles: list[tuple[Location, Table]], base: Path) -> Iterator[Mistake]:
    seen: dict[str, str] = {}
    for location, table in roles:
        for name in _PATHS:
            value = table.get(name)
            if not isinstance(value, str):
                continue
            key = key_text([*location, name])
            other = seen.setdefault(os.path.normpath(base / value), key)
            if other != key:
                hint = "an index and each bucket have a key and a directory of their own"
                yield Mistake(key, f"{value} is also {other}", hint)
